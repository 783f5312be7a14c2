"""A pool taken over from a process that was killed: everything derived is made anew, in place.

Owns: ``rebuild``. It reads the words that ``tmem.kept`` lists, in the order it says they are
written, and makes from them all else: chains, lists, free lists, the area and frame tables,
references, classes of compressed pages, and every counter of what there is. Counters of what has
happened keep their values, but for the operation under way. Ephemeral pages, logs of invalidations
and a save under way are dropped. ``validate`` holds afterwards.

It may be killed as well: it changes none of the words it reads, except that it finishes what the
dead process had begun (a pool being closed, a page being compressed), each with a last store of one
word. So the next process begins again. Nothing here comes from a guest; what contradicts itself is
damage. ``tmem.recovery`` calls it and says so.
"""

from __future__ import annotations

import numpy as np

from tmem import layout
from tmem.compressed import all_used, head_of, open_frame, slot_in
from tmem.dedup import is_packed, remember
from tmem.entry import entry
from tmem.index import (
    append,
    chain,
    client_anchor,
    name_of,
    object_bucket,
    oid_of,
    page_bucket,
)
from tmem.kept import barrier
from tmem.lz4 import decompress
from tmem.pools import first_sharer
from tmem.raw_memory import array_at, kernel, record_at
from tmem.slab import frame_address

state_at, marks_at = record_at(layout.STATE), array_at(np.uint8)

# What a cell is, as found out here.
FREE, PAGE, OBJECT, CONTENT = range(4)
HOLDER_MARKS = layout.FRAME_FREE | layout.FRAME_SHARED | layout.FRAME_PACKED


# Clients and pools


@kernel
def mend_client(state, number):
    """End a save under way; no pages yet; sums of what has happened add up."""
    its = state.clients[number]
    if its.is_saving:
        its.is_frozen = its.is_saving - 1
        barrier()
        its.is_saving = 0
    its.is_migrating = 0
    its.first_gone = 0
    its.last_gone = 0
    its.cold = client_anchor(number, layout.ANCHOR_PERSISTENT)
    its.used_pages = 0
    its.ephemeral_pages = 0
    its.persistent_pages = 0
    failed = its.puts_failed_target + its.puts_failed_nomem + its.puts_failed_nospc
    its.puts = its.puts_succ + failed + its.puts_failed_frozen + its.puts_failed_fault
    its.gets_hit = its.ephemeral_gets_hit + its.persistent_gets_hit
    its.gets = max(its.gets, its.gets_hit)
    for slot in range(layout.POOLS_PER_CLIENT):
        leads = its.slots[slot]
        if not its.is_open:
            leads.pool = 0
        elif leads.pool != 0:
            state.pools[leads.pool - 1].sharers += 1
            state.joined = max(state.joined, leads.joined)
    if not its.is_open:
        its.weight = 0
    state.total_weight += its.weight


@kernel
def mend_pool(state, number):
    """Close a pool that no slot leads to; no pages yet; find the owner of a shared one."""
    pool = state.pools[number]
    pool.is_open = pool.sharers != 0
    pool.pages = 0
    pool.objects = 0
    pool.puts = pool.puts_good + pool.puts_dropped + pool.puts_failed
    pool.puts_replaced = min(pool.puts_replaced, pool.puts_good)
    pool.gets = max(pool.gets, pool.gets_hit)
    if pool.is_open and state.clients[pool.owner].slots[pool.slot].pool != number + 1:
        pool.owner, pool.slot = first_sharer(state, number)


@kernel
def mend_clients_and_pools(state):
    """Every client and pool, without pages."""
    state.total_weight = 0
    for number in range(layout.MAX_POOLS):
        state.pools[number].sharers = 0
    for number in range(layout.MAX_CLIENTS):
        mend_client(state, number)
    for number in range(layout.MAX_POOLS):
        mend_pool(state, number)


