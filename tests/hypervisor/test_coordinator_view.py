"""From counters to a view, and from memory really used to violations."""

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from hypervisor.config import DomainConfig
from hypervisor.coordination.snapshot_view import Member, proxy_of, view_of
from hypervisor.coordination.violations import find_violations
from hypervisor.public.backend import DomainSnapshot, HostSnapshot
from hypervisor.public.units import AREA_FRAMES, DomId
from policies import View
from policies.base import MRC_POINTS

PLAIN: dict[str, Any] = dict.fromkeys(DomainSnapshot.__struct_fields__, 0)
HOST = HostSnapshot(
    total_frames=64 * AREA_FRAMES,
    slack_frames=2 * AREA_FRAMES,
    free_frames=64 * AREA_FRAMES,
    installed_frames=0,
    ready_frames=0,
    tmem_frames=0,
    tmem_used_pages=0,
    tmem_capacity_pages=1000,
    domains=(),
)


def domain(domid: int, **values: Any) -> DomainSnapshot:
    fixed = {"domid": DomId(domid), "name": f"vm{domid}", "tmem_target_pages": -1}
    return DomainSnapshot(**PLAIN | {"mrc": None} | fixed | values)


def member(domid: int, **values: Any) -> Member:
    plain: dict[str, Any] = {"name": f"vm{domid}", "maxmem_frames": 4096, "boot_frames": 512}
    return Member(DomId(domid), DomainConfig(**plain | {"target_frames": 1024} | values))


def test_counters_become_deltas() -> None:
    one, two = member(1, priority=4), member(2, weight=3.0)
    now_one = domain(1, puts=10, puts_failed=4, gets=6, gets_hit=5, guest_swap_ins=1)
    now_two = domain(2, puts=7)
    first = view_of(HOST, [(one, now_one), (two, now_two)], tick=0, interval_s=0.5)
    assert first.names == ("vm1", "vm2")
    assert first.puts.tolist() == [10, 7]
    assert first.failed_puts.tolist() == [4, 0]
    assert (first.weight.tolist(), first.priority.tolist()) == ([1, 3], [4, 0])
    one.seen, two.seen, one.age = now_one, now_two, 1
    now_one = replace(now_one, puts=15, puts_failed=5, gets=7, guest_swap_ins=3, tmem_used_pages=9)
    second = view_of(HOST, [(one, now_one), (two, now_two)], tick=1, interval_s=0.5)
    assert (second.tick, second.interval_s) == (1, 0.5)
    assert second.puts.tolist() == [5, 0]
    assert second.failed_puts.tolist() == [1, 0]
    assert second.failed_puts_total.tolist() == [5, 0]
    assert (second.gets.tolist(), second.hits.tolist()) == ([1, 0], [0, 0])
    assert second.swap_ins.tolist() == [2, 0]
    assert second.used.tolist() == [9, 0]
    assert second.age.tolist() == [1, 0]


def test_a_domain_that_may_have_no_tmem_at_all_is_shown_so() -> None:
    present = [(member(1, tmem_max_pages=0), domain(1)), (member(2, tmem_max_pages=-1), domain(2))]
    assert view_of(HOST, present, tick=0, interval_s=1).maximum.tolist() == [0, 1000]


def test_limits_come_from_the_configuration_and_the_operator() -> None:
    pinned = member(3)
    pinned.pinned_tmem_pages, pinned.pinned_ram_frames = 11, 2047  # a part of its fourth area
    members = [member(1), member(2, tmem_min_pages=5, tmem_max_pages=70), pinned]
    present = [(one, domain(one.domid)) for one in members]
    view = view_of(HOST, present, tick=0, interval_s=1)
    assert view.minimum.tolist() == [0, 5, 11]
    assert view.maximum.tolist() == [1000, 70, 11]
    assert view.ram_minimum.tolist() == [512, 512, 2048]
    assert view.ram_maximum.tolist() == [4096, 4096, 2048]
    assert (view.capacity, view.ram_capacity) == (1000, 62 * AREA_FRAMES)


def test_without_a_target_a_domain_is_shown_a_share_first_and_then_everything() -> None:
    one = member(1)
    present = [(one, domain(1)), (member(2), domain(2, tmem_target_pages=77))]
    assert view_of(HOST, present, tick=0, interval_s=1).target.tolist() == [500, 77]
    one.age = 1
    assert view_of(HOST, present, tick=1, interval_s=1).target.tolist() == [1000, 77]


@pytest.mark.parametrize("lie", [1 << 63, (1 << 64) - 1])
def test_what_a_guest_says_is_clipped(lie: int) -> None:
    one = member(1)
    now = domain(1, guest_swap_ins=lie, guest_used_frames=lie, current_frames=100)
    view = view_of(HOST, [(one, now)], tick=0, interval_s=1)
    assert 0 <= view.swap_ins[0] <= 1 << 53
    assert 0 <= view.ram_used[0] <= 100


def telling(**values: Any) -> View:
    unknown = {"guest_committed_frames": -1, "guest_idle_permille": -1}
    one = member(1)
    one.seen = domain(1, guest_stall_ns=1_000_000_000)
    return view_of(HOST, [(one, domain(1, **unknown | values))], tick=1, interval_s=2.0)


def test_what_the_guest_holds_waits_and_leaves_idle_is_shown() -> None:
    view = telling(
        guest_committed_frames=777, guest_stall_ns=1_500_000_000, guest_idle_permille=250
    )
    assert (view.committed[0], view.pressure[0], view.idle[0]) == (777, 0.25, 0.25)


