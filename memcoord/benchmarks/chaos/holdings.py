"""What one domain owns, remembered outside its memory, so that every frame and page can be checked.

Owns: ``Frames`` and ``Pages``. The content of a frame or page is made from the seed of the life and
its place and version (``content.h``); the versions are kept here, in private memory of the process.
So a check needs nothing that the hypervisor or the domain's memory tells, and goes on after a
domain was taken over by a new hypervisor.
Rules: one thread. A mismatch is counted and told once, and the frame or page forgotten.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

from frontend.domain import Domain
from hypervisor.public.errors import MemcoordError, PeerGone
from hypervisor.public.units import FRAME_BYTES
from memcoord.benchmarks.chaos.account import Slot
from memcoord.testbed.guests._content import ffi, lib
from tmem.codes import Code

EMPTY = bytes(FRAME_BYTES)
HEAD_BYTES = 16
#: Places of contents that are no frame: handles of movable frames, pages of tmem.
MOVABLE, PAGE = 1 << 40, 1 << 41
#: The domain whose contents all that share a pool put.
SHARED_SEED = 0xC0DE
Name = tuple[int, int]  # object, index
#: A put that ended in an error may have stored its page, or dropped the one before, or neither.
ABSENT = 0


class Detached(PeerGone):
    """The domain was detached: what its memory holds now is nobody's."""


class Frames:
    """Frames that the domain was given, each filled with a content of its own."""

    def __init__(self, domain: Domain, seed: int, slot: Slot) -> None:
        self._domain, self._seed, self._slot = domain, seed, slot
        self._version = 0
        self.held: dict[int, int] = {}  # frame -> version, of every frame that is held
        self._left: dict[int, int] = {}  # frame -> version it was freed with
        self.movables: dict[int, int] = {}  # handle -> version
        self._moving: set[bytes] = set()  # heads of their contents: a move leaves a copy behind

    def take(self, frames: Iterable[int]) -> None:
        """Frames just given: nobody else's bytes may be in them. Fill them."""
        for frame in frames:
            at = self._domain.address + frame * FRAME_BYTES
            if not self._is_ours(frame, at):
                found = bytes(self._bytes(frame)[:HEAD_BYTES]).hex()
                self._wrong(f"frame {frame} was given with bytes of somebody else: {found}")
            self._version += 1
            lib.mc_content_fill(at, self._seed, frame, self._version)
            self.held[frame] = self._version

    def _bytes(self, frame: int) -> memoryview:
        return self._domain.memory[frame * FRAME_BYTES : (frame + 1) * FRAME_BYTES]

    def _is_ours(self, frame: int, at: int) -> bool:
        left = self._left.pop(frame, ABSENT)
        if left and lib.mc_content_check(at, self._seed, frame, left) < 0:
            return True
        page = bytes(self._bytes(frame))
        return page == EMPTY or page[:HEAD_BYTES] in self._moving

    def check(self, frames: Iterable[int]) -> None:
        """Frames that are held must have their content."""
        checked = 0
        for frame in frames:
            at = self._domain.address + frame * FRAME_BYTES
            version = self.held[frame]
            checked += 1
            if lib.mc_content_check(at, self._seed, frame, version) >= 0:
                found = bytes(self._bytes(frame)[:HEAD_BYTES]).hex()
                self._wrong(f"frame {frame} lost its content: {found}", "lost_frames")
                lib.mc_content_fill(at, self._seed, frame, version)
        self._slot.count("frames_verified", checked)

    def drop(self, frames: Iterable[int]) -> None:
        """Check frames that are about to be freed, and forget them."""
        frames = list(frames)
        self.check(frames)
        for frame in frames:
            self._left[frame] = self.held.pop(frame)

    def some(self, dice: random.Random, most: int) -> list[int]:
        """At most so many of the held frames, by chance."""
        return dice.sample(list(self.held), min(len(self.held), most))

    def take_movable(self, handle: int) -> None:
        """Fill a movable frame that was just given."""
        self._version += 1
        with self._domain.pinned(handle) as page:
            lib.mc_content_fill(_address(page), self._seed, MOVABLE | handle, self._version)
            self._moving.add(bytes(page[:HEAD_BYTES]))
        self.movables[handle] = self._version

    def check_movable(self, handle: int) -> None:
        """A movable frame has its content, wherever it is."""
        with self._domain.pinned(handle) as page:
            wrong = lib.mc_content_check(
                _address(page), self._seed, MOVABLE | handle, self.movables[handle]
            )
        if wrong >= 0:
            self._wrong(f"movable frame {handle} lost its content", "lost_frames")
        self._slot.count("frames_verified")

    def _wrong(self, what: str, word: str = "") -> None:
        if not self._domain.alive:  # its memory reads as zeroes from now on
            raise Detached(f"detached: {what}")
        if word:
            self._slot.count(word)
        self._slot.problem(f"{self._domain.name}: {what}")


