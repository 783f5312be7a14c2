"""Every sequence of guest and host calls against a plain model, exact to the byte of every head.

Method: the model is three integers used as bitmaps (granted, backed, taken) and one byte per frame.
It predicts every status, and that an allocation succeeds exactly when some aligned run is free and
not in another thread's slot; where it lies is the allocator's choice, which the model only checks.
"""

from __future__ import annotations

from typing import Any

from frames_region import Region
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

AREAS = 18  # one tree and a bit
AREA = 512
LIMIT = AREAS * AREA
NEVER, BODY, FREED, RUN = 0, 0x40, 0x80, 10
ENOMEM, EINDEX, EORDER, EDOUBLE, ENEVER, ESTATE = -1, -2, -3, -4, -5, -7

orders = st.integers(0, 9)
areas = st.integers(0, AREAS - 1)
slots = st.integers(0, 1)


def mask(first: int, count: int) -> int:
    return ((1 << count) - 1) << first


def aligned(count: int) -> int:
    return sum(1 << first for first in range(0, LIMIT - count + 1, count))


STARTS = [aligned(1 << order) for order in range(10)]


def run_starts(free: int, order: int) -> int:
    """Where an aligned run of 2^order free frames starts, as bits."""
    for k in range(order):
        free &= free >> (1 << k)
    return free & STARTS[order]


