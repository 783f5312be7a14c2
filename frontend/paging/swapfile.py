"""The swap file: where a guest's pages go that tmem does not take.

Owns: one sparse file with as many places as there are virtual pages. Its user keeps track of which
places hold a page: ``frontend/abi/paging_swap.c`` by slots, of its fd; ``write`` and ``read`` put
page p at ``p * 4096``. Reads and writes go past the host's page cache (O_DIRECT) where
the filesystem allows it, as those of a guest's swap device do. Otherwise ``direct`` is False and
the times are those of the page cache. Nothing is synced: swap need not survive the guest.
Buffers are single frames of the domain's RAM, which are aligned as O_DIRECT wants them.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from pathlib import Path

from hypervisor.public.errors import MemcoordError
from hypervisor.public.units import FRAME_BYTES


class SwapError(MemcoordError):
    """The swap file cannot be written or read; ``path`` and ``errno`` say which and why."""

    def __init__(self, path: Path, code: int, what: str) -> None:
        self.path, self.errno = path, code
        hint = ": free some disk space, or give the domain more memory" * (code == errno.ENOSPC)
        super().__init__(f"swap file {path}: {what}: {os.strerror(code)}{hint}")


class SwapFile:
    """A swap file for pages 0 to ``pages - 1``; created anew, and removed by ``close``."""

    def __init__(self, path: str | os.PathLike[str], pages: int) -> None:
        self.path, self.pages = Path(path), pages
        self._fd, self.direct = self._open()
        try:
            os.ftruncate(self._fd, pages * FRAME_BYTES)
        except OSError as error:
            self.close()
            raise SwapError(self.path, error.errno or errno.EIO, f"{pages} pages") from None

    def __enter__(self) -> SwapFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, page: int, frame: memoryview) -> None:
        """Store the 4096 bytes of ``frame`` as ``page``; SwapError when the disk is full."""
        self._check(page, frame)
        try:
            written = os.pwrite(self._fd, frame, page * FRAME_BYTES)
        except OSError as error:
            raise SwapError(self.path, error.errno or errno.EIO, f"write of page {page}") from None
        if written != FRAME_BYTES:  # the rest did not fit
            raise SwapError(self.path, errno.ENOSPC, f"write of page {page}")

    def read(self, page: int, frame: memoryview) -> None:
        """Fill ``frame`` with the bytes last written as ``page``; SwapError when the disk fails."""
        self._check(page, frame)
        try:
            got = os.preadv(self._fd, [frame], page * FRAME_BYTES)
        except OSError as error:
            raise SwapError(self.path, error.errno or errno.EIO, f"read of page {page}") from None
        if got != FRAME_BYTES:
            raise SwapError(self.path, errno.EIO, f"read of page {page}, {got} bytes")

    def fileno(self) -> int:
        """The fd; ValueError when the file is closed."""
        if self._fd < 0:
            raise ValueError(f"{self.path} is closed")
        return self._fd

    def close(self) -> None:
        """Remove the file. May be called twice."""
        if self._fd < 0:
            return
        os.close(self._fd)
        self._fd = -1
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()

    def _check(self, page: int, frame: memoryview) -> None:
        if not 0 <= page < self.pages:
            raise ValueError(f"page {page} of a swap file for {self.pages}")
        if frame.nbytes != FRAME_BYTES:
            raise ValueError(f"{frame.nbytes} bytes, a frame has {FRAME_BYTES}")

    def _open(self) -> tuple[int, bool]:
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        for extra in (getattr(os, "O_DIRECT", 0), 0):
            try:
                fd = os.open(self.path, flags | extra, 0o600)
            except OSError as error:
                if extra and error.errno == errno.EINVAL:
                    continue
                raise SwapError(self.path, error.errno or errno.EIO, "create") from None
            if not extra or _takes_direct_writes(fd):
                return fd, bool(extra)
            os.close(fd)
        raise AssertionError("the last try returns or raises")


def _takes_direct_writes(fd: int) -> bool:
    """Some filesystems accept the flag and refuse the write."""
    try:
        page = mmap.mmap(-1, FRAME_BYTES)
    except OSError:
        return False  # without a page to try with; writes through the page cache need none
    with page:
        try:
            return os.pwrite(fd, page, 0) == FRAME_BYTES
        except OSError as error:
            return error.errno != errno.EINVAL
