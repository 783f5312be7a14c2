"""Rows measured in a Python loop: one by one, allocate, write one byte, release.

Owns: the loops that measure the interpreter's overhead along with the allocation. Each returns
nanoseconds per sample of ``ops`` operations. The loop itself costs every row the same; the row
``nothing`` shows how much.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any


def nothing(count: int, ops: int) -> array[int]:
    """The empty loop and the two clock reads."""
    samples = array("Q")
    for _ in range(count):
        start = perf_counter_ns()
        for _ in range(ops):
            pass
        samples.append(perf_counter_ns() - start)
    return samples


def grant(domain: Any, count: int, ops: int) -> array[int]:
    """Frames of an attached domain."""
    samples = array("Q")
    alloc, free, memory = domain.alloc, domain.free, domain.memory
    for _ in range(count):
        start = perf_counter_ns()
        for _ in range(ops):
            frame = alloc()
            memory[frame << 12] = 1
            free(frame)
        samples.append(perf_counter_ns() - start)
    return samples


def of_bytearray(count: int, ops: int) -> array[int]:
    """``bytearray(4096)``, which Python fills with zeros."""
    samples = array("Q")
    for _ in range(count):
        start = perf_counter_ns()
        for _ in range(ops):
            block = bytearray(4096)
            block[0] = 1
            del block
        samples.append(perf_counter_ns() - start)
    return samples


def of_numpy(count: int, ops: int) -> array[int]:
    """``numpy.empty(4096, uint8)``, which leaves the memory as it is."""
    import numpy as np  # here only: a process that measures no numpy row never loads it

    samples = array("Q")
    empty, kind = np.empty, np.dtype(np.uint8)
    for _ in range(count):
        start = perf_counter_ns()
        for _ in range(ops):
            block = empty(4096, kind)
            block[0] = 1
            del block
        samples.append(perf_counter_ns() - start)
    return samples


#: The rows by name; ``grant`` also takes the domain.
ROWS: dict[str, Callable[..., array[int]]] = {
    "nothing": nothing,
    "grant": grant,
    "of_bytearray": of_bytearray,
    "of_numpy": of_numpy,
}
