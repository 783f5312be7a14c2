"""The inputs of the conformance kit: sensible views, nonsense, and how to make one smaller.

Owns: the views the kit tries, and how a view that shows a failure is reduced to its essence and
written down. Pure; a seed reproduces. Called by ``policies.conformance`` and ``kit_clauses``.
"""

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.base import AGE_EDGES_S, MRC_POINTS, Column, View

KIT_PAGES_PER_DOMAIN = 4096
KIT_FRAMES_PER_DOMAIN = 65536
KIT_SIZES = (0, 1, 2, 3, 8, 64, 1000)
KIT_VIEWS_PER_SIZE = 4
SHOWN_DOMAINS_MAX = 8
SHOWN_GRID_MAX = 8
HUGE = float(1 << 52)
#: What a guest reports; NaN where it does not.
SILENT_PART = 0.2
REPORTED = ("swap_ins", "ram_used", "committed", "idle", "pressure")
#: Without these there is no view; the others are put back to their default when they do not matter.
_GIVEN = ("capacity", "ram_capacity", "names")


def is_scarce(view: View) -> bool:
    """Whether a floor of a policy's own may not fit; then its sum may be too large."""
    tmem, ram = KIT_PAGES_PER_DOMAIN * len(view), KIT_FRAMES_PER_DOMAIN * len(view)
    return view.capacity < tmem or view.ram_capacity < ram


def sensible_views(random: np.random.Generator) -> Iterator[View]:
    """Views as a run may show them, small ones first; the last two of each size are scarce."""
    for domains in KIT_SIZES:
        for number in range(KIT_VIEWS_PER_SIZE):
            plenty = domains * KIT_PAGES_PER_DOMAIN
            yield sensible_view(random, domains, plenty, measured=number % 2 == 1)
        for capacity in (domains, 0):
            yield sensible_view(random, domains, capacity, measured=False)


