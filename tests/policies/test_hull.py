"""Hulls, filling by gain and the exact split, against definitions and brute force."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.base import Column
from policies.hull import UNITS_MAX, best_split, fill_by_gain, lower_hull, piece_lengths

STEEP = [100, 60, 30, 20, 15, 12, 11]
CLIFF_AT_3 = [100, 95, 90, 4, 3, 2, 1]
CLIFF_AT_4 = [100, 95, 90, 85, 20, 15, 12]
VECTORS = [(CLIFF_AT_3, 4, [1, 3], 64.0), (CLIFF_AT_4, 6, [2, 4], 50.0)]


def filled(curves: Column, capacity: float) -> Column:
    pages: Column = fill_by_gain(capacity, -lower_hull(curves), np.ones(curves[:, 1:].shape))
    return pages.sum(axis=1)


def total(curves: Column, split: Column) -> float:
    return float(sum(row[int(own)] for row, own in zip(curves, split, strict=True)))


@pytest.mark.parametrize(("cliff", "units", "split", "loss"), VECTORS)
def test_vectors(cliff: list[int], units: int, split: list[int], loss: float) -> None:
    curves = np.array([STEEP, cliff], dtype=np.float64)
    by_hull = filled(curves, units)
    assert by_hull.tolist() == split
    assert total(curves, by_hull) == loss
    exact, least = best_split(curves, units)
    assert (exact.tolist(), least) == (split, loss)


@st.composite
def falling(draw: st.DrawFn, points: int = 6) -> Column:
    rows = draw(st.integers(1, 4))
    values = st.lists(st.integers(0, 60), min_size=points, max_size=points)
    curves = [sorted(draw(values), reverse=True) for _ in range(rows)]
    return np.array(curves, dtype=np.float64)


def values_of(curves: Column, slopes: Column) -> Column:
    start = np.zeros((len(curves), 1))
    return curves[:, :1] + np.concatenate((start, np.cumsum(slopes, axis=1)), axis=1)


@settings(deadline=None)
@given(falling())
def test_the_hull_is_the_greatest_convex_curve_below(curves: Column) -> None:
    slopes = lower_hull(curves)
    hull = values_of(curves, slopes)
    assert (np.diff(slopes, axis=1) >= -1e-9).all()
    assert (hull <= curves + 1e-9).all()
    for row, line in zip(curves, hull, strict=True):
        for at, value in enumerate(line):  # somewhere two points of the curve carry it
            chords = [
                np.interp(at, (left, right), (row[left], row[right]))
                for left in range(at + 1)
                for right in range(at, len(row))
                if left < right
            ]
            assert value == pytest.approx(min(chords))


def test_units_of_one_edge_have_exactly_one_slope() -> None:
    slopes = lower_hull(np.array([[0.3, 0.29, 0.28, 0.1, 0.1]]))[0]
    assert len(set(slopes[:3].tolist())) == 1


def test_no_rows_no_hull() -> None:
    assert lower_hull(np.empty((0, 5))).shape == (0, 4)


@settings(deadline=None, max_examples=50)
@given(falling(), st.integers(0, 20))
def test_the_exact_split_is_the_best_of_all(curves: Column, units: int) -> None:
    split, loss = best_split(curves, units)
    everyone = product(range(curves.shape[1]), repeat=len(curves))
    losses = [total(curves, np.array(some)) for some in everyone if sum(some) <= units]
    assert loss == min(losses) == total(curves, split.astype(float))
    assert split.sum() <= units


@settings(deadline=None)
@given(falling(), st.integers(0, 20))
def test_on_hulls_filling_by_gain_is_as_good_as_exact(curves: Column, units: int) -> None:
    hull = values_of(curves, lower_hull(curves))
    by_gain = filled(hull, units)
    points = np.arange(hull.shape[1])
    loss = sum(np.interp(own, points, row) for own, row in zip(by_gain, hull, strict=True))
    assert loss == pytest.approx(best_split(hull, units)[1])
    assert by_gain.sum() <= units + 1e-9


def test_equal_gains_share_what_is_left() -> None:
    gain = np.array([[5.0, 1.0], [5.0, 1.0], [0.0, 0.0]])
    length = np.array([[10.0, 10.0], [30.0, 10.0], [10.0, 10.0]])
    assert fill_by_gain(20, gain, length).tolist() == [[5, 0], [15, 0], [0, 0]]
    assert fill_by_gain(50, gain, length).tolist() == [[10, 5], [30, 5], [0, 0]]
    assert fill_by_gain(500, gain, length).tolist() == [[10, 10], [30, 10], [0, 0]]


def test_pieces_are_cut_at_floor_and_ceiling() -> None:
    edges = np.array([[0.0, 10.0, 20.0, 30.0]])
    assert piece_lengths(edges, np.array([5.0]), np.array([22.0])).tolist() == [[5, 10, 2]]
    assert piece_lengths(edges, np.array([25.0]), np.array([22.0])).tolist() == [[0, 0, 0]]


def test_an_exact_split_of_too_many_units_is_refused() -> None:
    with pytest.raises(ValueError, match="at most"):
        best_split(np.zeros((1, 2)), UNITS_MAX + 1)
