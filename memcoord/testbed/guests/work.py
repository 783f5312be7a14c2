"""How much of its work a real program has done, counted in one of three ways.

Owns: ``counted``, which gives a function that tells the units so far. ``Reported`` by the program
at a descriptor, ``Lines`` of its output, or ``Polled`` from a command; the scenario says which.
Rules: nothing here waits for the program, and what it writes is never believed to be small.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from memcoord.testbed.scenarios.programs import TOTAL_MAX, ProgramWorkload

#: Of what is read at once; a longer line is more than one.
CHUNK_BYTES = 1 << 16
READS_MAX = 16
#: Between the end of one poll and the next; of one poll.
POLL_S, ANSWER_S = 0.5, 10.0
#: Of the output of a poll, its last line.
ANSWER_BYTES_MAX = 4096


class Reported:
    """Lines that a program writes to a pipe: one unit each, or as many as the number it says."""

    def __init__(self) -> None:
        self._read_fd, self.fd = os.pipe()
        os.set_blocking(self._read_fd, False)
        self._units, self._rest = 0, b""

    def units(self) -> int:
        """So far."""
        for _ in range(READS_MAX):
            try:
                chunk = os.read(self._read_fd, CHUNK_BYTES)
            except BlockingIOError:
                break
            if not chunk:
                break
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            self._units = min(self._units + sum(map(_units_of, lines)), TOTAL_MAX)
            self._rest = self._rest[:CHUNK_BYTES]
        return self._units

    def close(self) -> None:
        """Both ends; the program has its own."""
        os.close(self._read_fd)
        os.close(self.fd)


class Lines:
    """Lines in a file that grows."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self._units = 0

    def units(self) -> int:
        """So far."""
        for _ in range(READS_MAX):
            chunk = self._file.read(CHUNK_BYTES)
            if not chunk:
                break
            self._units += chunk.count(b"\n")
        return self._units

    def close(self) -> None:
        """The file."""
        self._file.close()


class Polled:
    """The number that a command prints, run again and again, one at a time."""

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        cwd: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._command, self._env, self._cwd, self._clock = command, env, cwd, clock
        self._process: subprocess.Popen[bytes] | None = None
        self._since_s, self._units = -POLL_S, 0

    def units(self) -> int:
        """As last answered; a command that fails, or is too slow, changes nothing."""
        now_s = self._clock()
        if self._process is None:
            if now_s - self._since_s >= POLL_S:
                self._begin()
        elif self._process.poll() is not None:
            self._note()
        elif now_s - self._since_s > ANSWER_S:
            self.close()
        return self._units

    def _begin(self) -> None:
        self._since_s = self._clock()
        with suppress(OSError):  # no processes left, for a time
            self._process = subprocess.Popen(
                self._command,
                env=self._env,
                cwd=self._cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )

    def _note(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        if self._process.returncode == 0:
            os.set_blocking(self._process.stdout.fileno(), False)
            said = self._process.stdout.read(ANSWER_BYTES_MAX) or b""
            with suppress(ValueError, IndexError):
                self._units = min(max(int(said.split()[-1]), 0), TOTAL_MAX)
        self.close()

    def close(self) -> None:
        """End what runs."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
        self._since_s = self._clock()


class _Unknown:
    """A program of which nothing is known until it ends."""

    def units(self) -> None:
        """Not known."""

    def close(self) -> None:
        """Nothing to close."""


Counter = Reported | Lines | Polled | _Unknown


@contextmanager
def counted(
    work: ProgramWorkload, output: Path, env: Mapping[str, str], cwd: str
) -> Iterator[Counter]:
    """The counter that ``work`` asks for; ``output`` is where its standard output goes."""
    counter: Counter = _Unknown()
    if work.work and work.count == "reported":
        counter = Reported()
    elif work.work and work.count == "lines":
        counter = Lines(output)
    elif work.work:
        counter = Polled(work.poll_command, env, cwd)
    try:
        yield counter
    finally:
        counter.close()


def _units_of(line: bytes) -> int:
    """Of one report: the number it says, at least 0; one unit when it says none."""
    try:
        return min(max(int(line[:32]), 0), TOTAL_MAX)
    except ValueError:
        return 1
