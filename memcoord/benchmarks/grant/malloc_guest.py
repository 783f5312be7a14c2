"""A process whose malloc is one of the rivals of ``memcoord bench grant``.

Owns: the rows of malloc, and the list of allocators. One with a library is preloaded where that is
installed: Debian and Ubuntu have them as ``libjemalloc2``, ``libtcmalloc-minimal4`` and
``libmimalloc2.0`` (``apt install``). The process starts again with that library before it does
anything. Called by: ``memcoord.benchmarks.grant.bench``.
"""

from __future__ import annotations

import os
import sys
from ctypes.util import find_library
from dataclasses import dataclass
from pathlib import Path

from memcoord.benchmarks._loops import ffi, lib
from memcoord.benchmarks.measured import Measured, ok, run, timed
from memcoord.testbed.runs.remote import operation

MODULE = "memcoord.benchmarks.grant.malloc_guest"
STARTED = "--started"


@dataclass(frozen=True)
class Allocator:
    """One malloc. ``gives_back``: malloc_trim returns the heap to the kernel."""

    name: str
    libraries: tuple[str, ...] = ()
    tunables: str = ""
    gives_back: bool = False

    def library(self) -> str | None:
        """The file to preload; None when it is not installed, "" when there is none to preload."""
        if not self.libraries:
            return ""
        return next(filter(None, map(find_library, self.libraries)), None)


ALLOCATORS = (
    Allocator("glibc", gives_back=True),
    Allocator("glibc thp", tunables="glibc.malloc.hugetlb=1", gives_back=True),
    Allocator("jemalloc", ("jemalloc",)),
    Allocator("tcmalloc", ("tcmalloc_minimal", "tcmalloc")),
    Allocator("mimalloc", ("mimalloc",)),
)


class MallocGuest(Measured):
    """The rows of malloc."""

    @operation
    def place_all(self, cpus: list[int]) -> None:
        """Run the measuring thread, and those it starts, on these CPUs from now on."""
        os.sched_setaffinity(0, cpus)

    @operation
    def is_preloaded(self, library: str) -> bool:
        """Whether this process has mapped the library."""
        return library in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")

    @operation
    def recycled(self, count: int, ops: int, live: int, threads: int, size: int) -> bytes:
        """Free, malloc and touch, each thread among ``live`` blocks of its own."""
        how = ffi.new("struct mcb_recycling *", (count, ops, live, threads, size))
        samples = ffi.new("uint64_t[]", count * threads)
        ok(lib.mcb_malloc_recycled(samples, how), "malloc recycled")
        return bytes(ffi.buffer(samples))

    @operation
    def batch(self, count: int) -> bytes:
        """One block of 64 pages a sample."""
        return timed("malloc batch", lib.mcb_malloc_batch, (), count)

    @operation
    def prefaulted(self, count: int, ops: int, size: int) -> tuple[bytes, float]:
        """Blocks out of a heap that the process has used before; also page faults per block."""
        cost = ffi.new("struct mcb_cost *")
        samples = timed("malloc", lib.mcb_malloc_prefaulted, (), count, ops, size, cost)
        return samples, cost.faults / (count * ops)

    @operation
    def warm(self, size: int) -> None:
        """Have the machine find so much memory."""
        ok(lib.mcb_warm_memory(size), "warm")


def _preload(library: str, tunables: str) -> None:
    """Become this process with another malloc."""
    changed = {"LD_PRELOAD": library} if library else {}
    if tunables:
        changed["GLIBC_TUNABLES"] = tunables
    again = [sys.executable, "-P", "-m", MODULE, STARTED, *sys.argv[3:]]
    os.execve(sys.executable, again, {**os.environ, **changed})


if __name__ == "__main__":
    if STARTED not in sys.argv:
        _preload(sys.argv[1], sys.argv[2])
    run(MallocGuest)
