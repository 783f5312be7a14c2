"""The simulated guest: the counts of the model that the compiled guest of real runs is held to."""

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from guest_model import ModelGuest
from hypothesis import given, settings
from hypothesis import strategies as st
from sim_scenarios import FOREVER, PLAIN, make_host, make_spec, make_stream, open_domain

from hypervisor.public.errors import InternalError, NoMemory
from hypervisor.public.units import AREA_FRAMES, DomId
from memcoord.simulation import layout
from memcoord.simulation.costs import Costs, constant
from memcoord.simulation.host import Paging
from memcoord.testbed.streams import Stream
from memcoord.testbed.streams.references import Cursor, Part, References


def skewed_stream(seed: int, count: int, pages: int) -> Stream:
    """References to pages of which low ones come back sooner; a third are writes."""
    rng = np.random.default_rng(seed)
    numbers = (pages * rng.random(count) ** 2).astype(np.int32)
    program = np.flatnonzero(rng.random(pages) < 0.3).tolist()
    return make_stream(numbers, rng.random(count) < 0.3, program=program)


#: Counters of a domain's record, by the names that the model has for them.
COUNTED = {
    name: name
    for name in (
        *("faults", "first_touches", "tmem_hits", "swap_ins", "swap_outs", "file_reads"),
        *("puts", "failed_puts", "ahead", "ahead_hits", "disk_reads", "disk_writes"),
    )
} | {"next": "references", "touched": "committed_frames"}


def end_of_two_ns(costs: Costs) -> int:
    """When the later of two domains has swept twice its memory five times."""
    host = make_host(2, tmem=0, costs=constant(costs))
    for domid in (0, 1):
        open_domain(host, make_stream(np.tile(np.arange(40), 5), 1), resident=20, domid=domid)
    for _ in range(2):
        host.run(FOREVER)
    return max(int(host.counters(DomId(domid))["clock_ns"]) for domid in (0, 1))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    pages=st.sampled_from([50, 700, 2500]),
    resident=st.sampled_from([1, 2, 60, 300, 511, 900]),
    tmem=st.integers(0, 3),
    target=st.sampled_from([-1, 0, 100, 700]),
    shrinks=st.booleans(),
    paging=st.sampled_from([PLAIN, Paging(depth=1), Paging(4, 16, 1), Paging(32, 1, 1)]),
)
def test_counts_are_those_of_the_model(
    seed: int, pages: int, resident: int, tmem: int, target: int, shrinks: bool, paging: Paging
) -> None:
    work = skewed_stream(seed, 6000, pages)
    host = make_host(2 + tmem, tmem=tmem)
    domid = open_domain(host, work, ram=2, resident=resident, paging=paging)
    host.set_tmem_target(domid, target)
    model = ModelGuest(
        work.page_count, resident, set(np.flatnonzero(work.program).tolist()),
        boot_frames=2 * AREA_FRAMES, tmem_pages=tmem * AREA_FRAMES, tmem_target=target,
        cluster=paging.cluster_pages, ahead=paging.ahead_pages, depth=paging.depth,
    )  # fmt: skip
    half = len(work) // 2
    for begin, end in ((0, half), (half, len(work))):
        host.resume(domid, end)
        assert host.run(FOREVER) == domid
        model.run(work.pages[begin:end].tolist(), (work.writes[begin:end] != 0).tolist())
        if shrinks:
            host.set_target(domid, AREA_FRAMES)
            model.target = AREA_FRAMES
    host.validate()
    found = host.counters(domid)
    expected = {name: model.counted[of] for name, of in COUNTED.items()}
    assert {name: found[name] for name in expected} == expected
    assert found["resident"] == len(model.lru)
    if host.tmem is not None:
        assert int(host.tmem.clients["used_pages"][0]) == len(model.stored)


def test_faults_under_way_pay_one_message_together() -> None:
    work = make_stream(np.tile(np.arange(1500), 4), 1)
    clocks, calls = [], []
    for depth in (1, 16):
        costs = Costs(fault_ns=0, tmem_get_ns=10, tmem_put_ns=10, call_ns=1000, cpus=1)
        host = make_host(6, tmem=4, costs=constant(costs))
        paging = Paging(cluster_pages=1, ahead_pages=1, depth=depth)
        domid = open_domain(host, work, ram=2, resident=1000, paging=paging)
        host.run(FOREVER)
        clocks.append(host.counters(domid)["clock_ns"])
        calls.append(host.counters(domid)["calls"])
        assert host.counters(domid)["tmem_hits"] > 3000
    assert calls[1] < calls[0] / 4
    assert clocks[0] - clocks[1] == pytest.approx(1000 * (calls[0] - calls[1]), rel=0.05)


