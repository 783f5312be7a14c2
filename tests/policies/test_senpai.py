"""senpai against the reference vectors, and its integral and quiet ticks."""

import numpy as np
import pytest

from policies import View
from policies.ram_targets import FRAMES_PER_MIB
from policies.senpai import Senpai

FRAMES = 1024 * FRAMES_PER_MIB
QUIET_TICKS = 6


def changes(
    waited_us: list[float], *, tmo: bool = False, frames: float = FRAMES, least: int = 0
) -> list[float]:
    """By how much the limit changed, as a fraction, at each tick with so much waiting."""
    policy = Senpai(Senpai.Params(scale=1, least=least, tmo=tmo))
    carry, limits = np.empty((1, 0)), [frames]
    for waited in waited_us:
        view = View.of(
            capacity=0,
            ram_capacity=4 * FRAMES,
            ram_current=[limits[-1]],
            ram_target=[np.floor(limits[-1])],
            ram_maximum=[4 * FRAMES],
            pressure=[waited / 1e6],
            carry=carry.copy(),
        )
        plan = policy.plan(view)
        assert plan.carry is not None
        carry = plan.carry
        limits.append(float(np.asarray(plan.ram)[0]))
    return (np.array(limits[1:]) / np.array(limits[:-1]) - 1).tolist()


@pytest.mark.parametrize(
    ("integral_us", "change"),
    [(0, -0.01), (1000, -0.01), (5000, -0.0004)],
)
def test_vectors_of_probing(integral_us: float, change: float) -> None:
    made = changes([integral_us] + [0] * QUIET_TICKS)
    assert made == pytest.approx([0] * QUIET_TICKS + [change])


@pytest.mark.parametrize(
    ("integral_us", "change"),
    [(20_000, 0.01), (100_000, 0.25), (200_000, 1.0), (1_000_000, 1.0)],
)
def test_vectors_of_backing_off(integral_us: float, change: float) -> None:
    assert changes([integral_us]) == pytest.approx([change])


def test_it_probes_every_6_ticks_and_begins_anew_after_each_change() -> None:
    moved = [tick for tick, change in enumerate(changes([0] * 25)) if change]
    assert moved == [6, 12, 18, 24]
    moved = [tick for tick, change in enumerate(changes([0, 0, 20_000] + [0] * 7)) if change]
    assert moved == [2, 8]


def test_short_waits_add_up() -> None:
    made = changes([4000, 4000, 4000, 0])
    assert made[:2] == [0, 0]
    assert made[2] == pytest.approx((12_000 / 10_000 / 20) ** 2)
    assert made[3] == 0


def test_without_a_measure_nothing_is_done() -> None:
    assert changes([np.nan] * 20) == [0] * 20
    made = changes([0] * 5 + [np.nan] * 9 + [0, 0])
    assert [tick for tick, change in enumerate(made) if change] == [15]


def test_the_limit_stays_above_the_least() -> None:
    least = 100 * FRAMES_PER_MIB
    assert changes([0] * 7, frames=least, least=least) == [0] * 7


@pytest.mark.parametrize(
    ("integral_us", "change"), [(0, -0.0005), (3000, -0.00025), (6000, 0.0), (9000, 0.0)]
)
def test_tmo_reclaims_less_the_nearer_pressure_is_to_a_thousandth(
    integral_us: float, change: float
) -> None:
    made = changes([integral_us] + [0] * QUIET_TICKS, tmo=True)
    assert made == pytest.approx([0] * QUIET_TICKS + [change])
