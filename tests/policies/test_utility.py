"""utility: the vectors on the grid of a view, ties, minima, and domains without a curve."""

import numpy as np
import pytest

from policies import Plan, View, check_plan, load
from policies.base import MRC_POINTS, Column

STEEP = [100, 60, 30, 20, 15, 12, 11]
CLIFF_AT_3 = [100, 95, 90, 4, 3, 2, 1]
CLIFF_AT_4 = [100, 95, 90, 85, 20, 15, 12]


def curve(losses: list[int]) -> Column:
    """Ratios on the grid of a view whose capacity has MRC_POINTS - 1 units; flat after the last."""
    padded = losses + losses[-1:] * (MRC_POINTS - len(losses))
    return np.array(padded) / 100


def targets(plan: Plan) -> list[float]:
    return [float(pages) for pages in np.asarray(plan.tmem)]


VECTORS = [(CLIFF_AT_3, 4, [1, 3]), (CLIFF_AT_4, 6, [2, 4])]


@pytest.mark.parametrize(("cliff", "units", "split"), VECTORS)
def test_vectors(cliff: list[int], units: int, split: list[int]) -> None:
    """A third domain, all minimum, holds the rest of the grid's 64 units of one page."""
    rest = MRC_POINTS - 1 - units
    view = View.of(
        capacity=MRC_POINTS - 1,
        used=[0, 0, rest],
        gets=[100, 100, 0],
        minimum=[0, 0, rest],
        maximum=[64, 64, rest],
        mrc=[curve(STEEP), curve(cliff), curve([100])],
    )
    assert targets(load("utility").plan(view)) == pytest.approx([*split, rest])


def test_weight_and_requests_scale_the_gain() -> None:
    curves = [np.linspace(1, 0, MRC_POINTS)] * 2
    for column in ({"weight": [1, 2], "gets": [5, 5]}, {"gets": [5, 6]}, {"swap_ins": [5, 6]}):
        view = View.of(capacity=640, mrc=curves, **column)
        assert targets(load("utility").plan(view)) == [0, 640]


def test_equal_domains_get_equal_shares() -> None:
    view = View.of(capacity=640, gets=[5, 5], mrc=[np.linspace(1, 0, MRC_POINTS) ** 2] * 2)
    assert targets(load("utility").plan(view)) == pytest.approx([320, 320])


def test_minimum_and_maximum_hold_and_the_gainless_rest_is_shared_by_weight() -> None:
    steep = np.maximum(1 - 10 * np.linspace(0, 1, MRC_POINTS), 0)
    view = View.of(
        capacity=640, gets=[9, 1, 0], minimum=[0, 0, 10], maximum=[640, 20, 640], mrc=[steep] * 3
    )
    assert targets(load("utility").plan(view)) == pytest.approx([310, 20, 310])


@pytest.mark.parametrize("mrc", [None, [[np.nan] * MRC_POINTS] * 3])
def test_without_curves_it_is_max_min(mrc: list[list[float]] | None) -> None:
    view = View.of(capacity=100, used=[10, 40, 70], mrc=mrc)
    plan = load("utility").plan(view)
    assert targets(plan) == pytest.approx([10, 40, 50])
    assert check_plan(plan, view).why == ("no curve: max-min by demand",) * 3


def test_who_has_a_curve_divides_what_the_others_leave() -> None:
    falling, flat = np.linspace(1, 0, MRC_POINTS), np.full(MRC_POINTS, 0.5)
    view = View.of(
        capacity=90,
        used=[200, 200, 200],
        gets=[9, 9, 9],
        mrc=[[np.nan] * MRC_POINTS, falling, flat],
    )
    assert targets(load("utility").plan(view)) == pytest.approx([30, 60, 0])


def test_rates_are_averaged() -> None:
    curves = [np.linspace(1, 0, MRC_POINTS)] * 2
    policy = load("utility:step=0.25")
    first = policy.plan(View.of(capacity=64, gets=[8, 10], mrc=curves))
    assert first.carry is not None
    second = policy.plan(View.of(capacity=64, gets=[12, 10], mrc=curves, carry=first.carry))
    assert second.carry is not None
    assert second.carry[:, 0].tolist() == [9, 10]
    assert targets(second) == [0, 64]
