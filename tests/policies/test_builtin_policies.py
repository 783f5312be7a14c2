"""greedy, static-alloc and smart-alloc against the reference vectors, and over time."""

import numpy as np
import pytest

from policies import Plan, Policy, View, check_plan, load
from policies.greedy import Greedy
from policies.smart_alloc import SmartAlloc
from policies.static_alloc import StaticAlloc


def smart(P: float, threshold: int = 50) -> SmartAlloc:
    return SmartAlloc(SmartAlloc.Params(P=P, threshold=threshold))


def checked(policy: Policy, view: View) -> list[int]:
    tmem = check_plan(policy.plan(view), view).tmem
    assert tmem is not None
    return [int(target) for target in tmem]


def test_greedy_limits_nobody() -> None:
    view = View.of(capacity=1000, used=[999, 0])
    assert checked(Greedy(), view) == [Plan.UNLIMITED] * 2


@pytest.mark.parametrize(("domains", "share"), [(1, 1000), (3, 333), (7, 142), (2000, 0)])
def test_static_alloc_is_t_over_n(domains: int, share: int) -> None:
    view = View.of(capacity=1000, used=np.zeros(domains))
    assert checked(StaticAlloc(), view) == [share] * domains


VECTORS = [
    # P, target, used, failed, planned: T=1000, threshold=50
    (6, [333, 333, 333], [333, 100, 320], [50, 0, 0], [378.24, 301.26, 320.49]),
    (2, [200, 200, 100], [200, 190, 90], [10, 0, 0], [220, 200, 100]),
    (6, [333, 333, 333], [333, 100, 320], [0, 0, 0], [333, 313.02, 333]),
    (100, [500, 500], [500, 500], [1, 1], [500, 500]),
    (10, [0, 0], [0, 0], [0, 5], [0, 100]),
    (10, [51, 50], [0, 0], [0, 0], [45.9, 50]),  # slack must be above the threshold
    (5, [1000, 1000], [0, 0], [1, 1], [500, 500]),  # from unlimited: an equal split
]


@pytest.mark.parametrize(("P", "target", "used", "failed", "planned"), VECTORS)
def test_smart_alloc_vectors(
    P: float, target: list[int], used: list[int], failed: list[int], planned: list[float]
) -> None:
    view = View.of(capacity=1000, target=target, used=used, failed_puts=failed)
    plan = smart(P).plan(view)
    assert np.asarray(plan.tmem).tolist() == pytest.approx(planned, abs=0.005)


def test_smart_alloc_says_which_branch_each_domain_took() -> None:
    view = View.of(
        capacity=1000, target=[333, 333, 333], used=[333, 100, 320], failed_puts=[50, 0, 0]
    )
    why = check_plan(smart(6).plan(view), view).why
    rules = ("puts failed: grow", "slack above threshold: shrink", "keep")
    assert why == tuple(f"{rule}, then all scaled to fit" for rule in rules)
    roomy = View.of(capacity=2000, target=[333] * 3, used=[333, 100, 320], failed_puts=[50, 0, 0])
    assert check_plan(smart(6).plan(roomy), roomy).why == rules


def run_idle(P: float, ticks: int) -> float:
    target = 100_000.0
    for _ in range(ticks):
        view = View.of(capacity=100_000, target=[target], used=[0])
        target = float(np.asarray(smart(P).plan(view).tmem)[0])
    return target


@pytest.mark.parametrize(("P", "half_life"), [(6, 11.2), (2, 34.3), (0.75, 92.1)])
def test_idle_target_halves_in_the_documented_time(P: float, half_life: float) -> None:
    before, after = run_idle(P, int(half_life)), run_idle(P, int(half_life) + 1)
    assert before > 50_000 >= after


def test_growth_from_nothing_takes_100_over_p_intervals() -> None:
    target = 0.0
    for _ in range(49):
        view = View.of(capacity=1000, target=[target], used=[target], failed_puts=[1])
        target = float(np.asarray(smart(2).plan(view).tmem)[0])
    assert target == pytest.approx(980)


def test_active_domain_pays_for_growth_by_normalisation() -> None:
    """Net growth of one active domain is p * T * (1 - share) / (1 + p) once the pool is full."""
    view = View.of(capacity=1000, target=[400, 600], used=[400, 600], failed_puts=[9, 0])
    grown = np.asarray(smart(5).plan(view).tmem)[0] - 400
    assert grown == pytest.approx(0.05 * 1000 * (1 - 0.4) / 1.05)


def test_a_liar_that_puts_junk_grows_at_the_cost_of_the_honest() -> None:
    target = [500.0, 500.0]
    for _ in range(100):
        view = View.of(capacity=1000, target=target, used=target, failed_puts=[9, 0])
        target = np.asarray(smart(4).plan(view).tmem).tolist()
    assert target[0] > 900


def test_fixed_point_does_not_oscillate() -> None:
    view = View.of(capacity=1000, target=[300, 200], used=[290, 180])
    assert checked(smart(2), view) == [300, 200]


def test_defaults_are_within_the_range_the_literature_sweeps() -> None:
    policy = load("smart-alloc")
    assert isinstance(policy, SmartAlloc)
    assert 0.25 <= policy.params.P <= 6
