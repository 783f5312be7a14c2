"""The measured process of ``memcoord bench guest``: a domain that pages, and the floors beside it.

Owns: the paging memories of the domain, one for each situation, their streams, and the rows.
Called by: ``memcoord.benchmarks.paging.bench``.
"""

from __future__ import annotations

import contextlib
import mmap
import random
from array import array
from pathlib import Path
from typing import Any

from frontend.paging.manager import GuestMemory
from frontend.paging.swapfile import SwapFile
from hypervisor.public.errors import InternalError
from hypervisor.public.units import FRAME_BYTES
from memcoord.benchmarks._loops import ffi, lib
from memcoord.benchmarks.measured import Measured, run, timed
from memcoord.testbed.runs.remote import operation

SEED = 11
PROGRAMS = {"nothing": lib.MCB_NOTHING, "touch": lib.MCB_TOUCH, "fill": lib.MCB_FILL}


class Stream:
    """All pages in one order, again and again: each comes back after all others."""

    def __init__(self, pages: int, *, is_random: bool) -> None:
        order = list(range(pages))
        if is_random:
            random.Random(SEED).shuffle(order)
        self._order, self._writes = ffi.new("int32_t[]", order), ffi.new("uint8_t[]", pages)
        self.at = ffi.new("struct mcb_stream *", (self._order, self._writes, pages, 0))


class PagingGuest(Measured):
    """``memory`` names a paging memory of the domain ``key``, or the floor of one."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        super().__init__(stack)
        self._memories: dict[str, GuestMemory] = {}
        self._swaps: dict[str, SwapFile] = {}
        self._streams: dict[str, Stream] = {}
        self._floors: dict[str, Stream] = {}  # the same orders, at places of their own
        self._maps: dict[str, Any] = {}

    @operation
    def make(
        self, key: str, memory: str, pages: int, resident: int, swap: str, **options: Any
    ) -> dict[str, Any]:
        """A paging memory of ``pages`` with content, of which ``resident`` fit in its frames."""
        file = self._stack.enter_context(SwapFile(Path(swap), pages))
        made = GuestMemory(self._attached[key].domain, pages, resident, file, **options)
        self._memories[memory], self._swaps[memory] = self._stack.enter_context(made), file
        for program in ("fill", "touch"):  # into the swap file in another order than out of it
            self._streams[memory] = Stream(pages, is_random=program == "touch")
            self.refer(memory, program, count=1, ops=pages)
        self._floors[memory] = Stream(pages, is_random=True)
        return {"direct": file.direct}

    @operation
    def refer(
        self, memory: str, program: str, count: int, ops: int, rest_ns: int = 0
    ) -> tuple[bytes, dict[str, int]]:
        """References in the stream's order; the samples, and what was counted meanwhile."""
        used = self._memories[memory]
        before = used.statistics()
        paging = ffi.cast("struct mc_paging *", used.address)
        on = (paging, self._streams[memory].at, PROGRAMS[program])
        samples = ffi.new("uint64_t[]", count)
        status = lib.mcb_paging(*on, samples, count, ops, rest_ns)
        if status < 0:
            failure = paging.failure
            raise InternalError(f"{memory}: {status}, {failure.why}, code {failure.code}")
        after = used.statistics()
        names = ("references", "faults", "tmem_hits", "swap_ins", "swap_outs", "ahead")
        counts = {name: getattr(after, name) - getattr(before, name) for name in names}
        return bytes(ffi.buffer(samples)), counts

    @operation
    def touch(self, memory: str, count: int, ops: int) -> bytes:
        """The plain loop over as many pages, in the order of the stream of ``memory``."""
        stream = self._floors[memory].at
        return timed("touch", lib.mcb_touches, (self._plain("touch", stream), stream), count, ops)

    @operation
    def copy_twice(self, memory: str, count: int, ops: int) -> bytes:
        """What a hit copies: a page in and another one out, of as many pages."""
        stream = self._floors[memory].at
        memories = self._plain("to", stream), self._plain("from", stream)
        return timed("copies", lib.mcb_copy_twice, (*memories, stream), count, ops)

    @operation
    def minor_faults(self, is_file: bool, count: int, ops: int) -> bytes:
        """The kernel's own faults."""
        return timed("faults", lib.mcb_minor_faults, (is_file,), count, ops)

    @operation
    def disk_reads(self, memory: str, count: int, ops: int) -> bytes:
        """Reads of the swap file without a guest."""
        fd, stream = self._swaps[memory].fileno(), self._floors[memory].at
        return timed("disk reads", lib.mcb_disk_reads, (fd, stream), count, ops)

    def _plain(self, name: str, stream: Any) -> Any:
        """Memory of its own, touched, of a page for each of the stream's."""
        if name not in self._maps:
            made = mmap.mmap(-1, stream.pages * FRAME_BYTES)
            made.write(array("Q", range(stream.pages * FRAME_BYTES // 8)).tobytes())
            self._maps[name] = ffi.from_buffer(made)
        return self._maps[name]


if __name__ == "__main__":
    run(PagingGuest)
