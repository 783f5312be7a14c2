"""How the keeper sees its processes end, and how it is asked to end itself."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
SIGNALS_PER_READ = 64
EXIT_UNKNOWN = 1
#: A process whose channel has ended gets so long to end as well.
END_S, END_NAP_S = 10.0, 0.001


class Running(Protocol):
    """A child of this process, as ``subprocess.Popen`` is one."""

    @property
    def pid(self) -> int:
        """Its process id."""

    def kill(self) -> None:
        """SIGKILL, unless it has been waited for."""

    def wait(self) -> int:
        """Wait for its end; the exit status, below 0 for a signal."""


class Forked:
    """A child that this process has forked by itself."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._status: int | None = None

    def kill(self) -> None:
        """SIGKILL, unless it has been waited for."""
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Wait for its end; the exit status, below 0 for a signal."""
        if self._status is None:
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._status


def is_held_by_the_kernel(pid: int) -> bool:
    """Whether a process has ended, but for threads that wait in the kernel and cannot be killed.

    A domain can make the kernel wait for it. Such a thread never comes back to its program.
    """
    try:
        if _state(f"/proc/{pid}/stat") != "Z":
            return False
        others = [task for task in os.listdir(f"/proc/{pid}/task") if task != str(pid)]
        states = [_state(f"/proc/{pid}/task/{task}/stat") for task in others]
    except (OSError, IndexError):
        return False
    return "D" in states and set(states) <= {"D", "Z", "X"}


def _state(path: str) -> str:
    return Path(path).read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0]


def status_of(pid: int) -> int:
    """The exit status of a hypervisor whose channel has ended, below 0 for a signal.

    EXIT_UNKNOWN where it was not even forked, or the kernel keeps a thread of it for END_S.
    """
    until = time.monotonic() + END_S
    with contextlib.suppress(ChildProcessError):
        while pid and time.monotonic() < until and not is_held_by_the_kernel(pid):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            time.sleep(END_NAP_S)
    return EXIT_UNKNOWN


def how(status: int) -> str:
    """For people: how a process with this exit status ended."""
    if status >= 0:
        return f"ended with exit code {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


@contextlib.contextmanager
def signals() -> Iterator[int]:
    """Within the block STOP_SIGNALS only make the file descriptor readable that this yields."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        before = {
            number: signal.signal(number, lambda *_: None)
            for number in STOP_SIGNALS
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        woken = signal.set_wakeup_fd(theirs.fileno())
        try:
            yield ours.fileno()
        finally:
            signal.set_wakeup_fd(woken)
            for number, handler in before.items():
                signal.signal(number, handler)
