"""A file in memory that holds the newest of what was written to it, at whatever instant one ends.

Owns: ``StateFile``: two slots, written in turn. A slot counts when its length and checksum fit what
it holds; of two that count, the higher number is the newer. A writer that is killed leaves the slot
that it did not write.
Rules: one writer at a time, which is the hypervisor's main thread.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib

SLOT_BYTES = 4 << 20
#: Number, length, checksum of what follows; the number is part of the sum.
_HEAD = struct.Struct("<QQL")


class StateFile:
    """The state in the file ``fd``, or in a new one; InternalError is not raised, OSError is."""

    def __init__(self, fd: int = -1) -> None:
        self.fd = fd
        if fd < 0:
            self.fd = os.memfd_create("memcoord-state", os.MFD_CLOEXEC)
            os.ftruncate(self.fd, 2 * SLOT_BYTES)
        self._map = mmap.mmap(self.fd, 2 * SLOT_BYTES)
        found = [self._slot(index) for index in (0, 1)]
        self._number, self._newest = max(found, key=lambda slot: slot[0])

    def read(self) -> bytes:
        """What was written last; empty when nothing ever was."""
        return self._newest

    def write(self, data: bytes) -> None:
        """Replace what was written last; ValueError when there is no room for ``data``."""
        if _HEAD.size + len(data) > SLOT_BYTES:
            raise ValueError(f"{len(data)} bytes of state, more than {SLOT_BYTES - _HEAD.size}")
        self._number += 1
        at = SLOT_BYTES * (self._number % 2)
        begin = at + _HEAD.size
        self._map[begin : begin + len(data)] = data
        head = _HEAD.pack(self._number, len(data), _sum(self._number, data))
        self._map[at:begin] = head
        self._newest = data

    def close(self) -> None:
        """Unmap it and close its file descriptor."""
        self._map.close()
        os.close(self.fd)

    def _slot(self, index: int) -> tuple[int, bytes]:
        at = SLOT_BYTES * index
        number, length, total = _HEAD.unpack_from(self._map, at)
        begin = at + _HEAD.size
        data = self._map[begin : begin + min(length, SLOT_BYTES)]
        is_whole = number > 0 and len(data) == length and total == _sum(number, data)
        return (number, data) if is_whole else (0, b"")


def _sum(number: int, data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(number.to_bytes(8, "little")))
