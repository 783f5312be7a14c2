"""What a policy carries comes back to it, by domain, through comings, goings and faults."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from coordinator_world import Scripted, World, raising

from policies import Plan, View
from policies.base import CARRY_COLUMNS_MAX


def carrying(*rows: list[float]) -> Callable[[View], Plan]:
    return lambda view: Plan(carry=np.array(rows, dtype=float))


def silent(view: View) -> Plan:
    return Plan()


def seen(world: World, policy: Scripted) -> Any:
    world.tick()
    return policy.views[-1].carry.tolist()


def test_what_a_plan_carries_is_in_the_next_view_only() -> None:
    policy = Scripted([carrying([1, 2], [3, 4]), silent])
    world = World(policy)
    world.open(1)
    world.open(2)
    assert seen(world, policy) == [[], []]
    assert seen(world, policy) == [[1, 2], [3, 4]]
    assert seen(world, policy) == [[], []]


def test_rows_follow_their_domains() -> None:
    policy = Scripted([carrying([1], [2], [3]), carrying([5], [6], [7]), silent])
    world = World(policy)
    for domid in (1, 3, 4):
        world.open(domid)
    world.tick()
    world.close(3)
    world.open(2)
    (one, two, three) = seen(world, policy)
    assert (one, three) == ([1], [3])
    assert np.isnan(two).all()
    world.close(1)
    world.open(1)  # the same number, another domain
    (one, two, three) = seen(world, policy)
    assert np.isnan(one).all()
    assert (two, three) == ([6], [7])


FAULTS: list[Callable[[View], Any]] = [
    raising(RuntimeError("boom")),
    carrying([float("nan")], [1]),
    carrying([float("inf")], [1]),
    carrying([1]),
    lambda view: Plan(carry=np.zeros(2)),
    lambda view: Plan(carry=np.zeros((2, CARRY_COLUMNS_MAX + 1))),
    lambda view: Plan(tmem=[-1, 0], carry=np.full((2, 1), 9.0)),
]


@pytest.mark.parametrize("answer", FAULTS)
def test_a_fault_keeps_what_the_last_valid_plan_carried(answer: Callable[[View], Any]) -> None:
    policy = Scripted([carrying([1], [2]), answer, answer, silent])
    world = World(policy)
    world.open(1)
    world.open(2)
    world.tick()
    for _ in range(2):
        assert seen(world, policy) == [[1], [2]]
    assert world.coordinator.statistics().faults == 2
    assert seen(world, policy) == [[1], [2]]


def test_a_stall_keeps_it_too() -> None:
    policy = Scripted([carrying([1]), silent])
    world = World(policy)
    world.open(1)
    world.tick()
    world.stall = True
    assert world.tick().stalled
    world.stall = False
    assert seen(world, policy) == [[1]]


def test_a_policy_that_keeps_its_array_cannot_change_what_was_carried() -> None:
    mine = np.array([[1.0]])
    policy = Scripted([lambda view: Plan(carry=mine), silent])
    world = World(policy)
    world.open(1)
    world.tick()
    mine[:] = 7
    assert seen(world, policy) == [[1]]
