"""Where everything lies in the state of a pool: one block of memory, no Python object per page.

Owns: the offsets every kernel uses. The block (``tmem.state``) starts with int64 words (header,
clients, slots, pools), then the arrays the header points to:

  cells    one 40-byte descriptor per page, object, shared content and logged invalidation, in one
           arena with one free list
  buckets  heads of the hash chains: for pages, for objects, and with dedup for contents
  frames   per 4 KiB frame of the slab: who holds it (``FRAME_*``), or the next free frame
  same     with dedup only, two words per frame: chain and hash of its content
  areas    per 2 MiB area of the slab: size, used frames, first free frame, next open area

A cell is ten u32. Cell 0 means none; memory of zeroes is an empty pool, so nothing is touched
before it is used. Lists are circular and doubly linked through a cell that only anchors them:

  word     0      1         2 3         4 5          6 7        8      9
  page     chain  object    its object  its client   eviction   index  store
  object   chain  pool, u   its pages   oid[0]       oid[1]     oid[2]       u: client that used it
  content  -      refs      frame                                        (last, in the high half)
  gone     next   pool      index       oid[0]       oid[1]     oid[2]          (three u64 each)

Where a page's data is (``store``): a frame of its own; NO_FRAME, all zero; STORE_SHARED | content
cell; or STORE_PACKED | frame * 64 + slot, compressed. A page takes less than 64 bytes of this and
an object 40. The arena has room for an object per page (``cells_for``), so that it never ends
before the memory does; what is not used of it is never touched.
Single owner: whoever runs a kernel owns the whole block. Used by the kernels and by ``tmem.pool``.
"""

from __future__ import annotations

import numpy as np

U16, U32, U64, I64 = (np.dtype(kind) for kind in (np.uint16, np.uint32, np.uint64, np.int64))
ARRAY_OF = "array of"


def array_of(dtype: np.dtype) -> np.dtype:
    """An int64 field that holds the address of an array of ``dtype``."""
    return np.dtype(np.int64, metadata={ARRAY_OF: dtype})


PAGE_BYTES = 4096
AREA_PAGES = 512
AREA_BYTES = AREA_PAGES * PAGE_BYTES
WARM_FRAMES = 256  # a power of two: as many pages as stay in a level 2 cache of 1 MiB
MAX_AREAS = 32768
MAX_CLIENTS = 64
POOLS_PER_CLIENT = 16
SLOT_COUNT = MAX_CLIENTS * POOLS_PER_CLIENT
SHARED_POOLS = 16  # in the whole system, as in Xen
MAX_POOLS = SLOT_COUNT + SHARED_POOLS  # private pools have the number of their slot
AUTHORISATIONS = 16  # uuids per client

