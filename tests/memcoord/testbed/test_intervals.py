"""Goal: intervals cover, pairs cancel, ranks agree. Method: known vectors, seeded simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memcoord.testbed.report.intervals import (
    LEVEL,
    NORMAL_975,
    RESAMPLES,
    SEED,
    interval,
    median_interval,
    paired,
    ranks,
    spearman,
)

TRIALS = 600


def test_an_interval_is_reproducible_and_holds_the_mean() -> None:
    found = interval([1.0, 2.0, 4.0, math.nan])
    assert found == interval([1.0, 2.0, 4.0, math.nan])
    assert (found.mean, found.count) == (pytest.approx(7 / 3), 3)
    assert found.low < found.mean < found.high


def test_too_few_values_have_no_width() -> None:
    assert interval([3.0]).mean == 3
    assert math.isnan(interval([3.0]).low)
    assert math.isnan(interval([]).mean)
    assert math.isnan(interval([1.0, math.inf]).high)


@pytest.mark.parametrize("count", [3, 5, 30])
def test_the_interval_covers_as_often_as_it_says(count: int) -> None:
    draws = np.random.default_rng(7)
    found = [interval(draws.normal(5, 2, size=count)) for _ in range(TRIALS)]
    covered = sum(each.low <= 5 <= each.high for each in found) / TRIALS
    assert LEVEL - 0.05 < covered <= 1


@pytest.mark.parametrize(("count", "t"), [(2, 12.706), (21, 2.086), (22, 2.080), (41, 2.021)])
def test_distances_are_widened_by_students_t(count: int, t: float) -> None:
    """Beyond 21 values t comes of a formula; the table of any textbook says what it must be."""
    values = np.random.default_rng(7).normal(0, 1, size=count)
    found = interval(values)
    picked = np.random.default_rng(SEED).integers(count, size=(RESAMPLES, count))
    plain = np.quantile(values[picked].mean(axis=1), 1 - (1 - LEVEL) / 2) - values.mean()
    wider = math.sqrt(count / (count - 1)) * t / NORMAL_975
    assert (found.high - found.mean) / plain == pytest.approx(wider, rel=2e-3)


def test_pairs_cancel_what_a_seed_does_to_both() -> None:
    noise = np.random.default_rng(7).normal(0, 100, size=20)
    found = paired(noise + 1, noise)
    assert found.low == pytest.approx(1)
    assert found.high == pytest.approx(1)
    alone = interval(noise + 1)
    assert alone.high - alone.mean > 10
    with pytest.raises(ValueError, match="equally many"):
        paired([1], [1, 2])


def test_ranks_share_ties() -> None:
    assert list(ranks([10, 30, 20, 30])) == [1, 3.5, 2, 3.5]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1, 2, 3], [10, 20, 90], 1),
        ([1, 2, 3], [3, 2, 1], -1),
        ([1, 2, 3, 4, 5], [2, 1, 4, 3, 5], 0.8),
        ([1, 2, math.nan, 3], [1, 2, 0, 3], 1),
    ],
)
def test_spearman_vectors(first: list[float], second: list[float], expected: float) -> None:
    assert spearman(first, second) == pytest.approx(expected)


def test_spearman_of_what_has_no_order_is_unknown() -> None:
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]))
    assert math.isnan(spearman([1], [1]))
    with pytest.raises(ValueError, match="equally many"):
        spearman([1], [1, 2])


@given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=20, unique=True))
def test_spearman_sees_order_only(values: list[int]) -> None:
    assert spearman(values, [value**3 for value in values]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("count", "low", "high"), [(1, 1, 1), (5, 1, 5), (6, 1, 6), (11, 2, 10), (100, 40, 61)]
)
def test_bounds_of_a_median_are_order_statistics(count: int, low: int, high: int) -> None:
    assert median_interval(range(count, 0, -1)) == (low, high)


def test_no_value_has_no_bounds() -> None:
    assert all(math.isnan(bound) for bound in median_interval([]))
