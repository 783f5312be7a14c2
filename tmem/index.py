"""Which page is where: hash chains, lists and the cells they run through.

Owns: the cells, the two hash tables and every list. The hash is multilinear over 32-bit halves with
secret keys (Lemire and Kaser, "Strongly universal string hashing is fast"): two different keys meet
with probability 2^-32 whatever a guest chooses, so no guest can grow a long chain. Kernels take the
state as ``s``, a pointer to its int64 words; a cell number of 0 means none. Used by the kernels.
"""

# Kernel arguments are typed by numba; annotations would only repeat "int".
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

from numba import int64, uint64

from tmem.layout import (
    CELL_CHAIN,
    CELL_INDEX,
    CELL_MATES,
    CELL_OID,
    CELL_OWNER,
    CELL_WORDS,
    H_CELLS,
    H_CELLS_TOUCHED,
    H_FIRST_FREE_CELL,
    H_FREE_CELLS,
    H_OBJECT_BUCKET_COUNT,
    H_OBJECT_BUCKETS,
    H_OBJECTS,
    H_PAGE_BUCKET_COUNT,
    H_PAGE_BUCKETS,
    OBJECT_POOL_BITS,
    OBJECT_POOL_MASK,
    P_OBJECTS,
    P_OBJECTS_MAX,
    POOL_WORDS,
    POOLS,
)
from tmem.raw_memory import cells_at, field, kernel, key, oids_at, set_field

LOW = 0xFFFFFFFF


@kernel
def append(s, anchor, cell, links):
    """Put a cell at the tail of the list of ``anchor``; ``links`` is the list's column."""
    last = field(s, anchor, links + 1)
    set_field(s, cell, links, anchor)
    set_field(s, cell, links + 1, last)
    set_field(s, last, links, cell)
    set_field(s, anchor, links + 1, cell)


@kernel
def insert_first(s, anchor, cell, links):
    """Put a cell at the head of the list of ``anchor``."""
    first = field(s, anchor, links)
    set_field(s, cell, links, first)
    set_field(s, cell, links + 1, anchor)
    set_field(s, first, links + 1, cell)
    set_field(s, anchor, links, cell)


@kernel
def unlink(s, cell, links):
    """Take a cell out of the list it is in."""
    after = field(s, cell, links)
    before = field(s, cell, links + 1)
    set_field(s, before, links, after)
    set_field(s, after, links + 1, before)


@kernel
def take_cell(s):
    """A cell nobody uses; the caller has checked that one is free."""
    s[H_FREE_CELLS] -= 1
    cell = s[H_FIRST_FREE_CELL]
    if cell != 0:
        s[H_FIRST_FREE_CELL] = field(s, cell, CELL_CHAIN)
        return cell
    cell = s[H_CELLS_TOUCHED]
    s[H_CELLS_TOUCHED] = cell + 1
    return cell


@kernel
def free_cell(s, cell):
    """Give a cell back; its other words keep stale values that nobody reads."""
    set_field(s, cell, CELL_CHAIN, s[H_FIRST_FREE_CELL])
    s[H_FIRST_FREE_CELL] = cell
    s[H_FREE_CELLS] += 1


@kernel
def hash_object(s, pool, oid0, oid1, oid2):
    """64 bits of hash of an object; the top half counts."""
    low, half = uint64(LOW), uint64(32)
    mixed = key(s, 0) + key(s, 1) * uint64(pool)
    mixed += key(s, 2) * (oid0 & low) + key(s, 3) * (oid0 >> half)
    mixed += key(s, 4) * (oid1 & low) + key(s, 5) * (oid1 >> half)
    return mixed + key(s, 6) * (oid2 & low) + key(s, 7) * (oid2 >> half)


@kernel
def object_bucket(s, pool, oid0, oid1, oid2):
    """Bucket of an object; the hash is scaled to the table without a division."""
    mixed = hash_object(s, pool, oid0, oid1, oid2)
    return (int64(mixed >> uint64(32)) * s[H_OBJECT_BUCKET_COUNT]) >> 32


@kernel
def page_bucket(s, pool, oid0, oid1, oid2, index):
    """Bucket of a page, by its full name: finding it does not wait for its object."""
    mixed = hash_object(s, pool, oid0, oid1, oid2) + key(s, 8) * uint64(index)
    return (int64(mixed >> uint64(32)) * s[H_PAGE_BUCKET_COUNT]) >> 32


