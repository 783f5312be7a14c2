"""What the framework accepts of a policy, what it clamps, and what it refuses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies import Plan, PlanError, View, check_plan
from policies.base import CARRY_COLUMNS_MAX
from policies.checked import WHY_CHARACTERS_MAX, ration

VIEW = View.of(capacity=100, ram_capacity=1000, used=[0, 0], names=["red", "blue"])

REFUSED: list[tuple[object, str, str]] = [
    (None, "type", ""),
    ([1, 2], "type", ""),
    (Plan(tmem=[1]), "length", ""),
    (Plan(tmem=[1, 2, 3]), "length", ""),
    (Plan(tmem=7), "length", ""),
    (Plan(tmem=[[1, 2], [3, 4]]), "length", ""),
    (Plan(tmem=[[1], [3, 4]]), "number", ""),
    (Plan(tmem=["a", "b"]), "number", ""),
    (Plan(tmem=[True, False]), "number", ""),
    (Plan(tmem=[1j, 2]), "number", ""),
    (Plan(tmem=np.array([None, 1])), "number", ""),
    (Plan(tmem=[0, float("nan")]), "nan", "blue"),
    (Plan(tmem=[float("inf"), 0]), "infinite", "red"),
    (Plan(tmem=[0, float("-inf")]), "infinite", "blue"),
    (Plan(tmem=[-1, 0]), "negative", "red"),
    (Plan(tmem=[0, -0.5]), "negative", "blue"),
    (Plan(tmem=[51, 50]), "capacity", ""),
    (Plan(tmem=[1e300, 0]), "capacity", ""),
    (Plan(tmem=[Plan.UNLIMITED, 101]), "capacity", ""),
    (Plan(ram=[Plan.UNLIMITED, 0]), "unlimited", "red"),
    (Plan(ram=[1000, 1]), "capacity", ""),
    (Plan(carry=np.zeros(2)), "carry", ""),
    (Plan(carry=np.zeros((3, 1))), "carry", ""),
    (Plan(carry=np.zeros((2, CARRY_COLUMNS_MAX + 1))), "carry", ""),
    (Plan(carry=np.array([["a"], ["b"]])), "carry", ""),
    (Plan(carry=[[1], [2, 3]]), "carry", ""),  # type: ignore[arg-type]
    (Plan(carry=np.array([[0.0], [np.nan]])), "carry", "blue"),
    (Plan(carry=np.array([[0, -np.inf], [0, 0]])), "carry", "red"),
    (Plan(tmem=[1, 2], why="ab"), "length", ""),
    (Plan(tmem=[1, 2], why=["one"]), "length", ""),
]


@pytest.mark.parametrize(("plan", "clause", "domain"), REFUSED)
def test_nonsense_is_refused_by_clause_and_domain(plan: object, clause: str, domain: str) -> None:
    with pytest.raises(PlanError) as caught:
        check_plan(plan, VIEW)
    assert (caught.value.clause, caught.value.domain) == (clause, domain)
    assert domain in str(caught.value)


def test_rounds_down_and_leaves_what_is_none() -> None:
    plan = check_plan(Plan(tmem=[33.9, 66.99]), VIEW)
    assert plan.tmem is not None
    assert plan.tmem.dtype == np.int64
    assert plan.tmem.tolist() == [33, 66]
    assert plan.ram is None
    assert not plan.tmem_clamps


def test_a_reason_becomes_one_short_line_that_can_be_sent() -> None:
    view = View.of(capacity=10, used=[0, 0])
    why = check_plan(Plan(why=["two\nlines \ud800", "x" * 10_000]), view).why
    assert why is not None
    assert why[0] == "two lines ?"
    assert len(why[1]) == WHY_CHARACTERS_MAX


def test_a_reason_that_cannot_be_read_is_named_by_its_type() -> None:
    class Mute:
        def __str__(self) -> str:
            raise RuntimeError

    why = check_plan(Plan(why=[Mute(), "b"]), VIEW).why  # type: ignore[list-item]
    assert why is not None
    assert list(why) == ["Mute", "b"]


@pytest.mark.parametrize("columns", [0, 1, CARRY_COLUMNS_MAX])
def test_a_carry_is_a_copy_of_the_grid(columns: int) -> None:
    mine = np.arange(2 * columns).reshape(2, columns)
    carry = check_plan(Plan(carry=mine), VIEW).carry  # type: ignore[arg-type]
    assert carry is not None
    assert carry.dtype == np.float64
    assert carry.tolist() == mine.tolist()
    assert not np.shares_memory(carry, mine)


def test_the_plan_is_a_copy() -> None:
    mine = np.array([1.0, 2.0])
    plan = check_plan(Plan(tmem=mine), VIEW)
    mine[:] = 99
    assert plan.tmem is not None
    assert plan.tmem.tolist() == [1, 2]


def test_a_sum_above_capacity_by_rounding_only_is_no_error() -> None:
    third = 100 / 3 * 1.0000000000000002
    view = View.of(capacity=100, used=[0, 0, 0])
    plan = check_plan(Plan(tmem=[third, third, third]), view)
    assert plan.tmem is not None
    assert plan.tmem.sum() == 99


def test_maximum_cuts_and_says_so() -> None:
    view = View.of(capacity=100, used=[0, 0], maximum=[10, 100])
    plan = check_plan(Plan(tmem=[50, 50]), view)
    assert plan.tmem is not None
    assert plan.tmem.tolist() == [10, 50]
    assert plan.tmem_clamps == {0: "cut to maximum 10"}


def test_unlimited_with_a_maximum_becomes_the_maximum() -> None:
    view = View.of(capacity=100, used=[0, 0], maximum=[10, 100])
    plan = check_plan(Plan(tmem=[Plan.UNLIMITED] * 2), view)
    assert plan.tmem is not None
    assert plan.tmem.tolist() == [10, Plan.UNLIMITED]
    assert plan.tmem_clamps == {0: "cut to maximum 10"}


def test_a_minimum_is_met_at_the_cost_of_those_above_theirs() -> None:
    view = View.of(capacity=100, used=[0, 0, 0], minimum=[30, 0, 10])
    plan = check_plan(Plan(tmem=[0, 60, 40]), view)
    assert plan.tmem is not None
    assert plan.tmem.tolist() == [30, 40, 30]
    assert plan.tmem_clamps[0] == "raised to minimum 30"
    assert "gave 20" in plan.tmem_clamps[1]


def test_minima_that_do_not_fit_shrink_together() -> None:
    view = View.of(capacity=50, used=[0, 0], minimum=[60, 40])
    plan = check_plan(Plan(tmem=[0, 0]), view)
    assert plan.tmem is not None
    assert plan.tmem.tolist() == [30, 20]


def test_minima_that_do_not_fit_are_met_by_priority() -> None:
    view = View.of(capacity=50, used=[0, 0, 0, 0], minimum=[30, 30, 30, 10], priority=[1, 2, 1, -1])
    plan = check_plan(Plan(tmem=[10, 10, 10, 10]), view)
    assert plan.tmem is not None
    assert plan.tmem.tolist() == [10, 30, 10, 0]


sizes = st.integers(0, 1 << 40)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1 << 40), st.integers(-2, 2))), sizes)
def test_a_ration_serves_the_higher_priority_first(
    wants: list[tuple[int, int]], supply: int
) -> None:
    asked = np.array([pages for pages, _ in wants], dtype=np.int64)
    priority = np.array([rank for _, rank in wants], dtype=np.float64)
    given_out = ration(asked, priority, supply)
    assert ((given_out >= 0) & (given_out <= asked)).all()
    assert given_out.sum() == min(asked.sum(), supply)
    short = priority[given_out < asked]
    if short.size:
        assert not given_out[priority < short.max()].any()


@pytest.mark.parametrize("supply", [0, 1, 5, 12, 13])
def test_a_ration_is_in_proportion_and_leaves_nothing_over(supply: int) -> None:
    asked = np.array([6, 3, 3])
    given_out = ration(asked, np.zeros(3), supply)
    assert given_out.sum() == min(supply, 12)
    assert (np.abs(given_out - asked * min(supply / 12, 1)) < 1).all()


@st.composite
def cases(draw: st.DrawFn) -> tuple[View, list[float]]:
    count = draw(st.integers(0, 6))
    capacity = draw(sizes)

    def column(most: int = 1 << 40) -> list[int]:
        return draw(st.lists(st.integers(0, most), min_size=count, max_size=count))

    view = View.of(
        capacity=capacity,
        names=[f"d{index}" for index in range(count)],
        minimum=column(),
        maximum=column(),
    )
    targets: list[float] = [float(part) for part in column(capacity // max(count, 1))]
    for index in range(count):
        if draw(st.integers(0, 4)) == 0:
            targets[index] = float(Plan.UNLIMITED)
    return view, targets


@settings(deadline=None)
@given(cases())
def test_a_checked_plan_keeps_every_limit(case: tuple[View, list[float]]) -> None:
    view, targets = case
    plan = check_plan(Plan(tmem=targets), view)
    assert plan.tmem is not None
    limited = plan.tmem != Plan.UNLIMITED
    high = np.maximum(view.minimum, view.maximum)
    assert plan.tmem[limited].sum() <= view.capacity
    assert (plan.tmem[limited] >= 0).all()
    assert (plan.tmem <= high)[limited].all()
    assert (high >= view.capacity)[~limited].all()
    if view.minimum[limited].sum() <= view.capacity:
        assert (plan.tmem >= view.minimum)[limited].all()
    changed = np.flatnonzero(plan.tmem != np.array(targets))
    if view.minimum.sum() <= view.capacity:
        assert set(changed) <= set(plan.tmem_clamps)


@settings(deadline=None)
@given(cases())
def test_checking_twice_changes_nothing_more(case: tuple[View, list[float]]) -> None:
    view, targets = case
    once = check_plan(Plan(tmem=targets), view)
    twice = check_plan(Plan(tmem=once.tmem), view)
    assert once.tmem is not None
    assert twice.tmem is not None
    assert once.tmem.tolist() == twice.tmem.tolist()