# Header words; those of a put or get first.
HEADER_FIELDS = (
    "cells",  # addresses of the arrays
    "page_buckets",
    "page_bucket_count",
    "slab",  # host address of area 0
    "same_buckets",  # 0 without dedup
    "reserve_pages",  # frames that must be free before any put
    "free_frames",  # frames tmem may take: its free list and the host's heap
    "operations",
    "object_buckets",
    "frames",
    "areas",
    "same",
    "scratch",  # one page
    "warm",  # frames written lately
    "note",  # tmem.shards' function that is told of every operation; 0: nobody wants curves
    "shards",  # what it works on
    "object_bucket_count",
    "same_bucket_count",
    "cell_count",
    "max_areas",
    "max_pages",  # frames that may ever be grown: the last area may be a part of one
    "free_cells",  # cells that may still be taken
    "cells_touched",  # cells ever taken; those beyond are still zero
    "first_free_cell",
    "open_area",  # first area with a free frame, + 1
    "held_areas",
    "held_frames",
    "heap_free",  # those of them that are the host's heap
    "host_taken",  # free frames the host uses for itself
    "pages",
    "objects",
    "zero_pages",
    "ephemeral_pages",
    "ephemeral_stored",  # frames that hold ephemeral pages only, as every frame does or does not
    "total_weight",
    "joined",  # number of the last join of a shared pool
    "errors",
    "evicted",
    "evict_attempts",
    "relinquished",
    "relinquish_attempts",
    "relinquish_evictions_max",
    "failed_copies",
    "relocated",
    "dedup_across",  # contents may be shared between clients
    "contents",  # that more than one page has had
    "shared_pages",  # pages that have such a content
    "deduped",
    "compression",
    "packed_pages",
    "packed_bytes",  # what is left of them
    "packed_frames",
    "poor",  # pages that did not compress well enough
    "cold",  # last page looked at in the eviction order, or its anchor
    "rewritten",  # a page before a cold one is raw again
)
(
    H_CELLS,
    H_PAGE_BUCKETS,
    H_PAGE_BUCKET_COUNT,
    H_SLAB,
    H_SAME_BUCKETS,
    H_RESERVE_PAGES,
    H_FREE_FRAMES,
    H_OPERATIONS,
    H_OBJECT_BUCKETS,
    H_FRAMES,
    H_AREAS,
    H_SAME,
    H_SCRATCH,
    H_WARM,
    H_NOTE,
    H_SHARDS,
    H_OBJECT_BUCKET_COUNT,
    H_SAME_BUCKET_COUNT,
    H_CELL_COUNT,
    H_MAX_AREAS,
    H_MAX_PAGES,
    H_FREE_CELLS,
    H_CELLS_TOUCHED,
    H_FIRST_FREE_CELL,
    H_OPEN_AREA,
    H_HELD_AREAS,
    H_HELD_FRAMES,
    H_HEAP_FREE,
    H_HOST_TAKEN,
    H_PAGES,
    H_OBJECTS,
    H_ZERO_PAGES,
    H_EPHEMERAL_PAGES,
    H_EPHEMERAL_STORED,
    H_TOTAL_WEIGHT,
    H_JOINED,
    H_ERRORS,
    H_EVICTED,
    H_EVICT_ATTEMPTS,
    H_RELINQUISHED,
    H_RELINQUISH_ATTEMPTS,
    H_RELINQUISH_EVICTIONS_MAX,
    H_FAILED_COPIES,
    H_RELOCATED,
    H_DEDUP_ACROSS,
    H_CONTENTS,
    H_SHARED_PAGES,
    H_DEDUPED,
    H_COMPRESSION,
    H_PACKED_PAGES,
    H_PACKED_BYTES,
    H_PACKED_FRAMES,
    H_POOR,
    H_COLD,
    H_REWRITTEN,
) = range(len(HEADER_FIELDS))
H_KEYS = 64  # nine secret words of the hash
KEY_COUNT = 9
HEADER_WORDS = 80

