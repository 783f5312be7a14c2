"""What ``memcoord bench malloc`` reports: the names of its rows, ratios, targets.

Owns: the names, so that the bench, its views and its tests agree on them. Pure.
A row ``calls`` holds single calls, out of which quantiles come; a row ``sum`` the time of all calls
of a run, divided by their number. A ratio is the geometric mean over allocators and traces of the
ratios of each, so that none weighs more than another.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

from memcoord.benchmarks.grant.malloc_guest import ALLOCATORS, Allocator
from memcoord.benchmarks.harness import BenchPlan, Formula, Row, Sheet, Target
from memcoord.benchmarks.malloc import traces

NATIVE, HAS = "native", "has memory"
FROM_HOST, FROM_NEIGHBOUR = "grows from the host", "grows from a neighbour"
OWN_LIMIT = "reclaims within its limit"
SITUATIONS = (NATIVE, HAS, FROM_HOST, FROM_NEIGHBOUR, OWN_LIMIT)
#: Huge pages are a setting of the kernel's, not another malloc.
RIVALS: tuple[Allocator, ...] = tuple(one for one in ALLOCATORS if not one.tunables)
CELLS = tuple(itertools.product(traces.names(), (one.name for one in RIVALS)))
#: Shares of calls for the figure.
SHARES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)
KEY_SHARES = "quantiles_ns"


def calls(trace: str, allocator: str, situation: str) -> str:
    """Single calls, the first touch of what they gave included."""
    return f"calls {trace} {allocator} {situation}"


def total(trace: str, allocator: str, situation: str) -> str:
    """All calls of a run, per call."""
    return f"sum {trace} {allocator} {situation}"


def _mean(figures: list[float]) -> float | None:
    return math.exp(sum(map(math.log, figures)) / len(figures)) if figures else None


def _pairs(
    sheet: Sheet, name: Callable[[str, str, str], str], over: str, under: str
) -> Iterator[tuple[Row, Row]]:
    for trace, allocator in CELLS:
        rows = sheet.rows_of(name(trace, allocator, over), name(trace, allocator, under))
        if rows is not None:
            yield rows[0], rows[1]


def _of_sums(over: str, under: str = NATIVE) -> Formula:
    def formula(sheet: Sheet) -> float | None:
        pairs = _pairs(sheet, total, over, under)
        return _mean([a.median_ns() / b.median_ns() for a, b in pairs])

    return formula


def _of_quantiles(share: float, over: str) -> Formula:
    def formula(sheet: Sheet) -> float | None:
        pairs = [pair for pair in _pairs(sheet, calls, over, NATIVE) if pair[0].carries(share)]
        return _mean([a.quantile(share) / b.quantile(share) for a, b in pairs])

    return formula


P50, P99, P999 = (f"{HAS}/{NATIVE}, {name}" for name in ("p50", "p99", "p999"))
SUM_HAS, SUM_HOST, SUM_NEIGHBOUR = (
    f"{what}/{NATIVE}, sum" for what in (HAS, FROM_HOST, FROM_NEIGHBOUR)
)
COORDINATED = f"{FROM_NEIGHBOUR}/{OWN_LIMIT}, sum"

PLAN = BenchPlan(
    bench="malloc",
    targets={
        P50: Target(1.05, 1.02),
        P99: Target(1.05, 1.02),
        SUM_HOST: Target(1.1, 1.05),
        SUM_NEIGHBOUR: Target(1.25, 1.1),
        COORDINATED: Target(0.5, 0.5),
    },
    formulas={
        P50: _of_quantiles(0.5, HAS),
        P99: _of_quantiles(0.99, HAS),
        P999: _of_quantiles(0.999, HAS),
        SUM_HAS: _of_sums(HAS),
        SUM_HOST: _of_sums(FROM_HOST),
        SUM_NEIGHBOUR: _of_sums(FROM_NEIGHBOUR),
        COORDINATED: _of_sums(FROM_NEIGHBOUR, OWN_LIMIT),
    },
    skippable=(*(one.name for one in RIVALS), OWN_LIMIT),
    rounds=5,
    round_s=45,
)
