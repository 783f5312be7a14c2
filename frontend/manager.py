"""The guest memory manager: more virtual pages than the domain has frames.

Owns: where every virtual page is, and moving it. A page is in exactly one of these places:

  never touched    no bytes anywhere; its first touch fills a frame
  resident         in a frame; the least recently used is the next victim
  in tmem          stored to frontswap when evicted
  on disk          in the swap file, when tmem refused it

A page read back from disk is resident and keeps its place on disk until it is written to, so that
evicting it again need not write. A page read back from frontswap is flushed there at once, in the
same batch (exclusive gets): that makes room for the victim, and no store is ever a duplicate.

Pages of a program's file are resident or in the file, and perhaps in cleancache: evicting one needs
no write, and what tmem does with it does not matter. The first write to one makes it anonymous.

A fault is one batch on the tmem ring: get the page into the spare frame, flush it, put the victim.
The victim's frame is the next spare. So ``resident_frames`` pages need one frame more.

How many pages may be resident follows the domain's target. At the target it booted with it is
``resident_frames``; what the target is above that, comes on top; below, all but the spare are the
pages', and never more than ``resident_frames``: what boots beyond them (the kernel's, in a real
guest) is given up first. Memory above what it booted with is asked for when a page needs it.

Rules: one thread; it owns what it allocates from the domain. A frame is the page's until the next
``access``. After PeerGone the pages in tmem are lost and the manager is of no more use; after
SwapError every page is still where it was.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from frontend.cleancache import Cleancache
from frontend.domain import Domain
from frontend.frontswap import Frontswap, SelfShrink
from frontend.idle_sampler import IdleSampler
from frontend.swapfile import SwapError, SwapFile
from hypervisor.public.errors import ConfigError, InternalError, NoMemory, PeerGone
from hypervisor.public.units import AREA_FRAMES, FRAME_BYTES, RING_SLOTS, Frames

#: References between two looks at the target; a power of two.
BALANCE_REFERENCES = 1024
#: The one swap device, and the one file of the program.
DEVICE = INODE = 0

_BALANCE_MASK = BALANCE_REFERENCES - 1
_ZEROES = bytes(FRAME_BYTES)

assert BALANCE_REFERENCES & _BALANCE_MASK == 0, "the look is timed by a mask"


class ProgramFile(Protocol):
    """What holds the pages of a program's file; ``SwapFile`` will do."""

    def read(self, page: int, frame: memoryview) -> None:
        """Fill ``frame`` with a page of the file."""


@dataclass(frozen=True)
class GuestMemoryStatistics:
    """What a manager did so far. Counters only rise."""

    references: int
    faults: int  # references to a page that was not resident
    first_touches: int  # faults on a page never touched
    tmem_hits: int  # faults served by tmem
    swap_ins: int  # faults served by the swap file
    swap_outs: int  # pages written to the swap file
    file_reads: int  # faults served by the program's file
    puts: int  # pages offered to tmem
    failed_puts: int  # of those, anonymous ones that were refused
    moved: int  # pages moved to another frame to empty an area
    stall_ns: int  # time in faults that waited for tmem, the disk or a victim
    resident_frames: Frames
    committed_frames: Frames  # pages ever touched: resident, in tmem or on disk


