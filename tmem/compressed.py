"""Compressed pages: frames cut into slots of one size.

Owns: what lies in such a frame: a head (next and previous frame with a free slot, used slots), then
slots, each with its page and length before the data. All of it is in the frame, so that a frame can
be moved by a copy and costs no memory elsewhere. A page is compressed when it is the coldest raw
one, and never on the way in (``tmem.store``). Used by ``tmem.store``.
"""

from __future__ import annotations

from numba import int64

from tmem.layout import (
    FRAME_PACKED,
    PACKED_HEAD,
    PACKED_HEADER_BYTES,
    PACKED_SLOT,
    PACKED_SLOT_BITS,
    SLOT_BYTES,
    SLOT_HEADER_BYTES,
    SLOTS_PER_FRAME,
    STORE_MASK,
    STORE_PACKED,
)
from tmem.lz4 import decompress
from tmem.raw_memory import address_of, kernel, record_at
from tmem.slab import frame_address, free_frame, take_frame

head_at, slot_at = record_at(PACKED_HEAD), record_at(PACKED_SLOT)
SLOT_MASK = (1 << PACKED_SLOT_BITS) - 1


@kernel
def class_for(length, persistent):
    """The class with the smallest slots that hold ``length`` bytes."""
    size = 0
    while SLOT_BYTES[size] < length + SLOT_HEADER_BYTES:
        size += 1
    return 2 * size + persistent


@kernel
def all_used(slot_class):
    """The `used` bits of a full frame of a class."""
    return (1 << int64(SLOTS_PER_FRAME[slot_class >> 1])) - 1


@kernel
def head_of(state, frame):
    """The head of a frame of compressed pages."""
    return head_at(frame_address(state, frame))


@kernel
def class_of(state, frame):
    """The class of a frame of compressed pages."""
    return state.frames[frame] & (FRAME_PACKED - 1)


@kernel
def slot_in(state, frame, slot_class, slot):
    """A slot of a frame of a class."""
    offset = PACKED_HEADER_BYTES + slot * int64(SLOT_BYTES[slot_class >> 1])
    return slot_at(frame_address(state, frame) + offset)


@kernel
def open_frame(state, slot_class, frame):
    """Put a frame at the head of its class: it has a free slot."""
    head, first = head_of(state, frame), state.packed[slot_class]
    head.next = first
    head.previous = 0
    if first != 0:
        head_of(state, first - 1).previous = frame + 1
    state.packed[slot_class] = frame + 1


@kernel
def shut_frame(state, slot_class, frame):
    """Take a frame off the list of its class: it is full, or goes."""
    head = head_of(state, frame)
    if head.previous == 0:
        state.packed[slot_class] = head.next
    else:
        head_of(state, head.previous - 1).next = head.next
    if head.next != 0:
        head_of(state, head.next - 1).previous = head.previous


@kernel
def take_slot(state, page, length, persistent):
    """A slot for a page: the address of its data. When no frame of the class is open, the caller
    has left one frame free."""
    slot_class = class_for(length, persistent)
    if state.packed[slot_class] == 0:
        frame = take_frame(state, FRAME_PACKED | slot_class)
        head_of(state, frame).used = 0
        open_frame(state, slot_class, frame)
        state.packed_frames += 1
    frame = state.packed[slot_class] - 1
    head = head_of(state, frame)
    number = 0
    while head.used >> number & 1:
        number += 1
    head.used |= 1 << number
    if head.used == all_used(slot_class):
        shut_frame(state, slot_class, frame)
    state.cells.page[page].store = STORE_PACKED | frame << PACKED_SLOT_BITS | number
    slot = slot_in(state, frame, slot_class, number)
    slot.page = page
    slot.length = length
    state.packed_pages += 1
    state.packed_bytes += length
    return address_of(slot) + SLOT_HEADER_BYTES


@kernel
def place_of(state, page):
    """The frame of a compressed page, and the number of its slot."""
    place = state.cells.page[page].store & STORE_MASK
    return place >> PACKED_SLOT_BITS, place & SLOT_MASK


@kernel
def free_slot(state, page):
    """Give the slot of a page back; whether its frame has become free with it."""
    frame, number = place_of(state, page)
    slot_class, head = class_of(state, frame), head_of(state, frame)
    state.packed_pages -= 1
    state.packed_bytes -= slot_in(state, frame, slot_class, number).length
    if head.used == all_used(slot_class):
        open_frame(state, slot_class, frame)
    head.used &= ~(1 << number)
    if head.used != 0:
        return False
    shut_frame(state, slot_class, frame)
    free_frame(state, frame)
    state.packed_frames -= 1
    return True


@kernel
def unpack(state, page, data):
    """Decompress a page to the address ``data``."""
    frame, number = place_of(state, page)
    slot = slot_in(state, frame, class_of(state, frame), number)
    return decompress(address_of(slot) + SLOT_HEADER_BYTES, slot.length, data)


@kernel
def move_packed(state, old, new):
    """A frame of compressed pages has been copied from ``old`` to ``new``: correct what points to
    it. Both hold the same bytes."""
    slot_class, head = class_of(state, new), head_of(state, new)
    if head.used != all_used(slot_class):
        if head.previous == 0:
            state.packed[slot_class] = new + 1
        else:
            head_of(state, head.previous - 1).next = new + 1
        if head.next != 0:
            head_of(state, head.next - 1).previous = new + 1
    for number in range(int64(SLOTS_PER_FRAME[slot_class >> 1])):
        if head.used >> number & 1:
            page = slot_in(state, new, slot_class, number).page
            state.cells.page[page].store = STORE_PACKED | new << PACKED_SLOT_BITS | number
