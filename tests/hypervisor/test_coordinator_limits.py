"""Opt-out, priority and pins: what the operator asked for holds whatever the policy says."""

from typing import Any

import numpy as np
import pytest
from coordinator_world import SLACK, TMEM, TOTAL, Scripted, World, holding, ram_areas, tmem
from hypothesis import given, settings
from hypothesis import strategies as st

from hypervisor.coordination.coordinator import OPTED_OUT
from hypervisor.public.units import AREA_FRAMES, DomId
from policies import Plan, View, load

OUT: dict[str, Any] = {"opt_out": True}


def test_a_domain_that_opted_out_is_not_in_the_view_nor_its_memory_in_the_capacity() -> None:
    policy = Scripted([lambda view: Plan()])
    world = World(policy)
    held = 10 * AREA_FRAMES
    world.open(1, OUT, tmem_target_pages=300, target_frames=held, installed_frames=held - 512)
    world.open(2)
    world.tick()
    (view,) = policy.views
    assert view.names == ("vm2",)
    assert (view.capacity, view.ram_capacity) == (TMEM - 300, TOTAL - SLACK - held)


def test_without_a_target_what_it_holds_is_taken_off() -> None:
    policy = Scripted([lambda view: Plan()])
    world = World(policy)
    world.open(1, OUT, tmem_used_pages=450)
    world.tick()
    assert policy.views[0].capacity == TMEM - 450


@pytest.mark.parametrize("name", ["static-alloc", "smart-alloc"])
def test_targets_of_a_domain_that_opted_out_never_change(name: str) -> None:
    world = World(load(name))
    world.open(1, OUT, tmem_target_pages=300)
    world.open(2, tmem_target_pages=100)
    for tick in range(1, 60):
        world.host.change(2, puts=9 * tick, puts_failed=9 * tick)
        world.host.change(1, puts=9 * tick, puts_failed=9 * tick)
        world.tick()
        assert 1 not in [domid for _, domid, _ in world.host.calls]
    assert world.tmem() == [300, 700]
    assert [told.rule for told in world.coordinator.why("vm1")] == [OPTED_OUT]


def test_a_domain_that_opted_out_is_still_watched() -> None:
    world = World(load("greedy"))
    world.open(1, OUT, resident_frames=5 * AREA_FRAMES)
    assert [len(world.tick().violations) for _ in range(2)] == [0, 1]


def test_one_that_opted_out_keeps_its_memory_through_a_fault() -> None:
    def fails(view: View) -> Plan:
        raise RuntimeError

    world = World(Scripted([tmem(700), fails]))
    world.open(1, OUT, tmem_target_pages=300)
    world.open(2)
    world.tick()
    world.host.capacity = 500
    world.host.change(2, tmem_target_pages=0)
    world.tick()
    assert world.tmem() == [300, 200]


def test_equal_limits_pin_a_target() -> None:
    world = World(Scripted([lambda view: Plan(tmem=[0, 900], ram=[0, 30 * AREA_FRAMES])]))
    fixed = 8 * AREA_FRAMES
    pinned = {"tmem_min_pages": 70, "tmem_max_pages": 70}
    world.open(1, pinned | {"ram_min_frames": fixed, "ram_max_frames": fixed})
    world.open(2, {"ram_max_frames": 16 * AREA_FRAMES})
    world.tick()
    assert world.tmem() == [70, 900]
    targets = [world.host.domains[DomId(domid)].target_frames for domid in (1, 2)]
    assert targets == [fixed, 16 * AREA_FRAMES]


def test_minima_that_do_not_fit_go_to_the_higher_priority_first() -> None:
    world = World(Scripted([tmem(0, 0, 0, 0)]))
    for domid, priority in ((1, 0), (2, 9), (3, 5), (4, 5)):
        world.open(domid, {"tmem_min_pages": 400, "priority": priority})
    world.tick()
    assert world.tmem() == [0, 400, 300, 300]
    world.host.capacity = 300
    for domid in (2, 3, 4):
        world.host.change(domid, tmem_target_pages=0)
    world.tick()
    assert world.tmem() == [0, 300, 0, 0]


def test_growth_that_waits_is_served_by_priority() -> None:
    world = World(Scripted([ram_areas(30, 20, 12)]))
    world.host.at_once_areas = 0
    holding(world, 10, 10, 30)
    world.close(2)
    frames = 10 * AREA_FRAMES
    held = {"target_frames": frames, "installed_frames": frames, "current_frames": frames}
    world.open(2, {"priority": 1}, tmem_target_pages=0, **held)
    world.tick()  # 12 areas are free, vm2 wants 10 more and vm1 20
    assert world.host.calls[1:] == [("ram", 1, 12 * 512), ("ram", 2, 20 * 512)]


def test_the_last_free_area_goes_to_somebody() -> None:
    world = World(Scripted([ram_areas(21, 21, 20)]))
    world.host.at_once_areas = 0
    holding(world, 20, 20, 21)
    world.tick()
    assert world.host.calls == [("ram", 3, 20 * 512), ("ram", 1, 21 * 512)]


areas = st.lists(st.integers(0, 40), min_size=3, max_size=3)


@settings(max_examples=60, deadline=None)
@given(st.lists(areas, min_size=1, max_size=5), st.integers(0, 5), st.booleans())
def test_growers_get_only_what_has_arrived_and_never_the_slack(
    plans: list[list[int]], at_once_areas: int, out: bool
) -> None:
    def plan(view: View) -> Plan:
        wanted = np.array(plans[view.tick % len(plans)][: len(view)]) * float(AREA_FRAMES)
        return Plan(ram=wanted * min(view.ram_capacity / max(wanted.sum(), 1), 1))

    world = World(Scripted([plan]))
    world.host.at_once_areas = at_once_areas
    holding(world, 20, 20, 20)
    if out:
        now = world.host.domains[DomId(3)]
        world.close(3)
        world.open(3, OUT, target_frames=now.target_frames, installed_frames=now.installed_frames)
    for _ in range(6):  # the fake host sees after every call that slack is left
        before = {domid: now.target_frames for domid, now in world.host.domains.items()}
        world.tick()
        grows = [frames > before[DomId(domid)] for _, domid, frames in world.host.calls]
        assert grows == sorted(grows)
        world.host.settle()
        world.host.validate()
