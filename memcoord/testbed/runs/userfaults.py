"""What this machine lets a process do with page faults of its own: ``probe``.

Owns: trying each facility once, and the line that enables one which is refused. Nothing is changed.
Used by: ``memcoord doctor``, and ``memcoord exec`` before it starts a program. The numbers are the
kernel's (``linux/userfaultfd.h``, ``linux/fs.h``): the headers of a distribution may be older than
its kernel.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
from typing import Any

import msgspec

SYS_USERFAULTFD = {"x86_64": 323, "aarch64": 282}
USER_MODE_ONLY = 1
DEVICE = "/dev/userfaultfd"
DEVICE_NEW = 0xAA00
UFFD_API = 0xAA
API_IOCTL = 0xC018AA3F
PAGEMAP_SCAN = 0xC0606610
EVENT_FORK, EVENT_REMAP, EVENT_REMOVE, EVENT_UNMAP, MOVE = 1 << 1, 1 << 2, 1 << 3, 1 << 6, 1 << 16
EVENTS = EVENT_REMAP | EVENT_REMOVE | EVENT_UNMAP
THREAD_ID = 1 << 8
#: What a paged program enables (``frontend/pager/abi/start.c``).
PAGED = MOVE | EVENTS | EVENT_FORK | THREAD_ID
SYSCTL_LINE = "sudo sysctl vm.unprivileged_userfaultfd=1"
DEVICE_LINE = f"sudo setfacl -m u:$USER:rw {DEVICE}"
FORK_LINE = "run as root, or with CAP_SYS_PTRACE"


class Userfaults(msgspec.Struct, frozen=True):
    """What works: each field is empty when it does, else the reason it does not."""

    full: str  # userfaultfd(0): faults in system calls too
    user_mode: str
    device: str
    move: str
    events: str  # remap, remove and unmap are told
    fork: str
    pagemap_scan: str

    def obstacle(self) -> str:
        """Empty when unmodified programs can be paged here, else why not, and what would help."""
        if platform.machine() != "x86_64":
            return f"programs are paged on x86_64 only, not on {platform.machine()}"
        if self.full and self.device:
            return f"full userfaultfd is refused ({self.full}): {SYSCTL_LINE}"
        for what, reason in (("UFFDIO_MOVE", self.move), ("PAGEMAP_SCAN", self.pagemap_scan)):
            if reason:
                return f"{what} is missing ({reason}): it needs Linux 6.8 or newer"
        if self.events:
            return f"events of userfaultfd are refused ({self.events})"
        return f"EVENT_FORK is refused ({self.fork}): {FORK_LINE}" if self.fork else ""


def probe() -> Userfaults:
    """Try everything, at once; each descriptor is closed again."""
    number = SYS_USERFAULTFD.get(platform.machine())
    if number is None:
        why = f"not known on {platform.machine()}"
        return Userfaults(*[why] * len(Userfaults.__struct_fields__))
    libc = ctypes.CDLL(None, use_errno=True)
    full, user = _opened(libc, number, 0), _opened(libc, number, USER_MODE_ONLY)
    best = 0 if not full else USER_MODE_ONLY
    return Userfaults(
        full=full,
        user_mode=user,
        device=_device(libc),
        move=_features(libc, number, best, MOVE),
        events=_features(libc, number, best, EVENTS),
        fork=_features(libc, number, best, EVENT_FORK),
        pagemap_scan=_pagemap_scan(libc),
    )


def _why() -> str:
    return os.strerror(ctypes.get_errno())


def _opened(libc: Any, number: int, flags: int) -> str:
    fd = libc.syscall(number, os.O_CLOEXEC | flags)
    if fd < 0:
        return _why()
    os.close(fd)
    return ""


def _device(libc: Any) -> str:
    try:
        device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return error.strerror or "refused"
    fd = libc.ioctl(device, ctypes.c_ulong(DEVICE_NEW), ctypes.c_long(os.O_CLOEXEC))
    why = _why() if fd < 0 else ""
    os.close(device)
    if fd >= 0:
        os.close(fd)
    return why


def _features(libc: Any, number: int, flags: int, wanted: int) -> str:
    fd = libc.syscall(number, os.O_CLOEXEC | flags)
    if fd < 0:
        return _why()
    api = (ctypes.c_uint64 * 3)(UFFD_API, wanted, 0)
    why = _why() if libc.ioctl(fd, ctypes.c_ulong(API_IOCTL), api) < 0 else ""
    os.close(fd)
    return why


def _pagemap_scan(libc: Any) -> str:
    try:
        fd = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        return error.strerror or "refused"
    with mmap.mmap(-1, mmap.PAGESIZE) as page:
        page[0] = 1
        start = ctypes.addressof(holder := ctypes.c_char.from_buffer(page))
        found = (ctypes.c_uint64 * 3)()
        present = 8
        vector, end = ctypes.addressof(found), start + mmap.PAGESIZE
        words = (96, 0, start, end, 0, vector, 1, 0, 0, present, 0, present)  # struct pm_scan_arg
        scan = (ctypes.c_uint64 * 12)(*words)
        why = _why() if libc.ioctl(fd, ctypes.c_ulong(PAGEMAP_SCAN), scan) < 0 else ""
        del holder
    os.close(fd)
    return why
