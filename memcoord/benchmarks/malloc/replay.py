"""A program that carries out a recorded trace of allocations with the malloc it was started with.

``python -P -m memcoord.benchmarks.malloc.replay OUT BEGUN TRACE BYTES SAMPLES``

Owns: what it leaves in OUT: a line with the sum of the times of all calls in nanoseconds and their
number, then SAMPLES of them, evenly chosen, as native uint64. The file BEGUN appears when the
first call is about to be made, which waits until somebody has removed that file. The trace is
repeated until what it keeps is BYTES. The loop is ``abi/bench_replay.c``; numpy is loaded before,
on both sides.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from memcoord.benchmarks._loops import ffi, lib
from memcoord.benchmarks.malloc import traces

MODULE = "memcoord.benchmarks.malloc.replay"
CALLS_MAX = 2_000_000
#: How long the first call waits for the word to begin.
WAIT_S, POLL_S = 60.0, 0.001


class Replayed(NamedTuple):
    """What it left."""

    sum_ns: int
    calls: int
    samples: bytes


def argv(out: Path, begun: Path, trace: str, kept_bytes: int, samples: int) -> list[str]:
    """The words that run it."""
    paths = [str(out), str(begun), trace]
    return [sys.executable, "-P", "-m", MODULE, *paths, str(kept_bytes), str(samples)]


def read(out: Path) -> Replayed:
    """What a run has left in ``out``."""
    head, _, samples = out.read_bytes().partition(b"\n")
    sum_ns, calls = map(int, head.split())
    return Replayed(sum_ns, calls, samples)


def main(words: list[str]) -> int:
    """Replay; the exit code."""
    out, begun, name, kept_bytes, wanted = words
    trace = traces.shipped(name)
    columns = [np.ascontiguousarray(one) for one in (trace.calls, trace.places, trace.sizes)]
    copies = max(int(kept_bytes) // max(trace.kept_bytes(), 1), 1)
    copies = min(copies, max(CALLS_MAX // trace.calls.size, 1))
    made = ffi.new("struct mcb_trace *")
    kinds = ("uint8_t[]", "uint32_t[]", "uint32_t[]")
    buffers = [ffi.from_buffer(kind, one) for kind, one in zip(kinds, columns, strict=True)]
    made.calls, made.places, made.sizes = buffers
    made.count, made.held, made.copies = trace.calls.size, trace.held, copies
    samples, sum_ns = np.zeros(trace.calls.size * copies, np.uint32), ffi.new("uint64_t *")
    samples[:] = 1  # its pages are there
    if not _is_told_to_go(Path(begun)):
        sys.stderr.write(f"replay: nobody said within {WAIT_S:.0f} s that it may begin\n")
        return 1
    status = lib.mcb_replay(made, ffi.from_buffer("uint32_t[]", samples), sum_ns)
    if status < 0:
        sys.stderr.write(f"replay: status {status}\n")
        return 1
    step = max(samples.size // int(wanted), 1)
    head = f"{sum_ns[0]} {samples.size}\n".encode()
    Path(out).write_bytes(head + samples[::step].astype(np.uint64).tobytes())
    return 0


def _is_told_to_go(begun: Path) -> bool:
    """Say that all is ready; whether the word to begin came."""
    begun.touch()
    deadline_s = time.monotonic() + WAIT_S
    while begun.exists():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(POLL_S)
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
