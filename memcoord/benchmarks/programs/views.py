"""The tables of ``memcoord bench programs``, from its JSON. Pure.

A ratio stands beside the two times it is made of; where the kernel has killed a program, the cell
says in how many rounds. What was recorded on another machine is marked so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from memcoord.benchmarks.programs import plan
from memcoord.benchmarks.programs.catalogue import FULL
from memcoord.benchmarks.programs.plan import FILE, OURS, OURS_ON_FILE, ZRAM
from memcoord.benchmarks.tables import MISSING, Table, span_of

SPAN = "median of the rounds [its interval]"

Result = Mapping[str, Any]


def tables(result: Result) -> Iterator[Table]:
    """Ample memory, short memory, single touches, and the rest."""
    yield _ample(result)
    yield _tight(result, f"{SPAN}, memory short, zram below", OURS, ZRAM)
    yield _tight(result, f"{SPAN}, memory short, a swap file below", OURS_ON_FILE, FILE)
    yield _touches(result)
    yield _rest(result)


def _span(result: Result, name: str) -> str:
    row = result["rows"].get(name)
    return MISSING if row is None else span_of(row)


def _ratio(result: Result, over: str, under: str) -> str:
    rows = [result["rows"].get(name) for name in (over, under)]
    if rows[0] is None or rows[1] is None:
        return MISSING
    return f"{rows[0]['median'] / rows[1]['median']:.2f}"


def _ample(result: Result) -> Table:
    lines = []
    for name in plan.NAMES:
        ours, native = plan.cpu(name, OURS), plan.cpu(name, "native")
        if ours in result["rows"]:
            cells = [_span(result, native), _span(result, ours), _ratio(result, ours, native)]
            lines.append([name, *cells])
    return Table(f"CPU time, ample memory: {SPAN}", ["", "native", "in a domain", "ratio"], lines)


def _tight(result: Result, title: str, ours: str, rival: str) -> Table:
    killed = result["machine"].get("killed_by_the_kernel", {})
    lines = []
    for name in plan.SQUEEZED:
        for percent in FULL.shares:
            mine, theirs = (plan.wall(name, percent, side) for side in (ours, rival))
            if mine not in result["rows"]:
                continue
            died = killed.get(f"{name} {percent}% {rival}")
            beside = f"killed in {died} runs" if died else _span(result, theirs)
            share = result["rows"][mine].get(plan.KEY_ABOVE, 0.0)
            lines.append([f"{name}, {percent} %", _span(result, mine), beside,
                          _ratio(result, mine, theirs), f"{share:.2f}"])  # fmt: skip
    return Table(
        title, ["", "in a domain", rival, "ratio", "above the limit, of what may be"], lines
    )


def _touches(result: Result) -> Table:
    recorded = dict(plan.RECORDED_TOUCH_US)
    names = [(order, plan.touch(order, OURS), plan.touch(order, ZRAM)) for order in plan.ORDERS]
    lines = [
        [order, _span(result, ours), _span(result, theirs), _ratio(result, ours, theirs),
         f"{recorded[order]:g} us"]
        for order, ours, theirs in names
    ]  # fmt: skip
    mine, theirs = plan.fault(OURS), plan.fault(ZRAM)
    lines.append(["a fault, uniform", _span(result, mine), _span(result, theirs),
                  _ratio(result, mine, theirs), f"{plan.RECORDED_FAULT_US:g} us"])  # fmt: skip
    head = ["", "in a domain", ZRAM, "ratio", "zram, recorded elsewhere"]
    return Table(f"Evicted memory, a touch: {SPAN}", head, lines)


def _rest(result: Result) -> Table:
    shown = (plan.START_PLAIN, plan.START_DOMAIN, plan.START_COMMAND, plan.FALL,
             plan.touching(1), plan.touching(2))  # fmt: skip
    lines = [
        [name, _span(result, name), row.get("note", "")]
        for name in shown
        if (row := result["rows"].get(name))
    ]
    return Table("Starts, a target that falls, threads", ["", SPAN, ""], lines)
