"""A guest that could not give its memory up says that it has made room: it goes at once."""

from __future__ import annotations

import time

import pytest
from backend_steps import AREA, WAIT_S
from guest_double import GuestDouble
from sections_double import (
    NEXT,
    OFFLINE,
    OFFLINED,
    SECTION,
    STUCK,
    VM1,
    N,
    claim,
    drive,
    host,
    spec,
)

from hypervisor.public.backend import DomainSpec
from hypervisor.public.errors import Status
from memcoord.testbed.guests.obedient import GuestProcess

ASK_ANEW = 2


def test_what_was_kept_is_asked_for_again_when_the_guest_asks_anew() -> None:
    backend = host(4)
    guest = GuestDouble(backend.open(VM1, spec(4, 2)))
    backend.set_target(VM1, SECTION)
    assert drive(guest, N, unmovable=[0, 1])[-1][0] == STUCK
    assert guest.send(NEXT)[0] == STUCK
    todo, (section, *_) = guest.send(NEXT, ASK_ANEW)
    assert todo == OFFLINE
    assert claim(guest, section, N)
    assert guest.send(OFFLINED, section)[0] == Status.OK
    assert backend.settle(VM1, WAIT_S).plugged_frames == SECTION
    guest.close()
    backend.stop()


@pytest.mark.process
@pytest.mark.parametrize(
    ("mechanism", "option"), [("sections", "section_areas"), ("virtio-mem", "block_areas")]
)
def test_a_guest_that_releases_is_taken_at_its_word(mechanism: str, option: str) -> None:
    backend = host(4)
    size = 8 * AREA
    handles = backend.open(
        VM1, DomainSpec("vm1", size, size, size, mechanism=mechanism, options={option: N})
    )
    guest = GuestProcess(handles, "vm1", 0)
    assert guest.take("frames", size) == size
    backend.set_target(VM1, SECTION)
    settled = backend.settle(VM1, WAIT_S)
    assert (settled.state, settled.why) == ("partial", "in use")
    guest.give("frames", size)
    assert guest.release(size - SECTION) == 0
    deadline_s = time.monotonic() + WAIT_S
    while backend.snapshot().domains[0].plugged_frames > SECTION:
        assert time.monotonic() < deadline_s, "it was not tried again"
        time.sleep(0.001)
    guest.close()
    backend.stop()
