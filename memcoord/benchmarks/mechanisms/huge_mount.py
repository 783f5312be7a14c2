"""A tmpfs with pages of 2 MiB that is mounted nowhere, for the time of a bench.

Owns: one detached mount of tmpfs with huge=always (fsopen, fsmount: Linux 5.2). No other process
sees it, and it is gone with its last file descriptor, however the bench ends. Needs CAP_SYS_ADMIN.
"""

from __future__ import annotations

import ctypes
import os
from typing import Self

FSOPEN, FSCONFIG, FSMOUNT = 430, 431, 432  # the same on every architecture
CLOEXEC = 1
SET_STRING, CREATE = 1, 6


class HugeMount:
    """A context manager; ``directory`` is where files are made. OSError when the kernel refuses."""

    def __enter__(self) -> Self:
        filesystem = _call(FSOPEN, b"tmpfs", CLOEXEC)
        try:
            _call(FSCONFIG, filesystem, SET_STRING, b"huge", b"always", 0)
            _call(FSCONFIG, filesystem, SET_STRING, b"mode", b"0700", 0)
            _call(FSCONFIG, filesystem, CREATE, None, None, 0)
            self._fd = _call(FSMOUNT, filesystem, CLOEXEC, 0)
        finally:
            os.close(filesystem)
        self.directory = f"/proc/self/fd/{self._fd}"  # for this process
        self.directory_for_children = f"/proc/{os.getpid()}/fd/{self._fd}"
        return self

    def __exit__(self, *raised: object) -> None:
        os.close(self._fd)


def _call(number: int, *args: object) -> int:
    result = int(ctypes.CDLL(None, use_errno=True).syscall(number, *args))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), "tmpfs with huge=always")
    return result
