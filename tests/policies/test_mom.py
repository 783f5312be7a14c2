"""MOM's balloon rules against the reference vectors, and over time."""

import numpy as np
import pytest

from policies import View
from policies.mom import Mom

HOST_FRAMES = 100_000
VECTORS = [
    # free percent of the host, current, unused, minimum, maximum, planned
    (10, 1000, 300, 400, 2000, 950),
    (3, 1000, 20, 400, 2000, 960),  # critical: below its use, the guest must swap
    (10, 1000, 20, 400, 2000, 1000),  # no change: it would have to grow
    (50, 1000, 50, 400, 2000, 1150),  # past 5 %, because of its floor
    (50, 1000, 900, 400, 2000, 1050),  # grows although idle
    (50, 1990, 900, 400, 2000, 2000),
    (50, 1998, 900, 400, 2000, 1998),  # less than 0.25 % is not worth it
    (10, 1000, 900, 980, 2000, 980),  # never below the minimum
    (20, 1000, 900, 400, 2000, 1050),  # 20 % is not under pressure
]


def mom(period_ticks: int = 1) -> Mom:
    return Mom(Mom.Params(period_ticks=period_ticks))


def view_of(
    free_percent: float,
    current: float,
    unused: float,
    minimum: float = 400,
    maximum: float = 2000,
    tick: int = 0,
    carry: np.ndarray | None = None,
) -> View:
    """One guest, and a pinned one that has what else is not free."""
    free = int(HOST_FRAMES * free_percent / 100)
    rest = HOST_FRAMES - free - current
    return View.of(
        capacity=0,
        ram_capacity=HOST_FRAMES,
        tick=tick,
        host_frames=HOST_FRAMES,
        host_free_frames=free,
        ram_current=[current, rest],
        ram_target=[current, rest],
        ram_used=[current - unused, rest],
        ram_minimum=[minimum, rest],
        ram_maximum=[maximum, rest],
        carry=np.empty((2, 0)) if carry is None else carry.copy(),
    )


def planned_for(policy: Mom, view: View) -> float:
    return float(np.asarray(policy.plan(view).ram)[0])


@pytest.mark.parametrize(("free", "current", "unused", "minimum", "maximum", "planned"), VECTORS)
def test_vectors(
    free: float, current: float, unused: float, minimum: float, maximum: float, planned: float
) -> None:
    view = view_of(free, current, unused, minimum, maximum)
    assert planned_for(mom(), view) == pytest.approx(planned)


def last_target(unused: list[float], free: list[float]) -> float:
    """Target after the last of these samples, of a guest that keeps its 1000 frames."""
    carry = None
    for tick, (guest, host) in enumerate(zip(unused, free, strict=True)):
        plan = mom().plan(view_of(host, 1000, guest, tick=tick, carry=carry))
        carry = plan.carry
        assert carry is not None
        carry[:, 0] = -1  # its target is always put back to 1000
    return float(np.asarray(plan.ram)[0])


def test_use_is_the_mean_of_ten_samples() -> None:
    assert last_target([100] * 9 + [0], [50] * 10) == pytest.approx(910 + 200)
    assert last_target([0] * 5 + [100] * 10, [50] * 15) == pytest.approx(900 + 200)


def test_free_memory_is_the_mean_of_ten_samples() -> None:
    assert last_target([900] * 10, [21] * 9 + [12]) > 1000
    assert last_target([900] * 10, [21] * 9 + [10]) < 1000


def test_halving_takes_14_cycles() -> None:
    current, carry = 10_000.0, None
    for cycles in range(1, 30):  # noqa: B007
        plan = mom().plan(view_of(10, current, current, 0, 20_000, carry=carry))
        carry, current = plan.carry, float(np.asarray(plan.ram)[0])
        if current <= 5000:
            break
    assert cycles == 14


def test_a_host_without_slack_to_spare_is_critical() -> None:
    view = View.of(
        capacity=0,
        ram_capacity=1000,
        host_frames=2000,
        host_free_frames=1000,
        ram_current=[1000],
        ram_target=[1000],
        ram_used=[1000],
        ram_maximum=[1000],
    )
    assert planned_for(mom(), view) == pytest.approx(950)


def test_between_cycles_targets_stay() -> None:
    assert planned_for(mom(10), view_of(50, 1000, 900, tick=9)) == 1000
    assert planned_for(mom(10), view_of(50, 1000, 900, tick=10)) == 1050
