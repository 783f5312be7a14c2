"""The paging of a simulated guest, compiled: what ``frontend/abi/paging*.c`` does, in virtual time.

Owns: faults, evictions, the swap file and the faults under way. Decisions are those of the C, one
by one, so that both have the same counts for the same references, targets and answers of tmem:

* A page is never touched, resident, in frontswap, on disk, or one of the program's file.
* A page read from disk keeps its slot until it is written to, or tmem has it. A get takes the page
  out of tmem.
* A page that tmem refuses is written to disk, unless the disk has it; the next least recently used
  pages go with it in one transfer, to slots that lie together.
* A read from disk brings neighbours of the slot along, by how many of the last ones were used.
* Faults that tmem serves wait for each other in one batch, as many as ``depth`` says.

Only bytes, the order of what happens within a batch, and where frames lie are left out; and a fault
that the disk serves is never under way with others, as it may be in the C (``paging_flight.c``): a
guest of more than one fault at a time waits for its disk longer here, and reads ahead otherwise.
``memcoord.simulation.ledger`` decides where memory comes from, ``requests`` asks tmem and the disk.
Used by ``memcoord.simulation.guest``.
"""

# Kernel arguments are typed by numba; annotations would only repeat "int".
# ruff: noqa: ANN001, ANN201
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, attr-defined, call-arg, no-any-return, var-annotated"

from hypervisor.public.units import AREA_FRAMES
from memcoord.simulation import layout as L
from memcoord.simulation.ledger import grow_ram, release, spare_areas
from memcoord.simulation.requests import (
    CLEANCACHE,
    FRONTSWAP,
    flush,
    get,
    put,
    submit,
    wait_disk,
)  # fmt: skip
from tmem.raw_memory import kernel

NO_MEMORY_EVICTIONS = 2  # pages evicted by a guest that gets no frame, as paging_evict.c
CLUSTER_SHARE = 64  # a cluster is at most this part of the limit: MC_PAGING_SHARE
FLIGHT_RESIDENT_MIN = 64  # paging_flight.c
GONE = ~(L.RESIDENT | L.AHEAD)


