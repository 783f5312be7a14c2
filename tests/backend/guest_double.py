"""A guest made of the bare ABI: what a test needs to speak to the backend without a frontend."""

from __future__ import annotations

import time
from typing import Any

from frontend._guest import ffi, lib
from hypervisor.public.backend import DomainHandles

ANSWER_S = 60.0


class GuestDouble:
    """Maps a domain's memory, allocates from it, sends records and waits for their answers."""

    def __init__(self, handles: DomainHandles) -> None:
        self.handles = handles
        assert lib.mc_meta_check(ffi.NULL, 0, 0) < 0
        self.meta = lib.mc_map(handles.meta_fd, handles.meta_bytes)
        self.ram = lib.mc_map(handles.ram_fd, handles.ram_bytes)
        assert self.meta > 0
        assert self.ram > 0
        page = ffi.cast("void *", self.meta)
        assert lib.mc_meta_check(page, handles.meta_bytes, handles.ram_bytes) == 0
        self.control = ffi.cast("struct mc_control *", self.meta)
        self.frames = ffi.new("struct mc_frames *")
        assert lib.mc_frames_bind(self.frames, page) == 0
        self.slot = lib.mc_slot_claim(self.frames, 1)
        self._fronts = [self._front(self.control.memory_ring_offset)]
        self._fronts.append(self._front(self.control.tmem_ring_offset))

    def _front(self, offset: int) -> Any:
        front = ffi.new("struct mc_front *")
        lib.mc_front_bind(front, ffi.cast("struct mc_ring *", self.meta + offset))
        return front

    def ring(self, tmem: bool) -> Any:
        """The shared ring itself, for tests that break it."""
        return self._fronts[tmem].ring

    def send(self, op: int, *args: int, tmem: bool = False) -> tuple[int, list[int]]:
        """Send one record and wait for its answer: the status and the five words."""
        front = self._fronts[tmem]
        record = ffi.new("struct mc_record *", {"op": op, "id": 7})
        for index, value in enumerate(args):
            record.arg[index] = value
        assert lib.mc_front_push(front, record) == 0
        lib.mc_front_publish(front)
        lib.mc_eventfd_ring(self.handles.bell_fd)
        until = time.monotonic() + ANSWER_S
        while not lib.mc_front_pop(front, record):
            assert time.monotonic() < until, "no answer"
            time.sleep(0.0001)
        assert record.id == 7
        return record.status, list(record.arg)

    def grow(self, areas: int = 1) -> tuple[int, int]:
        """GROW: areas granted (or a status), and the path."""
        status, args = self.send(lib.MC_OP_GROW, areas)
        return status, args[0]

    def alloc(self, order: int = 0) -> int:
        """A frame of the domain's, or a status; asks INSTALL where backing is missing."""
        frame = int(lib.mc_frames_alloc(self.frames, self.slot, order))
        if frame < 0 or not self.word(frame // lib.MC_AREA_FRAMES) & lib.MC_AREA_EVICTED:
            return frame
        status, _ = self.send(lib.MC_OP_INSTALL, frame // lib.MC_AREA_FRAMES)
        if status < 0:
            assert self.free(frame, order) == 0
            return status
        return frame

    def word(self, area: int) -> int:
        """The area's word."""
        return int(lib.mc_area_word(self.frames, area))

    def free(self, frame: int, order: int = 0) -> int:
        """Give a frame back to the domain's allocator."""
        return int(lib.mc_frames_free(self.frames, self.slot, frame, order))

    def bytes_of(self, frame: int) -> Any:
        """The 4096 bytes of a frame, writable."""
        return ffi.buffer(ffi.cast("uint8_t *", self.ram + frame * 4096), 4096)

    def close(self) -> None:
        """Unmap."""
        lib.mc_unmap(self.ram, self.handles.ram_bytes)
        lib.mc_unmap(self.meta, self.handles.meta_bytes)
