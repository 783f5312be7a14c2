"""The bystander of ``memcoord bench build``: a process that copies memory beside the build.

Owns: the bursts, one every REST_S, and what each took: by the clock, and of CPU time. The CPU time
tells what the caches and the memory bus had left for it, the clock also how long it had to wait.
"""

from __future__ import annotations

import contextlib
import threading
import time
from array import array

from memcoord.benchmarks.measured import Measured, on_thread, run
from memcoord.testbed.runs.remote import operation

MODULE = "memcoord.benchmarks.builds.bystander"
BURST_BYTES = 4 << 20
REST_S = 0.05
BURSTS_MAX = 100_000
END_S = 30.0


class Bystander(Measured):
    """The operations: ``begin``, and ``end`` once."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        super().__init__(stack)
        self._source, self._to = bytearray(b"1" * BURST_BYTES), bytearray(BURST_BYTES)
        self._stop, self._ended = threading.Event(), threading.Event()
        self._wall, self._cpu = array("Q"), array("Q")

    @operation
    def begin(self) -> None:
        """Copy until ``end``."""
        self._wall, self._cpu = array("Q"), array("Q")
        self._stop.clear()
        self._ended.clear()
        on_thread(self._copy)

    @operation
    def end(self) -> tuple[bytes, bytes]:
        """Nanoseconds of each burst, by the clock and of CPU time."""
        self._stop.set()
        self._ended.wait(END_S)
        return self._wall.tobytes(), self._cpu.tobytes()

    def _copy(self) -> None:
        for _ in range(BURSTS_MAX):
            if self._stop.wait(REST_S):
                break
            wall_ns, cpu_ns = time.perf_counter_ns(), time.thread_time_ns()
            self._to[:] = self._source
            self._cpu.append(time.thread_time_ns() - cpu_ns)
            self._wall.append(time.perf_counter_ns() - wall_ns)
        self._ended.set()


if __name__ == "__main__":
    run(Bystander)
