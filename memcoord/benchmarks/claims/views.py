"""The table of claims, for a terminal and for docs/claims.md. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from memcoord.benchmarks import tables
from memcoord.benchmarks.sweep.table import number
from memcoord.benchmarks.tables import Table

Found = Mapping[str, Any]

PAGE_HEAD = ("claim", "what its authors say", "here", "expected", "verdict", "command")


def shown(figure: Mapping[str, Any]) -> str:
    """ "1.9 [1.7, 2.2] %"; why there is none, if there is none."""
    value, low, high = (number(figure[key]) for key in ("value", "low", "high"))
    if value != value:
        return f"not measured: {figure['missing']}"
    text = tables.short(value)
    if low == low and high == high:
        text += f" [{tables.short(low)}, {tables.short(high)}]"
    return f"{text} {figure['unit']}".rstrip()


def table(found: Found) -> Table:
    """For a terminal: a line per figure; the verdict of the claim in the first of its lines."""
    lines = []
    for claim in found["claims"]:
        verdict = claim["verdict"]
        for figure in claim["figures"] or [None]:
            cells = ["", "", ""]
            if figure is not None:
                cells = [figure["name"], shown(figure), figure["expected"]]
            lines.append([claim["id"] if verdict else "", *cells, verdict])
            verdict = ""
    head = ["claim", "figure", "here", "expected", "verdict"]
    return Table("claims of the works this builds on", head, lines)


def closing_lines(found: Found) -> list[str]:
    """What each claim says and why its verdict; the sum; the sources that failed."""
    lines = []
    for claim in found["claims"]:
        why = f": {claim['why']}" if claim["why"] else ""
        lines.append(f"{claim['id']} ({claim['whose']}): {claim['says']} {claim['verdict']}{why}")
    return [*lines, _sum(found), *_failed(found)]


def _sum(found: Found) -> str:
    counted = Counter(claim["verdict"] for claim in found["claims"])
    return f"{len(found['claims'])} claims: " + ", ".join(f"{n} {v}" for v, n in counted.items())


def _failed(found: Found) -> list[str]:
    return [told["missing"] for told in found["sources"].values() if told["missing"]]


def markdown(found: Found) -> str:
    """The table of the page: a line per claim, grouped by the work that makes it."""
    machine = found["machine"]
    load = machine.get("load_before_1m", machine.get("load_1m", "not recorded"))
    command = "memcoord claims --quick" if found["quick"] else "memcoord claims"
    cpu = machine.get("cpu", "unknown CPU")
    text = [f"Made by `{command}` on {cpu}; load before the run {load}. {_sum(found)}."]
    text += [f"- {failed}" for failed in _failed(found)]
    for whose in dict.fromkeys(claim["whose"] for claim in found["claims"]):
        rows = [_row(claim) for claim in found["claims"] if claim["whose"] == whose]
        text += ["", *tables.markdown(Table(whose, PAGE_HEAD, rows))]
    return "\n".join(text) + "\n"


def _row(claim: Mapping[str, Any]) -> list[str]:
    figures = claim["figures"]
    here = "; ".join(f"{figure['name']}: {shown(figure)}" for figure in figures)
    expected = "; ".join(dict.fromkeys(figure["expected"] for figure in figures))
    verdict = f"**{claim['verdict']}**" + (f": {claim['why']}" if claim["why"] else "")
    return [claim["id"], claim["says"], here, expected, verdict, f"`{claim['command']}`"]
