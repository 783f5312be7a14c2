"""One domain of a chaos run, inside its process: a witness that is never killed, or a victim.

Owns: the operations of both. A victim uses everything a guest can use, by chance, until it is
killed. A witness puts pages all the time, so that its longest gap between two puts is the pause
that the run brought about, and checks what it owns in between.
Called by: ``memcoord.benchmarks.chaos.zygote``, in the forked child.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from frontend.attach import attach
from frontend.domain import Domain
from hypervisor.public.errors import (
    AttachRefused,
    MemcoordError,
    NoMemory,
    PeerGone,
    RingBroken,
)
from hypervisor.public.units import AREA_FRAMES, FRAME_BYTES
from memcoord.benchmarks.chaos.account import Slot
from memcoord.benchmarks.chaos.holdings import EMPTY, Frames, Pages
from memcoord.benchmarks.chaos.plan import UUIDS, Life

ATTACH_S = 20.0
RETRY_S = 0.002
#: A witness whose hypervisor was killed waits so long for the next one.
RETURN_S = 60.0
PINNED_S_MAX = 0.02
OBJECTS, INDICES = 4, 400
SHARED_INDICES = 64
MOVABLES_MAX = 200
WITNESS_FRAMES, WITNESS_MOVABLES = 1500, 20
WITNESS_PAGES = 1200
CHECKED_FRAMES, CHECKED_PAGES, FREED_FRAMES = 64, 16, 200
ORDERS = (0, 0, 0, 1, 3, 6, 7, 9)
#: Refusals that pass by: the last life is being cleared away, or there is no memory yet.
PASSING = ("name-taken", "no-memory", "busy", "full")


def joined(run_dir: Path, life: Life, slot: Slot) -> Domain:
    """Attach; the last life under this name may be there for a moment. MemcoordError after that."""
    until = time.monotonic() + ATTACH_S
    while True:
        try:
            domain = attach(run_dir, life.name, doorbell=life.doorbell, wait=True)
        except AttachRefused as error:
            slot.count("refused")
            if error.code not in PASSING or time.monotonic() > until:
                raise
            time.sleep(RETRY_S)
            continue
        slot.count("attaches")
        return domain


class Guest:
    """What witnesses and victims have in common: a domain, and what it owns."""

    def __init__(self, run_dir: Path, life: Life, slot: Slot) -> None:
        self.dice, self.slot = random.Random(life.seed), slot
        self.domain = joined(run_dir, life, slot)
        self.frames = Frames(self.domain, life.seed, slot)
        self.pages = Pages(self.domain, life.seed, slot)

    @contextmanager
    def scratch(self) -> Iterator[int]:
        """A frame to put from and get into, empty again afterwards."""
        frame = self.domain.alloc()
        try:
            yield frame
        finally:
            with suppress(ValueError):
                self.domain.memory[frame * FRAME_BYTES : (frame + 1) * FRAME_BYTES] = EMPTY
            self.domain.free(frame)

    def name(self) -> tuple[int, int]:
        """The name of a page, by chance."""
        return self.dice.randrange(OBJECTS), self.dice.randrange(INDICES)

    def check_pages(self) -> None:
        """Get some pages and compare them."""
        with self.scratch() as frame:
            for name in self.pages.some(self.dice, CHECKED_PAGES):
                self.pages.check(name, frame)


class Victim(Guest):
    """Uses all that a guest can use, until it is killed."""

    def __init__(self, run_dir: Path, life: Life, slot: Slot) -> None:
        super().__init__(run_dir, life, slot)
        tmem = self.domain.tmem
        self._cache = tmem.new_pool(persistent=False)
        number = uuid.UUID(self.dice.choice(UUIDS)).int
        halves = (number & 0xFFFFFFFFFFFFFFFF, number >> 64)
        self._shared = tmem.new_pool(persistent=False, uuid=halves, shared=True)
        self._blocks: dict[int, int] = {}  # first frame -> order
        self._areas: list[tuple[int, int]] = []

    def run(self) -> None:
        """Until the kill; PeerGone when the domain was detached."""
        operations: list[Callable[[], None]] = [
            self._alloc, self._alloc_many, self._alloc_many, self._free, self._free_many,
            self._take_areas, self._move, self._pin, self._put, self._put, self._get, self._flush,
            self._use_cache, self._share, self._grow, self._shrink, self._report,
        ]  # fmt: skip
        while True:
            try:
                self.dice.choice(operations)()
            except NoMemory:
                self.slot.count("no_memory")
                with suppress(NoMemory):
                    self._free_many()
            self.slot.count("operations")

    def _alloc(self) -> None:
        order = self.dice.choice(ORDERS)
        first = self.domain.alloc(order)
        self._blocks[first] = order
        self.frames.take(range(first, first + (1 << order)))

    def _free(self) -> None:
        for first in self.dice.sample(list(self._blocks), min(len(self._blocks), 8)):
            order = self._blocks.pop(first)
            self.frames.drop(range(first, first + (1 << order)))
            self.domain.free(first, order)

    def _alloc_many(self) -> None:
        frames = self.domain.alloc_many(self.dice.choice((1, 64, 300, 1000)))
        self._blocks.update(dict.fromkeys(frames, 0))
        self.frames.take(frames)

    def _free_many(self) -> None:
        singles = [first for first, order in self._blocks.items() if order == 0]
        if self.dice.random() < 0.7:
            singles = singles[:FREED_FRAMES]
        self.frames.drop(singles)
        for first in singles:
            del self._blocks[first]
        self.domain.free_many(singles)

    def _take_areas(self) -> None:
        if self._areas and self.dice.random() < 0.5:
            first, count = self._areas.pop()
            self.frames.drop(range(first, first + count * AREA_FRAMES))
            self.domain.free_areas(first, count)
            return
        count = self.dice.choice((1, 1, 2, 4))
        first = self.domain.alloc_areas(count)
        self._areas.append((first, count))
        self.frames.take(range(first, first + count * AREA_FRAMES))

    def _move(self) -> None:
        movables = self.frames.movables
        if len(movables) > MOVABLES_MAX or (movables and self.dice.random() < 0.4):
            handle = self.dice.choice(list(movables))
            self.frames.check_movable(handle)
            del movables[handle]
            self.domain.free_movable(handle)
            return
        for _ in range(20):
            self.frames.take_movable(self.domain.alloc_movable())

    def _pin(self) -> None:
        """Keep some movable frames where they are for a while, in which the kill may come."""
        handles = list(self.frames.movables)[:4]
        if not handles:
            return
        with self.domain.pinned(handles[0]), self.domain.pinned(handles[-1]):
            time.sleep(self.dice.uniform(0, PINNED_S_MAX))
        for handle in handles:
            self.frames.check_movable(handle)

    def _put(self) -> None:
        with self.scratch() as frame:
            for _ in range(self.dice.choice((1, 16, 64))):
                self.pages.put(self.name(), frame)

    def _get(self) -> None:
        self.check_pages()
        self.frames.check(self.frames.some(self.dice, CHECKED_FRAMES))

    def _flush(self) -> None:
        if self.dice.random() < 0.1:
            self.pages.flush_object(self.dice.randrange(OBJECTS))
        for name in self.pages.some(self.dice, CHECKED_PAGES):
            self.pages.flush(name)

    def _use_cache(self) -> None:
        with self.scratch() as frame:
            for _ in range(64):
                self.domain.tmem.put(self._cache, (1, 1, 1), self.dice.randrange(1000), frame)

    def _share(self) -> None:
        with self.scratch() as frame:
            for _ in range(16):
                name = 0, self.dice.randrange(SHARED_INDICES)
                self.pages.put_shared(self._shared, name, frame)
                name = 0, self.dice.randrange(SHARED_INDICES)
                self.pages.check_shared(self._shared, name, frame)

    def _grow(self) -> None:
        self.domain.request(self.dice.choice((512, 2048, 4096)))

    def _shrink(self) -> None:
        self.domain.drain()
        self.domain.release(self.dice.choice((512, 2048, 8192)))

    def _report(self) -> None:
        self.domain.report(used_frames=len(self.frames.held), faults=self.dice.randrange(1000))


class Witness(Guest):
    """Owns frames and persistent pages from its start to the end of the run."""

    def run(self) -> None:
        """Put and check until the end of the run, through every restart of the hypervisor."""
        self._settle()
        gone_since = 0.0
        while True:
            try:
                self._round()
                gone_since = 0.0
            except NoMemory:
                self.slot.count("no_memory")
            except PeerGone:
                now = time.monotonic()
                gone_since = gone_since or now
                self.slot.count("gone")
                if now - gone_since > RETURN_S:
                    raise
                time.sleep(RETRY_S)

    def _settle(self) -> None:
        with suppress(NoMemory):
            self.frames.take(self.domain.alloc_many(WITNESS_FRAMES))
        with suppress(NoMemory):
            for _ in range(WITNESS_MOVABLES):
                self.frames.take_movable(self.domain.alloc_movable())

    def _round(self) -> None:
        with self.scratch() as frame:
            for _ in range(CHECKED_PAGES):
                self.pages.put(self.name(), frame)
                self.pages.note_pause()
        self.check_pages()
        self.frames.check(self.frames.some(self.dice, CHECKED_FRAMES))
        self.frames.check_movable(self.dice.choice(list(self.frames.movables)))
        if self.dice.random() < 0.1:
            frames = self.frames.some(self.dice, FREED_FRAMES)
            self.frames.drop(frames)
            self.domain.free_many(frames)
            self.frames.take(self.domain.alloc_many(len(frames)))
        if len(self.pages.known) > WITNESS_PAGES:
            self.pages.flush(self.dice.choice(list(self.pages.known)))
        self.slot.count("operations")


def live(run_dir: Path, life: Life, slot: Slot) -> None:
    """Be the domain of ``life`` until killed; what went wrong goes to the file of problems."""
    kind = Witness if life.is_witness else Victim
    try:
        kind(run_dir, life, slot).run()
    except RingBroken as error:
        slot.problem(f"{life.name}: RingBroken: {error}")
    except PeerGone as error:  # a victim was detached, or its hypervisor killed
        slot.count("gone")
        if life.is_witness:
            slot.problem(f"{life.name}: PeerGone: {error}")
    except (MemcoordError, ValueError, OSError) as error:
        slot.problem(f"{life.name}: {type(error).__name__}: {error}")
