"""The guest memory manager: more virtual pages than the domain has frames.

Owns: the life of a ``struct mc_paging``, which does the work, and what its failures are called.
``frontend/abi/paging.h`` says where a page can be and what a fault does; the pages that are used
least recently, exactly, leave first.

How many pages may be resident follows the domain's target::

    limit = min(resident_frames + max(target - boot_frames, 0), target - 1), at least 1

A guest that boots with more than ``resident_frames`` gives the rest (the kernel's memory, in a real
guest) up first. Memory above the size at boot is asked for when a page needs it. One frame above
the limit is the spare into which the next page comes.

A stream is replayed by ``run``, a piece at a time, without a line of Python for each reference;
``access`` is a reference by itself.

Rules: one thread; the manager owns the frames that it allocates from the domain. A frame belongs
to its page until the next reference. After PeerGone the pages in tmem are lost and the manager is
of no more use; after SwapError every page is still in its place. ``run`` holds no GIL, except while
it calls a Python function that it was given.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from frontend._guest import ffi, lib
from frontend.domain import Domain
from frontend.paging.frontswap import SelfShrink
from frontend.paging.statistics import GuestMemoryStatistics, ProgramFile
from frontend.paging.swapfile import SwapError, SwapFile
from frontend.tmem_client import refused_record
from hypervisor.public.errors import (
    ConfigError,
    InternalError,
    MemcoordError,
    NoMemory,
    PeerGone,
    error_of,
)

#: References between two looks at the target; a power of two.
BALANCE_REFERENCES: int = lib.MC_PAGING_LOOK_REFERENCES
#: Faults, and references, after which a run comes back to Python for signals.
RUN_FAULTS, RUN_REFERENCES = 4096, 1 << 18
#: Pages written to the swap file at once, and read: SWAP_CLUSTER_MAX and 2**page-cluster of Linux.
CLUSTER_PAGES, AHEAD_PAGES = 32, 8

_BALANCE_MASK = BALANCE_REFERENCES - 1
_NO_POOL = -1


class RunEnd(NamedTuple):
    """How far a run came: references made, and the answer other than 0 that ended it, or 0."""

    done: int
    answer: int


class GuestMemory:
    """Virtual pages 0 to ``pages - 1`` over ``resident_frames`` frames at a target of
    ``boot_frames`` (default: the target now), more or fewer when the target is another.

    ``first_touch(page, frame)`` fills the frame of a page that was never touched; without it such
    a page is zeroes. ``program_pages`` are those mapped from ``program``. ``tmem=False`` swaps to
    disk only. ``cluster_pages`` are written to disk at once, at most ``ahead_pages`` read. A run
    has up to ``depth`` faults under way that tmem serves, as a guest of so many threads has. A
    guest of few frames does less of all three. ConfigError for a wrong size, NoMemory when tmem
    has no pool.
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
        cluster_pages: int = CLUSTER_PAGES,
        ahead_pages: int = AHEAD_PAGES,
        depth: int = 1,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        _check(pages, resident_frames, swap, program, program_pages)
        for key, value, most in (
            ("cluster_pages", cluster_pages, lib.MC_PAGING_CLUSTER_MAX),
            ("ahead_pages", ahead_pages, lib.MC_PAGING_CLUSTER_MAX),
            ("depth", depth, lib.MC_PAGING_DEPTH_MAX),
        ):
            if not 1 <= value <= most:
                raise ConfigError(key, f"{value}: must be 1 to {most}")
        self.pages = pages
        self._domain, self._swap, self._program = domain, swap, program
        self._raised: BaseException | None = None
        self._closed = False
        self._part: Any = None  # of the run that may have faults under way
        options = self._options = ffi.new("struct mc_paging_options *")
        options.pages, options.resident_frames = pages, resident_frames
        options.boot_frames = domain.target_frames if boot_frames is None else boot_frames
        options.swap_fd = swap.fileno()
        options.cluster_pages, options.ahead_pages = cluster_pages, ahead_pages
        options.depth = depth
        self._callbacks = self._call_back(first_touch, clock)
        options.frontswap_pool = options.cleancache_pool = _NO_POOL
        if tmem:
            self._make_pools()
        options.slot = domain.claim_slot()
        guest = ffi.cast("struct mc_guest *", domain.guest_address)
        found = lib.mc_paging_open(guest, options)
        if found == ffi.NULL:
            domain.release_slot(options.slot)
            raise NoMemory("the process has no memory for a page table")
        self._paging: Any = ffi.gc(found, lib.mc_paging_free)
        for page in program_pages:
            lib.mc_paging_program(self._paging, page)
        self._access = lib.mc_paging_access
        self._self_shrink = SelfShrink()
        lib.mc_paging_look(self._paging)

    def __enter__(self) -> GuestMemory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def resident_frames(self) -> int:
        """Pages that may be resident at the target of boot."""
        return int(self._paging.options.resident_frames)

    @property
    def address(self) -> int:
        """The address of its ``struct mc_paging``, for compiled code of this process."""
        return int(ffi.cast("uintptr_t", self._paging))

    @property
    def references(self) -> int:
        """References made so far."""
        return int(self._paging.counted.references)

    def access(self, page: int, write: bool = False) -> int:
        """The frame that holds ``page`` until the next call; ``write``: it will be written to.

        Raises IndexError, SwapError, PeerGone, or NoMemory when there is not one frame.
        """
        paging = self._open()
        if not (paging.counted.references + 1) & _BALANCE_MASK:
            self.balance()
        if not 0 <= page < self.pages:
            raise IndexError(f"page {page} of {self.pages}")
        frame: int = self._access(paging, page, write)
        if frame < 0:
            raise self._failed()
        return frame

    def run(
        self, pages: Any, writes: Any, use: int = 0, context: int = 0, *, more: bool = False
    ) -> RunEnd:
        """Refer to ``pages[i]``, written to where ``writes[i]`` is 1, one after the other.

        ``pages`` is a buffer of int32, ``writes`` one of bytes. ``use`` is the address of a C
        function of type ``mc_use_fn`` that is called for every reference, with ``context``; an
        answer of its own other than 0 ends the run. Raises as ``access``: what was done is in
        ``references``, and the reference that failed can be made again (of faults that waited
        together, those that came are done, and none is made again). A stream may come in parts:
        ``more`` says that the next call goes on with it. Then faults may be under way in between,
        as if it had come in one part; whatever else is called waits for them first.
        """
        part = ffi.new("struct mc_paging_part *")
        given = _buffer(pages, 4, "int32_t[]"), _buffer(writes, 1, "uint8_t[]")
        if len(given[0]) != len(given[1]):
            raise ValueError(f"{len(given[0])} pages, {len(given[1])} write flags")
        part.pages, part.writes = given
        part.use, part.context = ffi.cast("mc_use_fn", use), ffi.cast("void *", context)
        part.faults_max = RUN_FAULTS
        before = self._part
        if before is not None and (before.use, before.context) != (part.use, part.context):
            self._open()
        self._part, stop = part, -1
        while stop != lib.MC_PAGING_DONE or part.done < len(given[0]):
            part.count = min(part.done + RUN_REFERENCES, len(given[0]))
            part.more = more or part.count < len(given[0])
            stop = lib.mc_paging_run(self._alive(), part)
            if stop == lib.MC_PAGING_RELEASE:
                self._give_back()
            elif stop == lib.MC_PAGING_USED:
                return RunEnd(part.done, part.answer)
            elif stop == lib.MC_PAGING_RANGE:
                raise IndexError(f"page {part.pages[part.done]} of {self.pages}")
            elif stop == lib.MC_PAGING_FAILED:
                raise self._failed()
        if not more:
            self._part = None
        return RunEnd(part.done, 0)

    def balance(self) -> None:
        """Follow the domain's target, giving frames back if need be, and report what is used.

        References call it every BALANCE_REFERENCES; an idle guest calls it by itself. SwapError
        when a page that must leave cannot be written.
        """
        if lib.mc_paging_look(self._open()) < 0:
            raise self._failed()
        if self._paging.excess:
            self._give_back()

    def resize(self, resident_frames: int) -> None:
        """Hold at most ``resident_frames`` pages at the target of boot from now on.

        ConfigError below 1; SwapError when a page that must leave cannot be written.
        """
        if resident_frames < 1:
            raise ConfigError("resident_frames", f"{resident_frames}: must be at least 1")
        paging = self._open()
        paging.options.resident_frames = resident_frames
        self.balance()
        if paging.resident_count < paging.limit:
            lib.mc_paging_free_spares(paging)

    def shrink_tmem(self, target_pages: int) -> int:
        """Pull pages back from tmem until it holds ``target_pages`` anonymous ones.

        Returns how many came: none unless there is room for all of them.
        """
        paging = self._open()
        wanted = min(paging.stored - target_pages, paging.stored)
        if wanted <= 0 or paging.resident_count + wanted > paging.limit:
            return 0
        came: int = lib.mc_paging_unuse(paging, wanted)
        if came < 0:
            raise self._failed()
        return came

    def self_shrink(self) -> int:
        """Take pages back that a guest which does not swap any more left in tmem. Returns how many.

        API: for a guest to call every 5 s, as Linux's frontswap-selfshrinking does.
        """
        target = self._self_shrink.look(self._open().stored)
        return 0 if target is None else self.shrink_tmem(target)

    def statistics(self) -> GuestMemoryStatistics:
        """A copy of every counter, now."""
        counted = self._paging.counted
        names = (name for name, _ in ffi.typeof("struct mc_paging_counted").fields)
        counts = {name: getattr(counted, name) for name in names}
        return GuestMemoryStatistics(**counts, resident_frames=self._paging.resident_count)

    def validate(self) -> None:
        """InternalError if a page is in two places, or a frame holds two."""
        page = ffi.new("uint32_t *")
        line = lib.mc_paging_validate(self._paging, page)
        if line:
            raise InternalError(f"guest memory: page {page[0]}: paging_check.c:{line - 1}")

    def close(self) -> None:
        """Free the frames and the tmem pools; the swap file stays the caller's."""
        if self._closed:
            return
        self._closed = True
        if self._domain.closed:
            return
        lib.mc_paging_report(self._paging)
        with contextlib.suppress(PeerGone):  # then the pools died with the hypervisor
            for pool in (self._options.frontswap_pool, self._options.cleancache_pool):
                if pool != _NO_POOL:
                    self._domain.tmem.destroy_pool(pool)
        lib.mc_paging_close(self._paging)

    def _alive(self) -> Any:
        if self._closed:
            raise ValueError("the guest memory is closed")
        if self._domain.closed:
            _ = self._domain.address  # raises what a closed domain, or a forked child's, does
        return self._paging

    def _open(self) -> Any:
        """What C works on, with nothing under way of a stream that did not go on."""
        paging = self._alive()
        part, self._part = self._part, None
        stop = lib.MC_PAGING_DONE if part is None else lib.mc_paging_land(paging, part)
        if stop == lib.MC_PAGING_FAILED:
            raise self._failed()
        if stop == lib.MC_PAGING_USED:
            raise InternalError(f"guest memory: a program answered {part.answer} after its run")
        return paging

    def _make_pools(self) -> None:
        tmem, options = self._domain.tmem, self._options
        options.frontswap_pool = tmem.new_pool(persistent=True)
        if self._program is not None:
            with contextlib.suppress(NoMemory):  # its pages are simply not cached
                options.cleancache_pool = tmem.new_pool(persistent=False)

    def _call_back(
        self, first_touch: Callable[[int, int], None] | None, clock: Callable[[], int]
    ) -> list[Any]:
        """Tell C what it calls in Python; whoever holds the answer keeps that callable."""
        options, program, made = self._options, self._program, []
        options.program_fd = program.fileno() if isinstance(program, SwapFile) else -1
        if first_touch is not None:
            made.append(self._filler(first_touch))
            options.first_touch = made[-1]
        if program is not None and options.program_fd < 0:
            view, read = self._domain.view, program.read
            made.append(self._filler(lambda page, frame: read(page, view(frame))))
            options.program_read = made[-1]
        if clock is not time.monotonic_ns:
            made.append(ffi.callback("mc_page_clock_fn", lambda _: clock()))
            options.clock = made[-1]
        return made

    def _filler(self, fill: Callable[[int, int], None]) -> Any:
        def call(_: Any, page: int, frame: int) -> int:
            try:
                fill(page, frame)
            except BaseException as error:
                self._raised = error
                return -1
            return 0

        return ffi.callback("mc_page_fill_fn", call)

    def _give_back(self) -> None:
        domain, excess = self._domain, self._paging.excess
        if domain.granule_frames != 1:  # a balloon takes any frames
            lib.mc_paging_gather(self._paging, excess)
        domain.drain()
        domain.release(excess)

    def _failed(self) -> BaseException:
        """What a failure in C is called in Python."""
        failure, raised = self._paging.failure, self._raised
        page, code = failure.page, failure.code
        if failure.why == lib.MC_PAGING_CALLER and raised is not None:
            self._raised = None
            return raised
        if failure.why == lib.MC_PAGING_SWAP_READ:
            return SwapError(self._swap.path, code, f"read of page {page}")
        if failure.why == lib.MC_PAGING_SWAP_WRITE:
            return SwapError(self._swap.path, code, f"write of page {page}")
        if failure.why == lib.MC_PAGING_PROGRAM_READ and isinstance(self._program, SwapFile):
            return SwapError(self._program.path, code, f"read of page {page}")
        if failure.why == lib.MC_PAGING_LOST:
            return InternalError(f"tmem lost page {page}: it answered {code}")
        if failure.why == lib.MC_PAGING_REFUSED:
            return refused_record(code, failure.frame)
        what: MemcoordError = error_of(code, "guest memory")
        return what


