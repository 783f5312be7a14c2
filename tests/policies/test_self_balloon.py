"""Self-ballooning and frontswap's self-shrinking against the reference vectors; MiB as in Linux."""

from typing import Any

import numpy as np
import pytest

from policies import Plan, View
from policies.ram_targets import FRAMES_PER_MIB
from policies.self_balloon import SelfBalloon

POLICY = SelfBalloon(SelfBalloon.Params(reserve=0, scale=1))


def view_of(
    held: list[float],
    committed: list[float],
    maximum: float = 2000,
    host: float = 10_000,
    carry: np.ndarray | None = None,
    **columns: Any,
) -> View:
    return View.of(
        capacity=100_000,
        ram_capacity=round(host * FRAMES_PER_MIB),
        ram_current=np.array(held) * FRAMES_PER_MIB,
        ram_target=np.array(held) * FRAMES_PER_MIB,
        committed=np.array(committed) * FRAMES_PER_MIB,
        ram_maximum=[maximum * FRAMES_PER_MIB] * len(held),
        carry=np.empty((len(held), 0)) if carry is None else carry.copy(),
        **columns,
    )


def planned(policy: SelfBalloon, view: View) -> list[float]:
    return (np.asarray(policy.plan(view).ram) / FRAMES_PER_MIB).tolist()


@pytest.mark.parametrize(
    ("held", "goal", "target"), [(1000, 600, 950), (1000, 1400, 1400), (1000, 1000, 1000)]
)
def test_down_by_an_eighth_up_at_once(held: float, goal: float, target: float) -> None:
    assert planned(POLICY, view_of([held], [goal])) == pytest.approx([target])


def test_the_goal_has_room_for_the_reserve_and_for_frontswap() -> None:
    policy = SelfBalloon(SelfBalloon.Params(reserve=20 * FRAMES_PER_MIB, scale=1))
    view = view_of([1000], [1100], used=[30 * FRAMES_PER_MIB])
    assert planned(policy, view) == pytest.approx([1150])


@pytest.mark.parametrize(
    ("maximum", "floor"),
    [(10, 10), (40, 16 + 12), (200, 40 + 20), (2147, 99 + 64)],
)
def test_the_floor_is_piecewise_linear(maximum: float, floor: float) -> None:
    assert planned(POLICY, view_of([floor], [0], maximum)) == pytest.approx([floor])


def test_unmeasured_commitment_is_what_is_used_and_failed() -> None:
    mib = FRAMES_PER_MIB
    view = view_of([1000], [np.nan], ram_used=[1000 * mib], failed_puts=[50 * mib])
    assert planned(POLICY, view) == pytest.approx([1050])


def test_who_grew_first_keeps_it() -> None:
    assert planned(POLICY, view_of([1000, 500], [1000, 1000], host=1600)) == pytest.approx(
        [1000, 600]
    )


def shrunk(used: list[float], failed: list[float] | None = None) -> list[float]:
    """Tmem targets over ticks at which one domain held ``used`` pages."""
    targets, carry = [], None
    for pages, failures in zip(used, failed or [0.0] * len(used), strict=True):
        plan = POLICY.plan(view_of([100], [100], carry=carry, used=[pages], failed_puts=[failures]))
        targets.append(float(np.asarray(plan.tmem)[0]))
        carry = plan.carry
    return targets


FREE = float(Plan.UNLIMITED)


def test_calm_frontswap_shrinks_by_a_twentieth_after_3_ticks() -> None:
    assert shrunk([1000, 1000, 1000, 1000, 950]) == [FREE, FREE, FREE, 950, 903]


def test_frontswap_that_grows_is_left_alone() -> None:
    assert shrunk([100, 200, 200, 200, 201, 201]) == [FREE] * 6


def test_failed_puts_are_growth_that_was_refused() -> None:
    assert shrunk([100] * 5, [0, 0, 0, 0, 1]) == [FREE, FREE, FREE, 95, FREE]


def test_the_last_pages_go_at_once() -> None:
    assert shrunk([20] * 4)[-1] == 0
