"""The guest of the simulator, compiled: references in turn, on processors that domains share.

Owns: the work of one reference, and whose turn it is. A page that is simply there costs a look at
its node; all else is ``paging``'s.

Domains take turns: the domain whose clock is furthest behind runs for SLICE_NS. So the order in
which two domains reach the pool is wrong by one slice at most. Where the costs have processors, it
runs for a quantum on the one that is free first, and gives it up when it waits for the disk. Where
domains share the service of tmem, a turn ends with each batch.
Called by ``memcoord.simulation.host``.
"""

# Kernel arguments are typed by numba; annotations would only repeat "int".
# ruff: noqa: ANN001, ANN201, ANN202
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, attr-defined, call-arg, no-any-return, var-annotated"

from typing import Any

from numba import int64, njit

from memcoord.simulation import layout as L
from memcoord.simulation.ledger import NOBODY, release, spare_areas
from memcoord.simulation.paging import (
    append,
    balance,
    forget_slot,
    land,
    refer_slowly,
    set_limit,
    unlink,
)  # fmt: skip
from tmem.compiled_cache import cached_kernels
from tmem.raw_memory import kernel, words_at

#: Virtual time a domain runs before the next domain gets its turn.
SLICE_NS = 1_000_000
BALANCE_MASK = 1023  # references between two looks at the target: MC_PAGING_LOOK_REFERENCES


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
    calls = domain.calls
    gives_way = world.costs.cpus > 0  # the processor, when it waits
    takes_turns = world.costs.tmem_shared != 0  # at the service
    gave_way = False
    while number < stop and domain.clock_ns < end_ns:
        if number == pauses[domain.pause].reference:
            land(world, domain)
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
        if flags & L.SETTLED == L.RESIDENT:
            if nodes[anchor].prev != page:
                unlink(nodes, page)
                append(nodes, anchor, page)
        elif not refer_slowly(world, domain, page):
            domain.state = L.OUT_OF_MEMORY
            break
        node.seen = now
        if word & L.WRITTEN and node.flags & (L.ON_DISK | L.FILE):
            forget_slot(domain, page)
            node.flags &= ~L.FILE
        domain.clock_ns += hit_ns
        if gives_way and domain.waited_ns != waited_ns:
            gave_way = True
            break
        if takes_turns and domain.calls != calls:
            gave_way = True
            break
    if number >= domain.stop:
        land(world, domain)
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
    set_limit(L.world_at(address).domains[slot])
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