def _check(
    pages: int,
    resident_frames: int,
    swap: SwapFile,
    program: ProgramFile | None,
    program_pages: Collection[int],
) -> None:
    if resident_frames < 1:
        raise ConfigError("resident_frames", f"{resident_frames}: must be at least 1")
    if not 1 <= pages <= lib.MC_MAX_AREAS * lib.MC_AREA_FRAMES:
        raise ConfigError("pages", f"{pages}: out of range")
    if swap.pages < pages:
        raise ConfigError("swap", f"holds {swap.pages} pages, {pages} are needed")
    if program is None and program_pages:
        raise ConfigError("program", "there are pages of it, and no file to read them from")
    if any(not 0 <= page < pages for page in program_pages):
        raise ConfigError("program_pages", f"one is none of 0 to {pages - 1}")
    if isinstance(program, SwapFile) and max(program_pages, default=0) >= program.pages:
        raise ConfigError("program", f"{program.path} holds {program.pages} pages")


def _buffer(data: Any, item_bytes: int, kind: str) -> Any:
    """A C array over ``data``; ValueError for items of another size."""
    view = memoryview(data)
    if view.itemsize != item_bytes or not view.c_contiguous:
        raise ValueError(f"items of {view.itemsize} bytes, {item_bytes} wanted, in a row")
    return ffi.from_buffer(kind, data)
