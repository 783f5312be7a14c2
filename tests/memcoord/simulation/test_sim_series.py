"""Worlds of demand series: every policy kept to capacity, many domains at once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memcoord.benchmarks.policies.speeds import measure_ticks
from memcoord.simulation.series_world import SeriesWorld, synthetic_demand
from policies import Plan, PolicyError, View, load

POLICIES = ("greedy", "static-alloc", "smart-alloc", "max-min")


@settings(max_examples=30, deadline=None)
@given(
    policy=st.sampled_from(POLICIES),
    seed=st.integers(0, 1 << 30),
    domains=st.integers(1, 30),
    capacity=st.integers(0, 20_000),
)
def test_nobody_holds_more_than_it_wants_and_all_no_more_than_there_is(
    policy: str, seed: int, domains: int, capacity: int
) -> None:
    world = SeriesWorld(synthetic_demand(domains, 20, 1000.0, seed), capacity, load(policy))
    for _ in range(20):
        world.tick()
        world.validate()


def test_max_min_wastes_nothing_and_static_does() -> None:
    demand = np.tile([100.0, 900.0, 20.0], (10, 1))
    runs = {name: SeriesWorld(demand, 900, load(name)).run() for name in POLICIES}
    # The first ticks of max-min see a demand that did not exist before.
    assert runs["max-min"].held[-1].tolist() == [100, 780, 20]
    assert runs["static-alloc"].held[-1].tolist() == [100, 300, 20]
    assert runs["static-alloc"].utilisation < runs["max-min"].utilisation
    assert runs["static-alloc"].utilisation == pytest.approx(420 / 900)
    assert runs["static-alloc"].welfare.tolist() == pytest.approx([1, 1 / 3, 1])


def test_greedy_is_first_come_first_served() -> None:
    demand = np.array([[600.0, 0.0], [600.0, 600.0], [300.0, 600.0], [600.0, 600.0]])
    run = SeriesWorld(demand, 1000, load("greedy")).run()
    assert run.held.tolist() == [[600, 0], [600, 400], [300, 600], [400, 600]]


def test_a_ram_policy_is_given_the_memory_as_ram() -> None:
    class HalfEach:
        def plan(self, view: View) -> Plan:
            assert view.capacity * view.ram_capacity == 0
            share = np.full(len(view), view.ram_capacity // len(view))
            return Plan(tmem=np.zeros(len(view)), ram=share, carry=view.carried(1) + 1)

    world = SeriesWorld(np.full((3, 2), 700.0), 1000, HalfEach())
    run = world.run()
    assert run.held.tolist() == [[500, 500]] * 3
    view = world.view()
    assert view.ram_used.tolist() == [500, 500]
    assert view.committed.tolist() == [700, 700]
    assert view.pressure.tolist() == pytest.approx([2 / 7, 2 / 7])
    assert view.carry.tolist() == [[3], [3]]


def test_a_plan_that_is_nonsense_is_refused() -> None:
    class TooMuch:
        def plan(self, view: View) -> Plan:
            return Plan(tmem=np.full(len(view), view.capacity))

    with pytest.raises(PolicyError, match="tick 0"):
        SeriesWorld(np.ones((2, 2)), 10, TooMuch()).run()


def test_ten_thousand_domains_are_one_call() -> None:
    run = SeriesWorld(synthetic_demand(10_000, 5, 1000.0, 1), 3_000_000, load("smart-alloc")).run()
    assert run.held.shape == (5, 10_000)
    assert 0 < run.utilisation <= 1


def test_the_figures_of_the_bench_are_there() -> None:
    found = measure_ticks(("greedy",))
    assert set(found) == {
        "tick_10000_ms",
        "tick_10000_apart_ms",
        "tick_10000_per_domain/tick_100_per_domain",
    }
    assert all(value > 0 for value in found.values())


def test_the_same_seed_makes_the_same_demand() -> None:
    assert (synthetic_demand(5, 30, 10.0, 3) == synthetic_demand(5, 30, 10.0, 3)).all()
    assert (synthetic_demand(5, 30, 10.0, 3) != synthetic_demand(5, 30, 10.0, 4)).any()
