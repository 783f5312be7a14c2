"""Where everything of a simulated world lies: int64 words the kernels and Python share.

Owns: the offsets. The world's words come first, then ``DOMAIN_WORDS`` words for each slot of a
domain. Times are virtual nanoseconds, memory counts areas of 2 MiB or frames of 4 KiB. A page of a
domain is four u32: its neighbours in the LRU list, its flags, and when it was last referenced. The
node after the last page is the list's anchor. Imports nothing; kernels and
``memcoord.simulation.host`` use it.
"""

from __future__ import annotations

SLOTS = 64  # domains at once, as in the hypervisor

WORLD_FIELDS = (
    "free_areas",  # the ledger of the host, as backend/abi/host.h has it
    "slack_areas",
    "promised_areas",
    "tmem_areas",
    "tmem_areas_max",
    "execute",  # addresses of the pool's compiled entries
    "grow",
    "shrink",
    "tmem_state",  # 0: there is no tmem
    "slab_used",  # address of a word per area
    "record",  # address of a struct mc_record
    "page_out",  # addresses of the page that is put and of the one that is got
    "page_in",
    "edges",  # address of the policies' ages in ticks of NODE_SEEN, ended by one never reached
    "disk_shared",  # 1: all domains wait for one disk
    "disk_free_ns",  # when the shared disk is done with what it has
    "fault_ns",
    "tmem_get_ns",
    "tmem_put_ns",
    "disk_read_ns",
    "disk_write_ns",
    "first_touch_ns",
)
(
    W_FREE_AREAS,
    W_SLACK_AREAS,
    W_PROMISED_AREAS,
    W_TMEM_AREAS,
    W_TMEM_AREAS_MAX,
    W_EXECUTE,
    W_GROW,
    W_SHRINK,
    W_TMEM_STATE,
    W_SLAB_USED,
    W_RECORD,
    W_PAGE_OUT,
    W_PAGE_IN,
    W_EDGES,
    W_DISK_SHARED,
    W_DISK_FREE_NS,
    W_FAULT_NS,
    W_TMEM_GET_NS,
    W_TMEM_PUT_NS,
    W_DISK_READ_NS,
    W_DISK_WRITE_NS,
    W_FIRST_TOUCH_NS,
) = range(len(WORLD_FIELDS))

#: Those that are fields of ``costs.Costs``.
COSTS = WORLD_FIELDS[WORLD_FIELDS.index("fault_ns") :]

#: States of a slot.
EMPTY, RUNNING, STOPPED, OUT_OF_MEMORY, WRONG_PAGE = range(5)

DOMAIN_FIELDS = (
    "state",
    "clock_ns",
    "next",  # number of the next reference; as many are done
    "stop",  # the kernel returns before this one
    "references",  # address of a u32 each: page, and WRITTEN
    "hit_ns",
    "nodes",  # address
    "pages",  # also the number of the list's anchor
    "pauses",  # address of (reference number, nanoseconds) each, ended by one that never comes
    "pause",  # number of the next one
    "resident_max",  # pages that may be in frames at the target it boots with
    "boot_frames",  # that target
    "limit",  # pages it lets itself have in frames
    "target_areas",
    "current_areas",
    "resident",  # pages in frames
    "spares",  # frames without a page
    "swapped",  # pages in frontswap
    "touched",  # pages ever touched
    "has_frontswap",
    "has_cleancache",
    "disk_free_ns",
    "stalled_ns",  # time it stood still for want of memory
    "faults",
    "first_touches",
    "tmem_hits",
    "swap_ins",
    "swap_outs",
    "file_reads",
    "puts",
    "failed_puts",
    "grants",  # areas taken out of free memory
    "transfers",  # areas taken from another domain or from tmem
    "reclaimed",  # areas given back
    "promotions",  # address of a count per age
)
(
    D_STATE,
    D_CLOCK_NS,
    D_NEXT,
    D_STOP,
    D_REFERENCES,
    D_HIT_NS,
    D_NODES,
    D_PAGES,
    D_PAUSES,
    D_PAUSE,
    D_RESIDENT_MAX,
    D_BOOT_FRAMES,
    D_LIMIT,
    D_TARGET_AREAS,
    D_CURRENT_AREAS,
    D_RESIDENT,
    D_SPARES,
    D_SWAPPED,
    D_TOUCHED,
    D_HAS_FRONTSWAP,
    D_HAS_CLEANCACHE,
    D_DISK_FREE_NS,
    D_STALLED_NS,
    D_FAULTS,
    D_FIRST_TOUCHES,
    D_TMEM_HITS,
    D_SWAP_INS,
    D_SWAP_OUTS,
    D_FILE_READS,
    D_PUTS,
    D_FAILED_PUTS,
    D_GRANTS,
    D_TRANSFERS,
    D_RECLAIMED,
    D_PROMOTIONS,
) = range(len(DOMAIN_FIELDS))
DOMAIN_WORDS = len(DOMAIN_FIELDS)
DOMAINS = 64  # where the slots begin
WORDS = DOMAINS + SLOTS * DOMAIN_WORDS
assert len(WORLD_FIELDS) <= DOMAINS

WRITTEN = 1 << 31  # in a reference
PAGE_MASK = WRITTEN - 1
NODE_WORDS = 4
NODE_NEXT, NODE_PREV, NODE_FLAGS, NODE_SEEN = range(NODE_WORDS)
#: What is true of a page. None of these: never touched.
RESIDENT, SWAPPED, ON_DISK, FILE, TOUCHED = (1 << bit for bit in range(5))
#: Last references are kept in ticks of 2^20 ns, about a millisecond.
SEEN_SHIFT = 20
