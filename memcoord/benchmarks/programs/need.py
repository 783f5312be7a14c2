"""How much private memory a program and what it starts hold, seen from outside.

Owns: the look at ``/proc``. What two processes share is counted once (``Pss_Anon``) where the
kernel tells it. A look costs the program time, so nothing that is timed is looked at.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

LOOK_S = 0.005
LOOKS_MAX = 100_000
#: What the pager maps for itself, and what no domain is charged for: stacks, the loader's pages.
_KEY = "Pss_Anon:"


def need_bytes(child: subprocess.Popen[bytes]) -> int:
    """The most that ``child`` and its children hold, until it ends; it is waited for."""
    most = 0
    for _ in range(LOOKS_MAX):
        most = max(most, held_bytes(child.pid))
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(LOOK_S)
            break
    return most


def held_bytes(pid: int) -> int:
    """Private memory of a process and all below it now."""
    return _of_one(pid) + sum(held_bytes(child) for child in _children(pid))


def _children(pid: int) -> list[int]:
    found = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(word) for word in (task / "children").read_text().split()]
    return found


def _of_one(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith(_KEY):
                return int(line.split()[1]) * 1024
    return 0


class Watch:
    """A thread that looks at everything this process has started, within a ``with`` block."""

    def __init__(self) -> None:
        self.most_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        own = os.getpid()
        for _ in range(LOOKS_MAX):
            if self._stop.wait(LOOK_S):
                return
            self.most_bytes = max(self.most_bytes, sum(map(held_bytes, _children(own))))
