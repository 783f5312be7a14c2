"""idle-tax against the vectors of the paper's formula, and the two averages over time."""

import numpy as np
import pytest

from policies import Plan, View, check_plan, load

VECTORS = [
    # shares, fraction in use, tax, planned; 300 frames
    ([1, 1], [1.0, 0.1], 0, [150, 150]),
    ([1, 1], [1.0, 0.1], 75, [236.17, 63.83]),
    ([1, 2], [1.0, 0.1], 75, [194.74, 105.26]),
]


def ram(plan: Plan) -> list[float]:
    return [float(frames) for frames in np.asarray(plan.ram)]


@pytest.mark.parametrize(("shares", "active", "tax", "planned"), VECTORS)
def test_vectors(shares: list[int], active: list[float], tax: float, planned: list[float]) -> None:
    idle = [1 - part for part in active]
    view = View.of(capacity=50, ram_capacity=300, weight=shares, idle=idle)
    plan = load("idle-tax", {"tax": tax}).plan(view)
    assert ram(plan) == pytest.approx(planned, abs=0.005)
    assert np.asarray(plan.tmem).tolist() == [0, 0]


def test_default_tax_is_75_percent() -> None:
    view = View.of(capacity=0, ram_capacity=300, idle=[0, 0.9])
    assert ram(load("idle-tax").plan(view)) == pytest.approx([236.17, 63.83], abs=0.005)


def test_not_measured_counts_as_in_use() -> None:
    view = View.of(capacity=0, ram_capacity=300, idle=[np.nan, 0])
    assert ram(load("idle-tax").plan(view)) == [150, 150]


def test_minimum_and_maximum_hold_and_the_others_get_the_rest() -> None:
    view = View.of(
        capacity=0,
        ram_capacity=300,
        idle=[0, 0.9, 0],
        ram_minimum=[0, 100, 0],
        ram_maximum=[300, 300, 20],
    )
    assert ram(load("idle-tax").plan(view)) == pytest.approx([180, 100, 20])


def test_the_reason_says_how_much_is_in_use() -> None:
    view = View.of(capacity=0, ram_capacity=300, idle=[0.0, 0.45])
    why = check_plan(load("idle-tax").plan(view), view).why
    assert why is not None
    assert "90 %" in why[0]
    assert "50 %" in why[1]


def intervals_until_half(start: float, then: float) -> int:
    """Intervals until domain 1 is half-way to what ``then`` gives it in the end."""
    policy = load("idle-tax")

    def step(idle: float, carry: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> Plan:
        return policy.plan(View.of(capacity=0, ram_capacity=300, idle=[idle, 0.5], carry=carry))

    nothing = np.empty((2, 0))
    plan = step(start, nothing)
    first, last = ram(plan)[0], ram(step(then, nothing))[0]
    for interval in range(1, 200):
        assert plan.carry is not None
        plan = step(then, plan.carry)
        if abs(ram(plan)[0] - first) >= abs(last - first) / 2:
            return interval
    raise AssertionError("never")


def test_activity_is_seen_quickly_and_forgotten_slowly() -> None:
    assert intervals_until_half(start=1.0, then=0.0) <= 2
    assert intervals_until_half(start=0.0, then=1.0) >= 8
