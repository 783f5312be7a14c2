"""The guest of the simulator, compiled: a resident LRU over the real tmem pool over a disk.

Owns: the work of one reference. The guest does what ``frontend.paging.manager`` does, in the same
order, in virtual time:

* A page is never touched, resident, in frontswap or on disk.
* A page read from disk keeps its place on disk until it is written.
* A get takes the page out of tmem.
* A page that tmem refuses goes to disk, unless the disk has it unchanged.
* Pages of the program's file go to cleancache.

``memcoord.simulation.ledger`` decides where memory comes from. The pool is called through the
addresses that the hypervisor's C service uses, so the simulator runs the same compiled code. Each
page carries its name in its first word; a get that brings another page ends the run.

Domains take turns: the domain whose clock is furthest behind runs for SLICE_NS. So the order in
which two domains reach the pool is wrong by one slice at most. Where the costs have processors, it
runs for a quantum on the one that is free first, and gives it up when it waits for the disk.
Called by ``memcoord.simulation.host``.
"""

# Kernel arguments are typed by numba; annotations would only repeat "int".
# ruff: noqa: ANN001, ANN201, ANN202
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, attr-defined, call-arg, no-any-return, var-annotated"

from typing import Any

from numba import int64, njit, uint64

from hypervisor.public.units import AREA_FRAMES
from memcoord.simulation import layout as L
from memcoord.simulation.ledger import NOBODY, grow_ram, grow_tmem, release, spare_areas
from tmem.codes import Code, Op
from tmem.compiled_cache import cached_kernels
from tmem.raw_memory import address_of, call, kernel, words_at

#: Virtual time a domain runs before the next domain gets its turn.
SLICE_NS = 1_000_000
BALANCE_MASK = 1023  # references between two looks at the target, as frontend.paging.manager
BATCH_PAGES = 64  # pages evicted between two returns of frames, RING_SLOTS
NO_MEMORY_EVICTIONS = 2  # pages evicted by a guest that gets no frame, as frontend.paging.manager
DONE, NEED_SLAB = int(Code.DONE), int(Code.NEED_SLAB)
PUT, GET, FLUSH_PAGE = int(Op.PUT), int(Op.GET), int(Op.FLUSH_PAGE)
QUANTILE_BITS = 4  # of costs.QUANTILES
FRONTSWAP, CLEANCACHE = 0, 1  # slots of a domain's pools, in the order they are made
DEVICE_OBJECTS = 16  # objects of a swap device, as frontend.paging.frontswap
INDEX_SHIFT = 32  # of a page's index in the first argument of a record, above the pool's slot
DOMAIN_SHIFT = 32  # of a domain's number in the name a page carries


# What a page costs


@kernel
def drawn(world, latencies):
    """One of the latencies of a transfer, each as likely (Marsaglia's xorshift)."""
    mixed = uint64(world.random)
    mixed ^= mixed << uint64(13)
    mixed ^= mixed >> uint64(7)
    mixed ^= mixed << uint64(17)
    world.random = int64(mixed)
    return latencies[int64(mixed >> uint64(64 - QUANTILE_BITS))]


@kernel
def wait_disk(world, domain, latencies):
    """Let a domain wait for one transfer, which begins when the disk is done with the last one."""
    cost_ns, begin_ns = drawn(world, latencies), domain.clock_ns
    free_ns = world.disk_free_ns if world.costs.disk_shared else domain.disk_free_ns
    end_ns = max(free_ns, domain.clock_ns) + cost_ns
    domain.clock_ns = end_ns
    domain.waited_ns += end_ns - begin_ns
    domain.disk_free_ns = end_ns
    world.disk_free_ns = max(end_ns, world.disk_free_ns)


@kernel
def name_of(domain, page):
    """The first word of a page's content; never 0."""
    return (domain.number + 1) << DOMAIN_SHIFT | (page + 1)


