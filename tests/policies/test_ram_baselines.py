"""ram-max-min and static-ram: what a reviewer compares with first."""

from typing import Any

import numpy as np
import pytest

from policies import CheckedPlan, PolicyError, View, check_plan, load
from policies.ram_targets import AREA_FRAMES
from policies.static_ram import areas_text

AREAS = 12


def view_of(**columns: Any) -> View:
    """Domains that hold an area of 12 each, unless told otherwise."""
    held = np.array(columns.pop("areas", np.ones(len(columns["committed"])))) * AREA_FRAMES
    free = int(AREAS * AREA_FRAMES - held.sum())
    defaults: dict[str, Any] = {
        "ram_current": held,
        "ram_target": held,
        "ram_minimum": 0 * held + AREA_FRAMES,
    }
    host: dict[str, Any] = {"ram_capacity": AREAS * AREA_FRAMES, "host_free_frames": free}
    return View.of(capacity=free, **host, **defaults, **columns)


def plan_of(text: str, view: View) -> CheckedPlan:
    return check_plan(load(text).plan(view), view)


def areas_of(text: str, **columns: Any) -> list[float]:
    ram = plan_of(text, view_of(**columns)).ram
    assert ram is not None
    areas: list[float] = (ram / AREA_FRAMES).tolist()
    return areas


@pytest.mark.parametrize(
    ("committed", "areas"),
    [
        ([500, 500, 500], [1, 1, 1]),  # 2 % more than 500 pages are an area
        ([510, 500, 500], [2, 1, 1]),
        ([9000, 9000], [6, 5]),  # whole areas: all but the one that tmem keeps
        ([9000, 9000, 1000], [5, 4, 2]),
    ],
)
def test_ram_is_equal_and_nobody_has_more_than_it_committed(
    committed: list[int], areas: list[float]
) -> None:
    assert areas_of("ram-max-min", committed=committed) == areas


def test_weights_and_limits_hold() -> None:
    assert areas_of("ram-max-min:left=0", committed=[9000, 9000], weight=[1, 2]) == [4, 8]
    capped = {"ram_maximum": [2 * AREA_FRAMES, AREAS * AREA_FRAMES]}
    assert areas_of("ram-max-min", committed=[9000, 9000], **capped) == [2, 9]


def test_tmem_gets_what_ram_leaves_and_pages_in_it_stay() -> None:
    spare = plan_of("ram-max-min", view_of(committed=[500, 500])).tmem
    assert spare is not None
    assert spare.sum() == pytest.approx(10 * AREA_FRAMES, abs=2)
    short = view_of(committed=[9000, 9000], areas=[4, 4], used=[600, 100])
    tmem = plan_of("ram-max-min", short).tmem
    assert tmem is not None
    # Four areas are free or tmem's; RAM is to grow by three, and one is tmem's.
    assert tmem.sum() == pytest.approx(AREA_FRAMES, abs=2)
    assert tmem[0] >= tmem[1]


def test_who_reports_nothing_counts_with_what_it_uses() -> None:
    told = areas_of("ram-max-min", committed=[np.nan, 9000], ram_used=[600, 3000], areas=[2, 6])
    assert told == [2, 9]


def test_static_ram_divides_by_number_and_weight_alone() -> None:
    assert areas_of("static-ram", committed=[1, 9000, 9000]) == [4, 4, 4]
    assert areas_of("static-ram", committed=[1, 9000], weight=[2, 1]) == [8, 4]
    tmem = plan_of("static-ram", view_of(committed=[1, 1])).tmem
    assert tmem is not None
    assert tmem.tolist() == [0, 0]


def test_a_split_can_be_given_and_the_rest_is_shared() -> None:
    given = areas_text({"vm1": 2, "vm3": 5})
    assert areas_of(f"static-ram:areas={given}", committed=[1, 1, 1]) == [2, 5, 5]
    assert areas_of(f"static-ram:areas={areas_text({'vm9': 3})}", committed=[1, 1]) == [6, 6]


@pytest.mark.parametrize("areas", ["vm1", "vm1=x", "=3", "vm1=-1"])
def test_what_is_no_split_is_named(areas: str) -> None:
    with pytest.raises(PolicyError, match=r"areas: .* is not DOMAIN=AREAS"):
        load(f"static-ram:areas={areas}")