@kernel
def forget_all(state):
    """No page, no object, no frame: what the pages that are kept are added to."""
    state.pages = 0
    state.objects = 0
    state.zero_pages = 0
    state.ephemeral_pages = 0
    state.ephemeral_stored = 0
    state.contents = 0
    state.shared_pages = 0
    state.packed_pages = 0
    state.packed_bytes = 0
    state.packed_frames = 0
    state.cold = layout.EVICT_STORED
    state.rewritten = 0
    pages = state.cells.page
    for anchor in range(layout.FIRST_CELL):
        pages[anchor].of_client.next = anchor
        pages[anchor].of_client.previous = anchor
        pages[anchor].eviction.next = anchor
        pages[anchor].eviction.previous = anchor
    for area in range(state.max_areas):
        state.areas[area].used = 0
    for slot_class in range(layout.PACKED_CLASSES):
        state.packed[slot_class] = 0


# Pages


@kernel
def is_cell(state, cell):
    """Whether this is the number of a cell that was ever taken."""
    return layout.FIRST_CELL <= cell < state.cells_touched


@kernel
def adopt_object(state, cells, cell):
    """The object of a page that is kept; whether it can be one."""
    if cells[cell] == OBJECT:
        return True
    if cells[cell] != FREE:
        return False
    cells[cell] = OBJECT
    it = state.cells.object[cell]
    it.pages.next = cell
    it.pages.previous = cell
    chain(state, state.object_buckets, object_bucket(state, it.pool, oid_of(it)), cell)
    state.objects += 1
    pool = state.pools[it.pool]
    pool.objects += 1
    pool.objects_max = max(pool.objects_max, pool.objects)
    return True


