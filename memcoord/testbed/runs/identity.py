"""The identity of a process: a pid alone may belong to another process by now.

Owns: the identity of a process (pid, start time, PID namespace) and the only place that signals one
by pid. A process of another PID namespace (another container, say) cannot be looked at from here:
it is never taken for the process that has its number here. Whether its run lives, the lock of the
run directory tells (``rundir.live``).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

KILL_WAIT_S = 5.0
POLL_S = 0.02


class ProcessId(msgspec.Struct, frozen=True):
    """One process, for ever: ``start_ticks`` is field 22 of /proc/PID/stat (since boot)."""

    role: str  # what it does in the run
    pid: int  # its number
    start_ticks: int  # when it started, since boot
    boot_id: str  # of the machine's boot
    namespace: str = ""  # of its pid; empty: of those who read it


def namespace() -> str:
    """This process's PID namespace; "unknown" where /proc shows another's processes."""
    try:
        if os.readlink("/proc/self") != str(os.getpid()):
            return "unknown"
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def boot_id() -> str:
    """This boot of the machine; start times of another boot mean nothing."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def start_ticks(pid: int) -> int:
    """When ``pid`` started, in clock ticks since boot; -1 when it is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return -1
    # The command name may hold spaces and brackets; the last bracket ends it.
    fields = stat.rpartition(")")[2].split()
    return -1 if fields[0] in "ZX" else int(fields[19])


def identify(role: str, pid: int) -> ProcessId:
    """The identity of a running process."""
    return ProcessId(role, pid, start_ticks(pid), boot_id(), namespace())


def alive(process: ProcessId) -> bool:
    """True while the very process runs, and not another one under its number.

    False for a process of another PID namespace, which may live all the same.
    """
    if (process.namespace and process.namespace != namespace()) or process.namespace == "unknown":
        return False
    if process.start_ticks < 0 or process.boot_id != boot_id():
        return False
    return start_ticks(process.pid) == process.start_ticks


def kill(
    process: ProcessId, sleep: Callable[[float], None] = time.sleep, wait_s: float = KILL_WAIT_S
) -> bool:
    """SIGTERM, then SIGKILL after half of ``wait_s``; True when it is gone."""
    steps = max(1, round(wait_s / 2 / POLL_S))
    for signum in (signal.SIGTERM, signal.SIGKILL):
        if not _signal(process, signum):
            return not alive(process)
        for _ in range(steps):
            if not alive(process):
                return True
            sleep(POLL_S)
    return not alive(process)


def _signal(process: ProcessId, signum: signal.Signals) -> bool:
    # The pidfd pins the process first, so the number cannot be reused between check and signal.
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        if not alive(process):
            return False
        signal.pidfd_send_signal(pidfd, signum)
    except OSError:
        return False
    finally:
        os.close(pidfd)
    return True
