"""Every policy of RAM in closed loop with guests that obey, cannot, or lie."""

import numpy as np
import pytest
from guest_models import (
    AREA_FRAMES,
    MAXIMUM_FRAMES,
    MINIMUM_FRAMES,
    MOVES,
    Guest,
    GuestHost,
    guests_of,
)

from policies import load

RAM_POLICIES = ["squeezed", "mom", "proxmox", "qmemman", "self-balloon", "senpai", "far-memory"]
TICKS = 240
LAST_TICKS = 40
#: Four guests of at most 20 areas and two of slack fit easily, or not at all.
HOSTS_FRAMES = {"ample": 128 * AREA_FRAMES, "scarce": 42 * AREA_FRAMES}
#: What never rests: MOM has nothing between its two rules, senpai probes for ever, and the 10 MiB
#: in which Proxmox rests are less than an area here.
SWING_FRAMES_MAX = {"mom": 3 * AREA_FRAMES, "senpai": AREA_FRAMES, "proxmox": AREA_FRAMES}


def run(name: str, guests: list[Guest], frames: int, ticks: int = TICKS) -> GuestHost:
    host = GuestHost(guests, frames)
    policy = load(name)
    for _ in range(ticks):
        host.step(policy)
    return host


@pytest.mark.parametrize("frames", HOSTS_FRAMES.values(), ids=HOSTS_FRAMES)
@pytest.mark.parametrize("kind", MOVES)
@pytest.mark.parametrize("name", RAM_POLICIES)
def test_no_guest_breaks_a_policy_or_the_host(name: str, kind: str, frames: int) -> None:
    host = run(name, guests_of(kind), frames)
    assert all(guest.current >= MINIMUM_FRAMES for guest in host.guests)
    assert all(MINIMUM_FRAMES <= guest.target <= MAXIMUM_FRAMES for guest in host.guests)


@pytest.mark.parametrize("frames", HOSTS_FRAMES.values(), ids=HOSTS_FRAMES)
@pytest.mark.parametrize("name", RAM_POLICIES)
def test_obedient_guests_come_to_rest(name: str, frames: int) -> None:
    host = run(name, guests_of("ideal"), frames)
    swing = np.ptp(np.array(host.series[-LAST_TICKS:]), axis=0)
    assert swing.max() <= SWING_FRAMES_MAX.get(name, 0)


@pytest.mark.parametrize("name", RAM_POLICIES)
def test_a_stuck_guest_takes_nothing_from_the_others_minimum(name: str) -> None:
    guests = guests_of("stuck")
    guests[0].current = guests[0].target = MAXIMUM_FRAMES
    for guest in guests[1:]:
        guest.current = guest.target = 2 * MINIMUM_FRAMES
    host = run(name, guests, 36 * AREA_FRAMES)
    assert guests[0].current == MAXIMUM_FRAMES
    assert all(min(row[1:]) >= MINIMUM_FRAMES for row in host.series)
    assert all(guest.current >= MINIMUM_FRAMES for guest in guests)


@pytest.mark.parametrize("name", ["mom", "proxmox", "self-balloon", "senpai"])
def test_steps_smaller_than_an_area_add_up(name: str) -> None:
    """Targets are rounded down to areas; a policy that forgot it could not grow by small steps."""
    guests = [
        Guest(working_frames=15 * AREA_FRAMES, current=6 * AREA_FRAMES, target=6 * AREA_FRAMES)
    ]
    run(name, guests, HOSTS_FRAMES["ample"], ticks=600)
    assert guests[0].current >= 12 * AREA_FRAMES
