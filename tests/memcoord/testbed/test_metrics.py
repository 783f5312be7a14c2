"""Goal: every figure is its formula. Method: vectors worked by hand, properties by hypothesis."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memcoord.testbed.report import metrics

shares = st.lists(st.floats(0, 1e9), min_size=1, max_size=12)
slowdowns = st.lists(st.floats(0.5, 100), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("given_shares", "expected"), [((1, 1, 1), 1), ((1, 0, 0), 1 / 3), ((9, 14, 4), 0.829)]
)
def test_jain_vectors(given_shares: tuple[int, ...], expected: float) -> None:
    assert metrics.jain(given_shares) == pytest.approx(expected, abs=5e-4)


@given(shares)
def test_jain_is_between_one_nth_and_one(given_shares: list[float]) -> None:
    assert 1 / len(given_shares) - 1e-9 <= metrics.jain(given_shares) <= 1 + 1e-9


def test_slowdown_vectors() -> None:
    slow = metrics.slowdowns([2, 6, 5, 0], [1, 2, 5, 1])
    assert list(slow[:3]) == [2, 3, 1]
    assert math.isnan(slow[3])
    figures = metrics.speed_figures(slow)
    assert figures["mean_slowdown"] == 2
    assert figures["worst_slowdown"] == figures["unfairness"] == 3
    assert figures["weighted_speedup"] == pytest.approx(1 / 2 + 1 / 3 + 1)
    assert figures["harmonic_speedup"] == pytest.approx(3 / 6)


@given(slowdowns)
def test_harmonic_mean_of_speed_never_exceeds_the_arithmetic(slow: list[float]) -> None:
    assert metrics.harmonic_speedup(slow) <= metrics.weighted_speedup(slow) / len(slow) + 1e-9
    assert metrics.unfairness(slow) >= 1
    assert metrics.worst(slow) >= metrics.antt(slow) - 1e-9


def test_without_a_domain_that_finished_there_is_no_figure() -> None:
    assert all(math.isnan(value) for value in metrics.speed_figures([math.nan]).values())


def test_welfare_vectors() -> None:
    held, demand = [[10, 0], [10, 5]], [[10, 10], [20, 10]]
    assert metrics.welfare(held, demand) == pytest.approx([20 / 30, 5 / 20])
    assert metrics.welfare_fairness([2 / 3, 1 / 4]) == pytest.approx(3 / 8)
    assert metrics.disparity([0.2, 0.4, 0.8]) == pytest.approx(2)
    # Of 15: first tick 15 wanted at most and 10 useful, second 15 and 15.
    assert metrics.pareto_gap(held, demand, 15) == pytest.approx(2.5 / 15)
    assert metrics.utilisation(held, demand, 15) == pytest.approx(25 / 30)


def test_a_domain_that_wants_nothing_is_content() -> None:
    assert list(metrics.welfare([[5.0, 3.0]], [[0.0, 3.0]])) == [1, 1]
    assert metrics.welfare_fairness([0, 0]) == 1
    assert metrics.disparity([0, 1, 1]) == math.inf


def test_absent_domains_count_nothing() -> None:
    gone = math.nan
    assert metrics.welfare([[5, gone], [5, 2]], [[5, gone], [5, 4]]) == pytest.approx([1, 0.5])
    assert metrics.utilisation([[5, gone]], [[5, gone]], 10) == pytest.approx(0.5)


def test_failed_put_ratio() -> None:
    assert metrics.failed_put_ratio(25, 100) == 0.25
    assert metrics.failed_put_ratio(0, 0) == 0


def test_settling_and_overshoot() -> None:
    times, values = [0, 1, 2, 3, 4], [0, 60, 112, 104, 100]
    assert metrics.settling_s(times, values) == 3
    assert metrics.settling_s([50, 51, 52, 53, 54], values) == 3  # whenever the series begins
    assert metrics.overshoot(values) == pytest.approx(0.12)
    assert metrics.settling_s(times, [7] * 5) == metrics.overshoot([7] * 5) == 0
    assert math.isnan(metrics.settling_s(times, values, goal=50))
    assert metrics.overshoot([100, 20, 50]) == pytest.approx(0.6)


def test_churn_and_flips() -> None:
    targets = [[100, 0], [50, 50], [100, 0], [100, 0]]
    assert metrics.churn(targets, 100) == pytest.approx(200 / 400)
    # Each of two domains turns once within three seconds.
    assert metrics.sign_flips_per_minute([0, 1, 2, 3], targets) == pytest.approx(20)
    assert metrics.sign_flips_per_minute([70, 71, 72, 73], targets) == pytest.approx(20)
    assert metrics.churn(targets, 0) == 0  # a host without tmem
    assert math.isnan(metrics.pareto_gap(targets, targets, 0))
    assert math.isnan(metrics.utilisation(targets, targets, 0))
    assert metrics.churn([[1.0, 2.0]] * 3, 100) == 0
    assert metrics.sign_flips_per_minute([0, 1, 2, 3], [[1], [2], [2], [3]]) == 0


def test_regret_lying_and_isolation() -> None:
    assert metrics.regret(30, 10, 1000) == pytest.approx(0.02)
    assert metrics.gain_from_lying(10, [12, 8, math.nan]) == pytest.approx(0.25)
    assert metrics.gain_from_lying(10, [12, 11]) == 0
    assert math.isnan(metrics.gain_from_lying(10, []))
    assert metrics.isolation(6, 4) == 1.5


def test_control_figures_of_a_run_at_rest() -> None:
    ticks = np.arange(4.0)
    table = np.full((4, 2), 50.0)
    series = metrics.TimeSeries(("a", "b"), 100, ticks, table, table, table, table, table)
    figures = metrics.control_figures(series)
    assert figures["jain_used"] == figures["utilisation"] == figures["welfare_fairness"] == 1
    assert figures["pareto_gap"] == figures["churn"] == figures["overshoot"] == 0
    assert figures["settling_s"] == figures["sign_flips_per_minute"] == 0


def test_alone_keeps_the_host_and_the_work_and_denies_nothing() -> None:
    from memcoord.testbed.scenarios.schema import load

    scenario = load("main")
    late = scenario.domain[2]
    only = metrics.alone(scenario, late.name)
    assert (only.memory, only.policies) == (scenario.memory, ("greedy",))
    assert [domain.name for domain in only.domain] == [late.name]
    assert only.domain[0].start_after_s == 0
    assert only.domain[0].ram == late.maxmem
    assert only.domain[0].workload.resident - late.workload.resident == late.maxmem - late.ram
    assert only.domain[0].workload.trace == late.workload.trace
    with pytest.raises(KeyError):
        metrics.alone(scenario, "nobody")


def test_without_keeps_the_others_as_they_were() -> None:
    from memcoord.testbed.scenarios.schema import load

    scenario = load("main")
    rest = metrics.without(scenario, "vm2")
    assert rest.domain == (scenario.domain[0], scenario.domain[2])
    assert rest.policies == scenario.policies
    for name in ("nobody", "vm1"):
        with pytest.raises(KeyError):
            metrics.without(metrics.alone(scenario, "vm1"), name)