class Allocator(RuleBasedStateMachine):
    """Two slots, all orders, runs of areas, batches, the five transitions, recovery."""

    def __init__(self) -> None:
        super().__init__()
        self.region = Region(AREAS, granted=False)
        self.lib, self.frames = self.region.lib, self.region.frames
        self.slots = [self.region.slot(7), self.region.slot(8)]
        self.granted = self.backed = self.taken = 0
        self.heads = bytearray(LIMIT)
        self.blocks: list[tuple[int, int]] = []  # first frame, order; 100 + n: a run of n areas
        self.generation = 0

    # what the model knows

    def held(self, slot: int) -> int:
        shared = self.frames.slots[self.slots[slot]]
        return int(shared.free) << (shared.row * 64) if shared.free else 0

    def within_reach(self, slot: int) -> int:
        return self.granted & ~self.taken & ~self.held(1 - slot)

    def whole(self, area: int) -> bool:
        wanted = mask(area * AREA, AREA)
        return not (self.taken | self.held(0) | self.held(1)) & wanted and (
            self.granted & wanted == wanted
        )

    def hand_out(self, first: int, count: int, head: int, kind: int) -> None:
        wanted = mask(first, count)
        assert self.granted & wanted == wanted
        assert not self.taken & wanted
        self.taken |= wanted
        self.heads[first : first + count] = bytes([head]) + bytes([BODY]) * (count - 1)
        self.blocks.append((first, kind))

    def take_back(self, first: int, count: int, kind: int) -> None:
        self.taken &= ~mask(first, count)
        self.heads[first : first + count] = bytes([FREED]) * count
        self.blocks.remove((first, kind))

    def expected_status(self, first: int, count: int, head: int) -> int:
        if first >= LIMIT or first % min(count, AREA):
            return EINDEX
        seen = self.heads[first]
        return {head: 0, NEVER: ENEVER, FREED: EDOUBLE}.get(seen, EORDER)

    # the guest

    @rule(slot=slots, order=orders, times=st.integers(1, 40))
    def alloc(self, slot: int, order: int, times: int) -> None:
        for _ in range(times):
            reach = self.within_reach(slot)
            frame = self.lib.mc_frames_alloc(self.frames, self.slots[slot], order)
            if not run_starts(reach, order):
                assert frame == ENOMEM
                return
            assert frame >= 0
            assert frame % (1 << order) == 0
            assert reach >> frame & 1
            self.hand_out(frame, 1 << order, order + 1 if order < 9 else RUN, order)

    @rule(slot=slots, count=st.integers(1, 16))
    def alloc_areas(self, slot: int, count: int) -> None:
        starts = run_starts(self.within_reach(slot), 9)
        fits = any(
            all(starts >> (first + k) * AREA & 1 for k in range(count))
            for first in range(AREAS - count + 1)
            if first // 16 == (first + count - 1) // 16
        )
        frame = self.lib.mc_frames_alloc_areas(self.frames, self.slots[slot], count)
        assert (frame >= 0) == fits
        if fits:
            assert frame % AREA == 0
            self.hand_out(frame, count * AREA, RUN + count - 1, 100 + count)
        else:
            assert frame == ENOMEM

    @rule(slot=slots, count=st.sampled_from([1, 3, 63, 64, 65, 200, 1000]))
    def alloc_many(self, slot: int, count: int) -> None:
        available = self.within_reach(slot).bit_count()
        frames = self.region.alloc_many(self.slots[slot], count)
        assert len(frames) == min(count, available)
        for frame in frames:
            self.hand_out(frame, 1, 1, 0)

    @rule(slot=slots, data=st.data(), times=st.integers(1, 40))
    def free(self, slot: int, data: Any, times: int) -> None:
        for _ in range(min(times, len(self.blocks))):
            at = data.draw(st.integers(0, len(self.blocks) - 1))
            first, kind = self.blocks[at]
            if kind > 100:
                count = (kind - 100) * AREA
                status = self.lib.mc_frames_free_areas(
                    self.frames, self.slots[slot], first, kind - 100
                )
            else:
                count = 1 << kind
                status = self.lib.mc_frames_free(self.frames, self.slots[slot], first, kind)
            assert status == 0
            self.take_back(first, count, kind)

    @rule(slot=slots, shuffled=st.booleans(), data=st.data())
    def free_many(self, slot: int, shuffled: bool, data: Any) -> None:
        frames = [first for first, kind in self.blocks if kind == 0][:300]
        if shuffled:
            frames = data.draw(st.permutations(frames))
        wrong = data.draw(st.none() | st.integers(0, len(frames)))
        if wrong is not None:
            frames.insert(wrong, data.draw(st.integers(0, LIMIT)))
        done, status = self.region.free_many(self.slots[slot], frames)
        for frame in frames[:done]:
            assert self.expected_status(frame, 1, 1) == 0
            self.take_back(frame, 1, 0)
        if done < len(frames):
            assert status == self.expected_status(frames[done], 1, 1) != 0
        else:
            assert status == 0

    @rule(slot=slots, frame=st.integers(0, LIMIT + 600), order=st.integers(-1, 10))
    def free_wrongly(self, slot: int, frame: int, order: int) -> None:
        head = order + 1 if order < 9 else RUN
        in_range = 0 <= order <= 9
        expected = self.expected_status(frame, 1 << order, head) if in_range else EINDEX
        if expected == 0:
            return
        before = self.region.image()
        assert self.lib.mc_frames_free(self.frames, self.slots[slot], frame, order) == expected
        assert self.region.image() == before

    @rule(slot=slots, first=areas, count=st.integers(0, 17))
    def free_areas_wrongly(self, slot: int, first: int, count: int) -> None:
        in_range = 1 <= count <= 16
        expected = EINDEX
        if in_range:
            expected = self.expected_status(first * AREA, count * AREA, RUN + count - 1)
        if expected == 0:
            return
        before = self.region.image()
        status = self.lib.mc_frames_free_areas(self.frames, self.slots[slot], first * AREA, count)
        assert status == expected
        assert self.region.image() == before

    @rule(slot=slots)
    def drain(self, slot: int) -> None:
        assert self.lib.mc_slot_drain(self.frames, self.slots[slot]) == 0
        assert self.held(slot) == 0

    # the hypervisor

    def transition(self, name: str, area: int, allowed: bool) -> bool:
        self.generation = (self.generation + 1) % 65536
        before = self.region.image()
        status = getattr(self.lib, f"mc_area_{name}")(self.frames, area, self.generation)
        assert status == (0 if allowed else ESTATE)
        if allowed:
            word = self.lib.mc_area_word(self.frames, area)
            assert word >> 16 == self.generation
        else:
            assert self.region.image() == before
        return allowed

    @rule(area=areas)
    def hard_reclaim(self, area: int) -> None:
        if self.transition("hard_reclaim", area, self.whole(area)):
            self.granted &= ~mask(area * AREA, AREA)
            self.backed &= ~mask(area * AREA, AREA)

    @rule(area=areas)
    def soft_reclaim(self, area: int) -> None:
        allowed = self.whole(area) and bool(self.backed >> area * AREA & 1)
        if self.transition("soft_reclaim", area, allowed):
            self.backed &= ~mask(area * AREA, AREA)

    @rule(first=areas, count=st.integers(1, AREAS), name=st.sampled_from(["return", "grant"]))
    def give(self, first: int, count: int, name: str) -> None:
        for area in range(first, min(first + count, AREAS)):
            if self.transition(name, area, not self.granted >> area * AREA & 1):
                self.granted |= mask(area * AREA, AREA)
                self.backed |= mask(area * AREA, AREA) if name == "grant" else 0

    @rule(area=areas)
    def install(self, area: int) -> None:
        lacking = self.granted & ~self.backed
        if self.transition("install", area, bool(lacking >> area * AREA & 1)):
            self.backed |= mask(area * AREA, AREA)

    # after every step

    @invariant()
    def sound_and_as_predicted(self) -> None:
        assert self.region.broken_area() is None
        assert self.region.heads() == bytes(self.heads)
        seen = self.region.statistics()
        held = (self.held(0) | self.held(1)).bit_count()
        assert seen["slot_frames"] == held
        assert seen["taken_frames"] == self.taken.bit_count()
        assert seen["free_frames"] == (self.granted & ~self.taken).bit_count() - held
        assert seen["allocs"] - seen["frees"] == self.taken.bit_count()
        assert seen["reclaimed_areas"] * AREA == LIMIT - self.granted.bit_count()
        assert seen["evicted_areas"] * AREA == (self.granted & ~self.backed).bit_count()


def test_any_sequence_of_calls_agrees_with_the_model() -> None:
    run_state_machine_as_test(
        Allocator,
        settings=settings(
            max_examples=200,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
