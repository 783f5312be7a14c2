"""The guest memory manager: more virtual pages than the domain has frames.

Owns: which pages are resident, in which frames, and which page leaves when another one comes. A
page that is not resident was never touched, or is in one of the places of
``frontend.paging.places``.

A fault is one batch on the tmem ring: get the page into the spare frame, and put the victim, the
least recently used page. The victim's frame is the next spare. So ``resident_frames`` pages need
one frame more.

How many pages may be resident follows the domain's target::

    limit = min(resident_frames + max(target - boot_frames, 0), target - 1), at least 1

A guest that boots with more than ``resident_frames`` gives the rest (the kernel's memory, in a real
guest) up first. Memory above the size at boot is asked for when a page needs it.

Rules: one thread; the manager owns the frames that it allocates from the domain. A frame belongs
to its page until the next ``access``. After PeerGone the pages in tmem are lost and the manager is
of no more use; after SwapError every page is still in its place.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import replace

from frontend.domain import Domain
from frontend.paging.frontswap import SelfShrink
from frontend.paging.gather import gather
from frontend.paging.idle_sampler import IdleSampler
from frontend.paging.places import DEVICE, GuestMemoryStatistics, Places, ProgramFile
from frontend.paging.swapfile import SwapError, SwapFile
from hypervisor.public.errors import ConfigError, InternalError, NoMemory
from hypervisor.public.units import AREA_FRAMES, FRAME_BYTES, RING_SLOTS

#: References between two looks at the target; a power of two.
BALANCE_REFERENCES = 1024

_BALANCE_MASK = BALANCE_REFERENCES - 1
_ZEROES = bytes(FRAME_BYTES)

assert BALANCE_REFERENCES & _BALANCE_MASK == 0, "the look is timed by a mask"


class GuestMemory:
    """Virtual pages 0 to ``pages - 1`` over ``resident_frames`` frames at a target of
    ``boot_frames`` (default: the target now), more or fewer when the target is another.

    ``first_touch(page, frame)`` fills the frame of a page that was never touched; without it such
    a page is zeroes. ``program_pages`` are those mapped from ``program``. ``tmem=False`` swaps to
    disk only. ConfigError for a wrong size.
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
        self.references = 0
        self._domain, self._clock = domain, clock
        self._boot_frames = domain.target_frames if boot_frames is None else boot_frames
        self._places = Places(
            domain, pages, swap, first_touch or self._zero, program, program_pages, tmem
        )
        self._counted = self._places.counted
        self._resident: OrderedDict[int, int] = OrderedDict()  # page -> frame, oldest use first
        #: The page table: the frame of every resident page but those whose use is being sampled.
        self._table: dict[int, int] = {}
        self._find, self._recent = self._table.get, self._resident.move_to_end
        self._forget_disk = self._places.on_disk.discard
        self._forget_file = self._places.file_pages.discard
        self._idle = IdleSampler(self._table, self._resident)
        self._spares: list[int] = []
        self._limit = self._wanted_limit()
        self._self_shrink = SelfShrink()

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
        if write:  # the copies on disk and in the program's file are old now
            self._forget_disk(page)
            self._forget_file(page)
        return frame

    def balance(self) -> None:
        """Follow the domain's target, giving frames back if need be, and report what is used.

        ``access`` calls it every BALANCE_REFERENCES; an idle guest calls it by itself. SwapError
        when a page that must leave cannot be written.
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
                self._idle.stop()
                self._counted.moved += gather(
                    domain, self._resident, self._table, self._spares, excess
                )
            domain.drain()
            domain.release(excess)
        self._idle.look(self._clock())
        self._report()

    def resize(self, resident_frames: int) -> None:
        """Hold at most ``resident_frames`` pages at the target of boot from now on.

        ConfigError below 1; SwapError when a page that must leave cannot be written.
        """
        if resident_frames < 1:
            raise ConfigError("resident_frames", f"{resident_frames}: must be at least 1")
        self.resident_frames = resident_frames
        self.balance()
        if len(self._resident) < self._limit:
            self._free_spares()

    def shrink_tmem(self, target_pages: int) -> int:
        """Pull pages back from tmem until it holds ``target_pages`` anonymous ones.

        Returns how many came: none unless there is room for all of them.
        """
        if self._places.frontswap is None:
            return 0
        return self._places.frontswap.shrink(target_pages, self._unuse, self._has_room)

    def self_shrink(self) -> int:
        """Take pages back that a guest which does not swap any more left in tmem. Returns how many.

        API: for a guest to call every 5 s, as Linux's frontswap-selfshrinking does.
        """
        if self._places.frontswap is None:
            return 0
        target = self._self_shrink.look(self._places.frontswap.stored_pages)
        return 0 if target is None else self.shrink_tmem(target)

    def statistics(self) -> GuestMemoryStatistics:
        """A copy of every counter, now."""
        return replace(
            self._counted,
            references=self.references,
            resident_frames=len(self._resident),
        )

    def validate(self) -> None:
        """InternalError if a page is in two places, or a frame holds two."""
        frames, places = [*self._resident.values(), *self._spares], self._places
        swapped = set(places.frontswap.offsets(DEVICE)) if places.frontswap is not None else set()
        broken = {
            "a page is resident and in tmem": swapped & self._resident.keys(),
            "a page is in tmem and on disk": swapped & places.on_disk,
            "a page of the file was swapped": places.file_pages & (swapped | places.on_disk),
            "a frame holds two pages": len(frames) - len(set(frames)),
            "the page table has another frame": self._table.items() - self._resident.items(),
        }
        for what, found in broken.items():
            if found:
                raise InternalError(f"guest memory: {what}: {found}")

    def close(self) -> None:
        """Free the frames and the tmem pools; the swap file stays the caller's."""
        self._report()
        self._places.close()
        self._domain.free_many([*self._resident.values(), *self._spares])
        self._resident.clear()
        self._table.clear()
        self._spares.clear()

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
        begin_ns, touched = self._clock(), self._counted.first_touches
        full = len(self._resident) >= self._limit
        frame = self._fault(page)
        if full or self._counted.first_touches == touched:
            self._counted.stall_ns += self._clock() - begin_ns
        return frame

    def _fault(self, page: int) -> int:
        self._counted.faults += 1
        frame, places = self._free_frame(), self._places
        victim = next(iter(self._resident)) if len(self._resident) >= self._limit else None
        load = places.add_load(page, frame)
        store = None if victim is None else places.add_store(victim, self._resident[victim])
        answers = places.submit()
        try:
            places.load(page, frame, None if load is None else answers[load])
        except BaseException:
            self._spares.append(frame)
            raise
        else:
            # Before the victim is settled, which may fail: by now tmem has forgotten the page.
            self._resident[page] = self._table[page] = frame
        finally:
            if victim is not None:
                self._leave(victim, None if store is None else answers[store])
        return frame

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
        places = [self._places.add_store(page, self._resident[page]) for page in victims]
        answers = self._places.submit()
        failed: SwapError | None = None
        for page, place in zip(victims, places, strict=True):
            try:
                self._leave(page, None if place is None else answers[place])
            except SwapError as error:  # the others have been put already
                failed = error
        if failed is not None:
            raise failed

    def _leave(self, page: int, answer: int | None) -> None:
        """Evict ``page``; ``answer`` is tmem's to the offer of it. Its frame is to spare."""
        self._places.store(page, self._resident[page], answer)
        self._idle.forget(page)
        self._table.pop(page, None)
        self._spares.append(self._resident.pop(page))

    def _has_room(self, pages: int) -> bool:
        return len(self._resident) + pages <= self._limit

    def _unuse(self, device: int, page: int) -> bool:
        """Pull a page back from tmem, as the next to be evicted; False when there is no frame."""
        frontswap = self._places.frontswap
        if frontswap is None:
            return False
        try:
            frame = self._spares.pop() if self._spares else self._domain.alloc()
        except NoMemory:
            return False
        try:
            frontswap.load(device, page, frame)
        except BaseException:
            self._spares.append(frame)
            raise
        self._resident[page] = self._table[page] = frame
        self._resident.move_to_end(page, last=False)
        return True

    def _free_spares(self) -> None:
        """Free all spare frames but one."""
        if len(self._spares) > 1:
            self._domain.free_many(self._spares[1:])
            del self._spares[1:]

    def _zero(self, page: int, frame: int) -> None:
        self._domain.view(frame)[:] = _ZEROES

    def _report(self) -> None:
        counted = self._counted
        self._domain.report(
            used_frames=len(self._resident) + len(self._spares),
            faults=counted.faults,
            swap_ins=counted.swap_ins,
            swap_outs=counted.swap_outs,
            references=self.references,
            committed_frames=counted.committed_frames,
            stall_ns=counted.stall_ns,
            idle_permille=self._idle.permille,
        )
