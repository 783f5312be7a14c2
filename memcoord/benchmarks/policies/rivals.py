"""Our own policy against the best of all others, scenario by scenario. Pure.

Owns: the mark that ``fallow`` has to keep (issue 11): on scenarios that it was not tuned on, in the
mean and by the worst domain, its geometric mean is at or below every other policy's, and in no
scenario is it worse than WITHIN times the best of the others there. That best is another policy in
every scenario; best-static, which knows the future, is a bound and not among them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from statistics import geometric_mean
from typing import Any, NamedTuple

from memcoord.benchmarks.policies.summary import SIM, SLOWDOWNS, Found
from memcoord.benchmarks.sweep.cell import BEST_STATIC
from memcoord.benchmarks.sweep.table import number
from memcoord.benchmarks.tables import Cell, Part, Table

OWN = "fallow"
WITHIN = 1.15


class Match(NamedTuple):
    """A slowdown of our policy in one scenario, and the best that another reaches."""

    scenario: str
    own: float
    best: float
    rival: str

    @property
    def ratio(self) -> float:
        """Below 1: ours is better."""
        return self.own / self.best


def matches(found: Found, scenarios: list[str], name: str, world: str = SIM) -> list[Match]:
    """Of every scenario that our policy and another have a figure for."""
    matched = []
    for scenario in scenarios:
        known = {
            entry["policy"]: number(entry["figures"].get(name, {}).get("mean"))
            for entry in found["rows"].values()
            if (entry["world"], entry["scenario"]) == (world, scenario)
        }
        own = known.pop(OWN, math.nan)
        known.pop(BEST_STATIC, None)
        others = {policy: value for policy, value in known.items() if math.isfinite(value)}
        if others and math.isfinite(own):
            rival = min(others, key=lambda policy: (others[policy], policy))
            matched.append(Match(scenario, own, others[rival], rival))
    return matched


def tables(found: Found, of: str = "") -> Iterator[Table]:
    """A line per scenario, a table per part of the split: ours, the best other, the ratio.

    ``of`` is said behind each title.
    """
    head = ["scenario"]
    for name in SLOWDOWNS:
        short = name.partition("_")[0]
        head += [f"{short}: {OWN}", "best other", "which", "ratio"]
    for part, scenarios in found["splits"].items():
        by_name = {name: matches(found, scenarios, name) for name in SLOWDOWNS}
        lines: list[list[Cell]] = []
        for each in zip(*by_name.values(), strict=True):
            line: list[Cell] = [each[0].scenario.rpartition("/")[2]]
            for match in each:
                is_ahead = match.ratio <= 1
                line += [
                    [Part(f"{match.own:.2f}", is_ahead)], f"{match.best:.2f}", match.rival,
                    f"{match.ratio:.2f}",
                ]  # fmt: skip
            lines.append(line)
        if lines:
            yield Table(f"{OWN} against the best of all others, {part}{of}", head, lines)


def verdict(found: Found) -> list[str]:
    """A sentence per part of the split and slowdown."""
    lines = []
    for (part, scenarios), name in itertools.product(found["splits"].items(), SLOWDOWNS):
        each = matches(found, scenarios, name)
        if not each:
            continue
        means: dict[str, Any] = found["overall_by_split"].get(part, {}).get(SIM, {})
        whole = {policy: number(of.get(name)) for policy, of in means.items()}
        own = whole.pop(OWN, math.nan)
        whole.pop(BEST_STATIC, None)
        text = f"{OWN}, {part}, {name.replace('_', ' ')}: {own:.2f}"
        if whole:
            rival = min(whole, key=lambda policy: (whole[policy], policy))
            text += f", the best other, {rival}, {whole[rival]:.2f}"
        beyond = [match.scenario.rpartition("/")[2] for match in each if match.ratio > WITHIN]
        ratio = geometric_mean([match.ratio for match in each])
        text += (
            f"; {ratio:.2f} times the best other of each scenario; beyond {WITHIN} times in "
            f"{len(beyond)} of {len(each)}{': ' if beyond else ''}{', '.join(beyond)}"
        )
        lines.append(text)
    return lines