@kernel
def ask(world, domain, op, slot, page, data, may_ask):
    """Run one operation on the pool, with a record like those the C service gets; its code."""
    if slot == FRONTSWAP:
        oid, index = page % DEVICE_OBJECTS, page // DEVICE_OBJECTS
    else:
        oid, index = int64(0), page
    record = world.record
    record.op = op
    record.arg[0] = slot | index << INDEX_SHIFT
    record.arg[1] = oid
    return call(world.execute, (world.tmem_state, address_of(record), data, domain.number, may_ask))


@kernel
def put(world, domain, slot, page):
    """Offer a page to the pool, which grows if it must and may; whether the pool took it."""
    domain.puts += 1
    domain.clock_ns += world.costs.tmem_put_ns
    world.page_out[0] = name_of(domain, page)
    data = address_of(world.page_out)
    code = ask(world, domain, PUT, slot, page, data, int64(1))
    if code == NEED_SLAB:
        grow_tmem(world)
        code = ask(world, domain, PUT, slot, page, data, int64(0))
    return code == DONE


@kernel
def get(world, domain, slot, page):
    """Take a page out of the pool; whether it was there."""
    domain.clock_ns += world.costs.tmem_get_ns
    found = world.page_in
    found[0] = 0
    if ask(world, domain, GET, slot, page, address_of(found), int64(0)) != DONE:
        return False
    if found[0] != name_of(domain, page):
        domain.state = L.WRONG_PAGE
    return True


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


@kernel
def evict(world, domain, page):
    """Take the frame of a resident page: the page goes to tmem, to disk if it must, or nowhere."""
    nodes = domain.nodes
    node = nodes[page]
    flags = node.flags
    if flags & L.FILE:
        if domain.has_cleancache:
            put(world, domain, CLEANCACHE, page)
    elif domain.has_frontswap and put(world, domain, FRONTSWAP, page):
        flags = (flags & ~L.ON_DISK) | L.SWAPPED
        domain.swapped += 1
    else:
        domain.failed_puts += domain.has_frontswap
        if not flags & L.ON_DISK:
            wait_disk(world, domain, world.disk_writes)
            domain.swap_outs += 1
            flags |= L.ON_DISK
    node.flags = flags & ~L.RESIDENT
    unlink(nodes, page)
    domain.resident -= 1
    domain.spares += 1


@kernel
def evict_oldest(world, domain, count):
    """Evict the ``count`` least recently used pages, or all there are."""
    anchor = domain.pages
    for _ in range(count):
        oldest = domain.nodes[anchor].next
        if oldest == anchor:
            return
        evict(world, domain, oldest)


@kernel
def wanted_limit(domain):
    """Pages that may be resident.

    At the target it booted with: resident_max; above, as many more as the target is. Never more
    than the target without the one frame that an eviction needs.
    """
    target = domain.target_areas * AREA_FRAMES
    more = max(target - domain.boot_frames, 0)
    return max(min(domain.resident_max + more, target - 1), 1)


@kernel
def balance(world, domain):
    """Follow the target: evict down to the limit, and give back the areas above the target."""
    target = domain.target_areas
    limit = wanted_limit(domain)
    domain.limit = limit
    while domain.resident > limit:
        evict_oldest(world, domain, min(domain.resident - limit, BATCH_PAGES))
        domain.spares = min(domain.spares, 1)
    excess = domain.current_areas - target
    if excess > 0:
        domain.spares = min(domain.spares, 1)
        release(world, domain, min(excess, spare_areas(domain)))


@kernel
def free_frame(world, domain):
    """Find a frame for a page; False when there is neither a frame nor a page to evict."""
    if domain.spares > 0:
        domain.spares -= 1
        return True
    if domain.resident < domain.current_areas * AREA_FRAMES or grow_ram(world, domain):
        return True
    if domain.resident == 0:
        return False
    domain.limit = max(domain.resident - 1, 1)
    evict_oldest(world, domain, NO_MEMORY_EVICTIONS)
    domain.spares -= 1
    return True


