"""A page of memory with its address, for tests of what fills and checks pages."""

from __future__ import annotations

import mmap

from memcoord.testbed.guests._content import ffi

PAGE_BYTES, WORDS = 4096, 512


class Page:
    """A page of zeroes, until ``release``."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, PAGE_BYTES)
        self._view = ffi.from_buffer(self.memory)
        self.address = int(ffi.cast("uintptr_t", self._view))

    def release(self) -> None:
        ffi.release(self._view)
        self.memory.close()
