"""What the guests of a chaos run tell: counters in shared memory, and a file of problems.

Owns: the layout of both. Each domain has a row of ``WORDS`` counters, which only the process that
is this domain now may write; a counter survives the process, so that a kill costs no count. A
problem is one line, appended by one write. The guests' side is ``Slot``, the run's ``Account``.
"""

from __future__ import annotations

import mmap
import os
import time
from pathlib import Path
from typing import Self

COUNTERS_FILE, PROBLEMS_FILE = "counters.bin", "problems.txt"
WORDS = (
    "attaches", "refused", "gone", "no_memory", "operations", "frames_verified", "pages_verified",
    "lost_frames", "lost_pages", "wrong_pages", "puts", "last_put_ns", "gap_ns",
)  # fmt: skip
SLOTS_MAX = 64
WORD_BYTES = 8
PROBLEMS_SHOWN_MAX = 20
_INDEX = {name: number for number, name in enumerate(WORDS)}


class _Counters:
    def __init__(self, run_dir: Path) -> None:
        with (run_dir / COUNTERS_FILE).open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self._words = memoryview(self._map).cast("q")

    def close(self) -> None:
        """Let go of the counters."""
        self._words.release()
        self._map.close()


class Slot(_Counters):
    """The counters of the domain with this number, in its own process."""

    def __init__(self, run_dir: Path, number: int) -> None:
        super().__init__(run_dir)
        self._first = number * len(WORDS)
        self._problems = run_dir / PROBLEMS_FILE

    def count(self, word: str, more: int = 1) -> None:
        """Raise a counter."""
        self._words[self._first + _INDEX[word]] += more

    def put_done(self, since_ns: int) -> int:
        """A put was answered: note how long there was none before it. Returns the time of it."""
        now_ns, at = time.monotonic_ns(), self._first
        gap = at + _INDEX["gap_ns"]
        self._words[gap] = max(self._words[gap], now_ns - since_ns)
        self._words[at + _INDEX["last_put_ns"]] = now_ns
        return now_ns

    def problem(self, text: str) -> None:
        """Append a line to the file of problems."""
        line = f"{time.time():.3f} pid {os.getpid()} {text}\n"
        fd = os.open(self._problems, os.O_WRONLY | os.O_APPEND)
        os.write(fd, line.encode())
        os.close(fd)


class Account(_Counters):
    """All counters and all problems of a run."""

    def __init__(self, run_dir: Path) -> None:
        (run_dir / COUNTERS_FILE).write_bytes(bytes(SLOTS_MAX * len(WORDS) * WORD_BYTES))
        self._problems = run_dir / PROBLEMS_FILE
        self._problems.touch()
        super().__init__(run_dir)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def of(self, slot: int, word: str) -> int:
        """A counter of one domain."""
        return self._words[slot * len(WORDS) + _INDEX[word]]

    def forget_gap(self, slot: int) -> None:
        """Measure the longest gap between two puts of a domain from now on."""
        self._words[slot * len(WORDS) + _INDEX["gap_ns"]] = 0

    def total(self, word: str) -> int:
        """The sum of a counter over all domains."""
        return sum(self.of(slot, word) for slot in range(SLOTS_MAX))

    def problems(self) -> list[str]:
        """Every problem so far, one line each."""
        return self._problems.read_text(encoding="utf-8", errors="replace").splitlines()
