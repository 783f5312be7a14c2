"""fallow: the share of everybody, who gets a whole working set, and what is left to tmem."""

from typing import Any

import numpy as np

from hypervisor.coordination.coordinator import TickReport
from memcoord.simulation.world import simulate
from memcoord.testbed.scenarios.schema import parse
from policies import CheckedPlan, View, check_plan
from policies.fallow import Fallow
from policies.ram_targets import AREA_FRAMES

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


def test_in_plenty_everybody_has_its_need_and_as_much_room_to_grow_as_the_others() -> None:
    assert areas_of(view_of(committed=[500, 500, 500])) == [4, 4, 4]
    assert areas_of(view_of(committed=[3000, 500, 900])) == [7, 2, 3]  # 6, 1 and 2 are needed


def test_when_short_a_working_set_that_fits_is_whole() -> None:
    # 8 and 6 areas of 12: the first share is 0.7 of 6 each, and the second lacks less.
    assert areas_of(view_of(committed=[4000, 3000])) == [6, 6]
    assert areas_of(view_of(committed=[4900, 3000])) == [6, 6]
    assert areas_of(view_of(committed=[4900, 2400])) == [7, 5]


def test_what_is_over_the_shares_is_not_split() -> None:
    assert sorted(areas_of(view_of(committed=[4900, 4900]))) == [4, 8]
    third = sorted(areas_of(view_of(committed=[4900, 4900, 4900])))
    assert third == [2, 2, 8]


def test_nobody_has_less_than_most_of_its_equal_share() -> None:
    for committed in ([9000] * 4, [9000, 2000, 2000, 2000], [1300] * 6):
        planned = areas_of(view_of(committed=committed))
        equal = AREAS / len(committed)
        needs = np.ceil(np.array(committed) * 1.02 / AREA_FRAMES)
        assert (np.array(planned) >= np.floor(0.7 * np.minimum(equal, needs))).all()
        assert min(planned) >= 1
        assert sum(planned) == AREAS


def test_who_is_in_stays_in_when_another_of_its_kind_comes() -> None:
    assert areas_of(view_of(committed=[4900, 4900], areas=[8, 4])) == [8, 4]
    assert areas_of(view_of(committed=[4900, 4900], areas=[4, 8])) == [4, 8]


def test_pages_in_tmem_count_as_held() -> None:
    shown = view_of(committed=[4900, 4900], areas=[4, 4], used=[100, 1800])
    assert areas_of(shown) == [2, 6]  # and the four areas they are in are not to be had for RAM


def test_at_the_same_need_who_stalls_most_is_completed_first() -> None:
    shown = view_of(committed=[4900, 4900], pressure=[BUSY, THRASHING])
    assert areas_of(shown) == [4, 8]


def test_who_claims_more_than_it_needs_comes_later() -> None:
    honest = areas_of(view_of(committed=[4900, 4900], areas=[2, 1]))
    lied = areas_of(view_of(committed=[40000, 4900], areas=[2, 1], failed_puts=[5000, 10]))
    assert honest == [8, 4]
    assert lied == [4, 8]


def test_junk_never_asked_for_again_stops_counting_as_stall() -> None:
    honest = {"committed": [4900, 4900], "pressure": [THRASHING, BUSY]}
    assert areas_of(view_of(**honest)) == [8, 4]
    seen = plan_of(view_of(**honest, areas=[1, 1])).carry
    assert seen is not None
    for _ in range(40):
        view = view_of(**honest, hits=[0, 50], swap_ins=[0, 50], carry=seen)
        seen = plan_of(view).carry
        assert seen is not None
    assert areas_of(view) == [4, 8]


def test_an_idle_holder_lends_to_one_that_stalls() -> None:
    columns: dict[str, Any] = {"committed": [5000, 3000], "areas": [8, 4]}
    working = after(30, **columns, pressure=[CALM, THRASHING], idle=[0, 0])
    resting = after(30, **columns, pressure=[CALM, THRASHING], idle=[1, 0])
    assert working == [8, 4]
    assert resting == [6, 6]


def test_a_late_starter_is_served_at_its_first_tick() -> None:
    shown = view_of(committed=[3000, 2000], areas=[10, 1], age=[90, 0], pressure=[CALM, BUSY])
    assert areas_of(shown)[1] >= 4  # all it needs


def test_what_a_domain_leaves_behind_is_handed_on_at_once() -> None:
    assert areas_of(view_of(committed=[4900], areas=[1])) == [AREAS]


def test_weight_and_priority_decide_who_is_served() -> None:
    assert areas_of(view_of(committed=[4900, 4900], weight=[1, 2]))[1] == 10
    assert areas_of(view_of(committed=[4900, 4900], priority=[0, 1])) == [4, 8]


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


def test_tmem_gets_what_ram_does_not_take_and_keeps_what_it_holds() -> None:
    idle = plan_of(view_of(committed=[9000, 9000]))
    assert idle.tmem is not None
    assert idle.tmem.sum() == 0  # all is going to be RAM
    capped = {"ram_maximum": np.array([3, 3]) * AREA_FRAMES, "used": [300, 200]}
    plenty = plan_of(view_of(committed=[500, 500], **capped))
    assert plenty.tmem is not None
    assert plenty.tmem.sum() == 500 + 2 * AREA_FRAMES  # what it holds, and two areas
    assert (plenty.tmem >= [300, 200]).all()


def test_without_any_measure_it_goes_by_use_and_failed_puts() -> None:
    unknown = {key: [np.nan, np.nan] for key in ("committed", "pressure", "idle")}
    shown = view_of(**unknown, failed_puts=[4000, 0])
    planned = areas_of(shown)
    assert planned[0] > planned[1] >= 1
    assert sum(planned) == AREAS


def test_no_domain_is_starved_when_all_start_at_once_with_memory_for_half() -> None:
    # Each needs four areas of the twelve; two hold about half of what the program goes round.
    workload = {"kind": "page-trace", "trace": "sort", "resident": "400 pages"}
    domains = [
        {"name": f"vm{index}", "maxmem": "8 MiB", "ram": "2 MiB", "workload": workload}
        for index in range(6)
    ]
    host = {"name": "six", "memory": "26 MiB", "slack": "2 MiB", "interval_ms": 50}
    what = parse({**host, "domain": domains})
    most: dict[str, int] = {}

    def watch(_time_s: float, report: TickReport) -> None:
        for domain in report.host.domains:
            most[domain.name] = max(most.get(domain.name, 0), domain.current_frames)

    ours = simulate(what, "fallow", recorder=watch)
    equal = simulate(what, "static-ram")
    assert all(domain.state == "done" for domain in ours.domains)
    assert min(most.values()) >= 2 * AREA_FRAMES
    # Not one is slower than under the share that never changes.
    assert max(d.run_s for d in ours.domains) <= min(d.run_s for d in equal.domains)
