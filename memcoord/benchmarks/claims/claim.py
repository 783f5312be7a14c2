"""A claim, the figures it is judged by, and the verdict. Pure.

Owns: the arithmetic of a verdict. A figure is read by key from the result of a source (a bench, or
a probe of ``probes``); a key that is not there is "not measured", never a guess. What a figure must
be for the claim to hold stands beside the claim before anything is measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Results = Mapping[str, Mapping[str, Any]]  # by source
#: Value, low, high; the bounds are NaN where a run has no interval.
Value = tuple[float, float, float]
Read = Callable[[Mapping[str, Any]], Value | None]

HOLDS, IN_PART, DOES_NOT = "holds", "in part", "does not"
CANNOT, NOT_MEASURED = "cannot be tested here", "not measured"


@dataclass(frozen=True)
class Figure:
    """A number of ``source``. It holds within ``holds``, and in part within ``part``."""

    name: str
    source: str
    read: Read
    expected: str  # the authors' value, and the tolerance, in words
    holds: tuple[float, float]
    part: tuple[float, float] | None = None
    unit: str = ""

    def verdict(self, value: Value | None) -> str:
        """By the value alone; the interval is printed beside it."""
        if value is None or math.isnan(value[0]):
            return NOT_MEASURED
        if self.holds[0] <= value[0] <= self.holds[1]:
            return HOLDS
        if self.part is not None and self.part[0] <= value[0] <= self.part[1]:
            return IN_PART
        return DOES_NOT


@dataclass(frozen=True)
class Claim:
    """What its authors say. ``but``: what our figures do not show; the claim then holds in part at
    most. ``untestable`` tells from the results why it cannot be tested here; "" when it can.
    """

    id: str
    whose: str
    says: str
    figures: tuple[Figure, ...] = ()
    command: str = ""
    but: str = ""
    untestable: Callable[[Results], str] = field(default=lambda _results: "")
    facts: tuple[str, ...] = ()  # sources that ``untestable`` needs

    @property
    def sources(self) -> tuple[str, ...]:
        """All sources it needs, each once."""
        return tuple(dict.fromkeys([*self.facts, *(figure.source for figure in self.figures)]))


def judge(claim: Claim, results: Results) -> dict[str, Any]:
    """The claim as ``--json`` prints it: its figures, its verdict and why."""
    why = claim.untestable(results)
    figures = [] if why else [_shown(figure, results) for figure in claim.figures]
    verdict, reason = (CANNOT, why) if why else _verdict(claim, figures)
    return {
        "id": claim.id,
        "whose": claim.whose,
        "says": claim.says,
        "figures": figures,
        "command": claim.command,
        "verdict": verdict,
        "why": reason,
    }


def _shown(figure: Figure, results: Results) -> dict[str, Any]:
    found = results.get(figure.source, {})
    missing = str(found.get("missing", ""))
    value = None if missing else _tried(figure, found)
    verdict = figure.verdict(value)
    known = value or (math.nan, math.nan, math.nan)
    return {
        "name": figure.name,
        **dict(zip(("value", "low", "high"), known, strict=True)),
        "unit": figure.unit,
        "expected": figure.expected,
        "verdict": verdict,
        "missing": (missing or "the bench has no such key") if verdict == NOT_MEASURED else "",
    }


def _tried(figure: Figure, found: Mapping[str, Any]) -> Value | None:
    try:
        return figure.read(found)
    except (KeyError, IndexError, TypeError, ValueError, ZeroDivisionError):
        return None  # another shape of result than this figure knows


def _verdict(claim: Claim, figures: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """The figures' together: all alike, or in part; and what is to be said with it."""
    known = [figure["verdict"] for figure in figures if figure["verdict"] != NOT_MEASURED]
    if not known:
        return NOT_MEASURED, "; ".join(dict.fromkeys(figure["missing"] for figure in figures))
    verdict = known[0] if len(set(known)) == 1 else IN_PART
    reasons = [claim.but] if claim.but else []
    if claim.but and verdict == HOLDS:
        verdict = IN_PART
    if len(known) < len(figures):
        reasons.append(f"{len(figures) - len(known)} of {len(figures)} figures not measured")
        verdict = IN_PART if verdict == HOLDS else verdict
    return verdict, "; ".join(reasons)


# How figures are read


def ratio(key: str) -> Read:
    """An entry of ``ratios``, with its interval where the bench gives one."""

    def read(found: Mapping[str, Any]) -> Value:
        return _value(found["ratios"][key], found.get("ratio_intervals", {}).get(key))

    return read


def of_rows(over: str, under: str, figure: str = "p50") -> Read:
    """A figure of one row over that of another; the interval by the ends of both."""

    def read(found: Mapping[str, Any]) -> Value:
        above, below = found["rows"][over], found["rows"][under]
        value = float(above[figure]) / float(below[figure])
        ends = (f"{figure}_low", f"{figure}_high")
        if not all(row.get(end) for row in (above, below) for end in ends):
            return value, math.nan, math.nan
        low, high = above[ends[0]] / below[ends[1]], above[ends[1]] / below[ends[0]]
        return _bounded(value, low, high)

    return read


def entry(*path: str) -> Read:
    """A number, or a {"value", "low", "high"}, that stands at ``path``."""

    def read(found: Mapping[str, Any]) -> Value:
        value: Any = found
        for key in path:
            value = value[key]
        return _value(value, None)

    return read


def _value(value: Any, interval: Sequence[float] | None) -> Value:
    if isinstance(value, Mapping):
        bounds = (value.get("low"), value.get("high"))
        low, high = (math.nan if bound is None else float(bound) for bound in bounds)
        return _bounded(float(value["value"]), low, high)
    low, high = interval or (math.nan, math.nan)
    return _bounded(float(value), float(low), float(high))


def _bounded(value: float, low: float, high: float) -> Value:
    """Of a single round there is no interval: its two ends are one number."""
    return (value, low, high) if low < high else (value, math.nan, math.nan)
