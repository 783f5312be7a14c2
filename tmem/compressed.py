"""Compressed pages: frames cut into slots of one size, and the background step that fills them.

Owns: what lies in such a frame: a header (next and previous frame with a free slot, used slots),
then slots, each with its page and length before the data, so that a frame can be moved and all
this costs no memory elsewhere. A page is compressed when it is the coldest raw one, and never on
the way in. Used by ``tmem.store``, ``tmem.evict`` and ``tmem.serve``.
"""

# Kernel arguments are typed by numba; annotations would only repeat "int".
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

from numba import int64

from tmem.dedup import do_not_hash
from tmem.layout import (
    CELL_STORE,
    FRAME_MASK,
    FRAME_PACKED,
    H_FRAMES,
    H_PACKED_BYTES,
    H_PACKED_FRAMES,
    H_PACKED_PAGES,
    PACKED,
    PACKED_HEADER_BYTES,
    PACKED_SLOT_BITS,
    SLOT_BYTES,
    SLOT_HEADER_BYTES,
    SLOTS_PER_FRAME,
    STORE_MASK,
    STORE_PACKED,
)
from tmem.lz4 import decompress
from tmem.raw_memory import cells_at, field, kernel, set_field, words_at
from tmem.slab import frame_address, free_frame, take_frame

NEXT, PREVIOUS = 0, 1  # u32 words of the header of a frame; frames, + 1
USED = 1  # u64 word of it: a bit per slot
OWNER, LENGTH = 0, 1  # u32 words of a slot


@kernel
def class_for(length, persistent):
    """The class whose slots hold so many compressed bytes best."""
    size = 0
    while SLOT_BYTES[size] < length + SLOT_HEADER_BYTES:
        size += 1
    return 2 * size + persistent


@kernel
def slot_address(s, frame, size, slot):
    """Host address of a slot, its header included; ``size`` is the class without the kind."""
    return frame_address(s, frame) + PACKED_HEADER_BYTES + slot * int64(SLOT_BYTES[size])


@kernel
def class_of(s, frame):
    """The class of a frame of compressed pages."""
    return int64(cells_at(s[H_FRAMES])[frame]) & (FRAME_MASK >> 1)


@kernel
def open_frame(s, group, frame):
    """Put a frame at the head of its class: it has a free slot."""
    header = cells_at(frame_address(s, frame))
    first = s[PACKED + group]
    header[NEXT] = first
    header[PREVIOUS] = 0
    if first != 0:
        cells_at(frame_address(s, first - 1))[PREVIOUS] = frame + 1
    s[PACKED + group] = frame + 1


@kernel
def shut_frame(s, group, frame):
    """Take a frame off the list of its class: it is full, or goes."""
    header = cells_at(frame_address(s, frame))
    after, before = int64(header[NEXT]), int64(header[PREVIOUS])
    if before == 0:
        s[PACKED + group] = after
    else:
        cells_at(frame_address(s, before - 1))[NEXT] = after
    if after != 0:
        cells_at(frame_address(s, after - 1))[PREVIOUS] = before


@kernel
def take_slot(s, page, length, persistent):
    """A slot for a page; its address. One frame is free, should no frame of the class be open."""
    group = class_for(length, persistent)
    if s[PACKED + group] == 0:
        frame = take_frame(s, FRAME_PACKED | group)
        do_not_hash(s, frame)
        words_at(frame_address(s, frame))[USED] = 0
        open_frame(s, group, frame)
        s[H_PACKED_FRAMES] += 1
    frame = s[PACKED + group] - 1
    used = words_at(frame_address(s, frame))
    slot = 0
    while used[USED] >> slot & 1:
        slot += 1
    used[USED] |= 1 << slot
    if used[USED] == (1 << int64(SLOTS_PER_FRAME[group >> 1])) - 1:
        shut_frame(s, group, frame)
    set_field(s, page, CELL_STORE, STORE_PACKED | frame << PACKED_SLOT_BITS | slot)
    address = slot_address(s, frame, group >> 1, slot)
    cells_at(address)[OWNER] = page
    cells_at(address)[LENGTH] = length
    s[H_PACKED_PAGES] += 1
    s[H_PACKED_BYTES] += length
    return address + SLOT_HEADER_BYTES


@kernel
def slot_of(s, page):
    """Address of the slot of a compressed page."""
    place = field(s, page, CELL_STORE) & STORE_MASK
    frame = place >> PACKED_SLOT_BITS
    slot = place & ((1 << PACKED_SLOT_BITS) - 1)
    return slot_address(s, frame, class_of(s, frame) >> 1, slot)


@kernel
def free_slot(s, page):
    """Give the slot of a page back; whether its frame has become free with it."""
    place = field(s, page, CELL_STORE) & STORE_MASK
    frame = place >> PACKED_SLOT_BITS
    slot = place & ((1 << PACKED_SLOT_BITS) - 1)
    group = class_of(s, frame)
    s[H_PACKED_PAGES] -= 1
    s[H_PACKED_BYTES] -= int64(cells_at(slot_of(s, page))[LENGTH])
    used = words_at(frame_address(s, frame))
    if used[USED] == (1 << int64(SLOTS_PER_FRAME[group >> 1])) - 1:
        open_frame(s, group, frame)
    used[USED] &= ~(1 << slot)
    if used[USED] != 0:
        return False
    shut_frame(s, group, frame)
    free_frame(s, frame)
    s[H_PACKED_FRAMES] -= 1
    return True


@kernel
def unpack(s, page, data):
    """Decompress a page."""
    address = slot_of(s, page)
    return decompress(address + SLOT_HEADER_BYTES, int64(cells_at(address)[LENGTH]), data)


@kernel
def move_packed(s, old, new):
    """A frame of compressed pages has been copied from ``old`` to ``new``: correct who points to
    it. Both hold the same bytes."""
    group = class_of(s, new)
    words, header = words_at(frame_address(s, new)), cells_at(frame_address(s, new))
    do_not_hash(s, new)
    if words[USED] != (1 << int64(SLOTS_PER_FRAME[group >> 1])) - 1:
        before, after = int64(header[PREVIOUS]), int64(header[NEXT])
        if before == 0:
            s[PACKED + group] = new + 1
        else:
            cells_at(frame_address(s, before - 1))[NEXT] = new + 1
        if after != 0:
            cells_at(frame_address(s, after - 1))[PREVIOUS] = new + 1
    for slot in range(int64(SLOTS_PER_FRAME[group >> 1])):
        if words[USED] >> slot & 1:
            page = int64(cells_at(slot_address(s, new, group >> 1, slot))[OWNER])
            set_field(s, page, CELL_STORE, STORE_PACKED | new << PACKED_SLOT_BITS | slot)
