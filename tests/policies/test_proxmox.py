"""Proxmox' auto-ballooning against the reference vectors; GiB as in the reference."""

import numpy as np
import pytest

from policies import View
from policies.proxmox import Proxmox
from policies.ram_targets import FRAMES_PER_MIB

GIB = 1024 * FRAMES_PER_MIB
HOST_GIB = 100
ALL_AT_ONCE = 100 * GIB


def proxmox(step: int = ALL_AT_ONCE, period_ticks: int = 1) -> Proxmox:
    return Proxmox(Proxmox.Params(step=step, scale=1, period_ticks=period_ticks))


def view_of(
    goal_gib: float,
    held: list[float],
    used: list[float] | None = None,
    weight: list[float] | None = None,
    minimum: float = 2,
    maximum: float = 8,
    tick: int = 0,
) -> View:
    """A host of which all but the goal under its 80 % is used; a pinned domain has the rest."""
    free = round((0.2 * HOST_GIB + goal_gib) * GIB)
    rest = HOST_GIB * GIB - free - round(sum(held) * GIB)
    current = np.append(np.array(held) * GIB, rest)
    return View.of(
        capacity=0,
        ram_capacity=HOST_GIB * GIB,
        tick=tick,
        host_frames=HOST_GIB * GIB,
        host_free_frames=free,
        ram_current=current,
        ram_target=current,
        ram_used=current if used is None else np.append(np.array(used) * GIB, rest),
        weight=[*([1.0] * len(held) if weight is None else weight), 1.0],
        ram_minimum=[*[minimum * GIB] * len(held), rest],
        ram_maximum=[*[maximum * GIB] * len(held), rest],
    )


def planned(policy: Proxmox, view: View) -> list[float]:
    return (np.asarray(policy.plan(view).ram)[:-1] / GIB).tolist()


def test_equal_shares_go_down_to_the_same() -> None:
    assert planned(proxmox(), view_of(-10, [8, 8])) == pytest.approx([3, 3])


def test_shares_count_above_the_minimum() -> None:
    view = view_of(-10, [8, 8], weight=[1000, 3000])
    assert planned(proxmox(), view) == pytest.approx([2.5, 3.5])


def test_a_cycle_moves_100_mib_of_each() -> None:
    policy = Proxmox(Proxmox.Params(scale=1))
    view = view_of(-10, [8, 8], weight=[1000, 3000])
    assert planned(policy, view) == pytest.approx([8 - 100 / 1024] * 2)


def test_the_step_is_scaled_to_the_host() -> None:
    view = view_of(-10, [8, 8])
    moved = 8 - np.array(planned(Proxmox(Proxmox.Params()), view))
    assert moved.tolist() == pytest.approx([100 / 1024 * HOST_GIB / 16] * 2)


@pytest.mark.parametrize("goal_gib", [9 / 1024, -9 / 1024])
def test_less_than_10_mib_are_not_worth_it(goal_gib: float) -> None:
    assert planned(proxmox(), view_of(goal_gib, [4, 4])) == [4, 4]


def test_who_has_a_quarter_of_its_minimum_free_shrinks_first() -> None:
    view = view_of(-1, [6, 6], used=[6, 5])
    assert planned(proxmox(), view) == pytest.approx([6, 5])


def test_who_has_less_than_a_quarter_free_grows_first() -> None:
    view = view_of(1, [4, 4], used=[4, 3])
    assert planned(proxmox(), view) == pytest.approx([5, 4])


def test_all_shrink_when_nobody_has_memory_free() -> None:
    assert planned(proxmox(), view_of(-2, [6, 6])) == pytest.approx([5, 5])


def test_shares_decide_when_those_short_of_memory_are_at_their_maximum() -> None:
    view = view_of(1, [8, 4], used=[8, 3])
    assert planned(proxmox(), view) == pytest.approx([6.5, 6.5])


def test_what_one_at_its_maximum_cannot_take_goes_to_the_others() -> None:
    view = view_of(3, [8, 3, 3], weight=[8, 1, 1])
    assert planned(proxmox(), view) == pytest.approx([8, 4.5, 4.5])


def test_between_cycles_targets_stay() -> None:
    policy = proxmox(period_ticks=10)
    assert planned(policy, view_of(-10, [8, 8], tick=5)) == [8, 8]
    assert planned(policy, view_of(-10, [8, 8], tick=30)) == pytest.approx([3, 3])
