"""A confined domain whose programs are real ones: what it is helped with from outside.

Owns: ``Sandbox``, the outside, and ``helper_of``, the inside. A program that is paged must be told
of its forks, which the kernel allows to CAP_SYS_PTRACE only, and a confined process has no
capabilities. So it sends its userfaultfd to the process that confined it, which enables it: a
userfaultfd reaches no memory but that of the process that made it. Nothing else is ever done with
what comes over this line, and what is no userfaultfd is refused.
Rules: one thread of this process serves the line until ``Sandbox`` is left.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import socket
import struct
import threading
from pathlib import Path
from typing import Self

from frontend.pager import meeting
from frontend.pager.family import Helper
from memcoord.testbed.runs import userfaults
from memcoord.testbed.runs.confine import Rights

ANSWER_S = 10.0
#: Of /dev/shm, where programs have locks and buffers in common; charged to nobody.
SHM_BYTES = 64 << 20
#: What the inside of a sandbox may read beside the system: of itself, since a process outside can
#: neither be traced nor looked into from here.
PROC = "/proc"

_ANSWER = struct.Struct("i")
_REQUEST = b"\0" * _ANSWER.size
_LINK = "anon_inode:[userfaultfd]"


class Sandbox:
    """The outside. ``secret``, ``reads``, ``writes`` and the rest are as in ``Rights``."""

    def __init__(
        self,
        secret: str,
        *,
        reads: tuple[str, ...] = (),
        writes: tuple[str, ...] = (),
        builds: tuple[str, ...] = (),
        cgroup: str = "",
        line: int = 0,
        parent: str = "",
    ) -> None:
        #: What the sandbox has for itself, in ``parent``: its name is short enough for a socket's.
        self.directory = meeting.fresh(meeting.BOX_PREFIX, parent)
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._device = -1
        with contextlib.suppress(OSError):  # some machines have the system call only
            self._device = os.open(userfaults.DEVICE, os.O_RDWR | os.O_CLOEXEC)
        self.rights = Rights(
            secret=secret,
            reads=(PROC, *reads),
            writes=writes,
            builds=(self.directory, *builds),
            cgroup=cgroup,
            line=line,
            shm_bytes=SHM_BYTES,
        )
        self._thread = threading.Thread(target=self._serve, name="sandbox", daemon=True)
        self._thread.start()

    @property
    def fds(self) -> tuple[int, int]:
        """For ``helper_of``, inside; to be passed on when the inside is started. -1: has none."""
        return self._theirs.fileno(), self._device

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Help nobody any more."""
        self._ours.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._ours.close()
        self._theirs.close()
        if self._device >= 0:
            os.close(self._device)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _serve(self) -> None:
        while True:
            fds: list[int] = []
            try:
                said, fds, _, _ = socket.recv_fds(self._ours, _ANSWER.size, 1)
                if not said:
                    return
                self._ours.send(_ANSWER.pack(_enable(fds[0]) if fds else -errno.EINVAL))
            except OSError:
                return
            finally:
                for fd in fds:
                    os.close(fd)


def helper_of(fds: tuple[int, int]) -> Helper:
    """Inside: what enables userfaultfds over ``fds``, those of the ``Sandbox``."""
    for one in fds:
        if one >= 0:
            os.set_inheritable(one, False)

    def enable(fd: int) -> int:
        with socket.socket(fileno=os.dup(fds[0])) as line:
            line.settimeout(ANSWER_S)
            try:
                socket.send_fds(line, [_REQUEST], [fd])
                answer = line.recv(_ANSWER.size)
            except OSError as error:
                return -(error.errno or errno.ETIMEDOUT)
        return int(_ANSWER.unpack(answer)[0]) if len(answer) == _ANSWER.size else -errno.EPIPE

    return Helper(enable, fds[1])


def obstacle() -> str:
    """Empty when programs in a sandbox can be paged here, else why not."""
    found = userfaults.probe()
    if problem := found.obstacle():
        return problem
    restricted = Path("/proc/sys/vm/unprivileged_userfaultfd")
    is_open = restricted.exists() and restricted.read_text().strip() == "1"
    if found.device and not is_open:
        return f"without rights of its own: {userfaults.DEVICE}, {found.device}"
    return ""


def _enable(fd: int) -> int:
    """Enable a userfaultfd with the features of a paged program; 0, or minus errno."""
    if os.readlink(f"/proc/self/fd/{fd}") != _LINK:
        return -errno.EINVAL
    libc = ctypes.CDLL(None, use_errno=True)
    wanted = userfaults.PAGED
    api = (ctypes.c_uint64 * 3)(userfaults.UFFD_API, wanted, 0)
    failed = libc.ioctl(fd, ctypes.c_ulong(userfaults.API_IOCTL), api) < 0
    return -ctypes.get_errno() if failed else 0
