"""A user and a PID namespace for a process and all that it starts, where the kernel has them.

Owns: ``isolate``, which makes three processes of one.
  - The guard stays outside, as the child that the launcher knows. It ends as the domain ends, and
    it ends all of them when it is asked to end (SIGTERM) or when its line to the launcher, a pipe
    or a socket, hangs up. It leads a process group of its own: what a keyboard sends is not for it.
  - The init is process 1 of the namespace. The kernel kills it with the guard, and everything in
    the namespace with it, whoever had forked it. Nothing in the namespace can kill or trace it.
  - The domain is process 2, where ``isolate`` returns.
A namespace has at most PIDS_MAX - 1 processes and threads, and none makes namespaces of its own.
Imports nothing of ours: run as a program, the file tells what this machine gives.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import select
import signal
import stat
import sys
from collections.abc import Callable
from typing import NoReturn

#: Linux reuses no number below 300, so that this leaves 300 after the first round.
PIDS_MAX = 600
#: Before, ``pid_max`` was one number for the whole machine, which must not be touched.
PIDS_MAX_LINUX = (6, 14)
EXIT_ORPHANED = 70
TRY_S = 20.0
USER, PID, PIDS = "user namespace", "PID namespace", "limit of processes"

_CLONE_NEWUSER, _CLONE_NEWPID, _CLONE_NEWNS = 0x10000000, 0x20000000, 0x20000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REC, _MS_PRIVATE = 2, 4, 8, 1 << 14, 1 << 18
_PR_SET_PDEATHSIG = 1
_STATUS_BYTES = 4


def isolate(settle: Callable[[], None], hide: Callable[[], object], line: int = 0) -> None:
    """Go on as process 2 of namespaces of its own; single-threaded processes only.

    ``line``: the descriptor whose hang-up ends all, when it is a pipe or a socket.

    ``settle`` gives up what the domain shall not have. The init calls it, which needs the powers
    until then; or this process, where the kernel has no PID namespace to give. The guard keeps its
    powers and calls ``hide``, against tracing.
    """
    if PID not in _unshare():
        settle()
        return
    told, tells = os.pipe()
    init = os.fork()
    if init:
        os.close(tells)
        hide()
        _guard(init, told, line)
    os.close(told)
    _limit_processes()
    settle()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if _has_hung_up(tells):  # the guard ended before the line above
        os._exit(EXIT_ORPHANED)
    handler = signal.signal(signal.SIGINT, signal.SIG_DFL)  # which does nothing to process 1
    domain = os.fork()
    if domain:
        _reap(domain, tells)
    signal.signal(signal.SIGINT, handler)
    os.close(tells)


def own_folder(path: str, size: int) -> bool:
    """Hide ``path`` behind an empty folder of ``size`` bytes, for this process and those to come.

    Whether the kernel did: it needs a user namespace, or root.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    private, plain = _MS_REC | _MS_PRIVATE, _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    if libc.unshare(_CLONE_NEWNS) or libc.mount(b"none", b"/", None, ctypes.c_ulong(private), None):
        return False
    options = f"size={size},mode=1777".encode()
    kind = b"tmpfs"
    return not libc.mount(kind, path.encode(), kind, ctypes.c_ulong(plain), options)


def given() -> tuple[str, ...]:
    """Which of USER, PID and PIDS this machine gives; a process of its own tries."""
    import subprocess  # a domain does not need it, and starts 5 ms sooner

    try:
        done = subprocess.run(
            [sys.executable, "-P", "-S", __file__], capture_output=True, text=True, timeout=TRY_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(done.stdout.split("\n")[:-1])


def _unshare() -> tuple[str, ...]:
    """New namespaces, as many as the kernel gives: the next child is in them. Which."""
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.getuid(), os.getgid()
    if libc.unshare(_CLONE_NEWUSER):
        return () if libc.unshare(_CLONE_NEWPID) else (PID,)  # root needs no user namespace
    for name, text in (
        ("self/setgroups", "deny"),  # the kernel wants it before a group is mapped
        ("self/uid_map", f"{uid} {uid} 1"),
        ("self/gid_map", f"{gid} {gid} 1"),
        ("sys/user/max_user_namespaces", "0"),
    ):
        with contextlib.suppress(OSError):
            _write(f"/proc/{name}", text)
    return (USER,) if libc.unshare(_CLONE_NEWPID) else (USER, PID)


def _limit_processes() -> bool:
    """In the init: at most PIDS_MAX - 1 processes in its namespace; whether the kernel can."""
    release = os.uname().release.split("-")[0].split(".")[:2]
    if tuple(int(part) for part in release if part.isdigit()) < PIDS_MAX_LINUX:
        return False
    try:
        _write("/proc/sys/kernel/pid_max", str(PIDS_MAX))
    except OSError:
        return False
    return True


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _guard(init: int, told: int, line: int) -> NoReturn:
    """Wait for the end of all and end in the same way."""
    asked = 0
    with contextlib.suppress(PermissionError):  # it leads a session
        os.setpgid(0, 0)
    pidfd = os.pidfd_open(init)

    def end_all() -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)

    def obey(number: int, _: object) -> None:
        nonlocal asked
        asked = number
        end_all()

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, obey)
    poll = select.poll()
    poll.register(told, select.POLLIN)
    if _is_line(line):
        poll.register(line, 0)  # a hang-up is told unasked
    while told not in (ready := [fd for fd, _ in poll.poll()]):
        for fd in ready:
            poll.unregister(fd)
            end_all()
    last_words = os.read(told, _STATUS_BYTES)
    _, status = os.waitpid(init, 0)  # the kernel lets it end after everything in the namespace
    if last_words:
        status = int.from_bytes(last_words, sys.byteorder)
    _end_as(asked or status)


def _reap(domain: int, tells: int) -> NoReturn:
    """In the init: bury whoever ends; tell how the domain did, and end with it."""
    while True:
        pid, status = os.wait()
        if pid == domain:
            os.write(tells, status.to_bytes(_STATUS_BYTES, sys.byteorder))
            os._exit(0)


def _end_as(status: int) -> NoReturn:
    """End as the process did whose ``wait`` gave ``status``."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core would be of the wrong process
        with contextlib.suppress(OSError):  # SIGKILL needs no default
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else EXIT_ORPHANED)


def _is_line(fd: int) -> bool:
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _has_hung_up(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, 0)
    return bool(poll.poll(0))


def main() -> None:
    """Print, a line each, which of the means this machine gives."""
    found = list(_unshare())
    if PID in found:
        pid = os.fork()
        if pid == 0:
            os._exit(int(not _limit_processes()))
        if os.waitpid(pid, 0)[1] == 0:
            found.append(PIDS)
    sys.stdout.write("".join(f"{name}\n" for name in found))


if __name__ == "__main__":
    main()