# Words of a client; `mm_target` may be written from outside at any time, -1 means no limit.
CLIENT_FIELDS = (
    "mm_target",
    "quota",  # persistent pages it may have, -1: no limit
    "is_frozen",
    "is_migrating",
    "used_pages",
    "gets",
    "gets_hit",
    "persistent_gets_hit",
    "ephemeral_gets_hit",
    "puts",
    "puts_succ",
    "persistent_puts_succ",
    "persistent_pages",
    "ephemeral_pages",
    "is_open",
    "weight",
    "is_saving",
    "first_gone",  # log of invalidations while migrating: cells
    "last_gone",
    "cold",  # last page looked at of the persistent ones, or their anchor
    "ephemeral_pages_max",
    "puts_failed_target",
    "puts_failed_nomem",
    "puts_failed_nospc",
    "puts_failed_frozen",
    "puts_failed_fault",
    "flushes",
    "evicted",
    "errors",
)
(
    C_MM_TARGET,
    C_QUOTA,
    C_IS_FROZEN,
    C_IS_MIGRATING,
    C_USED_PAGES,
    C_GETS,
    C_GETS_HIT,
    C_PERSISTENT_GETS_HIT,
    C_EPHEMERAL_GETS_HIT,
    C_PUTS,
    C_PUTS_SUCC,
    C_PERSISTENT_PUTS_SUCC,
    C_PERSISTENT_PAGES,
    C_EPHEMERAL_PAGES,
    C_IS_OPEN,
    C_WEIGHT,
    C_IS_SAVING,
    C_FIRST_GONE,
    C_LAST_GONE,
    C_COLD,
    C_EPHEMERAL_PAGES_MAX,
    C_PUTS_FAILED_TARGET,
    C_PUTS_FAILED_NOMEM,
    C_PUTS_FAILED_NOSPC,
    C_PUTS_FAILED_FROZEN,
    C_PUTS_FAILED_FAULT,
    C_FLUSHES,
    C_EVICTED,
    C_ERRORS,
) = range(len(CLIENT_FIELDS))
CLIENT_WORDS = len(CLIENT_FIELDS)
CLIENTS = HEADER_WORDS

# The uuids a client may join, two words each; all ones is a free place.
UUIDS = CLIENTS + MAX_CLIENTS * CLIENT_WORDS
UUID_WORDS = 2 * AUTHORISATIONS

# Per slot (client * 16 + slot): number of the pool it leads to, + 1, and when it joined that pool.
SLOT_WORDS = 2
SLOT_POOL, SLOT_JOINED = range(SLOT_WORDS)
SLOTS = UUIDS + MAX_CLIENTS * UUID_WORDS

# Words of a pool; those of a put or get lie together.
POOL_FIELDS = (
    "is_persistent",
    "is_shared",
    "owner",  # client all its pages are counted to
    "dedup",
    "pages",
    "gets",
    "gets_hit",
    "puts",
    "puts_good",
    "puts_replaced",
    "is_open",
    "slot",  # the owner's
    "sharers",  # slots that lead to it
    "uuid_lo",
    "uuid_hi",
    "pages_max",
    "objects",
    "objects_max",
    "puts_dropped",
    "puts_failed",
    "page_flushes",
    "page_flushes_hit",
    "object_flushes",
    "object_flushes_hit",
)
(
    P_IS_PERSISTENT,
    P_IS_SHARED,
    P_OWNER,
    P_DEDUP,
    P_PAGES,
    P_GETS,
    P_GETS_HIT,
    P_PUTS,
    P_PUTS_GOOD,
    P_PUTS_REPLACED,
    P_IS_OPEN,
    P_SLOT,
    P_SHARERS,
    P_UUID_LO,
    P_UUID_HI,
    P_PAGES_MAX,
    P_OBJECTS,
    P_OBJECTS_MAX,
    P_PUTS_DROPPED,
    P_PUTS_FAILED,
    P_PAGE_FLUSHES,
    P_PAGE_FLUSHES_HIT,
    P_OBJECT_FLUSHES,
    P_OBJECT_FLUSHES_HIT,
) = range(len(POOL_FIELDS))
POOL_WORDS = len(POOL_FIELDS)
POOLS = SLOTS + SLOT_COUNT * SLOT_WORDS

