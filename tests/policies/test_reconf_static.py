"""reconf-static: who ever failed a put shares equally."""

import numpy as np
import pytest

from policies import View, check_plan, load

CASES = [
    # failed puts ever, floor, planned; T = 1000
    ([5, 0, 7], 0, [500, 0, 500]),
    ([0, 0, 0], 0, [0, 0, 0]),
    ([1, 1, 1], 0, [333, 333, 333]),
    ([0, 0, 9], 100, [100, 100, 800]),
    ([0, 9], 900, [500, 500]),  # a floor for all that does not fit
    ([], 0, []),
]


@pytest.mark.parametrize(("failed", "floor", "planned"), CASES)
def test_vectors(failed: list[int], floor: int, planned: list[int]) -> None:
    view = View.of(capacity=1000, failed_puts_total=failed)
    plan = load("reconf-static", {"floor": floor}).plan(view)
    assert np.asarray(plan.tmem).tolist() == planned


def test_need_is_never_forgotten() -> None:
    view = View.of(capacity=90, failed_puts=[0, 4], failed_puts_total=[1, 4], used=[0, 45])
    plan = check_plan(load("reconf-static").plan(view), view)
    assert plan.tmem is not None
    assert plan.tmem.tolist() == [45, 45]
    assert plan.why == ("has failed puts: equal share",) * 2
