"""fallow: who gets whole working sets, who waits, and what is left to tmem."""

from typing import Any

import numpy as np

from policies import CheckedPlan, View, check_plan
from policies.fallow import AREA_FRAMES, Fallow

AREAS = 12
BUSY, THRASHING, CALM = 0.6, 0.95, 0.0
POLICY = Fallow(Fallow.Params())


def view_of(**columns: Any) -> View:
    """Domains that hold one area of 12 each, unless told otherwise, and refault all they put."""
    count = len(columns["committed"])
    ones = np.ones(count)
    held = np.array(columns.pop("areas", ones)) * AREA_FRAMES
    defaults: dict[str, Any] = {
        "ram_current": held,
        "ram_target": held,
        "ram_used": held,
        "ram_minimum": ones * AREA_FRAMES,
        "ram_maximum": ones * AREAS * AREA_FRAMES,
        "puts": 100 * ones,
        "hits": 50 * ones,
        "swap_ins": 50 * ones,
        "pressure": ones * BUSY,
        "idle": 0 * ones,
        "age": ones,
    }
    free = int(AREAS * AREA_FRAMES - held.sum())
    return View.of(
        capacity=free,
        ram_capacity=AREAS * AREA_FRAMES,
        host_frames=(AREAS + 1) * AREA_FRAMES,
        host_free_frames=free + AREA_FRAMES,
        **{**defaults, **columns},
    )


def plan_of(view: View) -> CheckedPlan:
    return check_plan(POLICY.plan(view), view)


def areas_of(view: View) -> list[float]:
    ram = plan_of(view).ram
    assert ram is not None
    areas: list[float] = (ram / AREA_FRAMES).tolist()
    return areas


def after(ticks: int, **columns: Any) -> list[float]:
    """Areas planned when the same has been seen so often and every plan was followed."""
    view = view_of(**columns)
    for _ in range(ticks):
        plan = plan_of(view)
        assert plan.ram is not None
        columns |= {"areas": plan.ram / AREA_FRAMES, "carry": plan.carry}
        view = view_of(**columns)
    return areas_of(view)


def test_in_plenty_all_of_it_is_given_as_whole_areas_to_those_who_have_least() -> None:
    assert areas_of(view_of(committed=[500, 500, 500])) == [4, 4, 4]
    assert areas_of(view_of(committed=[3000, 500, 900])) == [6, 3, 3]


def test_when_short_a_working_set_that_fits_is_whole_and_an_area_is_left_to_tmem() -> None:
    assert areas_of(view_of(committed=[4000, 3000])) == [5, 6]


def test_a_cliff_concentrates_memory_on_one_instead_of_splitting_it() -> None:
    assert sorted(areas_of(view_of(committed=[4900, 4900]))) == [1, 10]


def test_who_is_in_stays_in_when_a_smaller_one_comes() -> None:
    assert areas_of(view_of(committed=[4900, 2500], areas=[10, 1])) == [10, 1]


def test_at_the_same_need_who_stalls_most_is_let_in_first() -> None:
    shown = view_of(committed=[4900, 4900], pressure=[BUSY, THRASHING])
    assert areas_of(shown) == [1, 10]


def test_a_liar_gets_its_minimum_while_an_honest_domain_needs_memory() -> None:
    columns: dict[str, Any] = {"committed": [40000, 4900], "failed_puts": [5000, 10]}
    assert areas_of(view_of(**columns)) == [1, 10]


def test_junk_never_asked_for_again_stops_counting_as_stall() -> None:
    honest = {"committed": [4900, 4900], "pressure": [THRASHING, BUSY]}
    assert areas_of(view_of(**honest)) == [10, 1]
    seen = plan_of(view_of(**honest, areas=[1, 1])).carry
    assert seen is not None
    for _ in range(40):
        view = view_of(**honest, hits=[0, 50], swap_ins=[0, 50], carry=seen)
        seen = plan_of(view).carry
        assert seen is not None
    assert areas_of(view) == [1, 10]


def test_an_idle_holder_lends_to_one_that_stalls() -> None:
    columns: dict[str, Any] = {"committed": [5000, 3000], "areas": [10, 1]}
    working = after(30, **columns, pressure=[CALM, THRASHING], idle=[0, 0])
    resting = after(30, **columns, pressure=[CALM, THRASHING], idle=[1, 0])
    assert working == [10, 1]
    assert resting[1] == 6


def test_a_late_starter_is_served_at_its_first_tick_from_what_is_free() -> None:
    shown = view_of(committed=[3000, 2000], areas=[10, 1], age=[90, 0], pressure=[CALM, BUSY])
    assert areas_of(shown)[1] >= 4  # all it needs


def test_what_a_domain_leaves_behind_is_handed_on_at_once() -> None:
    assert areas_of(view_of(committed=[4900], areas=[1])) == [AREAS]


def test_minima_and_maxima_are_kept() -> None:
    shown = view_of(
        committed=[4900, 4900, 100],
        areas=[1, 3, 2],
        ram_minimum=np.array([1, 3, 2]) * AREA_FRAMES,
        ram_maximum=np.array([4, 12, 2]) * AREA_FRAMES,
    )
    planned = areas_of(shown)
    assert planned[0] <= 4
    assert planned[1] >= 3
    assert planned[2] == 2


def test_tmem_gets_what_ram_does_not_take_and_leaves_an_area_for_growth() -> None:
    plan = plan_of(view_of(committed=[4900, 4900], areas=[10, 1]))
    assert plan.tmem is not None
    assert AREA_FRAMES - 2 <= plan.tmem.sum() <= AREA_FRAMES
    assert plan.tmem[1] > plan.tmem[0]  # its pages are nowhere
    # One area is free and wanted as RAM: tmem keeps what it holds, and no put stands in the way.
    full = view_of(committed=[4900, 3000], areas=[9, 1], used=[300, 200], pressure=[0.9, 0.1])
    plan = plan_of(full)
    assert plan.tmem is not None
    assert plan.tmem.sum() <= 2 * AREA_FRAMES
    assert (plan.tmem <= 700).all()


def test_without_any_measure_it_goes_by_use_and_failed_puts() -> None:
    shown = view_of(
        committed=[np.nan, np.nan],
        pressure=[np.nan, np.nan],
        idle=[np.nan, np.nan],
        failed_puts=[4000, 0],
    )
    planned = areas_of(shown)
    assert planned[0] > planned[1] >= 1
    assert sum(planned) == AREAS
