"""karma against the published simulator's run, and its levels against a slice by slice loop."""

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies import Plan, Policy, View, load
from policies.karma import highest_first
from policies.water import water_fill

DEMANDS = np.array([(4, 0, 2, 3, 0), (1, 3, 2, 3, 6), (1, 0, 5, 0, 1)])


def play(
    policy: Policy, demands: np.ndarray[tuple[int, int], np.dtype[np.int64]], capacity: int
) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.float64]], Plan]:
    """Allocations of each quantum, and the last plan."""
    plan = Plan()
    given: list[list[float]] = []
    for demand in demands.T:
        carry = np.empty((len(demand), 0)) if plan.carry is None else plan.carry
        maximum = np.full(len(demand), 100)
        plan = policy.plan(View.of(capacity=capacity, used=demand, maximum=maximum, carry=carry))
        given.append(np.asarray(plan.tmem).tolist())
    return np.array(given).T, plan


def jain(x: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    return float(x.sum() ** 2 / (len(x) * (x**2).sum()))


def test_the_published_run() -> None:
    given, plan = play(load("karma:alpha=0.5,credits=6,slice_pages=1"), DEMANDS, 6)
    assert given.tolist() == [[4, 0, 1, 3, 0], [1, 3, 1, 3, 5], [1, 0, 4, 0, 1]]
    assert plan.carry is not None
    assert plan.carry[:, 0].tolist() == [10, 5, 12]
    totals = given.sum(axis=1)
    assert totals.tolist() == [8, 13, 6]
    assert jain(totals) == pytest.approx(0.903, abs=0.0005)


def test_max_min_on_the_same_run_is_less_fair() -> None:
    ones, zeros = np.ones(3), np.zeros(3)
    given = np.array([water_fill(6, ones, zeros, demand) for demand in DEMANDS.T.astype(float)])
    assert given[2].tolist() == [2, 2, 2]
    assert given.sum(axis=0).tolist() == [9, 14, 4]
    assert jain(given.sum(axis=0)) == pytest.approx(0.829, abs=0.0005)


def test_without_shared_slices_the_totals_are_those_of_max_min() -> None:
    given, _ = play(load("karma:alpha=0,credits=6,slice_pages=1"), DEMANDS, 6)
    assert given.sum(axis=1).tolist() == [9, 14, 4]


def test_without_credits_a_domain_is_held_at_what_is_guaranteed() -> None:
    view = View.of(capacity=60, used=[60, 0], carry=[[0, 0], [50, 0]])
    policy = load("karma:alpha=0,slice_pages=1")
    assert np.asarray(policy.plan(view).tmem).tolist() == [30, 0]


def test_the_poorest_donor_lends_first() -> None:
    view = View.of(capacity=30, used=[12, 0, 0], carry=[[50, 0], [9, 0], [3, 0]])
    plan = load("karma:alpha=0,slice_pages=1").plan(view)
    assert plan.carry is not None
    assert plan.carry[:, 0].tolist() == [48, 9, 5]


def test_a_newcomer_starts_with_the_mean() -> None:
    view = View.of(capacity=0, used=[0, 0, 0], carry=[[10, 0], [20, 0], [np.nan, np.nan]])
    plan = load("karma").plan(view)
    assert plan.carry is not None
    assert plan.carry[:, 0].tolist() == [10, 20, 15]


def test_demands_are_rounded_up_to_slices_and_maxima_respected() -> None:
    view = View.of(capacity=1000, used=[65, 500], maximum=[1000, 128])
    assert np.asarray(load("karma:slice_pages=64").plan(view).tmem).tolist() == [128, 128]


def slice_by_slice(
    key: list[float], most: list[int], units: int, names: tuple[str, ...]
) -> list[int]:
    given = [0] * len(key)
    for _ in range(min(units, sum(most))):
        able = [index for index in range(len(key)) if given[index] < most[index]]
        best = min(able, key=lambda index: (given[index] - key[index], names[index]))
        given[best] += 1
    return given


rows = st.tuples(st.integers(-40, 90), st.integers(0, 12))


@settings(deadline=None)
@given(st.lists(rows, max_size=7), st.integers(0, 60), st.randoms(use_true_random=False))
def test_levels_give_what_slice_by_slice_gives(
    some: list[tuple[int, int]], units: int, random: Random
) -> None:
    key, most = [quarters / 4 for quarters, _ in some], [limit for _, limit in some]
    names = tuple(
        sorted((f"d{index}" for index in range(len(some))), key=lambda _: random.random())
    )
    fast = highest_first(np.array(key), np.array(most, dtype=np.int64), units, names)
    assert fast.tolist() == slice_by_slice(key, most, units, names)
