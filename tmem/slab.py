"""The memory that holds pages: 2 MiB areas of a region, lent to tmem and given back whole.

Owns: the area and frame tables, and the copy of a page into a frame. An area is held or absent;
held areas with a free frame are on the list of open areas, from whose head frames are taken, so a
pool fills one area before the next. Used by the kernels; ``shrink``, which takes an area away from
tmem, stands in ``tmem.evict`` because it evicts.

Nobody soon asks for most pages that are put. A store through the cache first reads the line it
overwrites, so writing to memory that is not cached takes three times as long. So the state
remembers about as many of the frames written last as a level 2 cache holds. Only these are written
through the cache, all others past it. A wrong guess costs time and nothing else.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from tmem.codes import Code
from tmem.layout import AREA_PAGES, FRAME_FREE, NOT_HASHED, PAGE_BYTES, WARM_FRAMES
from tmem.raw_memory import copy_page, inline, kernel

EPERM = int(Code.EPERM)
_I32, _I64 = ir.IntType(32), ir.IntType(64)
_LINE = ir.VectorType(_I64, 8)
LINE_BYTES = 64


@inline(types.void, types.int64, types.int64)
def stream_page(builder: Any, target: Any, source: Any) -> None:
    """Copy one page with stores that pass the cache by; ``target`` is aligned to a page.

    No fence, which would wait for the memory: another thread may look at the pool only after a lock
    has changed hands (the GIL, the service's), and that locked instruction is the fence.
    """
    target, source = (builder.inttoptr(a, _LINE.as_pointer()) for a in (target, source))
    past = builder.module.add_metadata([ir.Constant(_I32, 1)])
    for line in range(PAGE_BYTES // LINE_BYTES):
        value = builder.load(builder.gep(source, [ir.Constant(_I64, line)]))
        value.align = 1
        store = builder.store(value, builder.gep(target, [ir.Constant(_I64, line)]), align=64)
        store.set_metadata("nontemporal", past)


@kernel
def frame_address(state, frame):
    """Host address of a frame."""
    return state.slab + frame * PAGE_BYTES


@kernel
def write_frame(state, frame, data):
    """Fill a frame from the page at the address ``data``, and remember that it was written."""
    place = frame & (WARM_FRAMES - 1)
    if state.warm[place] == frame:
        copy_page(frame_address(state, frame), data)
    else:
        state.warm[place] = frame
        stream_page(frame_address(state, frame), data)


@kernel
def take_frame(state, holder):
    """A free frame for ``holder``, on no hash chain; the caller has checked that there is one."""
    frames, area = state.frames, state.areas[state.open_area - 1]
    frame = area.first_free - 1
    after = frames[frame] & (FRAME_FREE - 1)
    area.first_free = after
    area.used += 1
    if after == 0:
        state.open_area = area.next
    frames[frame] = holder
    if state.dedup:
        state.hashed[frame].chain = NOT_HASHED
    state.free_frames -= 1
    state.heap_free = min(state.heap_free, state.free_frames)  # tmem's own free list goes first
    return frame


@kernel
def free_frame(state, frame):
    """Give a frame back to its area."""
    number = frame // AREA_PAGES
    area = state.areas[number]
    after = area.first_free
    if after == 0:
        area.next = state.open_area
        state.open_area = number + 1
    state.frames[frame] = FRAME_FREE | after
    area.first_free = frame + 1
    area.used -= 1
    state.free_frames += 1


@kernel
def add_area(state, number):
    """Hold an absent area: 0, or EPERM. The last area of an embedded pool may be a part of one."""
    if number < 0 or number >= state.max_areas:
        return EPERM
    frames, area = state.frames, state.areas[number]
    first = number * AREA_PAGES
    size = min(AREA_PAGES, state.max_pages - first)
    if area.size != 0 or size <= 0:
        return EPERM
    for frame in range(first, first + size - 1):
        frames[frame] = FRAME_FREE | (frame + 2)
    frames[first + size - 1] = FRAME_FREE
    area.size = size
    area.used = 0
    area.first_free = first + 1
    area.next = state.open_area
    state.open_area = number + 1
    state.held_areas += 1
    state.held_frames += size
    state.free_frames += size
    return 0


@kernel
def emptiest_area(state):
    """The whole area with the fewest used frames, the lowest of equals; -1 when none is held."""
    best, fewest = -1, AREA_PAGES + 1
    for number in range(state.max_areas):
        area = state.areas[number]
        if area.size == AREA_PAGES and area.used < fewest:
            best, fewest = number, area.used
    return best


@kernel
def close_area(state, number):
    """Take a whole area out of use: no frame of it is handed out any more. The caller moves its
    used frames away, for which other areas have room."""
    areas, area = state.areas, state.areas[number]
    free = AREA_PAGES - area.used
    if free > 0:
        other = state.open_area - 1
        if other == number:
            state.open_area = area.next
        else:
            while areas[other].next != number + 1:
                other = areas[other].next - 1
            areas[other].next = area.next
    area.size = 0
    state.held_areas -= 1
    state.held_frames -= AREA_PAGES
    state.free_frames -= free
    state.heap_free = min(state.heap_free, state.free_frames)