@kernel
def load(world, domain, page, flags):
    """Fill a frame with a page from wherever the page is; the new flags of the page."""
    if flags & L.FILE:
        if domain.has_cleancache and get(world, domain, CLEANCACHE, page):
            domain.tmem_hits += 1
        else:
            wait_disk(world, domain, world.disk_reads)
            domain.file_reads += 1
    elif flags & L.SWAPPED:
        if not get(world, domain, FRONTSWAP, page):
            domain.state = L.WRONG_PAGE  # tmem may not lose it
        ask(world, domain, FLUSH_PAGE, FRONTSWAP, page, int64(0), int64(0))
        domain.tmem_hits += 1
        domain.swapped -= 1
    elif flags & L.ON_DISK:
        wait_disk(world, domain, world.disk_reads)
        domain.swap_ins += 1
    else:
        domain.clock_ns += world.costs.first_touch_ns
        domain.first_touches += 1
    domain.touched += flags & L.TOUCHED == 0
    return (flags & ~L.SWAPPED) | L.TOUCHED | L.RESIDENT


@kernel
def fault(world, domain, page):
    """Make a page resident that is referenced; False when the domain has not one frame."""
    nodes, anchor = domain.nodes, domain.pages
    begin_ns, first_touches = domain.clock_ns, domain.first_touches
    is_full = domain.resident >= domain.limit
    domain.faults += 1
    domain.clock_ns += world.costs.fault_ns
    if not free_frame(world, domain):
        return False
    victim = anchor
    if domain.resident >= domain.limit:
        victim = nodes[anchor].next
    node = nodes[page]
    node.flags = load(world, domain, page, node.flags)
    append(nodes, anchor, page)
    domain.resident += 1
    if victim != anchor:
        evict(world, domain, victim)
    if is_full or domain.first_touches == first_touches:
        domain.stalled_ns += domain.clock_ns - begin_ns
    return True


@kernel
def count_ages(counts, edges, idle_ticks):
    """Count a page, or a reference to it, at every age that the page has reached."""
    edge = 0
    while idle_ticks >= edges[edge]:
        counts[edge] += 1
        edge += 1


# Time


@kernel
def advance(world, domain, end_ns):
    """Run a domain until its clock reaches ``end_ns``, its references stop, or it has no frame.

    Or until it needs the next part of its references: its turn is not over then.
    """
    part, part_begin, nodes, pauses = domain.part, domain.part_begin, domain.nodes, domain.pauses
    anchor, hit_ns, first_edge = domain.pages, domain.hit_ns, world.edges[0]
    number, stop, waited_ns = domain.next, min(domain.stop, domain.part_end), domain.waited_ns
    gives_way = world.costs.cpus > 0  # the processor, when it waits
    gave_way = False
    while number < stop and domain.clock_ns < end_ns:
        if number == pauses[domain.pause].reference:
            domain.clock_ns += pauses[domain.pause].duration_ns
            domain.waited_ns += pauses[domain.pause].duration_ns
            domain.pause += 1
            if gives_way:
                gave_way = True
                break
            continue
        word = part[number - part_begin]
        page = word & L.PAGE_MASK
        node = nodes[page]
        number += 1
        if number & BALANCE_MASK == 0:
            balance(world, domain)
        flags = node.flags
        now = domain.clock_ns >> L.SEEN_SHIFT
        idle_ticks = now - node.seen
        if idle_ticks >= first_edge and flags & L.TOUCHED:
            count_ages(domain.promotions, world.edges, idle_ticks)
        if flags & L.RESIDENT:
            if nodes[anchor].prev != page:
                unlink(nodes, page)
                append(nodes, anchor, page)
        elif not fault(world, domain, page):
            domain.state = L.OUT_OF_MEMORY
            break
        node.seen = now
        if word & L.WRITTEN:
            node.flags &= ~(L.ON_DISK | L.FILE)
        domain.clock_ns += hit_ns
        if gives_way and domain.waited_ns != waited_ns:
            gave_way = True
            break
    domain.next = number
    if number == stop < domain.stop and domain.clock_ns < end_ns and not gave_way:
        domain.state = L.PART_READ
        world.unfinished, world.turn_end_ns = domain.number + 1, end_ns


@kernel
def whose_turn(world, until_ns):
    """The slot whose clock is furthest behind; NOBODY when all clocks have reached ``until_ns``.

    A turn that is not over goes on.
    """
    if world.unfinished:
        return world.unfinished - 1
    best, earliest_ns = int64(NOBODY), until_ns
    for slot in range(L.SLOTS):
        domain = world.domains[slot]
        if domain.state == L.RUNNING and domain.clock_ns < earliest_ns:
            best, earliest_ns = slot, domain.clock_ns
    return best


