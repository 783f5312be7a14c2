"""How a domain is ended by force: all of it, not only the process that attached.

A domain may have forked, and whoever got a copy of its memory's file keeps the memory. So the whole
control group of the domain is killed where its launcher made one, else the init of the domain's PID
namespace, and only where it has neither, the one process that attached.

Owns: the pidfds of those inits, at most one per name, which are kept for the next hypervisor: a
domain that has ended may have left processes. Main thread only; called by the loop.
Rules: only domains that a launcher started (their names are configured, with tokens) are ended as
a whole: the namespace of any other may be a container with other work in it.
"""

import contextlib
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

#: A chain of parents that is longer is not followed.
PARENTS_MAX = 64
_KILL_FILE = "cgroup.kill"


class Endings:
    """``cgroup``: a control group with a child for each launched domain, by name, or empty.

    ``inits``: those that the hypervisor before noted, by name; ``keep(name, fd)`` keeps one.
    """

    def __init__(
        self, cgroup: str, inits: Mapping[str, int], keep: Callable[[str, int], None]
    ) -> None:
        self._cgroup, self._inits, self._keep = cgroup, dict(inits), keep

    def note(self, name: str, pid: int) -> None:
        """The process ``pid`` attached as ``name``, which a launcher started."""
        self._forget(name)
        init = init_of(pid)
        if init >= 0:
            self._inits[name] = init
            self._keep(f"init/{name}", init)

    def kill(self, name: str, pidfd: int = -1) -> None:
        """End all of ``name``, which may have ended; ``pidfd``: of the process that attached."""
        if self._kill_group(name):
            return
        for fd in (self._inits.get(name, -1), pidfd):
            if fd >= 0:
                with contextlib.suppress(OSError):
                    signal.pidfd_send_signal(fd, signal.SIGKILL)

    def close(self) -> None:
        """Let go of everything; nobody is ended."""
        for name in list(self._inits):
            self._forget(name)

    def _kill_group(self, name: str) -> bool:
        if not self._cgroup:
            return False
        try:
            (Path(self._cgroup) / name / _KILL_FILE).write_text("1")
        except OSError:
            return False
        return True

    def _forget(self, name: str) -> None:
        fd = self._inits.pop(name, -1)
        if fd >= 0:
            os.close(fd)


def init_of(pid: int) -> int:
    """A pidfd of the init of the PID namespace that ``pid`` is in; -1 when it is in our own."""
    for _ in range(PARENTS_MAX):
        parent, numbers = _look(pid)
        if len(numbers) < 2:
            return -1
        if numbers[1:] == [1]:
            return _open(pid)
        pid = parent
    return -1


def _look(pid: int) -> tuple[int, list[int]]:
    """The parent of ``pid``, and its numbers in our PID namespace and those below it."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0, []
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return int(fields.get("PPid", "0")), [int(word) for word in fields.get("NSpid", "").split()]


def _open(pid: int) -> int:
    """A pidfd of ``pid`` while it is the init of a namespace; -1 when the number changed hands."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return -1
    if _look(pid)[1][1:] == [1]:
        return fd
    os.close(fd)
    return -1
