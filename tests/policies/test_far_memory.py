"""Far memory: its rule, and its objective on pages that are touched again at random."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from policies import View
from policies.base import AGE_EDGES_S
from policies.far_memory import HISTORY, FarMemory

MINUTE_S = 60.0
AGE_120, AGE_240, AGE_480 = 9, 10, 11
NO_HEADROOM = FarMemory(FarMemory.Params(headroom=0, warmup_ticks=0))


def ages(*pairs: tuple[int, float]) -> list[float]:
    """A column by age: each value holds from its age to the next."""
    values = np.zeros(len(AGE_EDGES_S))
    for index, value in pairs:
        values[index:] = value
    return values.tolist()


def view_of(
    cold: list[list[float]] | None,
    promotions: list[list[float]] | None,
    committed: float = 1000,
    age: int = 100,
    carry: np.ndarray | None = None,
    host: int = 100_000,
) -> View:
    count = 1 if cold is None else len(cold)
    return View.of(
        capacity=100_000,
        ram_capacity=host,
        host_frames=host,
        interval_s=MINUTE_S,
        committed=np.full(count, committed),
        ram_current=np.full(count, 1000),
        ram_target=np.full(count, 1000),
        ram_used=np.full(count, 900),
        used=np.full(count, 50),
        ram_maximum=np.full(count, 2000),
        age=np.full(count, age),
        cold=cold,
        promotions=promotions,
        carry=np.empty((count, 0)) if carry is None else carry.copy(),
    )


COLD = ages((0, 900), (AGE_120, 500), (AGE_240, 400), (AGE_480, 100))


@pytest.mark.parametrize(
    ("promotions", "far"),
    [
        (ages((0, 90), (AGE_120, 1)), 500),  # 0.2 % of the 500 that are not cold: one
        (ages((0, 90), (AGE_240, 1)), 400),
        (ages((0, 90), (AGE_480, 0.5)), 100),
        (ages((0, 90)), 0),
    ],
)
def test_the_smallest_age_that_keeps_promotions_low(promotions: list[float], far: float) -> None:
    if far != 0:
        wanted = {500: AGE_120, 400: AGE_240, 100: AGE_480}[int(far)]
        promotions = [90.0 if age < wanted else promotions[age] for age in range(len(COLD))]
    plan = NO_HEADROOM.plan(view_of([COLD], [promotions]))
    assert np.asarray(plan.tmem).tolist() == [far]
    assert np.asarray(plan.ram).tolist() == [1000 - far]


def test_headroom_is_added_to_ram() -> None:
    plan = FarMemory(FarMemory.Params(headroom=10)).plan(view_of([COLD], [ages()]))
    assert np.asarray(plan.ram).tolist() == pytest.approx([550])


def test_warm_up_leaves_everything_as_it_is() -> None:
    policy = FarMemory(FarMemory.Params(warmup_ticks=5))
    plan = policy.plan(view_of([COLD], [ages()], age=4))
    assert np.asarray(plan.ram).tolist() == [1000]
    assert np.asarray(plan.tmem).tolist() == [50]
    assert np.asarray(policy.plan(view_of([COLD], [ages()], age=5)).tmem).tolist() == [500]


def test_without_a_measure_targets_are_left() -> None:
    plan = NO_HEADROOM.plan(view_of(None, None))
    assert plan.ram is None
    assert plan.tmem is None
    plan = NO_HEADROOM.plan(view_of([COLD, [np.nan] * len(COLD)], [ages(), ages()]))
    assert np.asarray(plan.ram).tolist() == [500, 1000]


def test_ram_and_tmem_together_fit_the_host() -> None:
    plan = NO_HEADROOM.plan(view_of([COLD] * 2, [ages()] * 2, host=1200))
    assert np.asarray(plan.ram).tolist() == [500, 500]
    assert np.asarray(plan.tmem).tolist() == pytest.approx([100, 100])


def test_what_a_guest_says_is_bounded() -> None:
    plan = NO_HEADROOM.plan(view_of([[1e18] * len(COLD)], [ages()], committed=1e18))
    assert np.asarray(plan.ram).tolist() == [0]
    assert np.asarray(plan.tmem).tolist() == [2000]


@dataclass
class Pages:
    """Pages of one domain, each touched again at random with a rate of its own, per minute."""

    rate: NDArray[np.float64]
    random: np.random.Generator
    idle_minutes: NDArray[np.int64] = field(init=False)
    cold: list[float] = field(default_factory=list)
    promotions: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.idle_minutes = np.zeros(len(self.rate), np.int64)

    def minute(self, threshold_s: float) -> int:
        """One minute passes; touches of pages that had been idle for ``threshold_s``."""
        touched = self.random.random(len(self.rate)) < 1 - np.exp(-self.rate)
        idle_s = (self.idle_minutes + 1) * MINUTE_S
        self.promotions = [float((idle_s[touched] >= edge).sum()) for edge in AGE_EDGES_S]
        self.idle_minutes = np.where(touched, 0, self.idle_minutes + 1)
        now_s = self.idle_minutes * MINUTE_S
        self.cold = [float((now_s >= edge).sum()) for edge in AGE_EDGES_S]
        return int((idle_s[touched] >= threshold_s).sum())


def run(
    pages: Pages, minutes: int, carry: np.ndarray | None = None
) -> tuple[list[int], np.ndarray]:
    """Promotions at the threshold in force, minute by minute."""
    made, threshold_s, policy = [], np.inf, FarMemory(FarMemory.Params(headroom=0))
    for minute in range(minutes):
        made.append(pages.minute(threshold_s))
        total = len(pages.rate)
        view = view_of([pages.cold], [pages.promotions], total, minute + 100, carry)
        plan = policy.plan(view)
        carry = plan.carry
        assert carry is not None
        far = float(np.asarray(plan.tmem)[0])
        threshold_s = min(
            (edge for edge, cold in zip(AGE_EDGES_S, pages.cold, strict=True) if cold <= far),
            default=np.inf,
        )
    assert carry is not None
    return made, carry


def poisson_pages(seed: int) -> Pages:
    """Hot ones, warm ones for which two minutes are too short, and cold ones."""
    rate = np.repeat([6.0, 1.0, 1 / 10_000], [1000, 400, 600])
    return Pages(rate, np.random.default_rng(seed))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_promotions_settle_below_the_objective(seed: int) -> None:
    pages = poisson_pages(seed)
    made, _ = run(pages, 3 * HISTORY)
    working_set = len(pages.rate) - pages.cold[AGE_120]
    assert np.mean(made[HISTORY:]) <= 0.002 * working_set
    assert pages.cold[AGE_480] >= 550  # there was something to move


def test_a_step_in_touches_raises_the_threshold_within_a_minute() -> None:
    pages = poisson_pages(7)
    _, carry = run(pages, 2 * HISTORY)
    before = carry[0, -1]
    pages.rate[1400:] = 0.1
    _, carry = run(pages, 1, carry)
    assert carry[0, -1] > before


def test_a_busy_minute_is_remembered_until_it_is_one_in_fifty() -> None:
    """The 98th percentile of fewer is the highest: what the policy is bad at."""
    carry, far = None, []
    for minute in range(2 * HISTORY):
        busy = ages((0, 90)) if minute == 10 else ages()
        plan = NO_HEADROOM.plan(view_of([COLD], [busy], carry=carry))
        carry = plan.carry
        far.append(float(np.asarray(plan.tmem)[0]))
    assert far[9] == 500
    assert far[10:49] == [0] * 39
    assert far[49:] == [500] * (2 * HISTORY - 49)