@kernel
def bucket_of_page(s, page):
    """Bucket of a page that exists."""
    object_cell = field(s, page, CELL_OWNER)
    oids = oids_at(s[H_CELLS])
    at = object_cell * (CELL_WORDS // 2) + CELL_OID
    pool = field(s, object_cell, CELL_OWNER) & OBJECT_POOL_MASK
    return page_bucket(s, pool, oids[at], oids[at + 1], oids[at + 2], field(s, page, CELL_INDEX))


@kernel
def is_object(s, cell, pool, oid0, oid1, oid2):
    """Whether a cell is the object of this name."""
    oids = oids_at(s[H_CELLS])
    at = cell * (CELL_WORDS // 2) + CELL_OID
    return (
        oids[at] == oid0
        and oids[at + 1] == oid1
        and oids[at + 2] == oid2
        and field(s, cell, CELL_OWNER) & OBJECT_POOL_MASK == pool
    )


@kernel
def find_object(s, pool, oid0, oid1, oid2):
    """The object's cell, or 0: an object exists when it holds a page."""
    bucket = object_bucket(s, pool, oid0, oid1, oid2)
    cell = int64(cells_at(s[H_OBJECT_BUCKETS])[bucket])
    while cell != 0 and not is_object(s, cell, pool, oid0, oid1, oid2):
        cell = field(s, cell, CELL_CHAIN)
    return cell


@kernel
def find_page(s, pool, oid0, oid1, oid2, index):
    """The cell of a page, or 0."""
    bucket = page_bucket(s, pool, oid0, oid1, oid2, index)
    cell = int64(cells_at(s[H_PAGE_BUCKETS])[bucket])
    while cell != 0:
        if field(s, cell, CELL_INDEX) == index and is_object(
            s, field(s, cell, CELL_OWNER), pool, oid0, oid1, oid2
        ):
            return cell
        cell = field(s, cell, CELL_CHAIN)
    return 0


@kernel
def chain(s, table, bucket, cell):
    """Put a cell at the head of a hash chain; ``table`` is the header word of the buckets."""
    buckets = cells_at(s[table])
    set_field(s, cell, CELL_CHAIN, int64(buckets[bucket]))
    buckets[bucket] = cell


@kernel
def unchain(s, table, bucket, cell):
    """Take a cell out of the hash chain it is in."""
    buckets = cells_at(s[table])
    before = int64(buckets[bucket])
    after = field(s, cell, CELL_CHAIN)
    if before == cell:
        buckets[bucket] = after
        return
    while field(s, before, CELL_CHAIN) != cell:
        before = field(s, before, CELL_CHAIN)
    set_field(s, before, CELL_CHAIN, after)


@kernel
def pool_of_object(s, cell):
    """The pool an object is in."""
    return field(s, cell, CELL_OWNER) & OBJECT_POOL_MASK


@kernel
def pool_of_page(s, page):
    """The pool a page is in."""
    return pool_of_object(s, field(s, page, CELL_OWNER))


@kernel
def last_client(s, cell):
    """The client that last put into an object, or got from it in a shared pool."""
    return field(s, cell, CELL_OWNER) >> OBJECT_POOL_BITS


@kernel
def set_last_client(s, cell, client):
    """Note who used an object last."""
    set_field(s, cell, CELL_OWNER, pool_of_object(s, cell) | client << OBJECT_POOL_BITS)


@kernel
def new_object(s, pool, oid0, oid1, oid2):
    """Make an object without pages; the caller adds one at once."""
    cell = take_cell(s)
    oids = oids_at(s[H_CELLS])
    at = cell * (CELL_WORDS // 2) + CELL_OID
    oids[at] = oid0
    oids[at + 1] = oid1
    oids[at + 2] = oid2
    set_field(s, cell, CELL_OWNER, pool)
    set_field(s, cell, CELL_MATES, cell)
    set_field(s, cell, CELL_MATES + 1, cell)
    chain(s, H_OBJECT_BUCKETS, object_bucket(s, pool, oid0, oid1, oid2), cell)
    s[H_OBJECTS] += 1
    p = POOLS + pool * POOL_WORDS
    s[p + P_OBJECTS] += 1
    s[p + P_OBJECTS_MAX] = max(s[p + P_OBJECTS_MAX], s[p + P_OBJECTS])
    return cell


@kernel
def free_object(s, cell):
    """Forget an object whose last page has gone."""
    oids = oids_at(s[H_CELLS])
    at = cell * (CELL_WORDS // 2) + CELL_OID
    pool = pool_of_object(s, cell)
    bucket = object_bucket(s, pool, oids[at], oids[at + 1], oids[at + 2])
    unchain(s, H_OBJECT_BUCKETS, bucket, cell)
    free_cell(s, cell)
    s[H_OBJECTS] -= 1
    s[POOLS + pool * POOL_WORDS + P_OBJECTS] -= 1
