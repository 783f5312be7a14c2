"""The host half: each transition from each state, and a guest that writes what it likes."""

from __future__ import annotations

import random

import pytest
from frames_region import AREA_FRAMES, Region

from hypervisor.public.errors import Status

NAMES = ("hard_reclaim", "soft_reclaim", "return", "grant", "install")
EVICTED, RECLAIMED, HUGE = 0x800, 0x1000, 0x400
HARD_WORD = HUGE | RECLAIMED | EVICTED


def transit(region: Region, name: str, area: int, generation: int = 0) -> int:
    return int(getattr(region.lib, f"mc_area_{name}")(region.frames, area, generation))


def reach(state: str) -> tuple[Region, int]:
    """A region whose area 2 is in ``state``; the rest is granted."""
    region = Region(20)
    slot = region.slot()
    if state in ("hard", "soft", "soft used"):
        assert transit(region, "hard_reclaim" if state == "hard" else "soft_reclaim", 2) == 0
    if state.endswith("used"):
        for area in set(range(20)) - {2}:
            assert transit(region, "hard_reclaim", area) == 0
        assert region.lib.mc_frames_alloc(region.frames, slot, 0) == 2 * AREA_FRAMES
    if state == "huge":
        while region.lib.mc_frames_alloc(region.frames, slot, 9) != 2 * AREA_FRAMES:
            pass
    return region, 2


ALLOWED = {
    "installed": {"hard_reclaim": HARD_WORD, "soft_reclaim": 512 | EVICTED},
    "soft": {"hard_reclaim": HARD_WORD, "install": 512},
    "hard": {"return": 512 | EVICTED, "grant": 512},
    "installed used": {},
    "soft used": {"install": 512 - 64},
    "huge": {},
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("state", ALLOWED)
def test_a_transition_happens_from_the_right_state_only(state: str, name: str) -> None:
    region, area = reach(state)
    before = region.image()
    status = transit(region, name, area, 0xBEEF)
    if name not in ALLOWED[state]:
        assert status == Status.ESTATE
        assert region.image() == before
        return
    assert status == 0
    word = region.lib.mc_area_word(region.frames, area)
    assert word == ALLOWED[state][name] | 0xBEEF << 16
    assert region.broken_area() is None  # which compares tree and areas


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("area", [20, 21, 2**31, 2**32 - 1])
def test_an_area_out_of_range_is_refused(name: str, area: int) -> None:
    region = Region(20)
    before = region.image()
    assert transit(region, name, area) == Status.EINDEX
    assert region.lib.mc_area_word(region.frames, area) == Status.EINDEX
    assert region.image() == before


def test_a_reclaimed_area_is_out_of_the_guests_reach_until_it_comes_back() -> None:
    region = Region(2)
    slot = region.slot()
    assert transit(region, "hard_reclaim", 0) == transit(region, "hard_reclaim", 1) == 0
    for order in range(10):
        assert region.lib.mc_frames_alloc(region.frames, slot, order) == Status.ENOMEM
    assert transit(region, "return", 1) == 0
    assert region.lib.mc_frames_alloc(region.frames, slot, 9) == AREA_FRAMES
    assert region.lib.mc_frames_alloc(region.frames, slot, 0) == Status.ENOMEM


def test_a_slot_keeps_an_area_from_the_hypervisor_until_it_is_drained() -> None:
    region = Region(1)
    slot = region.slot()
    frame = region.lib.mc_frames_alloc(region.frames, slot, 0)
    assert region.lib.mc_frames_free(region.frames, slot, frame, 0) == 0
    assert transit(region, "hard_reclaim", 0) == Status.ESTATE
    assert region.lib.mc_slot_drain(region.frames, slot) == 0
    assert transit(region, "hard_reclaim", 0) == 0


def test_a_run_keeps_the_evicted_mark_of_each_area_until_it_is_installed() -> None:
    region = Region(2)
    slot = region.slot()
    assert transit(region, "soft_reclaim", 1, 3) == 0
    assert region.lib.mc_frames_alloc_areas(region.frames, slot, 2) == 0
    assert region.lib.mc_area_word(region.frames, 1) == HUGE | EVICTED | 3 << 16
    assert transit(region, "install", 1, 3) == 0
    assert region.lib.mc_area_word(region.frames, 1) == HUGE | 3 << 16
    assert region.lib.mc_frames_free_areas(region.frames, slot, 0, 2) == 0
    assert region.broken_area() is None


def test_a_guest_that_corrupts_its_words_gets_answers_and_changes_no_other_word() -> None:
    rng = random.Random(20260)
    region = Region(20)
    frames = region.frames
    for _ in range(3000):
        area = rng.randrange(20)
        frames.areas[area] = rng.choice((rng.getrandbits(32), rng.getrandbits(13), 512, HARD_WORD))
        frames.trees[area // 16].free_frames = rng.choice((0, 511, 512, 2**32 - 1))
        others = [frames.areas[other] for other in range(20) if other != area]
        status = transit(region, rng.choice(NAMES), area, rng.getrandbits(16))
        assert status in (0, Status.ESTATE)
        assert [frames.areas[other] for other in range(20) if other != area] == others


def test_a_tree_that_promises_nothing_refuses_reclaim_without_a_change() -> None:
    region = Region(20)
    region.frames.trees[0].free_frames = 511
    before = region.image()
    assert transit(region, "hard_reclaim", 0) == Status.ESTATE
    assert region.image() == before