# Compressed pages: frames cut into slots of one size, twice so many classes as sizes, for
# persistent and ephemeral pages do not share a frame. Per class: first frame with a free slot, + 1.
PACKED_HEADER_BYTES = 64  # of such a frame: next, previous frame of the class, used slots
SLOT_HEADER_BYTES = 8  # of a slot: page cell, length
SLOTS_PER_FRAME = (56, 28, 18, 13, 10, 8, 6, 5, 4, 3, 2)
SLOT_BYTES = tuple((4096 - PACKED_HEADER_BYTES) // n // 8 * 8 for n in SLOTS_PER_FRAME)
PACKED_MAX_BYTES = SLOT_BYTES[-1] - SLOT_HEADER_BYTES  # 0.49 of a page; more would save nothing
PACKED_CLASSES = 2 * len(SLOT_BYTES)
PACKED = POOLS + MAX_POOLS * POOL_WORDS
FIXED_WORDS = PACKED + PACKED_CLASSES

# Columns of a cell. A list column is the next cell; the one after it is the previous cell.
CELL_WORDS = 10
CELL_CHAIN, CELL_OWNER, CELL_MATES = 0, 1, 2
CELL_OF_CLIENT, CELL_EVICTION, CELL_INDEX, CELL_STORE = 4, 6, 8, 9
CELL_OID = 2  # in u64 words of an object
OBJECT_POOL_BITS = 16  # the high half of an object's CELL_OWNER is the client that used it last
OBJECT_POOL_MASK = (1 << OBJECT_POOL_BITS) - 1

# Where the data of a page is; a plain number is its own frame.
NO_FRAME = 0xFFFFFFFF  # the page is all zero and holds no storage
STORE_SHARED = 1 << 31  # | content cell, and
STORE_SPARED = 1 << 30  # | when the page has been spared by an eviction once
STORE_PACKED = 1 << 30  # | frame << PACKED_SLOT_BITS | slot
STORE_MASK = STORE_PACKED - 1
PACKED_SLOT_BITS = 6

# Who holds a frame; a plain number is the page cell.
FRAME_FREE = 1 << 31  # | next free frame + 1
FRAME_SHARED = 1 << 30  # | content cell
FRAME_PACKED = 1 << 29  # | class
FRAME_MASK = FRAME_PACKED - 1

# Per frame, with dedup: the next frame on its hash chain, + 1, or NOT_HASHED; and its hash.
SAME_WORDS = 2
NOT_HASHED = 0xFFFFFFFF
CONTENT_REFS, CONTENT_FRAME, CONTENT_SCOPE = 1, 2, 3  # words of a content cell

# Anchors: cells that only hold the ends of a list.
EVICT_STORED = 1  # ephemeral pages that hold storage, in put order
EVICT_ZERO = 2  # ephemeral pages without; evicting them frees a cell only
CLIENT_ANCHORS = 3  # three per client: the same two, and persistent pages
ANCHOR_STORED, ANCHOR_ZERO, ANCHOR_PERSISTENT, ANCHORS_PER_CLIENT = range(4)
FIRST_CELL = CLIENT_ANCHORS + ANCHORS_PER_CLIENT * MAX_CLIENTS

# What is noted of a client's keys, for its miss-ratio curve.
NOTE_KINDS = range(8)
(
    NOTE_STORED,  # a put: the page is in tmem now, or
    NOTE_REFUSED,  # it is not
    NOTE_GET,  # a get that leaves a page where it is, or
    NOTE_TAKE,  # takes it out
    NOTE_FLUSH,
    NOTE_FLUSH_OBJECT,
    NOTE_DESTROY_POOL,
    NOTE_OPEN_CLIENT,
) = NOTE_KINDS

# Columns of an area.
AREA_WORDS = 4
AREA_SIZE, AREA_USED, AREA_FIRST_FREE, AREA_NEXT = range(AREA_WORDS)

SPARE_CELLS = 64  # so that a pool of a few pages has some for shared contents and the log

assert len(HEADER_FIELDS) <= H_KEYS
assert H_KEYS + KEY_COUNT <= HEADER_WORDS
MAX_PAGES = 1 << 27
assert MAX_PAGES * 2 + SPARE_CELLS + FIRST_CELL < FRAME_MASK, "a cell number is nothing else"
assert MAX_AREAS * AREA_PAGES << PACKED_SLOT_BITS <= STORE_PACKED


def cells_for(pages: int) -> int:
    """Cells of a pool with room for ``pages`` and as many objects, anchors not counted."""
    return 2 * pages + SPARE_CELLS
