"""The process that ``memcoord calibrate`` measures: a domain that goes round its pages.

Owns: the loops, and the time of each slice of them. The program is that of a replayed domain, which
verifies what comes and writes the first time, without work of its own, so that a reference takes
what paging takes. Called by ``memcoord.benchmarks.agreement.guest_costs``.
"""

from __future__ import annotations

import contextlib
import itertools
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter_ns
from typing import Any

from frontend.paging.manager import GuestMemory
from frontend.paging.swapfile import SwapFile
from memcoord.benchmarks.measured import Measured, run
from memcoord.testbed.guests._content import ffi, lib
from memcoord.testbed.runs.remote import operation

WARM_ROUNDS = 2


class Probe(Measured):
    """``key`` names the domain. Samples are native uint64 nanoseconds, one per slice."""

    @operation
    def going_round(
        self, key: str, scratch: str, pages: int, resident: int, depth: int, per_slice: int,
        slices: int,
    ) -> bytes:  # fmt: skip
        """Pages from end to end again and again, ``resident`` of them in RAM, the rest in tmem."""
        with self._memory(key, scratch, pages, resident, depth) as refer:
            for _ in range(WARM_ROUNDS):
                refer(array("i", range(pages)))
            turns = itertools.cycle(range(pages))
            parts = [array("i", itertools.islice(turns, per_slice)) for _ in range(slices)]
            return array("Q", map(refer, parts)).tobytes()

    @operation
    def first_touches(self, key: str, scratch: str, pages: int, per_slice: int) -> bytes:
        """Each page once, all in RAM."""
        with self._memory(key, scratch, pages, 2 * pages, 1) as refer:
            parts = [array("i", range(at, at + per_slice)) for at in range(0, pages, per_slice)]
            return array("Q", map(refer, parts)).tobytes()

    @contextlib.contextmanager
    def _memory(
        self, key: str, scratch: str, pages: int, resident: int, depth: int
    ) -> Iterator[Callable[[array[int]], int]]:
        """A guest's memory: a function that refers to pages and tells how long that took."""
        program: Any = ffi.new("struct mc_program *")
        program.domain = 1
        use = int(ffi.cast("uintptr_t", ffi.addressof(lib, "mc_program_use")))
        context = int(ffi.cast("uintptr_t", program))
        reads = bytes(max(pages, 1 << 17))
        with (
            SwapFile(Path(scratch) / "swap", pages) as swap,
            GuestMemory(
                self._attached[key].domain, pages, resident, swap, depth=depth
            ) as memory,
        ):  # fmt: skip

            def refer(part: array[int]) -> int:
                begin_ns = perf_counter_ns()
                memory.run(part, memoryview(reads)[: len(part)], use, context)
                return perf_counter_ns() - begin_ns

            yield refer


if __name__ == "__main__":
    run(Probe)
