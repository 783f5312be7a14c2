"""A program that uses memory in a known order and times each touch.

``python -P -m memcoord.benchmarks.programs.touch OUT PAGES TOUCHES ORDER THREADS LIMIT_S``

Owns: what it leaves in OUT: a line with the nanoseconds from the first touch to the last and the
number of touches, then the nanoseconds of each touch of the first thread, as native uint64.
It ends with 1 when a record is not what had been written. The loop is ``abi/bench_touch.c``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

from memcoord.benchmarks._loops import ffi, lib

MODULE = "memcoord.benchmarks.programs.touch"
ORDERS = {
    "sequential": lib.MCB_SEQUENTIAL, "uniform": lib.MCB_UNIFORM, "skewed": lib.MCB_SKEWED,
}  # fmt: skip


class Touched(NamedTuple):
    """What it left."""

    elapsed_ns: int
    touches: int
    samples: bytes


def argv(
    out: Path, pages: int, touches: int, order: str, threads: int = 1, limit_s: float = 60.0
) -> list[str]:
    """The words that run it."""
    numbers = [str(pages), str(touches), order, str(threads), str(limit_s)]
    return [sys.executable, "-P", "-m", MODULE, str(out), *numbers]


def read(out: Path) -> Touched:
    """What a run has left in ``out``."""
    head, _, samples = out.read_bytes().partition(b"\n")
    elapsed_ns, touches = map(int, head.split())
    return Touched(elapsed_ns, touches, samples)


def main(words: list[str]) -> int:
    """Touch; the exit code."""
    out, pages, touches, order, threads, limit_s = words
    how = ffi.new("struct mcb_touching *")
    how.pages, how.touches, how.order = int(pages), int(touches), ORDERS[order]
    how.threads, how.writes, how.limit_ns = int(threads), 1, round(float(limit_s) * 1e9)
    samples, found = ffi.new("uint64_t[]", how.touches), ffi.new("struct mcb_touched *")
    status = lib.mcb_touch_records(how, samples, found)
    if status < 0 or found.wrong:
        sys.stderr.write(f"touch: status {status}, {found.wrong} records wrong\n")
        return 1
    kept = min(found.touches, how.touches) if how.threads == 1 else 0
    head = f"{found.elapsed_ns} {found.touches}\n".encode()
    Path(out).write_bytes(head + bytes(ffi.buffer(samples, kept * 8)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
