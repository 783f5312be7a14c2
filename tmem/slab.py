"""The memory pages are kept in: 2 MiB areas of a region, lent to tmem and given back whole.

Owns: the area and frame tables. An area is held or absent; held areas with a free frame are on the
list of open areas, from whose head frames are taken, so a pool fills one area before the next.
Used by the kernels; ``shrink`` stands in ``tmem.pages`` because it evicts.
"""

# Kernel arguments are typed by numba; annotations would only repeat "int".
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

from numba import int64

from tmem.codes import Code
from tmem.layout import (
    AREA_FIRST_FREE,
    AREA_NEXT,
    AREA_PAGES,
    AREA_SIZE,
    AREA_USED,
    AREA_WORDS,
    FRAME_FREE,
    H_AREAS,
    H_FRAMES,
    H_FREE_FRAMES,
    H_HEAP_FREE,
    H_HELD_AREAS,
    H_HELD_FRAMES,
    H_MAX_AREAS,
    H_MAX_PAGES,
    H_OPEN_AREA,
    H_SLAB,
    PAGE_BYTES,
)
from tmem.raw_memory import cells_at, kernel

EPERM = int(Code.EPERM)


@kernel
def frame_address(s, frame):
    """Host address of a frame."""
    return s[H_SLAB] + frame * PAGE_BYTES


@kernel
def take_frame(s, page):
    """A free frame for ``page``; the caller has checked that there is one."""
    areas, frames = cells_at(s[H_AREAS]), cells_at(s[H_FRAMES])
    area = s[H_OPEN_AREA] - 1
    at = area * AREA_WORDS
    frame = int64(areas[at + AREA_FIRST_FREE]) - 1
    after = int64(frames[frame]) & (FRAME_FREE - 1)
    areas[at + AREA_FIRST_FREE] = after
    areas[at + AREA_USED] += 1
    if after == 0:
        s[H_OPEN_AREA] = int64(areas[at + AREA_NEXT])
    frames[frame] = page
    s[H_FREE_FRAMES] -= 1
    s[H_HEAP_FREE] = min(s[H_HEAP_FREE], s[H_FREE_FRAMES])  # tmem's own free list goes first
    return frame


@kernel
def free_frame(s, frame):
    """Give a frame back to its area."""
    areas, frames = cells_at(s[H_AREAS]), cells_at(s[H_FRAMES])
    area = frame // AREA_PAGES
    at = area * AREA_WORDS
    after = int64(areas[at + AREA_FIRST_FREE])
    if after == 0:
        areas[at + AREA_NEXT] = s[H_OPEN_AREA]
        s[H_OPEN_AREA] = area + 1
    frames[frame] = FRAME_FREE | after
    areas[at + AREA_FIRST_FREE] = frame + 1
    areas[at + AREA_USED] -= 1
    s[H_FREE_FRAMES] += 1


@kernel
def add_area(s, area):
    """Hold an absent area: 0, or EPERM. The last area of an embedded pool may be a part of one."""
    if area < 0 or area >= s[H_MAX_AREAS]:
        return EPERM
    areas, frames = cells_at(s[H_AREAS]), cells_at(s[H_FRAMES])
    at = area * AREA_WORDS
    size = min(AREA_PAGES, s[H_MAX_PAGES] - area * AREA_PAGES)
    if int64(areas[at + AREA_SIZE]) != 0 or size <= 0:
        return EPERM
    first = area * AREA_PAGES
    for frame in range(first, first + size - 1):
        frames[frame] = FRAME_FREE | (frame + 2)
    frames[first + size - 1] = FRAME_FREE
    areas[at + AREA_SIZE] = size
    areas[at + AREA_USED] = 0
    areas[at + AREA_FIRST_FREE] = first + 1
    areas[at + AREA_NEXT] = s[H_OPEN_AREA]
    s[H_OPEN_AREA] = area + 1
    s[H_HELD_AREAS] += 1
    s[H_HELD_FRAMES] += size
    s[H_FREE_FRAMES] += size
    return 0


@kernel
def emptiest_area(s):
    """The whole area with the fewest used frames, the lowest of equals; -1 when none is held."""
    areas = cells_at(s[H_AREAS])
    best, fewest = -1, AREA_PAGES + 1
    for area in range(s[H_MAX_AREAS]):
        at = area * AREA_WORDS
        if int64(areas[at + AREA_SIZE]) == AREA_PAGES and int64(areas[at + AREA_USED]) < fewest:
            best, fewest = area, int64(areas[at + AREA_USED])
    return best


@kernel
def close_area(s, area):
    """Take a whole area out of use: no frame of it is handed out any more. The caller moves its
    used frames away, for which other areas have room."""
    areas = cells_at(s[H_AREAS])
    at = area * AREA_WORDS
    free = AREA_PAGES - int64(areas[at + AREA_USED])
    if free > 0:
        after = int64(areas[at + AREA_NEXT])
        other = s[H_OPEN_AREA] - 1
        if other == area:
            s[H_OPEN_AREA] = after
        else:
            while int64(areas[other * AREA_WORDS + AREA_NEXT]) != area + 1:
                other = int64(areas[other * AREA_WORDS + AREA_NEXT]) - 1
            areas[other * AREA_WORDS + AREA_NEXT] = after
    areas[at + AREA_SIZE] = 0
    s[H_HELD_AREAS] -= 1
    s[H_HELD_FRAMES] -= AREA_PAGES
    s[H_FREE_FRAMES] -= free
    s[H_HEAP_FREE] = min(s[H_HEAP_FREE], s[H_FREE_FRAMES])
