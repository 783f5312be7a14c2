"""The guest half, case by case: what is refused, what is undone, what a kill leaves behind.

Goal: the cases a random walk reaches rarely. Method: states are made through the public calls; only
what a killed thread or a corrupt peer would leave is written into the region directly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from frames_region import AREA_FRAMES, Region

from hypervisor.public.errors import Status

TREE_AREAS = 16


@pytest.fixture
def region() -> Region:
    return Region(20)


def refuse(region: Region, status: Status, call: Callable[[], int]) -> None:
    before = region.image()
    assert call() == status
    assert region.image() == before


def alloc(region: Region, slot: int, order: int) -> int:
    return int(region.lib.mc_frames_alloc(region.frames, slot, order))


def free(region: Region, slot: int, frame: int, order: int) -> int:
    return int(region.lib.mc_frames_free(region.frames, slot, frame, order))


def use_prepare(region: Region, function: Callable[[int, int], int]) -> Any:
    """Install ``prepare(area, word)``; the caller keeps the returned handle alive."""
    handle = region.ffi.callback(
        "int(void *, uint32_t, uint32_t)", lambda _context, area, word: function(area, word)
    )
    region.frames.prepare = handle
    return handle


# ---- blocks and errors


@pytest.mark.parametrize("order", range(10))
def test_a_block_is_aligned_and_every_wrong_free_is_refused_unchanged(
    region: Region, order: int
) -> None:
    slot, count = region.slot(), 1 << order
    never = region.areas * AREA_FRAMES - count
    refuse(region, Status.ENEVER, lambda: free(region, slot, never, order))
    frame = alloc(region, slot, order)
    assert frame % count == 0
    for other in set(range(10)) - {order}:
        expected = Status.EINDEX if frame % (1 << other) else Status.EORDER
        refuse(region, expected, lambda other=other: free(region, slot, frame, other))
    for inside in range(frame + 1, frame + count):
        refuse(region, Status.EORDER, lambda inside=inside: free(region, slot, inside, 0))
        assert region.taken()[inside]
    assert free(region, slot, frame, order) == 0
    refuse(region, Status.EDOUBLE, lambda: free(region, slot, frame, order))
    assert not region.taken()[frame]
    assert region.broken_area() is None


def test_indices_orders_and_slots_out_of_range_are_refused(region: Region) -> None:
    slot, limit = region.slot(), region.areas * AREA_FRAMES
    lib, frames = region.lib, region.frames
    for frame in (limit, limit + 1, 2**32, 2**63, 2**64 - 1):
        refuse(region, Status.EINDEX, lambda frame=frame: free(region, slot, frame, 0))
        refuse(
            region,
            Status.EINDEX,
            lambda frame=frame: lib.mc_frames_free_areas(frames, slot, frame & ~511, 1),
        )
    for order in (-1, 10, 31, 64, -(2**31)):
        refuse(region, Status.EINDEX, lambda order=order: alloc(region, slot, order))
        refuse(region, Status.EINDEX, lambda order=order: free(region, slot, 0, order))
    for count in (0, 17, 2**32 - 1):
        refuse(
            region,
            Status.EINDEX,
            lambda count=count: lib.mc_frames_alloc_areas(frames, slot, count),
        )
    out, status = region.ffi.new("uint32_t[1]"), region.ffi.new("int *")
    for bad in (-1, slot + 1, 16, 2**31 - 1):
        refuse(region, Status.ESLOT, lambda bad=bad: alloc(region, bad, 0))
        refuse(region, Status.ESLOT, lambda bad=bad: alloc(region, bad, 3))
        refuse(region, Status.ESLOT, lambda bad=bad: free(region, bad, 0, 0))
        refuse(region, Status.ESLOT, lambda bad=bad: lib.mc_frames_alloc_areas(frames, bad, 1))
        refuse(region, Status.ESLOT, lambda bad=bad: lib.mc_frames_free_areas(frames, bad, 0, 1))
        refuse(region, Status.ESLOT, lambda bad=bad: lib.mc_frames_alloc_many(frames, bad, out, 1))
        refuse(region, Status.ESLOT, lambda bad=bad: lib.mc_slot_drain(frames, bad))
        refuse(region, Status.ESLOT, lambda bad=bad: lib.mc_slot_release(frames, bad))
        assert lib.mc_frames_free_many(frames, bad, out, 1, status) == 0
        assert status[0] == Status.ESLOT


def test_there_are_as_many_slots_as_named_and_a_released_one_is_reused(region: Region) -> None:
    lib, frames = region.lib, region.frames
    refuse(region, Status.EINDEX, lambda: lib.mc_slot_claim(frames, 0))
    slots = [region.slot(owner) for owner in range(1, lib.MC_SLOTS + 1)]
    assert sorted(slots) == list(range(lib.MC_SLOTS))
    refuse(region, Status.ESLOT, lambda: lib.mc_slot_claim(frames, 99))
    frame = alloc(region, slots[3], 0)
    assert lib.mc_slot_release(frames, slots[3]) == 0
    assert region.statistics()["slot_frames"] == 0
    refuse(region, Status.ESLOT, lambda: free(region, slots[3], frame, 0))
    assert lib.mc_slot_claim(frames, 99) == slots[3]
    assert free(region, slots[0], frame, 0) == 0
    assert region.broken_area() is None


def test_slots_begin_in_different_areas(region: Region) -> None:
    first, last = region.slot(), [region.slot() for _ in range(15)][-1]
    assert alloc(region, first, 0) // AREA_FRAMES != alloc(region, last, 0) // AREA_FRAMES


# ---- fast path and batches


def test_single_frames_of_one_row_touch_no_shared_word(region: Region) -> None:
    slot = region.slot()
    alloc(region, slot, 0)
    offset = int(region.frames.slots[slot].row) * 64
    shared = region.image()[: int(region.ffi.cast("char *", region.frames.heads) - region.meta)]
    frames = [alloc(region, slot, 0) for _ in range(63)]
    assert sorted(frames) == list(range(offset + 1, offset + 64))
    for frame in frames:
        assert free(region, slot, frame, 0) == 0
    assert region.image()[: len(shared)] == shared


def test_a_batch_given_back_whole_is_kept_by_the_slot(region: Region) -> None:
    slot = region.slot()
    frames = region.alloc_many(slot, 64)
    refills = region.statistics()["refills"]
    for _ in range(10):
        assert region.free_many(slot, frames) == (64, 0)
        assert region.alloc_many(slot, 64) == frames
    assert region.statistics()["refills"] == refills


def test_free_many_stops_at_the_first_bad_frame(region: Region) -> None:
    slot = region.slot()
    frames = region.alloc_many(slot, 200)
    big = alloc(region, slot, 4)
    bad = {
        frames[5]: Status.EDOUBLE,  # named twice in one call
        big: Status.EORDER,
        big + 1: Status.EORDER,
        region.areas * AREA_FRAMES: Status.EINDEX,
        region.areas * AREA_FRAMES - 1: Status.ENEVER,
    }
    for frame, status in bad.items():
        assert region.free_many(slot, [*frames[:100], frame, *frames[100:]]) == (100, status)
        assert region.broken_area() is None
        assert region.statistics()["taken_frames"] == 100 + 16
        assert region.free_many(slot, frames[100:]) == (100, 0)
        frames = region.alloc_many(slot, 200)
        bad = {key: value for key, value in bad.items() if key not in frames}
    row = next(k for k in range(64) if frames[k] % 64 == 0)
    whole = frames[row : row + 64]
    assert free(region, slot, whole[63], 0) == 0
    assert region.free_many(slot, whole) == (63, Status.EDOUBLE)


def test_a_larger_block_finds_what_the_own_slot_keeps() -> None:
    region = Region(1)
    slot = region.slot()
    frame = alloc(region, slot, 0)
    assert alloc(region, slot, 9) == Status.ENOMEM
    assert region.statistics()["slot_frames"] == 0  # drained for the second try
    assert free(region, slot, frame, 0) == 0
    assert region.statistics()["slot_frames"] == 1  # an empty slot takes any frame
    assert alloc(region, slot, 9) == 0
    assert region.broken_area() is None


def test_a_slot_keeps_its_frames_when_they_cannot_serve_an_order(region: Region) -> None:
    slot = region.slot()
    frames = region.alloc_many(slot, 64)
    assert region.free_many(slot, frames[1::2]) == (32, 0)  # no two neighbours are free
    block = alloc(region, slot, 1)
    assert block >= 0
    assert region.statistics()["slot_frames"] == 32
    assert sorted(region.alloc_many(slot, 32)) == frames[1::2]
    assert region.broken_area() is None


# ---- whole areas


def test_a_run_that_fails_in_the_middle_gives_back_every_area() -> None:
    region = Region(TREE_AREAS)
    slot = region.slot()
    failing_area = 9
    handle = use_prepare(
        region, lambda area, word: Status.EGONE if area == failing_area else Status.OK
    )
    before = region.statistics()
    assert region.lib.mc_frames_alloc_areas(region.frames, slot, TREE_AREAS) == Status.ENOMEM
    assert region.statistics() == before | {"prepares": region.statistics()["prepares"]}
    assert region.broken_area() is None
    region.frames.prepare = region.ffi.NULL
    assert region.lib.mc_frames_alloc_areas(region.frames, slot, TREE_AREAS) == 0
    del handle


def test_a_run_lies_inside_one_tree_and_is_freed_by_its_own_length() -> None:
    region = Region(TREE_AREAS + 4)
    slot = region.slot()
    single = alloc(region, slot, 9)
    assert single == 0
    lib, frames = region.lib, region.frames
    assert lib.mc_frames_alloc_areas(frames, slot, 16) == Status.ENOMEM
    first = lib.mc_frames_alloc_areas(frames, slot, 15)
    assert first == AREA_FRAMES
    assert lib.mc_frames_alloc_areas(frames, slot, 5) == Status.ENOMEM
    refuse(region, Status.EORDER, lambda: lib.mc_frames_free_areas(frames, slot, first, 14))
    refuse(region, Status.EORDER, lambda: free(region, slot, first, 9))
    refuse(region, Status.EORDER, lambda: free(region, slot, first + 5, 0))
    refuse(
        region,
        Status.EORDER,
        lambda: lib.mc_frames_free_areas(frames, slot, first + AREA_FRAMES, 1),
    )
    assert lib.mc_frames_free_areas(frames, slot, first, 15) == 0
    assert region.broken_area() is None


# ---- prepare


@pytest.mark.parametrize("order", range(10))
def test_a_refused_area_is_given_back_and_the_next_one_is_tried(region: Region, order: int) -> None:
    slot = region.slot()
    asked: list[int] = []

    def refuse_twice(area: int, word: int) -> int:
        asked.append(area)
        return Status.EGONE if len(asked) <= 2 else Status.OK

    handle = use_prepare(region, refuse_twice)
    frame = alloc(region, slot, order)
    assert frame // AREA_FRAMES == asked[-1]
    assert len(asked) == len(set(asked)) == 3
    assert region.broken_area() is None
    del handle


@pytest.mark.parametrize("order", range(10))
def test_allocation_gives_up_after_a_bounded_number_of_refusals(region: Region, order: int) -> None:
    slot = region.slot()
    asked: list[int] = []

    def always(area: int, word: int) -> int:
        asked.append(area)
        return Status.ENOMEM

    handle = use_prepare(region, always)
    free_frames = region.statistics()["free_frames"]
    assert alloc(region, slot, order) == Status.ENOMEM
    assert len(asked) == region.lib.MC_PREPARE_TRIES_MAX
    assert region.statistics()["free_frames"] == free_frames
    assert region.alloc_many(slot, 100) == []
    assert region.broken_area() is None
    del handle


def test_prepare_sees_the_claimed_word_and_work_is_counted(region: Region) -> None:
    slot, lib, frames = region.slot(), region.lib, region.frames
    seen: list[tuple[int, int]] = []

    def note(area: int, word: int) -> int:
        seen.append((area, word))
        # The hypervisor cannot take what is claimed.
        assert lib.mc_area_hard_reclaim(frames, area, 9) == Status.ESTATE
        assert lib.mc_area_soft_reclaim(frames, area, 9) == Status.ESTATE
        return 1

    handle = use_prepare(region, note)
    frame = alloc(region, slot, 9)
    assert seen == [(frame // AREA_FRAMES, lib.MC_AREA_HUGE)]
    assert region.statistics()["prepares"] == 1
    del handle


@pytest.mark.parametrize("order", [0, 3, 6, 7, 8, 9])
def test_areas_with_backing_come_first(order: int) -> None:
    region = Region(20)
    slot = region.slot()
    backed = 17
    for area in set(range(20)) - {backed}:
        assert region.lib.mc_area_soft_reclaim(region.frames, area, 1) == 0
    assert alloc(region, slot, order) // AREA_FRAMES == backed
    while alloc(region, slot, 9) >= 0:
        pass
    assert region.statistics()["huge_areas"] >= 19
