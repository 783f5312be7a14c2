"""Ticks of the coordinator, on a backend that enforces conservation at every single call."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from coordinator_world import (
    TMEM,
    Scripted,
    World,
    domain,
    holding,
    raising,
    ram_areas,
    tmem,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from hypervisor.public.errors import InternalError, NoMemory
from hypervisor.public.units import DomId
from policies import Plan, View, load


def test_domains_nobody_announced_are_left_alone() -> None:
    world = World(load("static-alloc"))
    world.host.domains[DomId(9)] = domain(9)
    world.open(1, tmem_target_pages=0)
    world.tick()
    assert world.host.calls == [("tmem", 1, TMEM)]


# The three policies, through the coordinator


def test_greedy_sets_newcomers_free_and_sends_nothing_else() -> None:
    world = World(load("greedy"))
    world.open(1)
    world.open(2)
    world.tick()
    assert world.tmem() == [-1, -1]
    report = world.tick()
    assert (report.fault, world.host.calls, report.decisions) == (None, [], ())


def test_static_alloc_is_sent_once_and_again_when_a_domain_comes() -> None:
    world = World(load("static-alloc"))
    world.open(1)
    world.open(2)
    world.tick()
    assert world.host.calls == [("tmem", 1, 500), ("tmem", 2, 500)]
    world.tick()
    assert world.host.calls == []
    world.open(3)
    world.tick()
    assert world.tmem() == [333, 333, 333]
    world.close(1)
    world.tick()
    assert world.tmem() == [500, 500]


def test_smart_alloc_vector_from_counters_to_targets() -> None:
    world = World(load("smart-alloc:P=6,threshold=50"))
    for domid, used in ((1, 333), (2, 100), (3, 320)):
        world.open(domid, tmem_target_pages=333, tmem_used_pages=used)
    world.host.change(1, puts=80, puts_failed=50)
    world.tick()
    assert world.tmem() == [378, 301, 320]


def test_minimum_and_maximum_hold_whatever_the_policy_says() -> None:
    world = World(Scripted([tmem(0, 900)]))
    world.open(1, {"tmem_min_pages": 50})
    world.open(2, {"tmem_max_pages": 200})
    world.tick()
    assert world.tmem() == [50, 200]
    assert world.coordinator.why("vm1")[-1].clamp == "raised to minimum 50"
    assert world.coordinator.why("vm2")[-1].clamp == "cut to maximum 200"


def test_why_has_the_inputs_the_rule_and_the_clamp_of_the_tick() -> None:
    world = World(load("smart-alloc:P=10,threshold=50"))
    world.open(1, {"tmem_max_pages": 150}, tmem_target_pages=100, tmem_used_pages=99)
    world.host.change(1, puts=9, puts_failed=4)
    world.tick()
    (told,) = world.coordinator.why("vm1")
    seen = {name: told.inputs[name] for name in ("used", "target", "failed_puts", "capacity")}
    assert seen == {"used": 99, "target": 100, "failed_puts": 4, "capacity": TMEM}
    assert (told.old, told.new) == (100, 150)
    assert (told.rule, told.clamp) == ("puts failed: grow", "cut to maximum 150")


def test_a_pinned_target_is_the_operators_until_it_is_let_go() -> None:
    world = World(load("static-alloc"))
    world.open(1)
    world.open(2)
    world.coordinator.pin(DomId(1), tmem_pages=123)
    world.tick()
    assert world.tmem()[0] == 123
    world.coordinator.pin(DomId(1), tmem_pages=-1)
    world.tick()
    assert world.tmem() == [500, 500]
    with pytest.raises(KeyError):
        world.coordinator.pin(DomId(7), tmem_pages=1)


def test_why_tells_what_an_operator_did_by_hand() -> None:
    world = World(load("static-alloc"))
    world.open(1)
    world.tick()
    world.coordinator.pin(DomId(1), tmem_pages=123)
    world.coordinator.pin(DomId(1), ram_frames=512)
    world.coordinator.pin(DomId(1), tmem_pages=-1)
    name = world.coordinator._members[DomId(1)].config.name
    told = [(one.kind, one.new, one.rule) for one in world.coordinator.why(name)[-3:]]
    assert told[:2] == [("tmem", 123, "set by the operator"), ("ram", 512, "set by the operator")]
    assert told[2][2] == "given back to the policy by the operator"


def test_a_view_covers_the_interval_since_the_one_before() -> None:
    policy = Scripted([lambda view: Plan()])
    world = World(policy)
    world.open(1, puts=5)
    world.tick()
    world.host.change(1, puts=7)
    world.tick()
    seen = [(view.tick, view.interval_s, view.puts[0], view.age[0]) for view in policy.views]
    assert seen == [(0, 1.0, 5, 0), (1, 1.0, 2, 1)]


# Two phases


def test_tmem_shrinks_go_before_grows() -> None:
    world = World(Scripted([tmem(900, 50, 50)]))
    world.open(1, tmem_target_pages=100)
    world.open(2, tmem_target_pages=800)
    world.open(3)
    world.tick()
    assert world.host.calls == [("tmem", 2, 50), ("tmem", 3, 50), ("tmem", 1, 900)]


def test_ram_grows_in_the_same_tick_when_the_donor_gives_at_once() -> None:
    world = World(Scripted([ram_areas(50, 12)]))
    holding(world, 12, 50)
    report = world.tick()
    assert world.host.calls == [("ram", 2, 12 * 512), ("ram", 1, 50 * 512)]
    assert report.waiting_frames == 0


def test_ram_growth_waits_for_what_has_not_arrived() -> None:
    world = World(Scripted([ram_areas(50, 12)]))
    world.host.at_once_areas = 8
    holding(world, 12, 50)
    report = world.tick()
    assert world.host.calls == [("ram", 2, 12 * 512), ("ram", 1, 20 * 512)]
    assert report.waiting_frames == 30 * 512
    assert "frames wait for memory" in world.coordinator.why("vm1")[-1].clamp
    assert world.tick().decisions == ()
    assert world.host.calls == []
    world.host.settle()
    assert world.tick().waiting_frames == 0
    assert world.host.calls == [("ram", 1, 50 * 512)]


def test_ram_that_is_there_is_shared_among_growers_in_proportion() -> None:
    world = World(Scripted([ram_areas(30, 20, 12)]))
    world.host.at_once_areas = 0
    holding(world, 10, 10, 30)
    world.tick()
    assert world.host.calls == [("ram", 3, 12 * 512), ("ram", 1, 18 * 512), ("ram", 2, 14 * 512)]


def test_ram_moves_in_whole_areas_and_is_sent_once() -> None:
    world = World(Scripted([lambda view: Plan(ram=[1500.0])]))
    holding(world, 10)
    world.tick()
    assert world.host.calls == [("ram", 1, 2 * 512)]
    world.tick()
    assert world.host.calls == []


def test_boot_memory_and_maxmem_bound_a_ram_target() -> None:
    world = World(Scripted([ram_areas(0, 40)]))
    held = {"target_frames": 1024, "installed_frames": 1024, "tmem_target_pages": 0}
    world.open(1, {"boot_frames": 512}, **held)
    world.open(2, {"maxmem_frames": 2048}, **held)
    world.tick()
    assert world.host.calls == [("ram", 1, 512), ("ram", 2, 2048)]


def test_a_backend_that_refuses_one_domain_still_serves_the_others() -> None:
    world = World(Scripted([tmem(10, 20)]))
    world.host.refuses = NoMemory
    world.open(1)
    world.open(2)
    world.tick()
    assert world.tmem() == [-1, 20]
    assert world.coordinator.why("vm1")[-1].clamp == "the backend refused: no"
    assert world.coordinator.statistics().refusals == 1


def test_a_broken_invariant_is_not_swallowed() -> None:
    world = World(Scripted([tmem(10)]))
    world.open(1)
    world.host.refuses = InternalError
    with pytest.raises(InternalError):
        world.tick()


targets = st.lists(st.floats(0, 1), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None)
@given(st.lists(targets, min_size=1, max_size=6), st.integers(0, 20))
def test_nothing_is_promised_twice_under_random_plans(
    plans: list[list[float]], at_once_areas: int
) -> None:
    def plan(view: View) -> Plan:
        raw = plans[view.tick % len(plans) if view.tick < 8 else 0]
        share = np.resize(np.array(raw), len(view))
        share = share / max(share.sum(), 1)
        return Plan(tmem=share * view.capacity, ram=share * view.ram_capacity)

    world = World(Scripted([plan]))
    world.host.at_once_areas = at_once_areas
    holding(world, 5, 10, 15)
    for tick in range(8):  # the fake host asserts conservation at every call
        assert world.tick().fault is None
        if tick % 3 == 2:
            world.host.settle()
    world.host.settle()
    world.tick()
    world.host.settle()
    assert world.tick().waiting_frames == 0


# Faults

FAULTS = [
    (raising(RuntimeError("boom")), "raised RuntimeError: boom"),
    (raising(MemoryError()), "raised MemoryError"),
    (tmem(float("nan"), 1), "nan: tmem target is not a number for domain vm1"),
    (tmem(1, float("inf")), "infinite: tmem target is infinite for domain vm2"),
    (tmem(1, -1), "negative: tmem target is negative for domain vm2"),
    (tmem(1), "length: "),
    (tmem(1, 2, 3), "length: "),
    (tmem(900, 900), "capacity: tmem targets add up to 1800 of 1000"),
    (lambda view: {"vm1": 3}, "type: answered dict, not Plan"),
    (lambda view: Plan(tmem="lots"), "length: "),
    (lambda view: Plan(tmem=np.array([object(), object()])), "number: "),
    (lambda view: view.used.fill(3), "raised ValueError: "),
]


@pytest.mark.parametrize(("answer", "words"), FAULTS)
def test_a_fault_is_named_and_the_last_valid_plan_stays(
    answer: Callable[[View], Any], words: str
) -> None:
    world = World(Scripted([tmem(700, 300), answer, answer, tmem(600, 400)]))
    world.open(1)
    world.open(2)
    assert world.tick().fault is None
    for _ in range(2):
        report = world.tick()
        assert report.fault is not None
        assert report.fault.policy == "scripted"
        assert words in report.fault.why
        assert world.tmem() == [700, 300]
        assert world.host.calls == []
    assert world.tick().fault is None
    assert world.tmem() == [600, 400]
    rules = [decision.rule for decision in world.coordinator.why("vm1")]
    assert len(rules) == 4  # set, fault once, answers again, set
    assert words in rules[1]
    counts = world.coordinator.statistics()
    assert (counts.ticks, counts.faults, counts.stalls, counts.last_plan_tick) == (4, 2, 0, 3)


def test_a_stall_is_reported_as_one() -> None:
    world = World(load("static-alloc"))
    world.open(1)
    world.tick()
    world.stall = True
    report = world.tick()
    assert report.stalled
    assert report.fault is not None
    assert "stalled" in str(report.fault)
    assert world.tmem() == [1000]
    assert world.coordinator.statistics().stalls == 1


def test_before_the_first_valid_plan_a_newcomer_has_an_equal_share_at_most() -> None:
    world = World(Scripted([raising(RuntimeError())]))
    world.open(1, tmem_target_pages=42)
    world.open(2)
    world.open(3)
    world.tick()
    assert world.tmem() == [42, TMEM // 2, TMEM // 3]


def test_a_newcomer_gets_no_more_than_the_limits_of_others_leave() -> None:
    world = World(Scripted([raising(RuntimeError())]))
    world.open(1, tmem_target_pages=TMEM - 10)
    world.open(2)
    assert world.tmem() == [TMEM - 10, 10]


def test_a_plan_of_ram_only_sets_a_newcomer_free() -> None:
    world = World(Scripted([raising(RuntimeError()), ram_areas(0, 0)]))
    world.open(1)
    world.open(2, {"tmem_max_pages": 700})
    world.tick()
    assert world.tmem() == [TMEM, TMEM // 2 - TMEM // 2]
    world.tick()
    assert world.tmem() == [-1, 700]


def test_a_first_view_shows_an_equal_share_whatever_the_bound_is() -> None:
    policy = Scripted([lambda view: Plan(tmem=view.target)])
    world = World(policy)
    for domid in (1, 2, 3, 4):
        world.open(domid)
    world.tick()
    assert policy.views[0].target.tolist() == [TMEM / 4] * 4


def test_a_domain_that_opted_out_is_not_bounded() -> None:
    world = World(load("static-alloc"))
    world.open(1, {"opt_out": True})
    assert world.tmem() == [-1]


def test_a_newcomer_during_a_fault_gets_an_equal_share() -> None:
    world = World(Scripted([tmem(600, 400), raising(RuntimeError())]))
    world.open(1)
    world.open(2)
    world.tick()
    world.open(3)
    world.tick()
    assert world.tmem() == [450, 300, 249]  # 600, 400, 333 scaled to 1000
    world.close(1)
    world.tick()
    assert world.tmem() == [400, 500]


def test_a_domid_used_again_inherits_nothing() -> None:
    world = World(Scripted([tmem(900, 100), raising(RuntimeError())]))
    world.open(1)
    world.open(2)
    world.tick()
    world.close(1)
    world.open(1)
    world.tick()
    assert world.tmem() == [500, 100]


def test_a_newcomer_that_makes_the_kept_ram_too_much_stops_its_growth_only() -> None:
    world = World(Scripted([ram_areas(62), raising(RuntimeError())]))
    holding(world, 40)
    world.host.change(1, target_frames=0)
    world.tick()
    world.host.change(1, target_frames=40 * 512)
    world.open(2, target_frames=512)
    assert world.tick().fault is not None
    assert world.host.calls == []


def test_a_newcomer_during_a_fault_of_greedy_is_unlimited() -> None:
    unlimited = Plan(tmem=[Plan.UNLIMITED])
    world = World(Scripted([lambda view: unlimited, raising(RuntimeError())]))
    world.open(1)
    world.tick()
    world.open(2)
    world.tick()
    assert world.tmem() == [-1, -1]


def test_a_kept_plan_follows_the_capacity_down() -> None:
    world = World(Scripted([tmem(600, 400), raising(RuntimeError())]))
    world.open(1)
    world.open(2)
    world.tick()
    world.host.change(1, tmem_target_pages=0)
    world.host.change(2, tmem_target_pages=0)
    world.host.capacity = 500
    world.tick()
    assert world.tmem() == [300, 200]


def test_ram_growth_that_waits_goes_on_during_a_fault() -> None:
    world = World(Scripted([ram_areas(50, 12), raising(RuntimeError())]))
    world.host.at_once_areas = 0
    holding(world, 12, 50)
    world.tick()
    world.host.settle()
    report = world.tick()
    assert report.fault is not None
    assert world.host.calls == [("ram", 1, 50 * 512)]


@pytest.mark.parametrize("name", ["greedy", "static-alloc", "smart-alloc"])
def test_domains_come_and_go_at_any_tick(name: str) -> None:
    world = World(load(name))
    random = np.random.default_rng(5)
    alive: set[int] = set()
    for step in range(200):
        if len(alive) < 8 and random.random() < 0.5:
            world.open(step + 1)
            alive.add(step + 1)
        elif alive and random.random() < 0.5:
            leaver = int(random.choice(sorted(alive)))
            alive.remove(leaver)
            world.close(leaver)
        for domid in alive:
            failed = int(random.integers(2))
            now = world.host.domains[DomId(domid)]
            world.host.change(domid, puts=now.puts + 5, puts_failed=now.puts_failed + failed)
        assert world.tick().fault is None


class Boasts:
    """Says grow, and halves the target."""

    name = "boasts"

    def plan(self, view: View) -> Plan:
        return Plan(tmem=view.target // 2, why=["puts failed: grow"] * len(view))


def test_why_does_not_say_grow_of_a_target_that_fell() -> None:
    world = World(Boasts())
    world.open(1, tmem_target_pages=100)
    world.tick()
    (told,) = world.coordinator.why("vm1")
    assert (told.old, told.new, told.asked) == (100, 50, 50)
    assert told.clamp == "yet the target fell"


def test_deeds_of_the_operator_are_in_the_report_of_the_next_tick() -> None:
    world = World(load("greedy"))
    world.open(1)
    world.tick()
    world.coordinator.pin(DomId(1), tmem_pages=7)
    world.coordinator.note(DomId(1), "frozen by the operator")
    report = world.tick()
    assert [one.rule for one in report.deeds] == ["set by the operator", "frozen by the operator"]
    assert world.tick().deeds == ()