@kernel
def hold(state, frames, frame, holder):
    """A frame is held by ``holder``; whether it can be, and by nobody else."""
    if frame >= state.max_pages or frames[frame]:
        return False
    frames[frame] = 1
    state.frames[frame] = holder
    state.areas[frame // layout.AREA_PAGES].used += 1
    return True


@kernel
def adopt_content(state, cells, frames, page, cell):
    """The content a page shares; whether it can have it."""
    if not is_cell(state, cell):
        return False
    content = state.cells.content[cell]
    if cells[cell] == FREE:
        cells[cell] = CONTENT
        content.references = 0
        state.contents += 1
        if not hold(state, frames, content.frame, layout.FRAME_SHARED | cell):
            return False
    content.references += 1
    state.shared_pages += 1
    state.cells.page[page].store = layout.STORE_SHARED | cell
    return cells[cell] == CONTENT


@kernel
def adopt_slot(state, frames, page, frame, number):
    """The slot a compressed page lies in; whether it can."""
    if frame >= state.max_pages:
        return False
    holder = state.frames[frame]
    slot_class = holder & (layout.FRAME_PACKED - 1)
    if holder & HOLDER_MARKS != layout.FRAME_PACKED or slot_class >= layout.PACKED_CLASSES:
        return False
    head = head_of(state, frame)
    if not frames[frame]:
        hold(state, frames, frame, holder)
        head.used = 0
        state.packed_frames += 1
    bit = 1 << number
    if not all_used(slot_class) & bit or head.used & bit:
        return False
    head.used |= bit
    slot = slot_in(state, frame, slot_class, number)
    state.packed_pages += 1
    state.packed_bytes += slot.length
    return slot.page == page


@kernel
def finish_packing(state, page):
    """The dead process was compressing this page: its data goes back to the frame it had, which
    nobody else can have got."""
    frame = state.packing_frame
    decompress(state.scratch, state.packing_bytes, frame_address(state, frame))
    barrier()
    state.cells.page[page].store = frame
    barrier()
    state.packing = 0


@kernel
def adopt_store(state, cells, frames, page):
    """Where the data of a page is; whether it can be there."""
    if page == state.packing:
        finish_packing(state, page)
    place = state.cells.page[page].store
    if place == layout.NO_FRAME:
        state.zero_pages += 1
        return True
    if place & layout.STORE_SHARED:
        return adopt_content(state, cells, frames, page, place & layout.STORE_MASK)
    if place & layout.STORE_PACKED:
        place &= layout.STORE_MASK
        number = place & ((1 << layout.PACKED_SLOT_BITS) - 1)
        return adopt_slot(state, frames, page, place >> layout.PACKED_SLOT_BITS, number)
    return hold(state, frames, place, page)


@kernel
def adopt_page(state, cells, frames, page):
    """A page that is kept; whether what it leads to can be."""
    it = state.cells.page[page]
    if cells[page] != FREE or not is_cell(state, it.object):
        return False
    number = state.cells.object[it.object].pool
    if number >= layout.MAX_POOLS:
        return False
    pool = state.pools[number]
    if not pool.is_open:  # the dead process was destroying it
        state.kept[page] = 0
        return True
    cells[page] = PAGE
    if not pool.is_persistent or not adopt_object(state, cells, it.object):
        return False
    client = state.clients[pool.owner]
    client.persistent_pages += 1
    client.used_pages += 1
    state.pages += 1
    pool.pages += 1
    pool.pages_max = max(pool.pages_max, pool.pages)
    chain(state, state.page_buckets, page_bucket(state, name_of(state, page)), page)
    append(state.cells.page.mates, it.object, page)
    anchor = client_anchor(pool.owner, layout.ANCHOR_PERSISTENT)
    append(state.cells.page.of_client, anchor, page)
    return adopt_store(state, cells, frames, page)


# What is left


@kernel
def free_cells(state, cells):
    """Every cell that was taken and is nothing now is on the free list, low numbers first."""
    state.first_free_cell = 0
    free = 0
    for cell in range(state.cells_touched - 1, layout.FIRST_CELL - 1, -1):
        if cells[cell] == FREE:
            state.cells[cell].chain = state.first_free_cell
            state.first_free_cell = cell
            state.kept[cell] = 0
            free += 1
    state.free_cells = state.cell_count - state.cells_touched + free


@kernel
def settle_frames(state, frames, first, size):
    """The frames of a held area: those held are found by their content or class, the others are
    its free list, which is returned, low numbers first."""
    link = 0
    for frame in range(first + size - 1, first - 1, -1):
        if not frames[frame]:
            state.frames[frame] = layout.FRAME_FREE | link
            link = frame + 1
        elif is_packed(state.frames[frame]):
            slot_class = state.frames[frame] & (layout.FRAME_PACKED - 1)
            if head_of(state, frame).used != all_used(slot_class):
                open_frame(state, slot_class, frame)
            if state.dedup:
                state.hashed[frame].chain = layout.NOT_HASHED
        elif state.dedup and state.hashed[frame].chain != layout.NOT_HASHED:
            remember(state, frame, state.hashed[frame].tag)
    return link


@kernel
def settle_areas(state, frames):
    """Areas with a page are held, whatever was under way with them; no other is."""
    state.open_area = 0
    state.held_areas = 0
    state.held_frames = 0
    state.free_frames = 0
    for number in range(state.max_areas - 1, -1, -1):
        area, first = state.areas[number], number * layout.AREA_PAGES
        area.first_free = 0
        area.next = 0
        area.size = 0
        if area.used == 0:
            continue
        area.size = min(layout.AREA_PAGES, state.max_pages - first)
        area.first_free = settle_frames(state, frames, first, area.size)
        if area.first_free != 0:
            area.next = state.open_area
            state.open_area = number + 1
        state.held_areas += 1
        state.held_frames += area.size
        state.free_frames += area.size - area.used
    state.heap_free = state.free_frames
    state.host_taken = 0


@entry
def rebuild(address, cell_marks, frame_marks):
    """Make the pool in this state whole: 0, or a cell that contradicts another. The marks are
    bytes of 0, one per cell and per frame."""
    state, cells, frames = state_at(address), marks_at(cell_marks), marks_at(frame_marks)
    mend_clients_and_pools(state)
    forget_all(state)
    for cell in range(layout.FIRST_CELL, state.cells_touched):
        if state.kept[cell] and not adopt_page(state, cells, frames, cell):
            return cell
    state.packing = 0
    free_cells(state, cells)
    settle_areas(state, frames)
    return 0
