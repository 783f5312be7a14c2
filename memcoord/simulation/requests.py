"""What a simulated guest asks of tmem and of the disk, and how long it waits for it.

Owns: the cost of a request. The pool is called through the addresses that the hypervisor's C
service uses, so the simulator runs the same compiled code. Each page carries its name in its first
word; a get that brings another page ends the run. Requests are carried out at once and paid for
together, when ``submit`` sends the batch: a message, and the time of the service, which all domains
share where the costs say so. The service is a thread: it runs on a processor that is free, or,
while the domain waits, on that domain's, at the cost of two switches. Used by
``memcoord.simulation.paging``.
"""

# Kernel arguments are typed by numba; annotations would only repeat "int".
# ruff: noqa: ANN001, ANN201
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, attr-defined, call-arg, no-any-return, var-annotated"

from numba import int64, uint64

from memcoord.simulation import layout as L
from memcoord.simulation.ledger import grow_tmem
from tmem.codes import Code, Op
from tmem.raw_memory import address_of, call, kernel

DONE, NEED_SLAB = int(Code.DONE), int(Code.NEED_SLAB)
PUT, GET, FLUSH_PAGE = int(Op.PUT), int(Op.GET), int(Op.FLUSH_PAGE)
QUANTILE_BITS = 4  # of costs.QUANTILES
FRONTSWAP, CLEANCACHE = 0, 1  # slots of a domain's pools, in the order they are made
DEVICE_OBJECTS = 16  # objects of a swap device, as frontend.paging.frontswap
INDEX_SHIFT = 32  # of a page's index in the first argument of a record, above the pool's slot
DOMAIN_SHIFT = 32  # of a domain's number in the name a page carries


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
def wait_disk(world, domain, latencies, more_ns):
    """Let a domain wait for one transfer, which begins when the disk has room for one.

    ``more_ns``: for what it moves beyond a page. A disk that all share serves ``disk_depth``
    transfers at once; a domain never has more than one.
    """
    cost_ns, begin_ns = drawn(world, latencies) + more_ns, domain.clock_ns
    if world.costs.disk_shared:
        place = 0
        for other in range(1, world.costs.disk_depth):
            if world.disk_free_ns[other] < world.disk_free_ns[place]:
                place = other
        end_ns = max(world.disk_free_ns[place], begin_ns) + cost_ns
        world.disk_free_ns[place] = end_ns
    else:
        end_ns = begin_ns + cost_ns
    domain.clock_ns = end_ns
    domain.waited_ns += end_ns - begin_ns


@kernel
def no_processor_is_free(world, domain):
    """Whether other domains run on, or are ready for, all processors but the one of ``domain``."""
    now_ns, busy = domain.clock_ns, 1
    for cpu in range(world.costs.cpus):
        busy += world.cpu_free_ns[cpu] > now_ns
    for slot in range(L.SLOTS):
        other = world.domains[slot]
        busy += slot != domain.number and other.state == L.RUNNING and other.clock_ns <= now_ns
    return busy >= world.costs.cpus


@kernel
def submit(world, domain):
    """Send the requests since the last time, and wait for their answers."""
    if domain.requests == 0:
        return
    costs = world.costs
    domain.clock_ns += costs.call_ns
    if costs.switch_ns and costs.cpus and no_processor_is_free(world, domain):
        domain.clock_ns += costs.switch_ns
    if costs.tmem_shared:
        late_ns = max(world.service_free_ns - domain.clock_ns, 0)
        domain.waited_ns += late_ns
        domain.clock_ns += late_ns
        world.service_free_ns = domain.clock_ns + domain.service_ns
    domain.clock_ns += domain.service_ns
    domain.requests = domain.service_ns = 0
    domain.calls += 1


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
    domain.requests += 1
    return call(world.execute, (world.tmem_state, address_of(record), data, domain.number, may_ask))


@kernel
def put(world, domain, slot, page):
    """Offer a page to the pool, which grows if it must and may; whether the pool took it."""
    domain.puts += 1
    world.page_out[0] = name_of(domain, page)
    data = address_of(world.page_out)
    code = ask(world, domain, PUT, slot, page, data, int64(1))
    if code == NEED_SLAB:
        grow_tmem(world)
        code = ask(world, domain, PUT, slot, page, data, int64(0))
    costs = world.costs
    domain.service_ns += costs.tmem_put_ns if code == DONE else costs.tmem_refused_ns
    return code == DONE


@kernel
def get(world, domain, slot, page):
    """Take a page out of the pool; whether it was there."""
    found = world.page_in
    found[0] = 0
    code = ask(world, domain, GET, slot, page, address_of(found), int64(0))
    costs = world.costs
    domain.service_ns += costs.tmem_get_ns if code == DONE else costs.tmem_refused_ns
    if code == DONE and found[0] != name_of(domain, page):
        domain.state = L.WRONG_PAGE
    return code == DONE


@kernel
def flush(world, domain, page):
    """Have tmem forget an anonymous page."""
    ask(world, domain, FLUSH_PAGE, FRONTSWAP, page, int64(0), int64(0))
