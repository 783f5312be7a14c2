"""Which page is where: hash chains, lists and the cells they run through.

Owns: the cells, the hash tables of pages and objects, and every list. The hash is multilinear over
32-bit halves with secret keys (Lemire and Kaser, "Strongly universal string hashing is fast"): two
different names meet with probability 2^-32 whatever a guest chooses, so no guest can grow a long
chain. Used by the kernels.

Words of every kernel: ``state`` is the pool's ``layout.STATE``. Clients, pools and slots are given
by number, pages and objects by the number of their cell, where 0 means none. A pool's number is
unique in the state (a slot's is not). ``oid`` is a tuple of three u64.
"""

# Kernel arguments are typed by numba; annotations would only repeat "int".
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

from typing import Any, NamedTuple

from numba import int64, uint64

from tmem import layout
from tmem.raw_memory import kernel

LOW = 0xFFFFFFFF

client_anchor = kernel(layout.client_anchor)


class Name(NamedTuple):
    """The full name of a page, which exists or not."""

    pool: Any
    oid: Any
    index: Any


@kernel
def append(links, anchor, cell):
    """Put a cell at the tail of the list of ``anchor``; ``links`` has the list's LINK per cell."""
    last = links[anchor].previous
    links[cell].next = anchor
    links[cell].previous = last
    links[last].next = cell
    links[anchor].previous = cell


@kernel
def insert_first(links, anchor, cell):
    """Put a cell at the head of the list of ``anchor``."""
    first = links[anchor].next
    links[cell].next = first
    links[cell].previous = anchor
    links[first].previous = cell
    links[anchor].next = cell


@kernel
def unlink(links, cell):
    """Take a cell out of the list it is in."""
    after, before = links[cell].next, links[cell].previous
    links[before].next = after
    links[after].previous = before


@kernel
def take_cell(state):
    """A cell nobody uses; the caller has checked that one is free."""
    state.free_cells -= 1
    cell = state.first_free_cell
    if cell != 0:
        state.first_free_cell = state.cells[cell].chain
        return cell
    state.cells_touched += 1
    return state.cells_touched - 1


@kernel
def free_cell(state, cell):
    """Give a cell back; its other words keep stale values that nobody reads."""
    state.cells[cell].chain = state.first_free_cell
    state.first_free_cell = cell
    state.free_cells += 1


@kernel
def hash_object(state, pool, oid):
    """64 bits of hash of an object; the top half counts."""
    keys, low, half = state.keys, uint64(LOW), uint64(32)
    mixed = keys[0] + keys[1] * uint64(pool)
    mixed += keys[2] * (oid[0] & low) + keys[3] * (oid[0] >> half)
    mixed += keys[4] * (oid[1] & low) + keys[5] * (oid[1] >> half)
    return mixed + keys[6] * (oid[2] & low) + keys[7] * (oid[2] >> half)


@kernel
def hash_page_name(state, name):
    """64 bits of hash of a page's full name; the top half counts."""
    return hash_object(state, name.pool, name.oid) + state.keys[8] * uint64(name.index)


@kernel
def scale(mixed, count):
    """A hash as one of ``count`` buckets, without a division."""
    return (int64(mixed >> uint64(32)) * count) >> 32


@kernel
def object_bucket(state, pool, oid):
    """Bucket of an object."""
    return scale(hash_object(state, pool, oid), state.object_bucket_count)


@kernel
def page_bucket(state, name):
    """Bucket of a page, by its full name: the search for the page does not wait for its object."""
    return scale(hash_page_name(state, name), state.page_bucket_count)


@kernel
def oid_of(record):
    """The name an object's cell, or one of the log, carries."""
    return record.oid[0], record.oid[1], record.oid[2]


@kernel
def name_of(state, page):
    """The full name of a page that exists."""
    record = state.cells.page[page]
    owner = state.cells.object[record.object]
    return Name(owner.pool, oid_of(owner), record.index)


@kernel
def is_object(state, cell, pool, oid):
    """Whether a cell is the object of this name."""
    it = state.cells.object[cell]
    return it.oid[0] == oid[0] and it.oid[1] == oid[1] and it.oid[2] == oid[2] and it.pool == pool


@kernel
def find_object(state, pool, oid):
    """The object's cell, or 0: an object exists when it holds a page."""
    cell = state.object_buckets[object_bucket(state, pool, oid)]
    while cell != 0 and not is_object(state, cell, pool, oid):
        cell = state.cells[cell].chain
    return cell


@kernel
def find_page(state, name):
    """The cell of a page, or 0."""
    pages = state.cells.page
    page = state.page_buckets[page_bucket(state, name)]
    while page != 0:
        it = pages[page]
        if it.index == name.index and is_object(state, it.object, name.pool, name.oid):
            break
        page = it.chain
    return page


@kernel
def chain(state, buckets, bucket, cell):
    """Put a cell at the head of a hash chain."""
    state.cells[cell].chain = buckets[bucket]
    buckets[bucket] = cell


@kernel
def unchain(state, buckets, bucket, cell):
    """Take a cell out of the hash chain it is in."""
    before, after = buckets[bucket], state.cells[cell].chain
    if before == cell:
        buckets[bucket] = after
        return
    while state.cells[before].chain != cell:
        before = state.cells[before].chain
    state.cells[before].chain = after


@kernel
def object_of(state, page):
    """The record of the object a page belongs to."""
    return state.cells.object[state.cells.page[page].object]


@kernel
def new_object(state, pool, oid):
    """Make an object without pages; the caller adds one at once."""
    cell = take_cell(state)
    it = state.cells.object[cell]
    it.pool = pool
    it.oid[0], it.oid[1], it.oid[2] = oid
    it.pages.next = cell
    it.pages.previous = cell
    chain(state, state.object_buckets, object_bucket(state, pool, oid), cell)
    state.objects += 1
    counts = state.pools[pool]
    counts.objects += 1
    counts.objects_max = max(counts.objects_max, counts.objects)
    return cell


@kernel
def free_object(state, cell):
    """Forget an object whose last page has gone."""
    it = state.cells.object[cell]
    pool = it.pool
    unchain(state, state.object_buckets, object_bucket(state, pool, oid_of(it)), cell)
    free_cell(state, cell)
    state.objects -= 1
    state.pools[pool].objects -= 1