def test_a_shared_service_makes_domains_wait_for_each_other() -> None:
    ends = []
    for shared in (False, True):
        costs = Costs(tmem_shared=shared, tmem_get_ns=10**5, tmem_put_ns=10**5, cpus=2)
        host = make_host(8, tmem=4, costs=constant(costs))
        for domid in (0, 1):
            open_domain(host, make_stream(np.tile(np.arange(400), 5), 1), resident=50, domid=domid)
        for _ in range(2):
            host.run(FOREVER)
        ends.append(max(host.counters(DomId(domid))["clock_ns"] for domid in (0, 1)))
    assert ends[1] == pytest.approx(2 * ends[0], rel=0.1)


def test_more_pages_in_a_transfer_cost_what_is_said_and_a_disk_serves_several() -> None:
    work = make_stream(np.tile(np.arange(1500), 3), 1)
    costs = Costs(disk_read_ns=1000, disk_read_page_ns=10, disk_write_ns=5000, fault_ns=0)
    host = make_host(2, tmem=0, costs=constant(costs))
    domid = open_domain(host, work, ram=2, resident=1000, paging=Paging(8, 8, 1))
    host.run(FOREVER)
    now = host.counters(domid)
    assert now["swap_outs"] > 3 * now["disk_writes"] > 0  # pages left memory in clusters
    reads = now["disk_reads"]
    waited = now["clock_ns"] - 1000 * now["next"] - 5000 * now["disk_writes"]
    assert 1000 * reads < waited < 1000 * reads + 7 * 10 * reads + 1
    ends = []
    for depth in (1, 2):
        costs = Costs(disk_shared=True, disk_depth=depth, disk_read_ns=10**6, disk_write_ns=10**6)
        ends.append(end_of_two_ns(costs))
    assert ends[0] > 1.8 * ends[1]


def test_the_clock_is_the_sum_of_what_was_done() -> None:
    costs = Costs(
        fault_ns=7,
        first_touch_ns=11,
        tmem_get_ns=100,
        tmem_put_ns=1000,
        tmem_refused_ns=50,
        disk_read_ns=10_000,
        disk_write_ns=100_000,
    )
    host = make_host(2, tmem=1, costs=constant(costs))
    work = make_stream(np.tile(np.arange(900), 3), 1)
    domid = open_domain(host, work, resident=100)
    assert host.run(FOREVER) == domid
    now = host.counters(domid)
    assert now["swap_ins"] > 0
    assert now["tmem_hits"] > 0
    assert now["clock_ns"] == (
        1000 * now["next"]
        + 7 * now["faults"]
        + 11 * now["first_touches"]
        + 100 * now["tmem_hits"]
        + 1000 * (now["puts"] - now["failed_puts"])
        + 50 * now["failed_puts"]
        + 10_000 * now["swap_ins"]
        + 100_000 * now["swap_outs"]
    )
    # A fault that only fills an empty frame is no stall.
    assert now["stalled_ns"] == now["clock_ns"] - 1000 * now["next"] - 18 * 100


