"""What the tests of the frame allocator share: a formatted region, and few shorthands.

Owns: ``Region``, a meta region with a bound view. Tests call the allocator through ``region.lib``
and ``region.frames``, as its users do.
"""

from __future__ import annotations

from typing import Any

from frontend import _guest
from hypervisor.public.constants import AREA_FRAMES


class Region:
    """A meta region of ``areas`` areas in ``memory`` (a writable buffer; private if not given)."""

    def __init__(self, areas: int, *, granted: bool = True, memory: Any = None) -> None:
        self.lib, self.ffi = _guest.lib, _guest.ffi
        self.areas, self.bytes = areas, self.lib.mc_meta_bytes(areas)
        self.ram_bytes = areas * self.lib.MC_AREA_BYTES
        self.meta = (
            self.ffi.new("char[]", self.bytes)
            if memory is None
            else self.ffi.from_buffer("char[]", memory, require_writable=True)
        )
        assert self.lib.mc_meta_format(self.meta, self.bytes, 1, areas) == 0
        self.frames = self.ffi.new("struct mc_frames *")
        assert self.lib.mc_frames_bind(self.frames, self.meta) == 0
        for area in range(areas if granted else 0):
            assert self.lib.mc_area_grant(self.frames, area, 0) == 0

    def close(self) -> None:
        """Let go of the memory given."""
        self.ffi.release(self.meta)

    def slot(self, owner: int = 1) -> int:
        slot = self.lib.mc_slot_claim(self.frames, owner)
        assert 0 <= slot < self.lib.MC_SLOTS
        return int(slot)

    def image(self) -> bytes:
        """Every byte of the region: what "state unchanged" means."""
        return bytes(self.ffi.buffer(self.meta, self.bytes))

    def heads(self) -> bytes:
        return bytes(self.ffi.buffer(self.frames.heads, self.areas * AREA_FRAMES))

    def taken(self) -> list[bool]:
        """Per frame: handed out, by its head."""
        return [
            head not in (self.lib.MC_HEAD_NEVER, self.lib.MC_HEAD_FREED) for head in self.heads()
        ]

    def broken_area(self) -> int | None:
        """None when validate() holds, else the area it names."""
        where = self.ffi.new("uint32_t *")
        status = self.lib.mc_frames_validate(self.frames, where)
        assert status in (0, self.lib.MC_EBROKEN)
        return int(where[0]) if status else None

    def statistics(self) -> dict[str, int]:
        out = self.ffi.new("struct mc_frames_statistics *")
        self.lib.mc_frames_statistics(self.frames, out)
        return {name: int(getattr(out, name)) for name, _ in self.ffi.typeof(out).item.fields}

    def alloc_many(self, slot: int, count: int) -> list[int]:
        out = self.ffi.new("uint32_t[]", max(count, 1))
        given = self.lib.mc_frames_alloc_many(self.frames, slot, out, count)
        assert 0 <= given <= count
        return [int(out[k]) for k in range(given)]

    def free_many(self, slot: int, frames: list[int]) -> tuple[int, int]:
        """How many were freed, and the status."""
        status = self.ffi.new("int *")
        given = self.ffi.new("uint32_t[]", frames)
        done = self.lib.mc_frames_free_many(self.frames, slot, given, len(frames), status)
        return int(done), int(status[0])
