"""What a process that runs a policy may do: reckon, and nothing else.

Owns: how such a process is started (``start``) and how it gives up its powers (``confine``), before
a line of the policy's author runs in it. Linux only. Called by ``policies.host_process``, and by
``hypervisor.coordination.policy_process`` and ``memcoord policy check``, which start it.

A confined process ends with the thread that started it, gains no privileges, has at most
MEMORY_BYTES of address space, starts no process, signals and traces nobody but itself, and opens no
socket. A file that its user may read or write stays open to it.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import struct
import subprocess
import sys
from collections.abc import Iterable
from typing import Protocol

#: Address space of a policy's process, in bytes: Python, numpy and the policy's own data.
MEMORY_BYTES = 2 << 30
FILES_MAX = 64
#: Exit status of a process that found its parent gone before it began.
ORPHANED = 3

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SECCOMP_MODE_FILTER = 2
_CLONE_THREAD = 0x10000
_EPERM, _ENOSYS = 1, 38
#: Numbers of system calls by machine: refused, refused but upon oneself, ``clone``, ``clone3``.
_CALLS: dict[str, tuple[int, tuple[int, ...], tuple[int, ...], int, int]] = {
    # fork vfork execve execveat ptrace process_vm_* pidfd_* sigqueueinfo socket io_uring_setup
    "x86_64": (
        0xC000003E,
        (57, 58, 59, 322, 101, 310, 311, 434, 438, 424, 129, 297, 41, 425),
        (62, 200, 234, 302),  # kill tkill tgkill prlimit64
        56,
        435,
    ),
    "aarch64": (
        0xC00000B7,
        (221, 281, 117, 270, 271, 434, 438, 424, 138, 240, 198, 425),
        (129, 130, 131, 261),
        220,
        435,
    ),
}
_THREADS_OFF = dict.fromkeys(
    ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "MALLOC_ARENA_MAX"), "1"
)


def start(
    arguments: Iterable[str], *, fds: Iterable[int], stderr: int | None
) -> subprocess.Popen[bytes]:
    """Start ``policies.host_process`` with ``arguments``, no files but ``fds`` and ``stderr``.

    OSError when the machine has no process to give.
    """
    command = [sys.executable, "-P", "-m", "policies.host_process", str(os.getpid()), *arguments]
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        pass_fds=tuple(fds),
        start_new_session=True,  # Ctrl-C at a terminal is for the hypervisor
        env=os.environ | _THREADS_OFF,
    )


class Process(Protocol):
    """A process that was started: what ``subprocess.Popen`` has of it."""

    pid: int
    returncode: int | None

    def kill(self) -> None:
        """End it at once."""


def kill(process: Process) -> None:
    """End ``process`` and what it may have started, at once; a process that has ended stays so."""
    if process.returncode is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            process.kill()


def ending(returncode: int) -> str:
    """How a process ended, in words."""
    if returncode >= 0:
        return f"ended with status {returncode}"
    try:
        return f"was killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"was killed by signal {-returncode}"


def confine(parent_pid: int, memory_bytes: int = MEMORY_BYTES) -> list[str]:
    """Give up, for ever, what the module's docstring says; the names of what this machine lacks.

    Ends the process when ``parent_pid`` is not its parent any more.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    lacks = []
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0):
        lacks.append("end with the parent")
    if os.getppid() != parent_pid:
        os._exit(ORPHANED)
    for limit, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, FILES_MAX),
    ):
        hard = resource.getrlimit(limit)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (most, most))
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        lacks.append("no new privileges")
    elif not _filter(libc):
        lacks.append("a filter of system calls")
    return lacks


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _filter(libc: ctypes.CDLL) -> bool:
    """Refuse the system calls of ``_CALLS`` from now on; False when the kernel has no filters."""
    known = _CALLS.get(platform.machine())
    if known is None:
        return False
    code = _program(*known, os.getpid())
    program = _Program(len(code) // 8, code)
    return bool(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) == 0)


def _program(
    arch: int, refused: Iterable[int], own_only: Iterable[int], clone: int, clone3: int, pid: int
) -> bytes:
    """The filter, in the kernel's classic BPF: 8 bytes an instruction.

    The data it reads: the call's number at byte 0, the architecture at 4, the arguments from 16.
    """

    def load(offset: int) -> bytes:
        return struct.pack("=HBBI", 0x20, 0, 0, offset)

    def equal(value: int, skip_if_not: int) -> bytes:
        return struct.pack("=HBBI", 0x15, 0, skip_if_not, value)

    def give(action: int) -> bytes:
        return struct.pack("=HBBI", 0x06, 0, 0, action)

    allow, deny = give(0x7FFF0000), give(0x00050000 | _EPERM)
    code = load(4) + struct.pack("=HBBI", 0x15, 1, 0, arch) + deny + load(0)
    code += struct.pack("=HBBI", 0x35, 0, 1, 0x40000000) + deny  # the x32 calls
    for number in refused:
        code += equal(number, 1) + deny
    code += equal(clone3, 1) + give(0x00050000 | _ENOSYS)  # libc then uses clone, whose flags show
    for number in own_only:
        code += equal(number, 5) + load(16)
        code += struct.pack("=HBBI", 0x15, 1, 0, pid) + equal(0, 1) + allow + deny
    code += equal(clone, 3) + load(16) + struct.pack("=HBBI", 0x45, 1, 0, _CLONE_THREAD) + deny
    return code + allow
