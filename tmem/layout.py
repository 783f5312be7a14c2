"""Where everything lies in the state of a pool: one block of memory, no Python object per page.

Owns: the numpy dtypes of that block. Each field is declared here once. Kernels and Python use the
same dtypes, both by field name (for kernels: ``tmem.raw_memory``). The block begins with one
``STATE``; its ``array_of`` fields hold the addresses of the arrays that follow it:

  cells    one 40-byte descriptor per page, object, shared content and logged invalidation, in one
           arena with one free list
  buckets  heads of the hash chains: for pages, for objects, and with dedup for frames
  frames   per 4 KiB frame of the slab: who holds it (``FRAME_*``), or the next free frame
  hashed   with dedup only, per frame: the hash of its content
  areas    per 2 MiB area of the slab: size, used frames, free frames
  kept     per cell: 1 when it is a page that outlives the process (``tmem.kept``)

The slab is the memory that holds the pages themselves. It need not be part of the block.

Cell 0 means no cell. Frames, areas and pools begin at number 0, so a field that may name none of
them holds the number plus one; such fields say "+ 1". Memory of zeroes is an empty pool, so no page
of the block is touched before it is used.

Lists are circular and doubly linked by a ``LINK`` in each cell. The list begins and ends in a cell
that is no page, its anchor.

A page takes less than 64 bytes of the block and an object 40. The arena has room for an object per
page (``cells_for``), so it never ends before the memory does.
Single owner: the caller of a kernel owns the whole block while the kernel runs. Used by the kernels
and by ``tmem.pool``; pure constants.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

PAGE_BYTES = 4096
AREA_PAGES = 512
AREA_BYTES = AREA_PAGES * PAGE_BYTES
WARM_FRAMES = 256  # a power of two: as many pages as stay in a level 2 cache of 1 MiB
MAX_AREAS = 32768
MAX_PAGES = 1 << 27
MAX_CLIENTS = 64
POOLS_PER_CLIENT = 16
SLOT_COUNT = MAX_CLIENTS * POOLS_PER_CLIENT
SHARED_POOLS = 16  # in the whole system, as in Xen
MAX_POOLS = SLOT_COUNT + SHARED_POOLS  # a private pool has the number of its slot
AUTHORISATIONS = 16  # uuids per client
KEY_COUNT = 9

U8, U16, U32, U64, I64 = (
    np.dtype(kind) for kind in (np.uint8, np.uint16, np.uint32, np.uint64, np.int64)
)
ARRAY_OF = "array of"


def array_of(dtype: np.dtype) -> np.dtype:
    """An int64 field that holds the address of an array of ``dtype``."""
    return np.dtype(np.int64, metadata={ARRAY_OF: dtype})


def record(*fields: tuple[Any, ...]) -> np.dtype:
    """A record of ``fields``: name, dtype and, for an array, how many. One name may be several,
    with spaces between them, of the same dtype."""
    return np.dtype([(name, *rest) for names, *rest in fields for name in names.split()])


# Compressed pages lie in frames that are cut into slots of one size. A class is a slot size and a
# kind: class 2n holds ephemeral pages in slots of size n, class 2n + 1 persistent ones.
PACKED_HEAD = record(  # at the start of such a frame
    ("next", U32),  # frame of the class with a free slot, + 1
    ("previous", U32),  # the same, the other way
    ("used", I64),  # a bit per slot
)
PACKED_SLOT = record(("page length", U32))  # before the compressed bytes of a slot
PACKED_HEADER_BYTES = 64  # the head takes a cache line
SLOT_HEADER_BYTES = PACKED_SLOT.itemsize
SLOTS_PER_FRAME = (56, 28, 18, 13, 10, 8, 6, 5, 4, 3, 2)
SLOT_BYTES = tuple((PAGE_BYTES - PACKED_HEADER_BYTES) // n // 8 * 8 for n in SLOTS_PER_FRAME)
PACKED_MAX_BYTES = SLOT_BYTES[-1] - SLOT_HEADER_BYTES  # 0.49 of a page; more would save nothing
PACKED_CLASSES = 2 * len(SLOT_BYTES)

# A cell is one of four records, all of 40 bytes. `chain` links a hash chain, the log, or, in a cell
# that is not used, the free list.
LINK = record(("next previous", U32))
PAGE = record(
    ("chain", U32),
    ("object", U32),  # cell of the object it belongs to
    ("mates", LINK),  # the pages of its object
    ("of_client", LINK),  # the pages of one kind (ANCHOR_*) of its client
    ("eviction", LINK),  # ephemeral pages in the order they are evicted
    ("index", U32),
    ("store", U32),  # where its data is: NO_FRAME, STORE_*, or the number of its own frame
)
OBJECT = record(
    ("chain", U32),
    ("pool", U16),
    ("user", U16),  # client that put into it last, or got from it in a shared pool
    ("pages", LINK),  # anchor of its pages' `mates`
    ("oid", U64, 3),
)
CONTENT = record(  # the data of several pages, kept once
    ("chain references frame", U32),
    ("scope", U32),  # pages of one scope may share it (tmem.dedup)
)
# One entry of the log of invalidations.
GONE = record(("chain pool index unused", U32), ("oid", U64, 3))
CELL_KINDS: dict[str, Any] = {"page": PAGE, "object": OBJECT, "content": CONTENT, "gone": GONE}
CELL = np.dtype(
    {
        "names": [*CELL_KINDS, "chain"],
        "formats": [*CELL_KINDS.values(), U32],
        "offsets": [0] * (len(CELL_KINDS) + 1),
        "itemsize": PAGE.itemsize,
    }
)
assert PAGE.fields is not None
assert OBJECT.fields is not None
assert PAGE.fields["mates"] == OBJECT.fields["pages"], "an object anchors the list of its pages"

AREA = record(
    ("size", U32),  # frames; 0: the area is absent
    ("used", U32),  # frames
    ("first_free", U32),  # frame, + 1
    ("next", U32),  # area with a free frame, + 1
)
HASHED = record(
    ("chain", U32),  # next frame on the hash chain, + 1; NOT_HASHED when it is on none
    ("tag", U32),  # hash of the content
)
NOT_HASHED = 0xFFFFFFFF

POOL = record(  # what a put or get touches first
    ("is_persistent is_shared", I64),
    ("owner", I64),  # client all its pages are counted to
    ("dedup pages gets gets_hit puts puts_good puts_replaced is_open", I64),
    ("slot", I64),  # the owner's slot that leads to it
    ("sharers", I64),  # slots that lead to it
    ("uuid_lo uuid_hi pages_max objects objects_max puts_dropped puts_failed", I64),
    ("page_flushes page_flushes_hit object_flushes object_flushes_hit", I64),
)
SLOT = record(
    ("pool", I64),  # that the slot leads to, + 1
    ("joined", I64),  # number of the join; the lowest joined first
    ("seq", I64),  # of the record that asked for the pool; NO_RECORD when none did
)
NO_RECORD = -1
UUID = record(("low high", I64))  # all ones: no uuid
CLIENT = record(
    ("mm_target", I64),  # pages, -1: no limit; may be written from outside at any time
    ("quota", I64),  # persistent pages it may have, -1: no limit
    ("is_frozen is_migrating used_pages gets gets_hit persistent_gets_hit", I64),
    ("ephemeral_gets_hit puts puts_succ persistent_puts_succ persistent_pages", I64),
    ("ephemeral_pages is_open weight", I64),
    ("is_saving", I64),  # 0, or 1 + what is_frozen was before
    ("first_gone", I64),  # log of invalidations while migrating: cells
    ("last_gone", I64),
    ("cold", I64),  # persistent page the compressor looked at last, or their anchor
    ("ephemeral_pages_max puts_failed_target puts_failed_nomem puts_failed_nospc", I64),
    ("puts_failed_frozen puts_failed_fault flushes evicted errors", I64),
    ("slots", SLOT, POOLS_PER_CLIENT),
    ("uuids", UUID, AUTHORISATIONS),  # it may share pools of
)

STATE = record(  # what a put or get touches first
    ("cells", array_of(CELL)),
    ("page_buckets", array_of(U32)),
    ("page_bucket_count", I64),
    ("slab", I64),  # host address of area 0
    ("dedup", I64),  # whether pages may share their content
    ("reserve_pages", I64),  # frames that must be free before any put
    ("free_frames", I64),  # frames tmem may take: its free list and the host's heap
    ("operations", I64),
    ("object_buckets", array_of(U32)),
    ("frames", array_of(U32)),
    ("areas", array_of(AREA)),
    ("hashed", array_of(HASHED)),
    ("scratch", I64),  # address of two pages
    ("warm", array_of(U32)),  # frames written lately
    ("note", I64),  # tmem.shards' function that is told of every operation; 0: no curves
    ("kept", array_of(U8)),
    ("hash_page", I64),  # xxHash's function, with dedup
    ("object_bucket_count", I64),
    ("hash_buckets", array_of(U32)),
    ("hash_bucket_count cell_count max_areas", I64),
    ("max_pages", I64),  # frames that may ever be grown: the last area may be a part of one
    ("free_cells", I64),  # cells that may still be taken
    ("cells_touched", I64),  # cells ever taken; those beyond are still zero
    ("first_free_cell", I64),
    ("open_area", I64),  # first area with a free frame, + 1
    ("held_areas held_frames", I64),
    ("heap_free", I64),  # free frames that are in the host's heap
    ("host_taken", I64),  # free frames the host uses for itself
    ("pages objects zero_pages ephemeral_pages", I64),
    ("ephemeral_stored", I64),  # frames with ephemeral pages; no frame mixes the two kinds
    ("total_weight", I64),
    ("joined", I64),  # number of the last join of a pool
    ("errors evicted evict_attempts relinquished relinquish_attempts", I64),
    ("relinquish_evictions_max failed_copies relocated", I64),
    ("dedup_across", I64),  # contents may be shared between clients
    ("contents", I64),  # content cells
    ("shared_pages", I64),  # pages that have such a content
    ("deduped compression packed_pages", I64),
    ("packed_bytes", I64),  # sum of their compressed lengths
    ("packed_frames", I64),
    ("poor", I64),  # pages that did not compress well enough
    ("cold", I64),  # page the compressor looked at last in eviction order, or its anchor
    ("rewritten", I64),  # a page before a cold one may be raw again
    ("layout", I64),  # LAYOUT of the code that made the state; 0 until it is made
    ("shards", I64),  # address of the estimators that function works on
    ("packing", I64),  # page whose compressed data is in scratch, not yet in its slot; 0: none
    ("packing_frame packing_bytes", I64),  # the frame it had; how long the data is
    ("unused", I64, 3),
    ("keys", U64, KEY_COUNT),  # secret, of the hash
    ("packed", I64, PACKED_CLASSES),  # per class: first frame with a free slot, + 1
    ("pools", POOL, MAX_POOLS),
    ("clients", CLIENT, MAX_CLIENTS),
)
assert STATE.fields is not None
assert STATE.fields["pools"][1] % 64 == 0, "a pool begins with a cache line"

#: names how a state is laid out: a state in memory that outlives its process may be older
LAYOUT = zlib.crc32(repr((STATE, CELL, AREA, HASHED, PACKED_HEAD, PACKED_SLOT)).encode())

# Where the data of a page is (`store`); a plain number is a frame of its own.
NO_FRAME = 0xFFFFFFFF  # the page is all zero and holds no storage
STORE_SHARED = 1 << 31  # | content cell, and
STORE_SPARED = 1 << 30  # | when the page has been spared by an eviction once
STORE_PACKED = 1 << 30  # | frame << PACKED_SLOT_BITS | slot
STORE_MASK = STORE_PACKED - 1
PACKED_SLOT_BITS = 6

# Who holds a frame (`frames`); a plain number is the page cell.
FRAME_FREE = 1 << 31  # | next free frame, + 1
FRAME_SHARED = 1 << 30  # | content cell
FRAME_PACKED = 1 << 29  # | class
FRAME_MASK = FRAME_PACKED - 1

# Cells that are only anchors of lists.
EVICT_STORED = 1  # of `eviction`: pages that hold storage, in put order
EVICT_ZERO = 2  # of `eviction`: pages of zeroes; evicting one frees a cell only
CLIENT_ANCHORS = 3  # of `of_client`, three per client: the same two kinds, and persistent pages
ANCHOR_STORED, ANCHOR_ZERO, ANCHOR_PERSISTENT, ANCHORS_PER_CLIENT = range(4)
FIRST_CELL = CLIENT_ANCHORS + ANCHORS_PER_CLIENT * MAX_CLIENTS

# What is noted of a client's keys, for its miss-ratio curve.
(
    NOTE_STORED,  # a put: the page is in tmem now, or
    NOTE_REFUSED,  # it is not
    NOTE_GET,  # a get that leaves a page where it is, or
    NOTE_TAKE,  # takes it out
    NOTE_FLUSH,
    NOTE_FLUSH_OBJECT,
    NOTE_DESTROY_POOL,
    NOTE_OPEN_CLIENT,
) = range(8)

SPARE_CELLS = 64  # so that a pool of a few pages has some for shared contents and the log

assert MAX_PAGES * 2 + SPARE_CELLS + FIRST_CELL < FRAME_MASK, "a cell number is nothing else"
assert MAX_AREAS * AREA_PAGES << PACKED_SLOT_BITS <= STORE_PACKED


def client_anchor(client: int, kind: int) -> int:
    """The anchor of a client's pages of one kind: ANCHOR_STORED, ANCHOR_ZERO, ANCHOR_PERSISTENT."""
    return CLIENT_ANCHORS + client * ANCHORS_PER_CLIENT + kind


def cells_for(pages: int) -> int:
    """Cells of a pool with room for ``pages`` and as many objects, anchors not counted."""
    return 2 * pages + SPARE_CELLS
