"""A policy's process as a fork of one that has loaded all it needs: a hundredth of the time.

Owns: ``start``, which does what ``policies.confine.start`` does, and ``Forked``, which stands for
the process as ``subprocess.Popen`` does for one that was executed.
Rules: the caller has one thread, and maps nothing that a policy must not see: the new process has
the caller's memory, and gives up everything else. Used by a hypervisor at its start, before it
opens anything of a run; later starts execute a Python of their own.
"""

from __future__ import annotations

import contextlib
import io
import os
import resource
import signal
import sys
import time
from collections.abc import Iterable
from subprocess import TimeoutExpired

from policies import host_process

NAP_S = 0.002
FAILED = 1


class Forked:
    """A child process: its number, what it writes on standard error, how it ended."""

    def __init__(self, pid: int, stderr: io.FileIO) -> None:
        self.pid, self.stderr = pid, stderr
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit status, below 0 for a signal; None while it runs."""
        if self.returncode is None:
            with contextlib.suppress(ChildProcessError):
                ended, status = os.waitpid(self.pid, os.WNOHANG)
                if ended:
                    self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The same, once it has ended; TimeoutExpired."""
        until_s = time.monotonic() + (float("inf") if timeout is None else timeout)
        while self.poll() is None:
            if time.monotonic() > until_s:
                raise TimeoutExpired("a policy's process", timeout or 0.0)
            time.sleep(NAP_S)
        assert self.returncode is not None
        return self.returncode

    def kill(self) -> None:
        """End it at once, if it has not ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


def start(arguments: Iterable[str], fds: Iterable[int]) -> Forked:
    """Fork a process that runs ``policies.host_process`` with ``arguments``, no files but ``fds``.

    OSError when the machine has no process to give.
    """
    parent, kept = os.getpid(), set(fds)
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    try:
        pid = os.fork()
    except OSError:
        os.close(ours)
        os.close(theirs)
        raise
    if pid:
        os.close(theirs)
        return Forked(pid, io.FileIO(ours, "rb"))
    try:
        _forget(kept, theirs)
        host_process.main(["", str(parent), *arguments])
        status = 0
    except BaseException:  # nothing of the caller's is to run in this process
        sys.excepthook(*sys.exc_info())
        status = FAILED
    sys.stderr.flush()
    os._exit(status)


def _forget(kept: set[int], stderr: int) -> None:
    """Give up what the process has of its parent, but for its memory and the files ``kept``."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDWR)
    for fd, standard in ((null, 0), (null, 1), (stderr, 2)):
        os.dup2(fd, standard)
    sys.stdout = sys.stderr = io.TextIOWrapper(
        io.FileIO(2, "w", closefd=False),
        encoding="utf-8",
        errors="backslashreplace",
        line_buffering=True,
        write_through=True,
    )
    begin = 3
    for fd in sorted(kept):
        os.closerange(begin, fd)
        begin = fd + 1
    os.closerange(begin, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