def test_a_guest_that_committed_nothing_is_not_one_that_does_not_say() -> None:
    assert telling(guest_committed_frames=0).committed[0] == 0
    assert np.isnan(telling(guest_committed_frames=-1).committed[0])


def test_miss_ratios_are_over_the_capacity_that_is_shared() -> None:
    curve = tuple(np.linspace(1, 0, MRC_POINTS))
    present = [(member(1), domain(1, mrc=curve)), (member(2), domain(2, mrc=curve))]
    aside = [(member(3), domain(3, tmem_target_pages=500))]
    whole = view_of(HOST, present, tick=0, interval_s=1).mrc
    half = view_of(HOST, present, aside, tick=0, interval_s=1).mrc
    assert whole is not None
    assert half is not None
    assert whole.tolist() == [list(curve)] * 2
    assert half[1, -1] == 0.5
    present[0] = (member(1), domain(1, mrc=None))
    assert view_of(HOST, present, tick=0, interval_s=1).mrc is None


@pytest.mark.parametrize("untold", [-1, -5, -(1 << 63)])
def test_what_the_guest_does_not_say_is_not_a_number(untold: int) -> None:
    names = ("used_frames", "swap_ins", "committed_frames", "stall_ns", "idle_permille")
    nothing = {f"guest_{name}": untold for name in names}
    one, now = member(1), domain(1, current_frames=9, **nothing)
    for seen in (None, now, domain(1, guest_stall_ns=7)):
        one.seen = seen
        view = view_of(HOST, [(one, now)], tick=1, interval_s=1)
        for column in (view.swap_ins, view.ram_used, view.committed, view.idle, view.pressure):
            assert np.isnan(column).all()
        assert (view.came_back.tolist(), view.in_use.tolist()) == ([0], [9])


def test_what_was_told_for_the_first_time_has_no_interval() -> None:
    one = member(1)
    one.seen, one.age = domain(1, guest_stall_ns=-1, guest_swap_ins=-1), 1
    told = domain(1, guest_stall_ns=10**9, guest_swap_ins=50)
    view = view_of(HOST, [(one, told)], tick=1, interval_s=1.0)
    assert np.isnan([view.pressure[0], view.swap_ins[0]]).all()
    one.seen = told
    view = view_of(HOST, [(one, told)], tick=2, interval_s=1.0)
    assert (view.pressure[0], view.swap_ins[0]) == (0, 0)


@pytest.mark.parametrize("lie", [1 << 63, (1 << 64) - 1])
def test_pressure_and_idleness_are_fractions(lie: int) -> None:
    view = telling(guest_committed_frames=lie, guest_stall_ns=lie, guest_idle_permille=lie)
    assert (view.pressure[0], view.idle[0]) == (1, 1)
    assert view.committed[0] <= 1 << 53


def test_a_counter_that_falls_counts_as_still() -> None:
    one = member(1)
    one.seen = domain(1, guest_swap_ins=9)
    view = view_of(HOST, [(one, domain(1, guest_swap_ins=3))], tick=0, interval_s=1)
    assert view.swap_ins.tolist() == [0]


def test_no_domain_is_a_view_too() -> None:
    assert len(view_of(HOST, [], tick=0, interval_s=1)) == 0


def excess(one: Member, areas: int) -> int:
    now = domain(1, installed_frames=4 * AREA_FRAMES, resident_frames=(4 + areas) * AREA_FRAMES)
    return len(find_violations([(one, now)]))


def test_excess_is_a_violation_in_its_second_tick_and_from_then_on() -> None:
    one = member(1)
    assert [excess(one, 2) for _ in range(4)] == [0, 1, 1, 1]


def test_one_area_is_no_violation() -> None:
    one = member(1)
    assert [excess(one, 1) for _ in range(4)] == [0, 0, 0, 0]


def test_a_pause_starts_the_count_again() -> None:
    one = member(1)
    assert [excess(one, areas) for areas in (2, 0, 2, 0, 2, 2)] == [0, 0, 0, 0, 0, 1]


def test_a_violation_says_who_and_how_much() -> None:
    one = member(1)
    one.excess_ticks = 1
    now = domain(1, installed_frames=512, resident_frames=5000)
    (violation,) = find_violations([(one, now)])
    assert (violation.domid, violation.name) == (1, "vm1")
    assert (violation.resident_frames, violation.allowed_frames) == (5000, 1024)


def test_a_declared_proxy_stands_in_for_failed_puts_and_is_named() -> None:
    one, plain = member(1, failed_puts="swap-outs"), member(2)
    unknown = domain(1, guest_swap_outs=-1, puts_failed=9)
    other = domain(2, puts_failed=4)
    first = view_of(HOST, [(one, unknown), (plain, other)], tick=0, interval_s=1.0)
    assert np.isnan(first.failed_puts[0])
    assert first.failed_puts[1] == 4
    assert np.isfinite(first.demand).all()
    assert np.isfinite(view_of(HOST, [(one, unknown)], tick=0, interval_s=1.0).came_back).all()
    assert "does not report" in proxy_of(one, unknown)
    assert proxy_of(plain, other) == ""
    one.seen = domain(1, guest_swap_outs=100)
    known = domain(1, guest_swap_outs=130)
    assert view_of(HOST, [(one, known)], tick=1, interval_s=1.0).failed_puts[0] == 30
    assert proxy_of(one, known) == "failed_puts by proxy: pages that the guest wrote to its swap"
