"""Neighbours that want the CPUs, and the protection of a hypervisor's threads from them.

Owns: processes that spin once started; the CPUs and priorities of this process's backend threads.
Rules: a change of scheduling ends with the thread it was made to, or with its block.
Used by: the benches ``interference`` and ``mechanisms``.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from memcoord.benchmarks.lab import Lab
from memcoord.testbed.runs.facts import read_text

SPIN = "while True: pass"
FIFO_PRIORITY = 2
NICE = -10
#: Threads of a backend by their Python names; the thread dom0 of cmm is named for the kernel only.
WORKER = "worker"
BACKEND, DOM0 = ("service", WORKER), "dom0"


class Neighbours:
    """A context manager: ``count`` processes, all of them stopped."""

    def __init__(self, lab: Lab, count: int) -> None:
        command = [sys.executable, "-c", SPIN]
        self._children = [lab.server(f"neighbour{index}", command) for index in range(count)]

    def __enter__(self) -> Self:
        for child in self._children:
            os.kill(child.pid, signal.SIGSTOP)
        return self

    def __exit__(self, *raised: object) -> None:
        for child in self._children:
            child.process.kill()

    def __len__(self) -> int:
        return len(self._children)

    def place(self, cpus: set[int]) -> None:
        """Have all of them run on these CPUs only."""
        for child in self._children:
            os.sched_setaffinity(child.pid, cpus)

    @contextmanager
    def running(self, count: int) -> Iterator[None]:
        """Let ``count`` of them run within the block."""
        some = self._children[:count]
        try:
            for child in some:
                os.kill(child.pid, signal.SIGCONT)
            yield
        finally:
            for child in some:
                os.kill(child.pid, signal.SIGSTOP)


def hypervisor_threads() -> list[int]:
    """The threads of the backends in this process, by the kernel's numbers."""
    named = [thread.native_id for thread in threading.enumerate() if thread.name in BACKEND]
    tasks = Path("/proc/self/task").iterdir()
    dom0 = [int(task.name) for task in tasks if read_text(str(task / "comm")) == DOM0]
    return [*(thread for thread in named if thread is not None), *dom0]


def how_to_prefer() -> str:
    """The best this process may do for a thread: "SCHED_FIFO", "nice", or "" for nothing."""
    found = ""

    def try_both() -> None:  # on a thread that ends with it
        nonlocal found
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
            found = "nice"
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(FIFO_PRIORITY))
            found = "SCHED_FIFO"

    trial = threading.Thread(target=try_both)
    trial.start()
    trial.join()
    return found


def prefer(how: str) -> None:
    """Prefer the hypervisor's threads to all others, by one of ``how_to_prefer``.

    The worker thread is preferred too, if less, because it holds the lock the service thread needs.
    """
    workers = [thread.native_id for thread in threading.enumerate() if thread.name == WORKER]
    for thread in hypervisor_threads():
        less = thread in workers
        with suppress(ProcessLookupError):
            if how == "SCHED_FIFO":
                priority = os.sched_param(FIFO_PRIORITY - less)
                os.sched_setscheduler(thread, os.SCHED_FIFO, priority)
            elif how == "nice":
                os.setpriority(os.PRIO_PROCESS, thread, NICE + 5 * less)


def place_hypervisor(cpus: set[int]) -> None:
    """Have the backends' threads run on these CPUs only."""
    for thread in hypervisor_threads():
        with suppress(ProcessLookupError):
            os.sched_setaffinity(thread, cpus)