class GuestMemory:
    """Virtual pages 0 to ``pages - 1`` over ``resident_frames`` frames at a target of
    ``boot_frames`` (default: the target now), more or fewer when the target is another.

    ``first_touch(page, frame)`` fills the frame of a page that was never touched; without it such
    a page is zeroes. ``program_pages`` are those mapped from ``program``. ``tmem=False`` swaps to
    disk only.
    """

    def __init__(
        self,
        domain: Domain,
        pages: int,
        resident_frames: int,
        swap: SwapFile,
        *,
        first_touch: Callable[[int, int], None] | None = None,
        program: ProgramFile | None = None,
        program_pages: Collection[int] = (),
        boot_frames: int | None = None,
        tmem: bool = True,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        if resident_frames < 1:
            raise ConfigError("resident_frames", f"{resident_frames}: must be at least 1")
        if swap.pages < pages:
            raise ConfigError("swap", f"holds {swap.pages} pages, {pages} are needed")
        if program is None and program_pages:
            raise ConfigError("program", "there are pages of it, and no file to read them from")
        self.pages, self.resident_frames = pages, resident_frames
        self.references = self.faults = self.first_touches = self.tmem_hits = self.moved = 0
        self.swap_ins = self.swap_outs = self.file_reads = self.puts = self.failed_puts = 0
        self.stall_ns = self.committed = 0
        self._domain, self._swap, self._program = domain, swap, program
        self._boot_frames = domain.target_frames if boot_frames is None else boot_frames
        self._clock = clock
        self._program_unread = set(program_pages)
        self._file_pages = set(program_pages)
        self._first_touch = first_touch or self._zero
        self._resident: OrderedDict[int, int] = OrderedDict()  # page -> frame, oldest use first
        #: The page table: the frame of every resident page but those whose use is being sampled.
        self._table: dict[int, int] = {}
        self._find, self._recent = self._table.get, self._resident.move_to_end
        self._idle = IdleSampler(self._table, self._resident)
        self._spares: list[int] = []
        self._on_disk: set[int] = set()
        self._limit = self._wanted_limit()
        self._batch = domain.tmem.batch()
        self._self_shrink = SelfShrink()
        self._frontswap: Frontswap | None = None
        self._cleancache: Cleancache | None = None
        if tmem:
            self._frontswap = Frontswap(domain.tmem, exclusive_gets=True)
            self._frontswap.swapon(DEVICE, pages)
            if program is not None:
                self._cleancache = Cleancache(domain.tmem)
                self._filesystem = self._cleancache.mount()

    def __enter__(self) -> GuestMemory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def access(self, page: int, write: bool = False) -> int:
        """The frame that holds ``page`` until the next call; ``write``: it will be written to.

        Raises IndexError, SwapError, PeerGone, or NoMemory when there is not one frame.
        """
        self.references += 1
        if not self.references & _BALANCE_MASK:
            self.balance()
        frame = self._find(page)
        if frame is None:
            frame = self._miss(page)
        else:
            self._recent(page)
        if write:
            self._on_disk.discard(page)
            self._file_pages.discard(page)
        return frame

    def balance(self) -> None:
        """Follow the domain's target, giving frames back if need be, and report what is used.

        Called every BALANCE_REFERENCES; an idle guest calls it by itself.
        """
        self._limit = self._wanted_limit()
        while len(self._resident) > self._limit:
            self._evict(min(len(self._resident) - self._limit, RING_SLOTS))
            self._free_spares()
        domain = self._domain
        excess = domain.current_frames - domain.target_frames
        if excess >= AREA_FRAMES:
            if len(self._resident) < self._limit:
                self._free_spares()
            if domain.granule_frames != 1:  # a balloon takes any frames
                self._empty_blocks(excess)
            domain.drain()
            domain.release(excess)
        self._idle.look(self._clock())
        self._report()

    def resize(self, resident_frames: int) -> None:
        """Hold at most ``resident_frames`` pages at the target of boot from now on."""
        if resident_frames < 1:
            raise ConfigError("resident_frames", f"{resident_frames}: must be at least 1")
        self.resident_frames = resident_frames
        self.balance()
        if len(self._resident) < self._limit:
            self._free_spares()

    def shrink_tmem(self, target_pages: int) -> int:
        """Pull pages back from tmem until it holds ``target_pages`` anonymous ones; how many came.

        None comes unless there is room for all of them.
        """
        if self._frontswap is None:
            return 0
        return self._frontswap.shrink(target_pages, self._unuse, self._has_room)

    def self_shrink(self) -> int:
        """Take pages back that a guest which does not swap any more left in tmem; how many came.

        For a guest to call every ``frontswap.SELFSHRINK_S``.
        """
        if self._frontswap is None:
            return 0
        target = self._self_shrink.look(self._frontswap.stored_pages)
        return 0 if target is None else self.shrink_tmem(target)

    def statistics(self) -> GuestMemoryStatistics:
        """Every counter, now."""
        return GuestMemoryStatistics(
            references=self.references,
            faults=self.faults,
            first_touches=self.first_touches,
            tmem_hits=self.tmem_hits,
            swap_ins=self.swap_ins,
            swap_outs=self.swap_outs,
            file_reads=self.file_reads,
            puts=self.puts,
            failed_puts=self.failed_puts,
            moved=self.moved,
            stall_ns=self.stall_ns,
            committed_frames=Frames(self.committed),
            resident_frames=Frames(len(self._resident)),
        )

    def validate(self) -> None:
        """InternalError if a page is in two places, or a frame holds two."""
        frames = [*self._resident.values(), *self._spares]
        swapped = set(self._frontswap.offsets(DEVICE)) if self._frontswap is not None else set()
        broken = {
            "a page is resident and in tmem": swapped & self._resident.keys(),
            "a page is in tmem and on disk": swapped & self._on_disk,
            "a page of the file was swapped": self._file_pages & (swapped | self._on_disk),
            "a frame holds two pages": len(frames) - len(set(frames)),
            "the page table has another frame": self._table.items() - self._resident.items(),
        }
        for what, found in broken.items():
            if found:
                raise InternalError(f"guest memory: {what}: {found}")

    def close(self) -> None:
        """Free the frames and the tmem pool; the swap file stays the caller's."""
        self._report()
        with contextlib.suppress(PeerGone):  # then the pool died with the hypervisor
            if self._frontswap is not None:
                self._frontswap.close()
            if self._cleancache is not None:
                self._cleancache.unmount(self._filesystem)
        self._frontswap = self._cleancache = None
        self._domain.free_many([*self._resident.values(), *self._spares])
        self._resident.clear()
        self._table.clear()
        self._spares.clear()
        self._on_disk.clear()

    def _wanted_limit(self) -> int:
        target = self._domain.target_frames
        more = max(target - self._boot_frames, 0)
        # One frame of the target is the spare.
        return max(min(self.resident_frames + more, target - 1), 1)

    def _miss(self, page: int) -> int:
        """The frame of a page that is not in the page table."""
        if self._idle.used(page):
            self._recent(page)
            return self._table[page]
        if not 0 <= page < self.pages:
            raise IndexError(f"page {page} of {self.pages}")
        begin_ns, touched = self._clock(), self.first_touches
        full = len(self._resident) >= self._limit
        frame = self._fault(page)
        if full or self.first_touches == touched:
            self.stall_ns += self._clock() - begin_ns
        return frame

    def _fault(self, page: int) -> int:
        self.faults += 1
        frame = self._free_frame()
        victim = next(iter(self._resident)) if len(self._resident) >= self._limit else None
        load = self._add_load(page, frame)
        store = None if victim is None else self._add_store(victim)
        answers = self._batch.submit()
        try:
            self._load(page, frame, None if load is None else answers[load])
        except BaseException:
            self._spares.append(frame)
            raise
        else:
            # Before the victim is settled, which may fail: by now tmem has forgotten the page.
            self._resident[page] = self._table[page] = frame
        finally:
            if victim is not None:
                self._settle(victim, None if store is None else answers[store])
        return frame

    def _add_load(self, page: int, frame: int) -> int | None:
        """Ask tmem for a page it may have; the place of the answer."""
        if page in self._file_pages:
            if self._cleancache is None:
                return None
            return self._cleancache.add_get(self._batch, self._filesystem, INODE, page, frame)
        if self._frontswap is None or not self._frontswap.holds(DEVICE, page):
            return None
        return self._frontswap.add_load(self._batch, DEVICE, page, frame)

    def _load(self, page: int, frame: int, answer: int | None) -> None:
        """Fill ``frame``, which tmem may have done; ``answer`` None: it was not asked."""
        if page in self._file_pages:
            if answer is not None and self._cleancache and self._cleancache.settle_get(answer):
                self.tmem_hits += 1
            elif self._program is not None:
                self._program.read(page, self._domain.view(frame))
                self.file_reads += 1
                if page in self._program_unread:
                    self._program_unread.discard(page)
                    self.committed += 1
        elif answer is not None and self._frontswap is not None:
            self._frontswap.settle_load(DEVICE, page, answer)
            self.tmem_hits += 1
        elif page in self._on_disk:
            self._swap.read(page, self._domain.view(frame))
            self.swap_ins += 1
        else:
            self._first_touch(page, frame)
            self.first_touches += 1
            self.committed += 1

    def _free_frame(self) -> int:
        """A frame for the page to come; NoMemory when there is neither one nor a victim."""
        if self._spares:
            return self._spares.pop()
        try:
            return self._domain.alloc()
        except NoMemory:
            if not self._resident:
                raise
            # Asking again before the next look at the target would only cost time, so live within
            # what there is: one page fewer, whose frame is the spare of the next fault.
            self._limit = max(len(self._resident) - 1, 1)
            self._evict(2)
            return self._spares.pop()

    def _evict(self, count: int) -> None:
        """Evict the ``count`` (at most RING_SLOTS) least recently used pages; frames to spare."""
        victims = [page for page, _ in zip(self._resident, range(count), strict=False)]
        places = [self._add_store(page) for page in victims]
        answers = self._batch.submit()
        failed: SwapError | None = None
        for page, place in zip(victims, places, strict=True):
            try:
                self._settle(page, None if place is None else answers[place])
            except SwapError as error:  # the others have been put already
                failed = error
        if failed is not None:
            raise failed

    def _add_store(self, page: int) -> int | None:
        """Offer a resident page to tmem; the place of an answer that matters."""
        frame = self._resident[page]
        if page in self._file_pages:
            if self._cleancache is not None:
                self._cleancache.add_put(self._batch, self._filesystem, INODE, page, frame)
                self.puts += 1
            return None
        if self._frontswap is None:
            return None
        self.puts += 1
        return self._frontswap.add_store(self._batch, DEVICE, page, frame)

    def _settle(self, page: int, answer: int | None) -> None:
        """Evict ``page``, which frontswap has taken, refused or (None) not been offered."""
        if page not in self._file_pages:
            if answer is not None and self._frontswap is not None:
                frame = self._resident[page]
                stored = self._frontswap.settle_store(DEVICE, page, frame, answer)
                self.failed_puts += not stored
            else:
                stored = False
            if stored:
                self._on_disk.discard(page)
            elif page not in self._on_disk:
                self._swap.write(page, self._domain.view(self._resident[page]))
                self.swap_outs += 1
                self._on_disk.add(page)
        self._idle.forget(page)
        self._table.pop(page, None)
        self._spares.append(self._resident.pop(page))

    def _has_room(self, pages: int) -> bool:
        return len(self._resident) + pages <= self._limit

    def _unuse(self, device: int, page: int) -> bool:
        """Pull a page back from tmem, as the next to be evicted; False when there is no frame."""
        if self._frontswap is None:
            return False
        try:
            frame = self._spares.pop() if self._spares else self._domain.alloc()
        except NoMemory:
            return False
        try:
            self._frontswap.load(device, page, frame)
        except BaseException:
            self._spares.append(frame)
            raise
        self._resident[page] = self._table[page] = frame
        self._resident.move_to_end(page, last=False)
        return True

    def _free_spares(self) -> None:
        """All but one."""
        if len(self._spares) > 1:
            self._domain.free_many(self._spares[1:])
            del self._spares[1:]

    def _empty_blocks(self, frames: int) -> None:
        """Move pages together so that ``frames`` of the domain, in whole granules, are free."""
        block = max(self._domain.granule_frames, AREA_FRAMES)
        held = Counter(frame // block for frame in self._resident.values())
        held.update(frame // block for frame in self._spares)
        keep = self._domain.current_frames // block - frames // block
        kept = {number for number, _ in held.most_common(keep)}
        if len(held) <= keep:
            return
        unsuited: list[int] = []
        left: list[int] = []
        self._idle.stop()
        try:
            for page, frame in list(self._resident.items()):
                if frame // block not in kept:
                    self._resident[page] = self._table[page] = self._moved(
                        frame, block, kept, unsuited
                    )
                    left.append(frame)
            for index, frame in enumerate(self._spares):
                if frame // block not in kept:
                    self._spares[index] = self._moved(frame, block, kept, unsuited)
                    left.append(frame)
        except NoMemory:
            pass  # what could be moved was; the rest is given back when pages leave
        self._domain.free_many(unsuited + left)

    def _moved(self, frame: int, block: int, kept: set[int], unsuited: list[int]) -> int:
        """Another frame with the same bytes, in one of the blocks kept."""
        while True:  # at most as often as the domain has free frames elsewhere
            other = self._domain.alloc()
            if other // block in kept:
                break
            unsuited.append(other)
        self._domain.view(other)[:] = self._domain.view(frame)
        self.moved += 1
        return other

    def _zero(self, page: int, frame: int) -> None:
        self._domain.view(frame)[:] = _ZEROES

    def _report(self) -> None:
        self._domain.report(
            used_frames=len(self._resident) + len(self._spares),
            faults=self.faults,
            swap_ins=self.swap_ins,
            swap_outs=self.swap_outs,
            references=self.references,
            committed_frames=self.committed,
            stall_ns=self.stall_ns,
            idle_permille=self._idle.permille,
        )
