"""The records that the compiled guests of a simulated world share with Python, as numpy dtypes.

Owns: the fields and the constants in them. Kernels and Python use the fields by name: Python as
``world["free_areas"]`` of a numpy record, a kernel as ``world.free_areas`` of the record that
``world_at`` finds at an address. Times are virtual nanoseconds unless the name says ticks. Memory
counts areas of 2 MiB or frames of 4 KiB. ``array_of`` fields hold the address of an array that
``memcoord.simulation.host`` keeps alive. Used by ``guest``, ``ledger``, ``host`` and ``world``.
"""

import numpy as np

from memcoord.simulation.costs import CPUS_MAX, DISK_DEPTH_MAX, QUANTILES, Costs
from tmem.layout import I64, U32, array_of
from tmem.raw_memory import record_at
from tmem.record import RECORD

SLOTS = 64  # domains at once, as in the hypervisor
BATCH_PAGES = 64  # pages evicted at once, MC_RING_SLOTS
DEPTH_MAX = 16  # faults under way at once, MC_PAGING_DEPTH_MAX
CLUSTER_MAX = 32  # pages written, or read, at once, MC_PAGING_CLUSTER_MAX
NO_PAGE = 0xFFFF_FFFF

#: A page of a domain. The nodes of the resident pages form a circular list, least recently used
#: first; the node after the one of the last page anchors it.
NODE = np.dtype(
    [
        ("next", U32),  # page numbers
        ("prev", U32),
        ("flags", U32),  # RESIDENT and so on
        ("seen", U32),  # when the page was last referenced, in ticks of SEEN_SHIFT
    ]
)

#: A time a domain spends before one of its references without doing anything.
PAUSE = np.dtype([("reference", I64), ("duration_ns", I64)])

#: A slot for a domain. All zero: there is none.
DOMAIN = np.dtype(
    [
        ("number", I64),  # of the slot: the domid, and the number of the pool's client
        ("state", I64),  # RUNNING and so on
        ("clock_ns", I64),
        ("next", I64),  # number of the next reference, so also how many are done
        ("stop", I64),  # the kernel returns before this reference
        ("part", array_of(U32)),  # references part_begin to part_end: the page, and WRITTEN
        ("part_begin", I64),
        ("part_end", I64),
        ("hit_ns", I64),  # time of a reference to a resident page
        ("nodes", array_of(NODE)),
        ("pages", I64),  # also the number of the list's anchor
        ("pauses", array_of(PAUSE)),  # ascending, ended by one before a reference that never comes
        ("pause", I64),  # number of the next one
        ("resident_max", I64),  # pages that may be in frames at the target it boots with
        ("boot_frames", I64),  # that target
        ("limit", I64),  # pages it lets itself have in frames
        ("target_areas", I64),
        ("current_areas", I64),
        ("resident", I64),  # pages in frames
        ("spares", I64),  # frames without a page
        ("swapped", I64),  # pages in frontswap
        ("touched", I64),  # pages ever touched
        ("has_frontswap", I64),
        ("has_cleancache", I64),
        *((name, I64) for name in ("cluster_pages", "ahead_pages", "depth_max")),  # Paging
        ("depth", I64),  # faults that may be under way
        ("flying", I64),  # faults under way
        ("flight_reads", I64),  # of those, that a file serves
        ("flight", I64, (DEPTH_MAX,)),
        ("leaving_count", I64),  # pages on their way out
        ("gone", I64),  # of those, pages that are in memory no more
        ("leaving", I64, (BATCH_PAGES,)),
        ("slots", array_of(U32)),  # of each page that is ON_DISK, its slot in the swap file
        ("slot_pages", array_of(U32)),  # of each slot its page, or NO_PAGE
        ("slot_next", I64),  # where a free one is looked for
        *((name, I64) for name in ("ahead_used", "ahead_last", "ahead_slot")),  # paging_ahead.c
        ("requests", I64),  # to tmem that were not sent yet
        ("service_ns", I64),  # that they take
        ("waited_ns", I64),  # time it has waited for others, or paused, without a processor
        ("stalled_ns", I64),  # time it stood still for want of memory
        *((counter, I64) for counter in ("faults", "first_touches", "tmem_hits", "swap_ins")),
        *((counter, I64) for counter in ("swap_outs", "file_reads", "puts", "failed_puts")),
        *((counter, I64) for counter in ("ahead", "ahead_hits", "disk_reads", "disk_writes")),
        ("calls", I64),  # batches sent to tmem
        ("grants", I64),  # areas taken out of free memory
        ("transfers", I64),  # areas taken from another domain or from tmem
        ("reclaimed", I64),  # areas given back
        ("promotions", array_of(I64)),  # references to a page that was idle, per age
    ]
)

COSTS = np.dtype([(name, I64) for name in Costs.__struct_fields__])

WORLD = np.dtype(
    [
        ("free_areas", I64),  # the ledger of the host, as backend/abi/ledger.h has it
        ("slack_areas", I64),
        ("promised_areas", I64),
        ("tmem_areas", I64),
        ("tmem_areas_max", I64),
        ("slab_used", array_of(I64)),  # per area of the pool's slab: 1 when the pool has it
        ("execute", I64),  # addresses of the pool's compiled entries
        ("grow", I64),
        ("shrink", I64),
        ("tmem_state", I64),  # address of the state they work on; 0: there is no tmem
        ("record", RECORD),  # the request to the pool that is being made
        ("page_out", array_of(I64)),  # the page that is put
        ("page_in", array_of(I64)),  # the page that a get writes to
        ("edges", array_of(I64)),  # ages the policies ask for, in ticks, and one never reached
        ("disk_free_ns", I64, (DISK_DEPTH_MAX,)),  # when each place of a shared disk is free
        ("service_free_ns", I64),  # when the service of tmem is
        ("costs", COSTS),
        ("disk_reads", I64, (QUANTILES,)),  # ns; each as likely
        ("disk_writes", I64, (QUANTILES,)),
        ("random", I64),  # that the next of them is drawn with
        ("unfinished", I64),  # 1 + the slot whose turn goes on once it has its next part, or 0
        ("turn_end_ns", I64),  # when that turn is over
        ("cpu_free_ns", I64, (CPUS_MAX,)),  # when each processor is done with what it runs
        ("domains", DOMAIN, (SLOTS,)),
    ]
)
world_at = record_at(WORLD)

#: States of a slot; 0 is one without a domain.
RUNNING, STOPPED, OUT_OF_MEMORY, WRONG_PAGE, PART_READ = range(1, 6)

WRITTEN_SHIFT = 31
WRITTEN = 1 << WRITTEN_SHIFT  # in a reference
PAGE_MASK = WRITTEN - 1
#: What is true of a page. None of these: never touched. AHEAD: read ahead and not used yet;
#: LEAVING: offered to tmem in the batch under way; FLYING: asked for in it.
RESIDENT, SWAPPED, ON_DISK, FILE, TOUCHED, AHEAD, LEAVING, FLYING = (1 << bit for bit in range(8))
#: A page of which RESIDENT alone is true of these is simply there.
SETTLED = RESIDENT | AHEAD | LEAVING | FLYING
#: Last references are kept in ticks of 2^20 ns, about a millisecond.
SEEN_SHIFT = 20