def cut(stream: Stream, sizes: list[int]) -> Stream:
    """The same stream in parts of so many references, again and again."""

    def parts() -> Iterator[Part]:
        cursor, left = Cursor(stream.references), len(stream)
        for size in itertools.cycle(sizes):
            part = cursor.take(size)
            if not left:
                return
            left -= len(part[0])
            yield part

    return replace(stream, references=References(len(stream), parts))


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    sizes=st.lists(st.integers(1, 2000), min_size=1, max_size=5),
    cpus=st.integers(0, 2),
    until_ns=st.integers(1, 10**7),
    shared=st.booleans(),
)
def test_how_a_stream_is_cut_changes_nothing(
    seed: int, sizes: list[int], cpus: int, until_ns: int, shared: bool
) -> None:
    """Goal: three domains do the same, to the nanosecond, whatever parts their streams come in."""
    costs = constant(
        Costs(cpus=cpus, quantum_ns=500_000, disk_shared=True, tmem_shared=shared, call_ns=900)
    )
    counts = []
    for is_cut in (False, True):
        host = make_host(5, tmem=2, costs=costs)
        for domid in range(3):
            work = skewed_stream(seed + domid, 3000, 700)
            work = replace(work, pauses=((seed % 3000, 0.001),))
            work = cut(work, sizes) if is_cut else work
            open_domain(host, work, resident=200, domid=domid, paging=Paging())
        for step in range(1, 10):
            while host.run(step * until_ns) is not None:
                pass
        while host.run(FOREVER) is not None:
            pass
        host.validate()
        found = [host.counters(DomId(domid)) for domid in range(3)]
        places = ("nodes", "pauses", "promotions", "part", "part_begin", "part_end")
        places += ("slots", "slot_pages")
        counts.append([{k: v for k, v in one.items() if k not in places} for one in found])
    assert counts[0] == counts[1]


def test_a_pause_is_spent_and_is_no_stall() -> None:
    pauses = [(0, 0.5), (3, 2.0)]
    host = make_host(2)
    domid = open_domain(host, make_stream([0, 1, 2, 3, 4], 1, pauses=pauses), resident=10)
    assert host.run(10**9) is None
    assert host.counters(domid)["next"] == 3
    assert host.run(FOREVER) == domid
    now = host.counters(domid)
    assert now["clock_ns"] >= 2_500_000_000
    assert now["stalled_ns"] == 0


def test_a_shared_disk_makes_domains_wait_for_each_other() -> None:
    ends = []
    for shared in (False, True):
        costs = Costs(disk_shared=shared, disk_read_ns=10**6, disk_write_ns=10**6)
        ends.append(end_of_two_ns(costs))
    assert ends[1] > 1.5 * ends[0]


def test_a_domain_that_shrinks_in_its_pause_keeps_the_disk_no_longer_than_its_writes() -> None:
    costs = Costs(disk_shared=True, disk_read_ns=10**6, disk_write_ns=10**6)
    host = make_host(4, tmem=0, costs=constant(costs))
    rests = make_stream(np.tile(np.arange(900), 2), 1, pauses=[(900, 50.0)])
    resting = open_domain(host, rests, ram=2, resident=1000)
    busy = open_domain(host, make_stream(np.tile(np.arange(40), 9), 1), resident=20, domid=1)
    soon_ns = 20 * 10**6  # it rests by then
    host.run(soon_ns)
    host.set_target(resting, AREA_FRAMES)
    host.settle(soon_ns)
    assert host.counters(resting)["swap_outs"] >= 900 - AREA_FRAMES
    assert host.run(FOREVER) == busy
    now = host.counters(busy)
    moved = now["swap_ins"] + now["swap_outs"] + host.counters(resting)["swap_outs"]
    assert now["clock_ns"] < soon_ns + (moved + 10) * 10**6
    assert host.run(FOREVER) == resting
    assert host.counters(resting)["clock_ns"] >= 50 * 10**9


def test_ram_grows_into_free_memory_then_out_of_tmem() -> None:
    host = make_host(6, tmem=3)
    lazy = open_domain(host, make_stream(np.arange(1500), 1), resident=64)
    assert host.run(FOREVER) == lazy  # it has filled tmem with pages it never reads again
    host.open(DomId(1), make_spec(1, "vm1", most=5))
    host.set_target(DomId(1), 5 * AREA_FRAMES)
    host.load(DomId(1), make_stream(np.arange(2500), 1), 511, 0)
    assert host.run(FOREVER) == DomId(1)
    host.validate()
    now = host.counters(DomId(1))
    assert now["current_areas"] == 2  # the pages of vm0 are persistent: tmem gives none of them
    assert now["grants"] == 1
    assert host.snapshot().free_frames == 0


def test_ephemeral_pages_make_room_for_ram() -> None:
    host = make_host(5, tmem=3)
    lazy = open_domain(host, make_stream(np.arange(1500), 0, program=range(1500)), resident=64)
    assert host.run(FOREVER) == lazy
    host.open(DomId(1), make_spec(1, "vm1", most=3))
    host.set_target(DomId(1), 3 * AREA_FRAMES)
    host.load(DomId(1), make_stream(np.arange(1400), 1), 511, 0)
    assert host.run(FOREVER) == DomId(1)
    host.validate()
    assert host.counters(DomId(1))["current_areas"] == 3
    assert host.counters(DomId(1))["transfers"] == 2
    assert host.snapshot().tmem_frames == AREA_FRAMES