def sensible_view(
    random: np.random.Generator, domains: int, capacity: int, *, measured: bool
) -> View:
    """One view of ``domains``; ``measured``: with everything a guest may tell."""
    share = capacity / max(domains, 1)

    def some(most: float) -> Column:
        return np.floor(random.random(domains) * most)

    puts, gets, minimum = some(1000), some(1000), some(share / 4)
    current = some(KIT_FRAMES_PER_DOMAIN)
    unlimited = random.random() < 0.2
    view = View.of(
        names=[f"vm{index + 1}" for index in range(domains)],
        capacity=capacity,
        ram_capacity=domains * KIT_FRAMES_PER_DOMAIN,
        tick=int(random.integers(1000)),
        interval_s=float(random.choice([0.05, 1.0, 10.0])),
        host_frames=domains * (KIT_FRAMES_PER_DOMAIN + KIT_PAGES_PER_DOMAIN),
        host_free_frames=int(random.integers(KIT_PAGES_PER_DOMAIN)),
        used=some(share),
        target=np.full(domains, capacity) if unlimited else some(share),
        minimum=minimum,
        maximum=np.where(random.random(domains) < 0.5, capacity, minimum + some(share)),
        weight=0.5 + random.random(domains),
        priority=some(3),
        puts=puts,
        failed_puts=np.where(random.random(domains) < 0.5, 0, some(1) + puts // 2),
        failed_puts_total=puts + some(1000),
        gets=gets,
        hits=gets // 2,
        swap_ins=some(100),
        ram_current=current,
        ram_target=current,
        ram_used=current // 2,
        ram_minimum=current // 8,
        ram_maximum=np.full(domains, KIT_FRAMES_PER_DOMAIN),
        age=some(100),
        **(_measured(random, domains, current) if measured else {}),
    )
    return _with_silent_guests(view, random) if measured else view


def _with_silent_guests(view: View, random: np.random.Generator) -> View:
    """``view`` as it is where every guest keeps a part of its figures to itself."""
    told: dict[str, Any] = {
        name: np.where(random.random(len(view)) < SILENT_PART, np.nan, getattr(view, name))
        for name in REPORTED
    }
    return replace(view, **told)


def _measured(random: np.random.Generator, domains: int, current: Column) -> dict[str, Column]:
    """What is measured of each domain, and what each guest reports that is not in every view."""

    def falling(columns: int, most: float) -> Column:
        return np.sort(random.random((domains, columns)) * most, axis=1)[:, ::-1].copy()

    return {
        "committed": np.floor(random.random(domains) * 2 * KIT_FRAMES_PER_DOMAIN),
        "idle": random.random(domains),
        "pressure": random.random(domains),
        "mrc": falling(MRC_POINTS, 1.0),
        "cold": np.floor(falling(len(AGE_EDGES_S), 1.0) * current[:, None]),
        "promotions": np.floor(falling(len(AGE_EDGES_S), 500.0)),
    }


def nonsense_views() -> Iterator[tuple[str, View]]:
    """Views that should never happen and will, each with its name."""
    plenty: dict[str, Any] = {
        "capacity": 3 * KIT_PAGES_PER_DOMAIN,
        "ram_capacity": 3 * KIT_FRAMES_PER_DOMAIN,
        "names": ["vm1", "vm2", "vm3"],
    }
    busy: dict[str, Any] = {"used": [100, 0, 50], "failed_puts": [7, 0, 3], "puts": [9, 0, 5]}
    ram: dict[str, Any] = {"ram_current": [512, 512, 512], "ram_target": [512, 512, 512]}
    counters = ("used", "puts", "failed_puts", "failed_puts_total", "gets", "hits", "swap_ins")
    yield "no domain", View.of(capacity=KIT_PAGES_PER_DOMAIN)
    yield "no domain and no capacity", View.of(capacity=0)
    yield "one domain that has nothing", View.of(capacity=4096, ram_capacity=65536, used=[0])
    yield "no tmem to share", View.of(**plenty | busy | ram | {"capacity": 0})
    yield "no RAM to share", View.of(**plenty | busy | {"ram_capacity": 0})
    yield "zeros everywhere", View.of(capacity=0, used=[0, 0, 0])
    yield "nothing measured", View.of(**plenty | busy | ram)
    yield "every put failed", View.of(**plenty, puts=[9, 9, 9], failed_puts=[9, 9, 9])
    yield "no time has passed", View.of(**plenty | busy | ram, interval_s=0.0)
    yield "counts of 2**52", View.of(**plenty | {name: [HUGE] * 3 for name in counters})
    yield "one count of 2**52", View.of(**plenty | {name: [0, HUGE, 0] for name in counters})
    huge = {"capacity": 1 << 52, "ram_capacity": 1 << 52}
    yield "a host of 2**52 pages", View.of(**plenty | busy | huge)
    yield "targets above capacity", View.of(**plenty | busy, target=[HUGE, HUGE, 0])
    yield "minima above capacity", View.of(**plenty | busy, minimum=[HUGE, 9, 9])
    yield "maxima of nothing", View.of(**plenty | busy, maximum=[0, 0, 0], ram_maximum=[0, 0, 0])
    yield "weights far apart", View.of(**plenty | busy, weight=[1e-9, 1.0, 1e9])
    yield "priorities below nothing", View.of(**plenty | busy, priority=[-HUGE, 0, HUGE])
    unknown = dict.fromkeys(REPORTED, [np.nan] * 3)
    yield "guests that report nothing", View.of(**plenty | busy | ram | unknown)
    yield "one that reports nothing", View.of(**plenty | busy | ram | _one_of_three(unknown))
    told = {"committed": [0, HUGE, 0], "idle": [0, 1, 1], "pressure": [1, 0, 1]}
    yield "guests that tell extremes", View.of(**plenty | busy | ram | told)
    grids: dict[str, Any] = {
        "mrc": np.zeros((3, MRC_POINTS)),
        "cold": np.zeros((3, len(AGE_EDGES_S))),
        "promotions": np.full((3, len(AGE_EDGES_S)), HUGE),
    }
    yield "curves of nothing", View.of(**plenty | busy | ram | grids)


def _one_of_three(unknown: dict[str, list[float]]) -> dict[str, list[float]]:
    return {name: [0.0, *values[1:2], 0.0] for name, values in unknown.items()}


def columns_of(view: View) -> list[tuple[str, NDArray[np.float64]]]:
    """Every column and grid that ``view`` has, by name."""
    values = [(item.name, getattr(view, item.name)) for item in fields(view)]
    return [(name, value) for name, value in values if isinstance(value, np.ndarray)]


def reordered(view: View, order: NDArray[np.intp]) -> View:
    """``view`` with its domains in another order, or with some of them only; always copies."""
    columns: dict[str, Any] = {name: value[order] for name, value in columns_of(view)}
    return replace(view, names=tuple(view.names[index] for index in order), **columns)


def copy_of(view: View) -> View:
    """The same view with arrays of its own."""
    return reordered(view, np.arange(len(view)))


def smaller(view: View, fails: Callable[[View], bool]) -> View:
    """``view`` with as few domains and columns as still fail; it fails as it is."""
    while len(view) > 1:
        half = len(view) // 2
        order = np.arange(len(view))
        parts = (reordered(view, order[:half]), reordered(view, order[half:]))
        found = next((part for part in parts if fails(part)), None)
        if found is None:
            break
        view = found
    plain = _plain(view)
    for item in fields(view):
        if item.name not in _GIVEN:
            simpler: View = replace(view, **{item.name: getattr(plain, item.name)})
            if fails(simpler):
                view = simpler
    return view


def text_of(view: View) -> str:
    """The view as an expression, with what differs from the defaults; a summary if it is large."""
    if len(view) > SHOWN_DOMAINS_MAX:
        return f"{len(view)} domains, capacity {view.capacity}"
    plain = _plain(view)
    parts = [f"capacity={view.capacity}"]
    if view.ram_capacity:
        parts.append(f"ram_capacity={view.ram_capacity}")
    told = []
    for item in fields(view):
        value, default = getattr(view, item.name), getattr(plain, item.name)
        if item.name in _GIVEN or _equal(value, default):
            continue
        told.append(f"{item.name}={_value(value)}")
    if not any("=[" in part for part in told):
        parts.append(f"names={list(view.names)}")
    return f"View.of({', '.join(parts + told)})"


def _plain(view: View) -> View:
    return View.of(capacity=view.capacity, ram_capacity=view.ram_capacity, names=view.names)


def _equal(one: object, other: object) -> bool:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return np.array_equal(one, other, equal_nan=True)
    return one is other or (not isinstance(one, np.ndarray) and one == other)


def _value(value: object) -> str:
    if not isinstance(value, np.ndarray):
        return str(value)
    if value.ndim == 2 and value.shape[1] > SHOWN_GRID_MAX:
        return f"<{value.shape[0]} x {value.shape[1]}>"
    whole = value.size and np.isfinite(value).all() and (value == np.floor(value)).all()
    return str((value.astype(np.int64) if whole else value).tolist())