@kernel
def share(limit, pages):
    """At most a small part of the limit, so that a small guest keeps what it uses."""
    return max(min(limit // CLUSTER_SHARE, pages), 1)


# The LRU list


@kernel
def unlink(nodes, page):
    """Take a page out of the list."""
    after, before = nodes[page].next, nodes[page].prev
    nodes[before].next = after
    nodes[after].prev = before


@kernel
def append(nodes, anchor, page):
    """Make a page the most recently used one."""
    last = nodes[anchor].prev
    nodes[page].next, nodes[page].prev = anchor, last
    nodes[last].next = page
    nodes[anchor].prev = page


# The swap file


@kernel
def forget_slot(domain, page):
    """The copy of a page on disk, if there is one, is old."""
    node = domain.nodes[page]
    if node.flags & L.ON_DISK:
        domain.slot_pages[domain.slots[page]] = L.NO_PAGE
        node.flags &= ~L.ON_DISK


@kernel
def take_slot(domain, page):
    """Give a page the next free slot; there are as many slots as pages."""
    slot = domain.slot_next % domain.pages
    while domain.slot_pages[slot] != L.NO_PAGE:
        slot = slot + 1 if slot + 1 < domain.pages else 0
    domain.slot_pages[slot] = page
    domain.slots[page] = slot
    domain.slot_next = slot + 1


@kernel
def write_pages(world, domain):
    """Write the pages that are leaving, a transfer for all whose slots follow each other."""
    count, begin = domain.leaving_count, 0
    for at in range(count):
        take_slot(domain, domain.leaving[at])
    for end in range(1, count + 1):
        if end < count:
            before = domain.slots[domain.leaving[end - 1]]
            if domain.slots[domain.leaving[end]] == before + 1:
                continue
        costs = world.costs
        wait_disk(world, domain, world.disk_writes, (end - begin - 1) * costs.disk_write_page_ns)
        domain.disk_writes += 1
        begin = end
    for at in range(count):
        node = domain.nodes[domain.leaving[at]]
        node.flags = (node.flags | L.ON_DISK) & GONE
    domain.swap_outs += count
    domain.resident -= count
    domain.spares += count
    domain.leaving_count = 0


@kernel
def ahead_window(domain, slot):
    """Pages that a read of this slot should bring, itself included: swapin_nr_pages() of Linux."""
    pages = 2
    if domain.ahead_used:
        pages = 4
        while pages < domain.ahead_used + 2:
            pages *= 2
    elif abs(slot - domain.ahead_slot) != 1:
        pages = 1
    pages = max(pages, domain.ahead_last // 2)
    return min(pages, share(domain.limit, domain.ahead_pages))


@kernel
def read_ahead(world, domain, page):
    """Read a page from disk, and neighbours of its slot for which there is room."""
    nodes, slot = domain.nodes, int(domain.slots[page])
    window = ahead_window(domain, slot)
    first, end = slot, slot + 1
    room = max(domain.limit - domain.resident - 1, 0)
    domain.ahead_last, domain.ahead_used, domain.ahead_slot = window, 0, slot
    if window > 1 and room > 0:
        first = slot - slot % window
        end = min(first + window, domain.pages)
    for at in range(first, end):
        other = domain.slot_pages[at]
        if at == slot or room == 0 or other == L.NO_PAGE:
            continue
        if nodes[other].flags & (L.RESIDENT | L.LEAVING) or not frame_at_hand(domain):
            continue
        room -= 1
        nodes[other].flags |= L.RESIDENT | L.AHEAD
        append(nodes, domain.pages, other)
        domain.resident += 1
        domain.ahead += 1
    wait_disk(world, domain, world.disk_reads, (end - first - 1) * world.costs.disk_read_page_ns)
    domain.disk_reads += 1


# Leaving memory


@kernel
def leave(world, domain, page):
    """Offer a resident page to tmem; ``settle`` then has it written if it must be."""
    node = domain.nodes[page]
    unlink(domain.nodes, page)
    is_stored = False
    if node.flags & L.FILE:
        if domain.has_cleancache:
            put(world, domain, CLEANCACHE, page)
    elif domain.has_frontswap:
        is_stored = put(world, domain, FRONTSWAP, page)
        domain.failed_puts += not is_stored
    if is_stored:
        forget_slot(domain, page)
        domain.swapped += 1
        node.flags |= L.SWAPPED
    if node.flags & (L.FILE | L.SWAPPED | L.ON_DISK):
        node.flags &= GONE
        domain.gone += 1
    node.flags |= L.LEAVING
    domain.leaving[domain.leaving_count] = page
    domain.leaving_count += 1


@kernel
def leave_oldest(world, domain, count):
    """Offer the ``count`` least recently used pages, or all there are."""
    for _ in range(count):
        oldest = domain.nodes[domain.pages].next
        if oldest == domain.pages:
            return
        leave(world, domain, oldest)


@kernel
def let_go(domain):
    """After tmem's answers: the frames of pages that are gone are spare, the others are listed."""
    kept = 0
    for at in range(domain.leaving_count):
        page = domain.leaving[at]
        domain.nodes[page].flags &= ~L.LEAVING
        if domain.nodes[page].flags & L.RESIDENT:
            domain.leaving[kept] = page
            kept += 1
    domain.leaving_count = kept
    domain.resident -= domain.gone
    domain.spares += domain.gone
    domain.gone = 0


@kernel
def settle(world, domain):
    """Have a copy outside memory of every page that is leaving, then let it go."""
    let_go(domain)
    if domain.leaving_count == 0:
        return
    cluster = share(domain.limit, domain.cluster_pages)
    if domain.leaving_count < cluster and domain.resident > cluster:
        leave_oldest(world, domain, cluster - domain.leaving_count)
        submit(world, domain)
        let_go(domain)
    write_pages(world, domain)


@kernel
def evict_oldest(world, domain, count):
    """Evict the ``count`` least recently used pages, or all there are."""
    leave_oldest(world, domain, count)
    submit(world, domain)
    settle(world, domain)


@kernel
def wanted_limit(domain):
    """Pages that may be resident at the target.

    At the target it booted with: resident_max; above, as many more as the target is. Never more
    than the target without the one frame that an eviction needs.
    """
    target = domain.target_areas * AREA_FRAMES
    more = max(target - domain.boot_frames, 0)
    return max(min(domain.resident_max + more, target - 1), 1)


@kernel
def set_limit(domain):
    """Follow the target, without the frames that pages under way need."""
    limit = wanted_limit(domain)
    domain.depth = share(limit, domain.depth_max)
    domain.limit = limit - (domain.depth - 1)


@kernel
def balance(world, domain):
    """Follow the target: evict down to the limit, and give back the areas above the target."""
    land(world, domain)
    set_limit(domain)
    while domain.resident > domain.limit:
        evict_oldest(world, domain, min(domain.resident - domain.limit, L.BATCH_PAGES))
        domain.spares = min(domain.spares, 1)
    excess = domain.current_areas - domain.target_areas
    if excess > 0:
        domain.spares = min(domain.spares, 1)
        release(world, domain, min(excess, spare_areas(domain)))


# Coming


@kernel
def frame_at_hand(domain):
    """A frame that costs no eviction and no question; whether there is one."""
    if domain.spares > 0:
        domain.spares -= 1
        return True
    return domain.resident < domain.current_areas * AREA_FRAMES


@kernel
def free_frame(world, domain):
    """Find a frame for a page; False when there is neither a frame nor a page to evict."""
    if frame_at_hand(domain) or grow_ram(world, domain):
        return True
    if domain.resident == 0:
        return False
    domain.limit = max(domain.resident - 1, 1)
    evict_oldest(world, domain, NO_MEMORY_EVICTIONS)
    domain.spares -= 1
    return True


@kernel
def may_ask(domain, flags):
    """Whether tmem may have the page."""
    return domain.has_cleancache if flags & L.FILE else flags & L.SWAPPED


@kernel
def take(world, domain, page):
    """Ask tmem for a page it may have; whether it had it."""
    node = domain.nodes[page]
    if node.flags & L.FILE:
        found = get(world, domain, CLEANCACHE, page)
    else:
        found = get(world, domain, FRONTSWAP, page)
        if not found:
            domain.state = L.WRONG_PAGE  # tmem may not lose it
        flush(world, domain, page)
        node.flags &= ~L.SWAPPED
        domain.swapped -= 1
    domain.tmem_hits += found
    return found


@kernel
def come(domain, page):
    """A page is in its frame, the most recently used one."""
    node = domain.nodes[page]
    domain.touched += node.flags & L.TOUCHED == 0
    node.flags |= L.TOUCHED | L.RESIDENT
    append(domain.nodes, domain.pages, page)
    domain.resident += 1


@kernel
def fly(world, domain, page):
    """Have a fault wait for tmem with others; False when it must be served by itself."""
    if domain.depth < 2 or not may_ask(domain, domain.nodes[page].flags):
        return False
    if domain.flying == domain.depth:
        land(world, domain)
    if domain.resident < FLIGHT_RESIDENT_MIN or not frame_at_hand(domain):
        return False
    domain.faults += 1
    domain.clock_ns += world.costs.fault_ns
    if not take(world, domain, page):
        domain.flight_reads += 1
    if domain.resident >= domain.limit:
        leave_oldest(world, domain, 1)
    come(domain, page)
    domain.nodes[page].flags |= L.FLYING
    domain.flight[domain.flying] = page
    domain.flying += 1
    return True


@kernel
def land(world, domain):
    """Serve the faults that are under way."""
    if domain.flying == 0:
        return
    begin_ns = domain.clock_ns
    submit(world, domain)
    for at in range(domain.flying):
        domain.nodes[domain.flight[at]].flags &= ~L.FLYING
    for _ in range(domain.flight_reads):
        wait_disk(world, domain, world.disk_reads, 0)
    domain.file_reads += domain.flight_reads
    domain.flying = domain.flight_reads = 0
    settle(world, domain)
    domain.stalled_ns += domain.clock_ns - begin_ns


@kernel
def load(world, domain, page, was_found):
    """Fill a frame with a page that tmem did not have."""
    flags = domain.nodes[page].flags
    if was_found:
        return
    if flags & L.FILE:
        wait_disk(world, domain, world.disk_reads, 0)
        domain.file_reads += 1
    elif flags & L.ON_DISK:
        read_ahead(world, domain, page)
        domain.swap_ins += 1
    else:
        domain.clock_ns += world.costs.first_touch_ns
        domain.first_touches += 1


@kernel
def fault(world, domain, page):
    """Make a page resident that is referenced; False when the domain has not one frame."""
    flags = domain.nodes[page].flags
    begin_ns, first_touches = domain.clock_ns, domain.first_touches
    is_full = domain.resident >= domain.limit
    domain.faults += 1
    domain.clock_ns += world.costs.fault_ns
    if flags & L.ON_DISK and domain.ahead_pages > 1:
        window = ahead_window(domain, int(domain.slots[page]))
        over = domain.resident + window - domain.limit
        if window > 1 and over > 0:
            evict_oldest(world, domain, over)
    if not free_frame(world, domain):
        return False
    was_found = may_ask(domain, flags) and take(world, domain, page)
    if domain.resident >= domain.limit:
        leave_oldest(world, domain, 1)
    submit(world, domain)
    load(world, domain, page, was_found)
    come(domain, page)
    settle(world, domain)
    if is_full or domain.first_touches == first_touches:
        domain.stalled_ns += domain.clock_ns - begin_ns
    return True


@kernel
def refer_slowly(world, domain, page):
    """A reference to a page that is not simply there; False when the domain has not one frame."""
    node = domain.nodes[page]
    if node.flags & (L.FLYING | L.LEAVING):
        land(world, domain)
    if node.flags & L.RESIDENT:
        unlink(domain.nodes, page)
        append(domain.nodes, domain.pages, page)
    elif not fly(world, domain, page):
        land(world, domain)
        if not fault(world, domain, page):
            return False
    if node.flags & L.AHEAD:
        domain.ahead_used += 1
        domain.ahead_hits += 1
        node.flags &= ~L.AHEAD
    return True