def test_a_lower_target_gives_frames_back() -> None:
    host = make_host(4, tmem=0)
    domid = open_domain(host, make_stream(np.tile(np.arange(1400), 4), 1), ram=3, resident=1400)
    host.resume(domid, 1400)
    host.run(FOREVER)
    host.set_target(domid, 1 * AREA_FRAMES)
    assert host.snapshot().free_frames == AREA_FRAMES  # all are in use
    host.resume(domid, 4 * 1400)
    host.run(FOREVER)
    assert host.snapshot().free_frames == 3 * AREA_FRAMES
    assert host.counters(domid)["resident"] == AREA_FRAMES - 1
    host.validate()


def test_promises_and_slack_are_kept_from_tmem() -> None:
    host = make_host(6, slack=1)
    host.promise(2 * AREA_FRAMES)
    domid = open_domain(host, make_stream(np.arange(3000), 1), resident=10)
    host.run(FOREVER)
    assert host.snapshot().tmem_frames == 2 * AREA_FRAMES
    assert host.snapshot().free_frames == 3 * AREA_FRAMES
    host.close(domid)
    assert host.snapshot().installed_frames == 0
    host.validate()


def test_a_domain_that_does_not_fit_is_refused() -> None:
    host = make_host(2)
    with pytest.raises(NoMemory, match="vm0"):
        host.open(DomId(0), make_spec(3))


def test_the_curve_is_what_the_pool_would_have_done_with_less() -> None:
    """Goal: the estimate helps. Method: run again with the pool limited to one of its sizes."""
    work = skewed_stream(1, 20_000, 1200)
    work = make_stream(work.pages, work.writes)
    points = 33
    big = make_host(4, tmem=3, mrc_points=points)
    open_domain(big, work, resident=100)
    big.run(FOREVER)
    curve = big.snapshot().domains[0].mrc
    assert curve is not None
    assert len(curve) == points
    for at in (8, 16, 24):
        small = make_host(4, tmem=3)
        open_domain(small, work, resident=100)
        small.set_tmem_target(DomId(0), 3 * AREA_FRAMES * at // (points - 1))
        small.run(FOREVER)
        now = small.counters(DomId(0))
        asked = now["faults"] - now["first_touches"]
        assert 1 - now["tmem_hits"] / asked == pytest.approx(curve[at], abs=0.2)
    assert make_host(4, tmem=3).snapshot().domains == ()


def test_ages_see_what_is_cold_and_what_comes_back() -> None:
    # 100 pages once, then one page for a second, then the 100 again.
    numbers = [*range(100), *[0] * 1000, *range(100)]
    host = make_host(2)
    domid = open_domain(host, make_stream(numbers, 1, compute_ns=1_000_000), resident=200)
    host.resume(domid, 1100)
    host.run(FOREVER)
    clock = host.counters(domid)["clock_ns"]
    cold, promoted = host.ages(domid, clock)
    assert cold.tolist()[:4] == [99, 99, 99, 0]
    assert promoted.sum() == 0
    assert host.snapshot().domains[0].guest_idle_permille == 990
    host.resume(domid, 1200)
    host.run(FOREVER)
    assert host.ages(domid, clock)[1].tolist()[:4] == [99, 99, 99, 0]


def test_validate_finds_what_cannot_be() -> None:
    host = make_host(3, tmem=1)
    domid = open_domain(host, make_stream(np.arange(900), 1), resident=100)
    assert host.run(FOREVER) == domid
    host.validate()
    nodes, domain = host._guests[domid].nodes, host._domains[domid]
    swapped = np.flatnonzero(nodes["flags"] & layout.SWAPPED)[0]
    nodes["flags"][swapped] |= layout.ON_DISK
    with pytest.raises(InternalError, match="two places"):
        host.validate()
    nodes["flags"][swapped] ^= layout.ON_DISK
    for field, said in (("resident", "holds"), ("current_areas", "ledger")):
        domain[field] += 1
        with pytest.raises(InternalError, match=said):
            host.validate()
        domain[field] -= 1
    host.validate()
