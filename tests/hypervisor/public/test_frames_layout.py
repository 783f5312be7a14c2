"""The region at rest: what attaching refuses, what validate() sees.

Method: start from a good region, spoil one thing, expect that very thing to be found.
"""

from __future__ import annotations

from typing import Any

import pytest
from frames_region import AREA_FRAMES, Region

from hypervisor.public.errors import Status

CONTROL_FIELDS = (
    "magic",
    "abi_version",
    "areas",
    "trees",
    "slots",
    "ring_slots",
    "meta_bytes",
    "ram_bytes",
    "memory_ring_offset",
    "tmem_ring_offset",
    "trees_offset",
    "areas_offset",
    "rows_offset",
    "heads_offset",
    "slots_offset",
)
WRONG = (0, 1, 3, 4095, 4096, 2**31 - 1, 2**32 - 1, 2**63, 2**64 - 4096, 2**64 - 1)


def check(region: Region) -> int:
    return int(region.lib.mc_meta_check(region.meta, region.bytes, region.ram_bytes))


def control(region: Region) -> Any:
    return region.ffi.cast("struct mc_control *", region.meta)


@pytest.mark.parametrize("areas", [1, 15, 16, 17, 512, 32768])
def test_a_formatted_region_passes_and_its_sections_do_not_overlap(areas: int) -> None:
    region = Region(areas, granted=False)
    assert check(region) == 0
    page = control(region)
    sections = [
        (page.memory_ring_offset, region.ffi.sizeof("struct mc_ring")),
        (page.tmem_ring_offset, region.ffi.sizeof("struct mc_ring")),
        (page.trees_offset, 64 * page.trees),
        (page.areas_offset, 4 * areas),
        (page.rows_offset, 64 * areas),
        (page.heads_offset, AREA_FRAMES * areas),
        (page.slots_offset, 64 * page.slots),
    ]
    end = 4096
    for offset, size in sections:
        assert offset % 4096 == 0
        assert offset >= end
        end = offset + size
    assert end <= page.meta_bytes == region.bytes
    assert page.trees * 16 >= areas > (page.trees - 1) * 16
    assert region.broken_area() is None
    assert region.statistics()["reclaimed_areas"] == areas
    slot = region.slot()
    assert region.lib.mc_frames_alloc(region.frames, slot, 0) == Status.ENOMEM


@pytest.mark.parametrize("field", CONTROL_FIELDS)
def test_one_wrong_field_of_the_control_page_is_refused(field: str) -> None:
    region = Region(20)
    page = control(region)
    good = int(getattr(page, field))
    fields = dict(region.ffi.typeof("struct mc_control").fields)
    bits = 8 * region.ffi.sizeof(fields[field].type)
    for wrong in {value % 2**bits for value in (*WRONG, good - 1, good + 1, good * 2)} - {good}:
        setattr(page, field, wrong)
        assert check(region) == Status.ELAYOUT, (field, wrong)
    setattr(page, field, good)
    assert check(region) == 0


def test_a_region_of_another_size_than_it_says_is_refused() -> None:
    region = Region(20)
    lib, meta = region.lib, region.meta
    for size in (0, 1, 512, 4095, 4096, region.bytes - 4096, region.bytes - 1, region.bytes + 1):
        assert lib.mc_meta_check(meta, size, region.ram_bytes) == Status.ELAYOUT
        assert lib.mc_meta_format(meta, size, 1, 20) == Status.ELAYOUT
    for ram in (0, region.ram_bytes - 1, region.ram_bytes + 1, 2**64 - 1):
        assert lib.mc_meta_check(meta, region.bytes, ram) == Status.ELAYOUT
    assert lib.mc_meta_check(region.ffi.NULL, region.bytes, region.ram_bytes) == Status.ELAYOUT
    for areas in (0, 32769, 2**32 - 1):
        assert lib.mc_meta_bytes(areas) == Status.EINDEX
        assert lib.mc_meta_format(meta, region.bytes, 1, areas) == Status.EINDEX


def test_live_fields_are_not_part_of_the_check() -> None:
    region = Region(20)
    page = control(region)
    page.heartbeat = 2**64 - 1
    page.used_frames = 2**63 - 1
    page.state = 77
    assert check(region) == 0