@kernel
def free_cpu(world):
    """The processor that is free first."""
    best = 0
    for cpu in range(1, world.costs.cpus):
        if world.cpu_free_ns[cpu] < world.cpu_free_ns[best]:
            best = cpu
    return best


@kernel
def run_slice(world, domain, until_ns):
    """Let the domain whose turn it is run; False when no processor is free before ``until_ns``.

    It runs from when a processor is free to the end of its quantum, or until it waits for
    something else. Who is ready first runs first, so domains take turns.
    """
    goes_on, end_ns = world.unfinished != 0, world.turn_end_ns
    world.unfinished = 0
    if world.costs.cpus == 0:
        advance(world, domain, end_ns if goes_on else min(until_ns, domain.clock_ns + SLICE_NS))
        return True
    cpu = free_cpu(world)
    begin_ns = max(domain.clock_ns, world.cpu_free_ns[cpu])
    if begin_ns >= until_ns:
        return False
    domain.clock_ns = begin_ns
    waited_ns = domain.waited_ns
    if not goes_on:
        end_ns = min(until_ns, begin_ns + world.costs.quantum_ns)
    advance(world, domain, end_ns)
    if domain.state != L.PART_READ:
        world.cpu_free_ns[cpu] = domain.clock_ns - (domain.waited_ns - waited_ns)
    return True


def _run(address, until_ns):
    """Run every domain until ``until_ns``; NOBODY, or the slot that came to its stop before, or
    needs the next part of its references."""
    world = L.world_at(address)
    while True:
        slot = whose_turn(world, until_ns)
        if slot == NOBODY:
            return slot
        domain = world.domains[slot]
        if not run_slice(world, domain, until_ns):
            return NOBODY
        if domain.state != L.RUNNING:
            return slot
        if domain.next >= domain.stop:
            domain.state = L.STOPPED
            return slot


def _balance(address, slot, now_ns):
    """What a guest that stands still does by itself at ``now_ns``, before its own clock.

    Its transfers are of now: with its clock they would keep a shared disk until its pause is over.
    """
    world = L.world_at(address)
    domain = world.domains[slot]
    until_ns, waited_ns = domain.clock_ns, domain.waited_ns
    domain.clock_ns = now_ns
    balance(world, domain)
    domain.clock_ns = max(until_ns, domain.clock_ns)
    domain.waited_ns = waited_ns
    return 0


def _release(address, slot, areas):
    """The host takes up to ``areas`` spare ones of a domain."""
    world = L.world_at(address)
    domain = world.domains[slot]
    release(world, domain, max(min(areas, spare_areas(domain)), 0))
    return 0


def _begin(address, slot):
    """Set the domain's limit before its first reference."""
    domain = L.world_at(address).domains[slot]
    domain.limit = wanted_limit(domain)
    return 0


def _cold(address, slot, now, idle_ticks, out):
    """Count pages at every age they have reached, into the words at ``out``.

    ``now`` is in ticks. Answers how many resident pages were not referenced for ``idle_ticks``.
    """
    world, counts = L.world_at(address), words_at(out)
    domain, idle_pages = world.domains[slot], 0
    for page in range(domain.pages):
        node = domain.nodes[page]
        if not node.flags & L.TOUCHED:
            continue
        idle = now - node.seen
        idle_pages += idle >= idle_ticks and node.flags & L.RESIDENT != 0
        count_ages(counts, world.edges, idle)
    return idle_pages


with cached_kernels(__file__) as _cache:

    def _entry(count: int, function: Any) -> Any:
        dispatcher = njit(int64(*(int64,) * count), cache=_cache, error_model="numpy")(function)
        return next(iter(dispatcher.overloads.values())).entry_point

    run = _entry(2, _run)
    balance_now = _entry(3, _balance)
    begin = _entry(2, _begin)
    release_now = _entry(3, _release)
    cold = _entry(5, _cold)
