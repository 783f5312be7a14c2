"""A nursery: processes of one kind start in milliseconds, forked from one that has loaded all.

Owns: ``Nursery``, which starts that process (``nursery_main``) and asks it, and ``Born``, a process
that it forked, in the shape of ``subprocess.Popen``: the nursery is its parent, and tells how it
ended. Whoever starts more than one process of a kind makes one, for as long as that lasts.
Rules: every wait for a nursery has a bound. Where one has ended ``fork`` gives nothing, and its
caller executes the process instead. Used by one thread; the launcher forks, a run of several
policies (``memcoord.commands.run``) makes nurseries.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Self

import msgspec

from memcoord.testbed.runs import nursery_main
from memcoord.testbed.runs.launcher import Files, start_python
from memcoord.testbed.runs.nursery_main import NUMBER, Birth

#: Until all is imported, on a machine that is busy with other work; then a birth takes 5 ms.
LOAD_S = 60.0
END_S = 10.0
#: utime, stime, cutime, cstime of proc(5), counted from what follows the name.
TIMES = slice(11, 15)


class Born:
    """A process that a nursery forked; its methods and fields are those of ``Popen``."""

    def __init__(self, pid: int, pidfd: int, told: int, stdin: IO[bytes] | None) -> None:
        self.pid, self.stdin = pid, stdin
        self.returncode: int | None = None
        self._pidfd, self._told = pidfd, told

    def poll(self) -> int | None:
        """Its exit status, below 0 for a signal; None while it runs."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0.0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The same, once it has ended; TimeoutExpired. Killed, where its nursery ended first."""
        if self.returncode is None:
            if not _readable(self._told, timeout):
                raise subprocess.TimeoutExpired("a forked process", timeout or 0.0)
            data = os.read(self._told, NUMBER.size)
            if len(data) == NUMBER.size:
                self.returncode = NUMBER.unpack(data)[0]
            else:
                self._signal(signal.SIGKILL)
                self.returncode = -signal.SIGKILL
            os.close(self._told)
            os.close(self._pidfd)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Signal it, unless it has ended."""
        if self.poll() is None:
            self._signal(number)

    def kill(self) -> None:
        """SIGKILL, unless it has ended."""
        self.send_signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)


class Nursery:
    """A context manager; entered, its process begins to import ``modules``, for ``run_dir``.

    Leaving it ends that process, and none that was born.
    """

    def __init__(self, run_dir: Path, modules: Sequence[str]) -> None:
        self._words = ["-m", nursery_main.MODULE, str(run_dir), *modules]

    def __enter__(self) -> Self:
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = start_python(
                *self._words,
                stdin=theirs,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # who is born or executed has its own, and says the same
                process_group=0,
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._line.close()
        self._process.kill()  # it has nothing to end in order
        self._process.wait(END_S)

    @property
    def cpu_s(self) -> float:
        """CPU time of its process and of those it forked, once they have ended."""
        stat = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="utf-8")
        return sum(map(int, stat.rpartition(")")[2].split()[TIMES])) / os.sysconf("SC_CLK_TCK")

    def fork(self, module: str, arguments: Sequence[str], rights: str, files: Files) -> Born | None:
        """A new process that runs ``module``, confined to ``rights`` (JSON, or empty).

        None where the nursery has ended or has not loaded within LOAD_S, after which it ends;
        OSError where there are no processes left.
        """
        told, tells = os.pipe2(os.O_CLOEXEC)
        stdin, ours = files.stdin, -1
        if stdin == subprocess.PIPE:
            stdin, ours = os.pipe2(os.O_CLOEXEC)
        try:
            birth = Birth(module, tuple(arguments), rights)
            pidfd, pid = self._ask(birth, [stdin, files.stdout, files.stderr, tells])
        finally:
            os.close(tells)
            if ours >= 0:
                os.close(stdin)
        if pid <= 0:
            for fd in (told, ours):
                if fd >= 0:
                    os.close(fd)
            if pid:
                raise OSError(-pid, os.strerror(-pid))
            return None
        return Born(pid, pidfd, told, os.fdopen(ours, "wb") if ours >= 0 else None)

    def _ask(self, birth: Birth, files: list[int]) -> tuple[int, int]:
        """The pidfd and the pid of who was born; instead of the pid, minus errno, or 0."""
        self._line.settimeout(LOAD_S)
        try:
            socket.send_fds(self._line, [msgspec.msgpack.encode(birth)], files)
            data, fds, _, _ = socket.recv_fds(self._line, NUMBER.size, 1, socket.MSG_CMSG_CLOEXEC)
        except OSError:
            self._process.kill()  # who is executed instead is not to be born as well
            return -1, 0
        return fds[0] if fds else -1, NUMBER.unpack(data)[0] if data else 0


def _readable(fd: int, timeout_s: float | None) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(None if timeout_s is None else timeout_s * 1000))
