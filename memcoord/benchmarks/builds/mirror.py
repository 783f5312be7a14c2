"""The frames of a domain that stand for the memory of a build, as the build takes and frees it.

Owns: ``MirroredFamily``: for each process of the build as many frames as the pager charges it for,
taken from the domain's allocator, touched, and freed when the charge falls or the process ends; the
same for the files that the build has written, which a guest's kernel would keep as page cache. So
the domain's file has pages when, and as long as, the build has; which frame stands for which page
is not known, the last that a process took are the first it frees. What a mechanism does by itself,
or its agent has it do, it does to these frames.
Rules: one thread, between two looks STEP_S apart: the frames follow the build by as much. What
cannot be had is missed, is tried again at each look, and is counted. Frames are touched by compiled
code. Every other process takes from another slot, as on a machine of two CPUs.
Called by: ``build.guest``.
"""

from __future__ import annotations

import os
import time
from array import array
from collections.abc import Callable, Sequence
from typing import Any

from frontend.pager.family import Family
from hypervisor.public.errors import MemcoordError, error_of
from hypervisor.public.units import AREA_FRAMES, FRAME_BYTES
from memcoord.benchmarks._loops import ffi, lib
from memcoord.benchmarks.builds.variants import NOBODY, RELEASES

#: Between two looks, while nothing else calls.
STEP_S = 0.02
#: Between two looks of an agent, and at the files.
AGENT_S, FILES_S = 0.25, 0.5
#: Of a domain whose target follows: what it has beyond its use, after a rise or a fall; it rises
#: when less than the first is left, and falls when more than twice the second is.
RISE_BELOW_FRAMES, AHEAD_FRAMES = 24576, 49152
#: What the domain's own allocator, the staging frames and rows of slots take.
SPARE_FRAMES = 2048
#: Frames that are missed until programs may grow no more.
LATE_FRAMES_MAX = 8192
RELEASE_AREAS_MAX = 64
SLOTS = 2
#: The owner of the frames that stand for files; processes have their row, from 0.
FILES = -1
#: A look: seconds since the begin, and frames: what the build has, what the mirror has, what the
#: kernel holds for the domain, what the ledger has it charged for.
COLUMNS = 5


class Owned:
    """The frames of one owner, and how many there are."""

    def __init__(self, maxmem_frames: int, slot: int) -> None:
        self.frames: Any = ffi.new("uint32_t[]", maxmem_frames)
        self.count, self.slot = 0, slot


class MirroredFamily(Family):
    """A family whose domain holds what its programs have; ``begin`` before the first look."""

    needs_single_frames = False

    def begin(
        self, outputs: Sequence[str], asks: bool, agent: str, resize: Callable[[int], None]
    ) -> None:
        """``outputs``: files of the build; ``resize``: set the domain's target."""
        domain = self._domain
        self._outputs, self._asks = outputs, asks
        self._agent, self._resize = agent, resize
        self._guest: Any = ffi.cast("struct mc_guest *", domain.guest_address)
        self._slots = [domain.claim_slot() for _ in range(SLOTS)]
        self._owned: dict[int, Owned] = {}
        self._file_frames, self._files_at_s, self._agent_at_s = 0, 0.0, 0.0
        self._begin_s = time.monotonic()
        self.looks = array("d")

    @property
    def elapsed_s(self) -> float:
        """Now, in the time of the looks."""
        return time.monotonic() - self._begin_s

    def follow_target(self) -> bool:
        """One look: take and give frames, let the agent act, set the limit, note what there is."""
        now_s = time.monotonic()
        if now_s - self._files_at_s > FILES_S:
            self._files_at_s, self._file_frames = now_s, _frames_of(self._outputs)
        wanted = {**self.held_pages(), FILES: self._file_frames}
        for owner in [owner for owner in self._owned if owner not in wanted]:
            self._give(owner, self._owned[owner].count)
        for owner, pages in sorted(wanted.items(), key=self._growth):
            self._move(owner, pages)
        held, used = sum(one.count for one in self._owned.values()), sum(wanted.values())
        if now_s - self._agent_at_s > AGENT_S:
            self._agent_at_s = now_s
            self._act(held)
        self._limit(used - held)
        self._note(now_s, used, held)
        return False

    def hold(self, seconds: float) -> None:
        """Go on looking for so long; no program runs."""
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            self.follow_target()
            time.sleep(STEP_S)

    def _growth(self, item: tuple[int, int]) -> int:
        """Those that shrink come first."""
        owner, pages = item
        return pages - (self._owned[owner].count if owner in self._owned else 0)

    def _move(self, owner: int, pages: int) -> None:
        one = self._owned.get(owner)
        if one is None:
            slot = self._slots[owner % SLOTS]
            one = self._owned[owner] = Owned(self._domain.maxmem_frames, slot)
        if pages < one.count:
            self._give(owner, one.count - pages)
        elif pages > one.count:
            most = min(pages, self._domain.maxmem_frames) - one.count
            elapsed = ffi.new("uint64_t *")
            more = lib.mcb_take_all(
                self._guest, one.slot, one.frames + one.count, most, self._asks, elapsed
            )
            one.count += _ok(more, "frames for the build")

    def _give(self, owner: int, count: int) -> None:
        one = self._owned[owner]
        one.count -= count
        _ok(lib.mcb_give_all(self._guest, one.slot, one.frames + one.count, count), "frames back")

    def _act(self, held: int) -> None:
        domain = self._domain
        if self._agent == NOBODY:
            return
        if self._agent == RELEASES:
            domain.release(RELEASE_AREAS_MAX * AREA_FRAMES)
            return
        left = domain.target_frames - held - SPARE_FRAMES
        if not RISE_BELOW_FRAMES <= left <= 2 * AHEAD_FRAMES:
            wanted = held + SPARE_FRAMES + AHEAD_FRAMES
            self._resize(min(-(-wanted // AREA_FRAMES) * AREA_FRAMES, domain.maxmem_frames))

    def _limit(self, late: int) -> None:
        """What programs may have: all the domain may, or no more than now while frames are late."""
        domain = self._domain
        most = domain.maxmem_frames if self._agent != NOBODY else domain.target_frames
        programs = sum(one.count for owner, one in self._owned.items() if owner != FILES)
        room = programs if late > LATE_FRAMES_MAX else most - self._file_frames - SPARE_FRAMES
        self.set_limit(room)

    def _note(self, now_s: float, used: int, held: int) -> None:
        resident = os.fstat(self._lent.ram).st_blocks * 512 // FRAME_BYTES
        looked = (now_s - self._begin_s, used, held, resident, self._domain.current_frames)
        self.looks.extend(looked)


def _frames_of(paths: Sequence[str]) -> int:
    total = 0
    for path in paths:
        try:
            total += os.stat(path).st_blocks * 512
        except FileNotFoundError:
            continue
    return total // FRAME_BYTES


def _ok(status: int, what: str) -> int:
    if status < 0:
        error = error_of(status, what)
        raise MemcoordError(str(error))
    return status
