"""max-min as a policy: the vectors, floors and ceilings of a view, and what is left over."""

import numpy as np
import pytest

from policies import Plan, View, check_plan, load


def targets(plan: Plan) -> list[float]:
    return [float(pages) for pages in np.asarray(plan.tmem)]


VECTORS = [
    # weight, minimum, demand, planned; C = 100
    ([1, 1, 1], [0, 0, 0], [10, 40, 70], [10, 40, 50]),
    ([1, 1, 1], [0, 0, 0], [10, 20, 30], [10, 20, 30]),
    ([1, 2, 1], [0, 0, 0], [50, 20, 80], [40, 20, 40]),
    ([1, 1, 8], [30, 0, 0], [90, 90, 90], [30, 7.78, 62.22]),
]


@pytest.mark.parametrize(("weight", "minimum", "demand", "planned"), VECTORS)
def test_vectors(
    weight: list[int], minimum: list[int], demand: list[int], planned: list[float]
) -> None:
    failed = [pages // 2 for pages in demand]
    used = [all_ - part for all_, part in zip(demand, failed, strict=True)]
    view = View.of(capacity=100, used=used, failed_puts=failed, weight=weight, minimum=minimum)
    assert targets(load("max-min").plan(view)) == pytest.approx(planned, abs=0.005)


def test_a_maximum_leaves_more_for_the_others() -> None:
    view = View.of(capacity=100, used=[90, 90], maximum=[20, 100])
    assert targets(load("max-min").plan(view)) == [20, 80]


def test_the_floor_of_the_parameter_is_everybodys() -> None:
    view = View.of(capacity=100, used=[0, 95, 0], maximum=[100, 100, 5])
    plan = load("max-min:floor=10").plan(view)
    assert targets(plan) == [10, 85, 5]
    why = check_plan(plan, view).why
    assert why == ("floor above its demand", "cut to the level", "floor above its demand")


def test_what_nobody_demands_is_kept_or_shared() -> None:
    view = View.of(capacity=100, used=[10, 50])
    assert targets(load("max-min").plan(view)) == [10, 50]
    assert targets(load("max-min:rest=share").plan(view)) == [50, 50]


def test_asking_for_more_than_the_level_changes_nothing() -> None:
    honest = View.of(capacity=100, used=[10, 60, 70])
    liar = View.of(capacity=100, used=[10, 60, 7000])
    policy = load("max-min")
    assert targets(policy.plan(honest)) == targets(policy.plan(liar)) == [10, 45, 45]
