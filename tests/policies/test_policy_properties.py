"""What every built-in policy owes, on drawn views and in a small closed loop of demand and targets.

A policy that is registered is tested here without a word more. What a class declares, ``monotone``
and ``settles``, is held against it.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies import CheckedPlan, Plan, View, check_plan, load
from policies.base import AGE_EDGES_S, MRC_POINTS, Column
from policies.loader import BUILT_IN

PAGES, FRAMES = 4096, 16384  # per domain: enough for any floor a policy has of its own
GRIDS = ("mrc", "cold", "promotions")
every_policy = pytest.mark.parametrize("name", sorted(BUILT_IN))
few = settings(deadline=None, max_examples=25, derandomize=True)


def declared(name: str, flag: str) -> Any:
    return getattr(type(load(name)), flag, False)


@st.composite
def views(draw: st.DrawFn) -> View:
    """Up to five domains whose demands may be far more or far less than there is."""
    count = draw(st.integers(0, 5))
    random = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    level = draw(st.sampled_from((0, 10, PAGES, 4 * PAGES)))

    def some(most: float) -> Column:
        return np.floor(random.random(count) * (most + 1))

    minimum, ram_minimum = some(PAGES / 2), some(FRAMES / 2)
    failed, current = some(level) * (random.random(count) < 0.6), ram_minimum + some(FRAMES / 2)
    columns: dict[str, Any] = {
        "used": some(min(level, PAGES)),
        "target": some(PAGES),
        "minimum": minimum,
        "maximum": minimum + some(2 * PAGES),
        "weight": 1 + some(3),
        "priority": some(2),
        "puts": failed + some(level),
        "failed_puts": failed,
        "failed_puts_total": failed + some(1),
        "gets": some(level),
        "swap_ins": some(10),
        "ram_minimum": ram_minimum,
        "ram_maximum": ram_minimum + some(2 * FRAMES),
        "ram_current": current,
        "ram_target": current,
        "ram_used": np.floor(current * random.random(count)),
        "age": some(9),
    }
    if draw(st.booleans()):
        columns |= {
            "committed": some(2 * FRAMES),
            "idle": random.random(count),
            "pressure": random.random(count) ** 4,
            "mrc": -np.sort(-random.random((count, MRC_POINTS)), axis=1),
            "cold": -np.sort(-random.random((count, len(AGE_EDGES_S))) * FRAMES, axis=1),
            "promotions": -np.sort(-random.random((count, len(AGE_EDGES_S))) * 99, axis=1),
        }
    return View.of(
        capacity=count * PAGES,
        ram_capacity=count * FRAMES,
        host_frames=count * (PAGES + FRAMES),
        host_free_frames=int(some(PAGES).sum()),
        names=[f"vm{place}" for place in random.permutation(count)],
        **columns,
    )


def plan_of(name: str, view: View) -> CheckedPlan:
    return check_plan(load(name).plan(view), view)


def with_carry(view: View, plan: CheckedPlan) -> View:
    return view if plan.carry is None else replace(view, carry=plan.carry.copy())


def both(plan: CheckedPlan) -> list[np.ndarray[Any, np.dtype[np.int64]]]:
    return [targets for targets in (plan.tmem, plan.ram) if targets is not None]


@every_policy
@few
@given(view=views())
def test_sum_floors_and_ceilings(name: str, view: View) -> None:
    first = plan_of(name, view)
    for plan in (first, plan_of(name, with_carry(view, first))):
        for targets, low, high, capacity in (
            (plan.tmem, view.minimum, view.maximum, view.capacity),
            (plan.ram, view.ram_minimum, view.ram_maximum, view.ram_capacity),
        ):
            if targets is not None:
                limited = targets != Plan.UNLIMITED
                assert targets[limited].sum() <= capacity
                assert (targets >= low)[limited].all()
                assert (targets <= high)[limited].all()


@every_policy
@few
@given(view=views(), random=st.randoms(use_true_random=False))
def test_order_does_not_matter(name: str, view: View, random: Any) -> None:
    view = with_carry(view, plan_of(name, view))
    order = np.array(random.sample(range(len(view)), len(view)), dtype=np.intp)
    columns = {
        key: value[order] for key, value in vars(view).items() if isinstance(value, np.ndarray)
    }
    names = tuple(view.names[index] for index in order)
    mixed = plan_of(name, replace(view, names=names, **columns))
    for straight, other in zip(both(plan_of(name, view)), both(mixed), strict=True):
        assert np.abs(straight[order] - other).max(initial=0) <= 1  # rounding


@every_policy
@few
@given(view=views(), other=views())
def test_the_same_view_gives_the_same_plan(name: str, view: View, other: View) -> None:
    policy = load(name)
    first = policy.plan(view)
    policy.plan(other)
    again = policy.plan(view)
    for left, right in ((first.tmem, again.tmem), (first.ram, again.ram)):
        assert (left is None) is (right is None)
        assert left is None or np.array_equal(left, right)  # type: ignore[arg-type]
    if first.carry is not None:
        assert again.carry is not None
        assert np.array_equal(first.carry, again.carry)


@pytest.mark.parametrize("name", [name for name in BUILT_IN if declared(name, "monotone")])
@few
@given(view=views(), extra=st.integers(1, 2 * PAGES))
def test_who_demands_more_is_not_given_less(name: str, view: View, extra: int) -> None:
    before = both(plan_of(name, view))
    for index in range(len(view)):
        more = {}
        for column in ("puts", "failed_puts", "failed_puts_total"):
            more[column] = getattr(view, column).copy()
            more[column][index] += extra
        after = both(plan_of(name, replace(view, **more)))
        for old, new in zip(before, after, strict=True):
            unlimited = new[index] == Plan.UNLIMITED
            assert unlimited or new[index] >= old[index] - 1  # rounding


class Loop:
    """Domains with a constant need: they use what they need and are given, and miss the rest."""

    def __init__(self, name: str, tmem_need: list[int], ram_need: list[int]) -> None:
        self.policy = load(name)
        self.tmem_need, self.ram_need = np.array(tmem_need) * 1.0, np.array(ram_need) * 1.0
        count = len(tmem_need)
        self.capacity, self.frames = count * PAGES, count * FRAMES
        self.target, self.ram = np.full(count, PAGES) * 1.0, np.full(count, FRAMES) * 1.0
        self.carry = np.empty((count, 0))
        self.failed_total = np.zeros(count)

    def view(self, tick: int) -> View:
        used = np.minimum(self.tmem_need, self.target)
        failed = self.tmem_need - used
        self.failed_total += failed
        in_use = np.minimum(self.ram, self.ram_need)
        ages = np.zeros((len(used), len(AGE_EDGES_S)))
        need = np.maximum(self.tmem_need, 1)[:, None]
        return View.of(
            capacity=self.capacity,
            ram_capacity=self.frames,
            tick=tick,
            host_frames=self.capacity + self.frames,
            host_free_frames=int(self.frames - self.ram.sum()),
            target=self.target,
            used=used,
            puts=used / 8 + failed,
            failed_puts=failed,
            failed_puts_total=self.failed_total,
            gets=used / 8,  # it asks for all it needs, wherever that is, at the same rate
            hits=used / 8,
            swap_ins=failed / 8,
            ram_current=self.ram,
            ram_target=self.ram,
            ram_used=in_use,
            ram_minimum=np.full(len(used), FRAMES // 8),
            ram_maximum=np.full(len(used), 2 * FRAMES),
            age=np.full(len(used), tick),
            committed=self.ram_need,
            idle=1 - in_use / self.ram,
            pressure=1 - in_use / self.ram_need,
            carry=self.carry,
            mrc=np.maximum(1 - np.linspace(0, self.capacity, MRC_POINTS) / need, 0),
            cold=ages + (self.ram - in_use)[:, None],
            promotions=ages,
        )

    def step(self, tick: int) -> CheckedPlan:
        view = self.view(tick)
        plan = check_plan(self.policy.plan(view), view)
        if plan.tmem is not None:
            self.target = np.where(plan.tmem == Plan.UNLIMITED, self.capacity, plan.tmem) * 1.0
        if plan.ram is not None:
            self.ram = plan.ram * 1.0
        if plan.carry is not None:
            self.carry = plan.carry.copy()
        return plan


NEEDS = [
    # tmem need, RAM need: ample, scarce, one idle among busy ones
    ([1000, 2000, 500], [6000, 9000, 4000]),
    ([9000, 5000, 7000], [30000, 20000, 25000]),
    ([50, 9000, 6000], [3000, 30000, 16000]),
]
TICKS, REST_TICKS = 600, 16


#: At rest while the domains stand still, which ``settles`` means; here they follow, and by its law
#: each of these answers what it caused itself.
RESTLESS = {
    "smart-alloc": "gives until puts succeed, takes until they fail",
    "self-balloon": "sets a limit for the tick in which tmem has not grown for a while",
    "far-memory": "what is cold leaves the RAM, and then nothing in it is cold",
}
CALM = [name for name in BUILT_IN if declared(name, "settles") and name not in RESTLESS]


@pytest.mark.parametrize("name", CALM)
@pytest.mark.parametrize(("tmem_need", "ram_need"), NEEDS, ids=["ample", "scarce", "mixed"])
def test_it_comes_to_rest_with_its_domains(
    name: str, tmem_need: list[int], ram_need: list[int]
) -> None:
    loop = Loop(name, tmem_need, ram_need)
    flag = declared(name, "settles")
    ticks = TICKS if flag is True else int(flag) + 1  # one more for the domains to follow
    for tick in range(ticks):
        loop.step(tick)
    last = [both(loop.step(ticks + tick)) for tick in range(REST_TICKS)]
    for series in zip(*last, strict=True):
        assert np.ptp(np.array(series), axis=0).max() <= 2 + loop.capacity // 1000


DEMAND_DRIVEN = ("smart-alloc:threshold=0", "max-min", "utility", "karma:slice_pages=1", "ginseng")


@pytest.mark.parametrize("name", DEMAND_DRIVEN)
def test_in_plenty_everybody_ends_with_its_need(name: str) -> None:
    loop = Loop(name, *NEEDS[0])
    for tick in range(TICKS):
        loop.step(tick)
    assert (loop.target >= loop.tmem_need - 1).all()
