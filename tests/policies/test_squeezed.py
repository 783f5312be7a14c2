"""squeezed against the reference vectors, and its detection of balloons that do not move."""

import numpy as np
import pytest

from policies import View
from policies.squeezed import Squeezed

VECTORS = [
    # minimum, maximum, actual, free, wanted, planned
    ([5000, 5000], [7000, 11000], [7000, 6000], 0, 1000, [5500, 6500]),
    ([5000, 5000], [7000, 11000], [7000, 6000], 1000, 1000, [5750, 7250]),
    ([1000, 2000], [2000, 3000], [1500, 2500], 5000, 1500, [2000, 3000]),  # gamma is at most 1
    ([1000, 2000], [2000, 3000], [1500, 2500], 0, 1500, [1000, 2000]),  # impossible
    ([1000, 1000], [1000, 3000], [1000, 2000], 500, 500, [1000, 2000]),  # a pinned one
]


def squeezed(reserve: int = 0, period_ticks: int = 1) -> Squeezed:
    return Squeezed(Squeezed.Params(reserve=reserve, scale=1, period_ticks=period_ticks))


def view_of(
    minimum: list[int],
    maximum: list[int],
    actual: list[int],
    free: int,
    target: list[int] | None = None,
    carry: object = None,
    slack: int = 0,
    tick: int = 0,
) -> View:
    host = sum(actual) + free
    return View.of(
        capacity=host,
        ram_capacity=host - slack,
        tick=tick,
        host_frames=host,
        host_free_frames=free,
        ram_minimum=minimum,
        ram_maximum=maximum,
        ram_current=actual,
        ram_target=actual if target is None else target,
        carry=np.empty((len(actual), 0)) if carry is None else np.array(carry),
    )


@pytest.mark.parametrize(("minimum", "maximum", "actual", "free", "wanted", "planned"), VECTORS)
def test_vectors(
    minimum: list[int],
    maximum: list[int],
    actual: list[int],
    free: int,
    wanted: int,
    planned: list[float],
) -> None:
    plan = squeezed(wanted).plan(view_of(minimum, maximum, actual, free))
    assert np.asarray(plan.ram).tolist() == pytest.approx(planned)
    assert np.asarray(plan.tmem).tolist() == [0, 0]


def test_the_slack_of_the_host_is_not_given_away() -> None:
    with_slack = squeezed().plan(view_of([5000, 5000], [7000, 11000], [7000, 6000], 0, slack=1000))
    assert np.asarray(with_slack.ram).tolist() == pytest.approx([5500, 6500])


def test_what_cannot_be_freed_is_said() -> None:
    plan = squeezed(1500).plan(view_of([1000, 2000], [2000, 3000], [1500, 2500], 0))
    assert plan.why is not None
    assert "impossible: 1000 of 1500" in plan.why[0]


def stuck_for(ticks: int, moving_every: int = 0) -> tuple[list[float], str]:
    """Two domains asked to shrink from 2000 to 1000; the second obeys, the first stays."""
    policy, carry, first = squeezed(), None, 2000
    for tick in range(ticks + 1):
        if moving_every and tick % moving_every == 0:
            first -= 1
        view = view_of([1000, 1000], [3000, 3000], [first, 1000], 0, [1000, 1000], carry, tick=tick)
        plan = policy.plan(view)
        carry = plan.carry
    assert plan.why is not None
    return np.asarray(plan.ram).tolist(), str(plan.why[0])


def test_a_balloon_that_stands_still_is_inactive_after_5_ticks() -> None:
    targets, why = stuck_for(4)
    assert targets == pytest.approx([1500, 1500])  # its frames are counted on
    targets, why = stuck_for(5)
    assert "inactive" in why
    assert targets == pytest.approx([1000, 1000])  # no longer: nobody else has any to spare


def test_it_is_uncooperative_after_20_ticks_more() -> None:
    assert "inactive" in stuck_for(5 + 19)[1]
    assert "uncooperative" in stuck_for(5 + 21)[1]


def test_a_page_of_progress_every_5_ticks_passes_as_moving() -> None:
    """The documented flaw of the source."""
    assert stuck_for(60, moving_every=5)[1].startswith("in proportion")


def test_one_that_moves_again_is_active_again() -> None:
    last = view_of([1000, 1000], [3000, 3000], [1999, 1000], 0, [1000, 1000], [[2000, 30, 24]] * 2)
    why = squeezed().plan(last).why
    assert why is not None
    assert why[0].startswith("in proportion")


def test_between_cycles_targets_stay() -> None:
    policy = squeezed(period_ticks=10)
    view = view_of([0, 0], [100, 100], [50, 10], 40, tick=11)
    assert np.asarray(policy.plan(view).ram).tolist() == [50, 10]
    view = view_of([0, 0], [100, 100], [50, 10], 40, tick=20)
    assert np.asarray(policy.plan(view).ram).tolist() == pytest.approx([50, 50])
