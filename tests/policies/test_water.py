"""Water filling against a slow reference, and against the definition of max-min fairness."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.base import Column
from policies.water import fit_floors, water_fill


def column(values: list[float]) -> Column:
    return np.array(values, dtype=np.float64)


VECTORS = [
    # capacity, weights, floors, demands, shares
    (100, [1, 1, 1], [0, 0, 0], [10, 40, 70], [10, 40, 50]),
    (100, [1, 1, 1], [0, 0, 0], [10, 20, 30], [10, 20, 30]),
    (100, [1, 2, 1], [0, 0, 0], [50, 20, 80], [40, 20, 40]),
    (100, [1, 1, 8], [30, 0, 0], [90, 90, 90], [30, 7.78, 62.22]),
    (100, [1, 1], [60, 60], [90, 90], [50, 50]),  # floors that do not fit
    (100, [1, 1], [60, 0], [10, 90], [60, 40]),  # a demand below its floor
    (0, [1, 1], [0, 0], [5, 5], [0, 0]),
    (10, [1, 3], [0, 0], [0, 0], [0, 0]),
    (9, [], [], [], []),
]


@pytest.mark.parametrize(("capacity", "weight", "floor", "demand", "shares"), VECTORS)
def test_vectors(
    capacity: float,
    weight: list[float],
    floor: list[float],
    demand: list[float],
    shares: list[float],
) -> None:
    filled = water_fill(capacity, column(weight), column(floor), column(demand))
    assert filled.tolist() == pytest.approx(shares, abs=0.005)


def test_floors_that_fit_stay() -> None:
    assert fit_floors(10, column([4, 6])).tolist() == [4, 6]
    assert fit_floors(5, column([4, 6])).tolist() == [2, 3]


Case = tuple[float, Column, Column, Column]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    count = draw(st.integers(1, 7))

    def some(values: st.SearchStrategy[int]) -> Column:
        return column(draw(st.lists(values, min_size=count, max_size=count)))

    floor = some(st.sampled_from((0, 0, 0, 3, 50)))
    return draw(st.integers(0, 900)), some(st.integers(1, 9)), floor, some(st.integers(0, 400))


@settings(deadline=None)
@given(cases())
def test_the_level_is_the_one_bisection_finds(case: Case) -> None:
    capacity, weight, floor, ceiling = case
    floor = fit_floors(capacity, floor)
    ceiling = np.maximum(floor, ceiling)
    low, high = 0.0, 1000.0
    for _ in range(80):
        middle = (low + high) / 2
        below = np.clip(weight * middle, floor, ceiling).sum() < capacity
        low, high = (middle, high) if below else (low, middle)
    slow = np.clip(weight * high, floor, ceiling)
    assert water_fill(*case).tolist() == pytest.approx(slow.tolist(), abs=1e-6)


@settings(deadline=None)
@given(cases())
def test_nobody_is_above_the_level_of_one_who_lacks(case: Case) -> None:
    capacity, weight, floor, ceiling = case
    filled = water_fill(*case)
    floor = fit_floors(capacity, floor)
    assert filled.sum() <= capacity + 1e-6
    assert filled.sum() == pytest.approx(min(capacity, np.maximum(floor, ceiling).sum()))
    lacking, above_floor = filled < ceiling - 1e-6, filled > floor + 1e-6
    if lacking.any() and above_floor.any():
        level = filled / weight
        assert level[above_floor].max() <= level[lacking].min() + 1e-6