class Pages:
    """Pages in tmem: persistent ones must come back, shared ones may be gone but not be wrong."""

    def __init__(self, domain: Domain, seed: int, slot: Slot) -> None:
        self._domain, self._seed, self._slot = domain, seed, slot
        self._pool = domain.tmem.new_pool(persistent=True)
        self._version = 0
        self.known: dict[Name, int] = {}
        self.doubtful: dict[Name, set[int]] = {}  # after an error: what may be there
        self._since_ns = 0

    def put(self, name: Name, frame: int) -> bool:
        """Put a new version of a page out of ``frame``; whether it was stored."""
        self._version += 1
        self._fill(frame, self._seed, name, self._version)
        before = self.doubtful.pop(name, set()) | {self.known.pop(name, ABSENT)}
        try:
            answer = self._domain.tmem.put(self._pool, _oid(name), name[1], frame)
        except MemcoordError:
            self.doubtful[name] = before | {ABSENT, self._version}
            raise
        self._slot.count("puts")
        if answer == Code.DONE:
            self.known[name] = self._version
        return answer == Code.DONE

    def note_pause(self) -> None:
        """A put was answered now: the run asks how long none was."""
        self._since_ns = self._slot.put_done(self._since_ns or 1 << 62)

    def check(self, name: Name, frame: int) -> None:
        """Get a page into ``frame``: the content that was put last, and not another."""
        versions = self.doubtful.get(name) or {self.known[name]}
        answer = self._domain.tmem.get(self._pool, _oid(name), name[1], frame)
        self._slot.count("pages_verified")
        if answer != Code.DONE:
            self._forget(name)
            if ABSENT not in versions:
                self._slot.count("lost_pages")
                self._tell(f"persistent page {name} is lost: a get answered {answer}")
            return
        for version in versions - {ABSENT}:
            if self._holds(frame, self._seed, name, version):
                self._forget(name)
                self.known[name] = version
                return
        self._forget(name)
        self._slot.count("wrong_pages")
        self._tell(f"persistent page {name} has other bytes than version {versions}")

    def flush(self, name: Name) -> None:
        """Forget a page on both sides."""
        versions = self.doubtful.pop(name, set()) | {self.known.pop(name, ABSENT)}
        try:
            self._domain.tmem.flush_page(self._pool, _oid(name), name[1])
        except MemcoordError:
            self.doubtful[name] = versions | {ABSENT}
            raise

    def flush_object(self, number: int) -> None:
        """Forget every page of an object."""
        for name in [name for name in (*self.known, *self.doubtful) if name[0] == number]:
            versions = self.doubtful.get(name, set()) | {self.known.pop(name, ABSENT)}
            self.doubtful[name] = versions | {ABSENT}
        self._domain.tmem.flush_object(self._pool, _oid((number, 0)))
        self.doubtful = {name: may for name, may in self.doubtful.items() if name[0] != number}

    def put_shared(self, pool: int, name: Name, frame: int) -> None:
        """Put the page of this name that all domains with this pool would put."""
        self._fill(frame, SHARED_SEED, name, 1)
        self._domain.tmem.put(pool, _oid(name), name[1], frame)

    def check_shared(self, pool: int, name: Name, frame: int) -> None:
        """If the page is there, it is the one that every domain puts."""
        found = self._domain.tmem.get(pool, _oid(name), name[1], frame) == Code.DONE
        if found and not self._holds(frame, SHARED_SEED, name, 1):
            self._slot.count("wrong_pages")
            self._tell(f"shared page {name} has other bytes")

    def some(self, dice: random.Random, most: int) -> list[Name]:
        """At most so many of the pages, those in doubt first."""
        known = dice.sample(list(self.known), min(len(self.known), most))
        return [*self.doubtful, *known][:most]

    def _forget(self, name: Name) -> None:
        self.known.pop(name, None)
        self.doubtful.pop(name, None)

    def _fill(self, frame: int, seed: int, name: Name, version: int) -> None:
        at = self._domain.address + frame * FRAME_BYTES
        lib.mc_content_fill(at, seed, _place(name), version)

    def _holds(self, frame: int, seed: int, name: Name, version: int) -> bool:
        at = self._domain.address + frame * FRAME_BYTES
        return bool(lib.mc_content_check(at, seed, _place(name), version) < 0)

    def _tell(self, what: str) -> None:
        self._slot.problem(f"{self._domain.name}: {what}")


def _oid(name: Name) -> tuple[int, int, int]:
    return name[0], 7, 0


def _place(name: Name) -> int:
    return PAGE | name[0] << 32 | name[1]


def _address(page: memoryview) -> int:
    return int(ffi.cast("uintptr_t", ffi.from_buffer(page)))
