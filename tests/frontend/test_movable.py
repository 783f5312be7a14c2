"""Frames that are moved under their owner, and areas taken out of use."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import frontend
from frontend._guest import ffi
from frontend._guest import lib as guest_lib
from frontend.domain import Domain
from hypervisor.public.errors import BadFrame, NoMemory, Status

AREA = 512
JOIN_S = 60.0


@pytest.fixture
def domain(make_hypervisor: Any, settle: Any) -> Any:
    """Two areas, and no more to be had."""
    with frontend.attach(make_hypervisor(areas=2, boot=2, spare_areas=0).path) as attached:
        settle(attached)
        yield attached
        where = ffi.new("uint32_t *")
        attached.drain()
        assert guest_lib.mc_frames_validate(ffi.addressof(attached._guest.frames), where) == 0


def stamped(domain: Domain, count: int) -> dict[int, int]:
    """Handles of movable frames, with the stamp in each."""
    handles = {domain.alloc_movable(): stamp for stamp in range(1, count + 1)}
    for handle, stamp in handles.items():
        with domain.pinned(handle) as page:
            page[:8] = stamp.to_bytes(8, "little")
    return handles


def intact(domain: Domain, handles: dict[int, int]) -> bool:
    for handle, stamp in handles.items():
        with domain.pinned(handle) as page:
            if int.from_bytes(page[:8], "little") != stamp:
                return False
    return True


def offline(domain: Domain, area: int) -> int:
    return int(guest_lib.mc_offline(domain._guest, area, 1))


def frame_of(domain: Domain, handle: int) -> int:
    frame = int(guest_lib.mc_movable_pin(domain._guest, handle))
    guest_lib.mc_movable_unpin(domain._guest, handle)
    return frame


def test_an_area_of_movable_frames_is_emptied(domain: Domain) -> None:
    handles = stamped(domain, 200)
    areas = {frame_of(domain, handle) // AREA for handle in handles}
    assert len(areas) == 1
    area = areas.pop()
    assert offline(domain, area) == 0
    assert intact(domain, handles)
    assert {frame_of(domain, handle) // AREA for handle in handles} == {1 - area}
    assert domain._guest.control.migrated_frames == 200
    with pytest.raises(NoMemory):
        domain.alloc(9)
    guest_lib.mc_online(domain._guest, area)
    assert domain.alloc(9) == area * AREA
    domain.free(area * AREA, 9)
    for handle in handles:
        domain.free_movable(handle)
    domain.drain()
    assert domain.statistics().free_frames == 2 * AREA


def test_what_somebody_holds_by_number_stays(domain: Domain) -> None:
    handles = stamped(domain, 100)
    frame = domain.alloc()
    assert offline(domain, frame // AREA) == Status.ESTATE
    assert intact(domain, handles)
    domain.free(frame)
    assert offline(domain, frame // AREA) == 0
    assert intact(domain, handles)
    guest_lib.mc_online(domain._guest, frame // AREA)


def test_what_is_pinned_stays(domain: Domain) -> None:
    handles = stamped(domain, 10)
    first = next(iter(handles))
    area = frame_of(domain, first) // AREA
    with domain.pinned(first):
        assert offline(domain, area) == Status.ESTATE
    assert offline(domain, area) == 0
    assert intact(domain, handles)
    guest_lib.mc_online(domain._guest, area)


def test_without_room_elsewhere_nothing_is_lost(domain: Domain) -> None:
    handles = stamped(domain, 600)
    assert offline(domain, 0) == Status.ENOMEM
    assert offline(domain, 1) == Status.ENOMEM
    assert intact(domain, handles)
    with pytest.raises(NoMemory):
        domain.alloc_many(500)
    assert len(domain.alloc_many(400)) == 400


def test_an_area_that_is_out_of_use_cannot_be_taken_out_again(domain: Domain) -> None:
    assert offline(domain, 1) == 0
    assert offline(domain, 1) == Status.ESTATE
    assert offline(domain, 2) == Status.ESTATE
    guest_lib.mc_online(domain._guest, 1)
    assert offline(domain, 1) == 0
    guest_lib.mc_online(domain._guest, 1)


@pytest.mark.parametrize("handle", [0, 5, 2 * AREA, 2**32 - 1, 2**40])
def test_a_handle_nobody_holds_is_refused(domain: Domain, handle: int) -> None:
    with pytest.raises(BadFrame):
        domain.free_movable(handle)
    domain.free_movable(domain.alloc_movable())


def test_frames_move_while_they_are_written(domain: Domain) -> None:
    handles = stamped(domain, 64)
    wrong: list[int] = []

    def write() -> None:
        for turn in range(1, 200):
            for handle, stamp in handles.items():
                with domain.pinned(handle) as page:
                    if int.from_bytes(page[:8], "little") != stamp:
                        wrong.append(handle)
                    page[8:16] = turn.to_bytes(8, "little")
                    page[:8] = stamp.to_bytes(8, "little")

    writer = threading.Thread(target=write)
    writer.start()
    emptied = 0
    while writer.is_alive():
        for area in (0, 1):
            if offline(domain, area) == 0:
                emptied += 1
                guest_lib.mc_online(domain._guest, area)
    writer.join(JOIN_S)
    assert wrong == []
    assert intact(domain, handles)
    assert emptied > 0


def test_what_moved_away_leaves_its_counters_right(domain: Domain) -> None:
    handles = stamped(domain, 300)
    area = frame_of(domain, next(iter(handles))) // AREA
    there = sum(frame_of(domain, handle) // AREA == area for handle in handles)
    assert offline(domain, area) == 0
    guest_lib.mc_online(domain._guest, area)
    assert domain._guest.frames.areas[area] & guest_lib.MC_AREA_FREE_MASK == AREA
    more = stamped(domain, 2 * AREA - 300)
    assert there > 0
    assert intact(domain, handles)
    assert intact(domain, more)
    with pytest.raises(NoMemory):
        domain.alloc_movable()
    for handle in (*handles, *more):
        domain.free_movable(handle)