def busy_region() -> tuple[Region, int]:
    """Area 0 partly used and in a slot, area 1 and 2 a run, 3 reclaimed, the rest free."""
    region = Region(20)
    slot = region.slot()
    lib, frames = region.lib, region.frames
    for order in (0, 3, 7, 0, 6):
        assert lib.mc_frames_alloc(frames, slot, order) in range(AREA_FRAMES)
    assert lib.mc_frames_alloc_areas(frames, slot, 2) == AREA_FRAMES
    assert lib.mc_area_hard_reclaim(frames, 3, 1) == 0
    assert region.broken_area() is None
    return region, slot


def spoil_word(area: int, change: int) -> Any:
    def spoil(region: Region) -> None:
        region.frames.areas[area] = (region.frames.areas[area] + change) % 2**32

    return spoil


def spoil_row(row: int, bit: int) -> Any:
    def spoil(region: Region) -> None:
        region.frames.rows[row] ^= 1 << bit

    return spoil


def spoil_head(frame: int, head: int) -> Any:
    def spoil(region: Region) -> None:
        assert region.frames.heads[frame] != head
        region.frames.heads[frame] = head

    return spoil


def spoil_tree(tree: int, change: int) -> Any:
    def spoil(region: Region) -> None:
        region.frames.trees[tree].free_frames += change

    return spoil


def hold_twice(region: Region) -> None:
    other = region.slot(2)
    region.frames.slots[other].row = region.frames.slots[0].row
    region.frames.slots[other].free = region.frames.slots[0].free


def hold_what_is_taken(region: Region) -> None:
    region.frames.slots[0].free |= 1


SPOILED = {
    "area promises more": (spoil_word(5, -1), 5),
    "area promises less": (spoil_word(0, 1), 0),
    "huge without a run": (spoil_word(6, 0x400 - 512), 6),
    "run not huge": (spoil_word(2, 512 - 0x400), 1),
    "reclaimed but free": (spoil_word(3, 1), 3),
    "bit without a head": (spoil_row(7 * 8, 5), 7),
    "bit of a reclaimed area": (spoil_row(3 * 8, 5), 3),
    "bit of a run": (spoil_row(2 * 8 + 1, 5), 1),
    "head without a bit": (spoil_head(8 * 512 + 9, 1), 8),
    "body without a head": (spoil_head(9 * 512 + 9, 0x40), 9),
    "head inside a block": (spoil_head(12, 1), 0),
    "head of no order": (spoil_head(9 * 512, 0x3F), 9),
    "misaligned head": (spoil_head(9 * 512 + 1, 3), 9),
    "hole in a run": (spoil_head(512 + 600, 0x80), 1),
    "tree promises more": (spoil_tree(0, 1), 0),
    "tree promises less": (spoil_tree(1, -1), 16),
    "held by two slots": (hold_twice, 0),
    "held and handed out": (hold_what_is_taken, 0),
}


@pytest.mark.parametrize("name", SPOILED)
def test_validate_names_the_area_that_is_wrong(name: str) -> None:
    region, _ = busy_region()
    spoil, area = SPOILED[name]
    spoil(region)
    assert region.broken_area() == area


def test_the_hypervisor_binds_without_believing_the_page() -> None:
    region = Region(18)
    lib, ffi = region.lib, region.ffi
    view, rings = ffi.new("struct mc_frames *"), ffi.new("struct mc_ring *[2]")
    control = ffi.cast("struct mc_control *", region.meta)
    wanted = [control.memory_ring_offset, control.tmem_ring_offset]
    # A guest that was not thrown out before the reboot writes at any time.
    ffi.memmove(region.meta, b"\xff" * 4096, 4096)
    assert lib.mc_meta_bind(region.meta, 18, view, rings) == 0
    assert bytes(ffi.buffer(view)) == bytes(ffi.buffer(region.frames))
    start = ffi.cast("uintptr_t", region.meta)
    assert [int(ffi.cast("uintptr_t", ring)) - int(start) for ring in rings] == wanted
    for areas in (0, lib.MC_MAX_AREAS + 1):
        assert lib.mc_meta_bind(region.meta, areas, view, rings) == lib.MC_EINDEX
