"""ginseng: nobody gains by a false bid, equals get equal, and what nobody else wants is free."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from policies import Plan, View, check_plan, load
from policies.base import MRC_POINTS, Column
from policies.ginseng import exclusion_costs
from policies.hull import fill_by_gain

GRID = np.linspace(0, 1, MRC_POINTS)
CAPACITY = 640


def concave(random: np.random.Generator) -> Column:
    """A miss-ratio curve that falls from 1 ever more slowly."""
    falls = np.sort(random.random(MRC_POINTS - 1) ** random.integers(1, 9))[::-1]
    return 1 - np.concatenate(([0.0], np.cumsum(falls))) / max(falls.sum(), 1e-9)


def auction(curves: list[Column], gets: list[int], text: str = "ginseng") -> tuple[Column, Column]:
    """Pages won and payments."""
    plan = load(text).plan(View.of(capacity=CAPACITY, gets=gets, mrc=curves))
    assert plan.carry is not None
    return np.asarray(plan.tmem, dtype=np.float64), plan.carry[:, 1]


def value(curve: Column, gets: int, pages: float) -> float:
    return gets * (1 - float(np.interp(pages / CAPACITY, GRID, curve)))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1 << 30), st.sampled_from(("ginseng", "ginseng:penalty=0.02")))
@example(6685, "ginseng:penalty=0.02")
def test_truth_is_a_best_response(seed: int, text: str) -> None:
    random = np.random.default_rng(seed)
    curves = [concave(random) for _ in range(3)]
    gets = random.integers(1, 100, 3).tolist()
    true = curves[0], gets[0]
    pages, paid = auction(curves, gets, text)
    honest = value(*true, pages[0]) - paid[0]
    assert honest >= -1e-9  # nobody loses by taking part
    for _ in range(4):
        lied, rate = concave(random), int(random.integers(1, 200))
        pages, paid = auction([lied, *curves[1:]], [rate, *gets[1:]], text)
        assert value(*true, pages[0]) - paid[0] <= honest + 1e-9 * max(1, honest)


def test_equal_bids_get_equal_shares_at_equal_prices() -> None:
    curve = concave(np.random.default_rng(5))
    pages, paid = auction([curve] * 4, [7] * 4)
    assert pages.tolist() == pytest.approx([CAPACITY / 4] * 4)
    assert paid[0] > 0
    assert paid.tolist() == pytest.approx([paid[0]] * 4)


def test_without_contention_nobody_pays() -> None:
    small = np.maximum(1 - 4 * GRID, 0)  # nothing to gain above a quarter of the pool
    pages, paid = auction([small, small, np.ones(MRC_POINTS)], [9, 5, 5])
    assert (pages >= [CAPACITY / 4, CAPACITY / 4, 0]).all()
    assert paid.tolist() == [0, 0, 0]


def test_the_winner_of_everything_pays_what_the_others_would_have_had() -> None:
    line = 1 - GRID
    pages, paid = auction([line, line, line], [9, 5, 3])
    assert pages.tolist() == [CAPACITY, 0, 0]
    assert paid.tolist() == pytest.approx([5, 0, 0])


@settings(deadline=None)
@given(st.integers(0, 1 << 30))
def test_payments_are_what_an_auction_without_each_shows(seed: int) -> None:
    random = np.random.default_rng(seed)
    rows, pieces = int(random.integers(1, 6)), int(random.integers(1, 6))
    gain = np.sort(random.integers(-1, 6, (rows, pieces)), axis=1)[:, ::-1].astype(np.float64)
    length = random.integers(0, 5, (rows, pieces)).astype(np.float64)
    capacity = float(random.integers(0, 40))
    taken = fill_by_gain(capacity, gain, length)
    slow = []
    for row in range(rows):
        others = np.arange(rows) != row
        without = fill_by_gain(capacity, gain[others], length[others])
        slow.append((without * gain[others]).sum() - (taken * gain)[others].sum())
    assert exclusion_costs(gain, length, taken).tolist() == pytest.approx(slow, abs=1e-9)


def test_without_a_curve_a_domain_bids_up_to_its_demand() -> None:
    view = View.of(capacity=100, used=[40, 10, 0], failed_puts=[0, 10, 0], puts=[9, 9, 0])
    plan = load("ginseng").plan(view)
    assert (np.asarray(plan.tmem) >= [40, 20, 0]).all()
    scarce = View.of(capacity=40, used=[40, 40], puts=[30, 30])
    assert np.asarray(load("ginseng").plan(scarce).tmem).tolist() == pytest.approx([20, 20])


def test_a_penalty_leaves_memory_where_it_is_unless_the_gain_is_worth_it() -> None:
    line = 1 - GRID
    view = View.of(capacity=CAPACITY, used=[CAPACITY, 0], gets=[9, 10], mrc=[line, line])
    moved = load("ginseng:penalty=0").plan(view)
    stayed = load("ginseng", {"penalty": 2 / CAPACITY}).plan(view)
    assert np.asarray(moved.tmem).tolist() == [0, CAPACITY]
    assert np.asarray(stayed.tmem).tolist() == [CAPACITY, 0]


def test_payments_add_up_and_the_reason_names_the_last() -> None:
    view = View.of(
        capacity=CAPACITY, gets=[9, 5], mrc=[1 - GRID] * 2, carry=[[9, 100], [np.nan, np.nan]]
    )
    plan = load("ginseng").plan(view)
    assert isinstance(plan, Plan)
    assert plan.carry is not None
    assert plan.carry[:, 1].tolist() == pytest.approx([105, 0])
    assert check_plan(plan, view).why == ("won 640, pays 5", "won 0, pays 0")
