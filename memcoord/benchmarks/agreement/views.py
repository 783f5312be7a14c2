"""The tables of ``memcoord bench agreement``, for a terminal and for docs/agreement.md. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from memcoord.benchmarks import tables
from memcoord.benchmarks.agreement.summary import (
    OF_TIMES,
    POOLED,
    READS,
    SIM,
    TESTBED,
    TIME,
    TRAFFIC,
    WITHIN,
)  # fmt: skip
from memcoord.benchmarks.tables import MISSING, Cell, Table
from memcoord.testbed.runs.load import OTHERS_CPUS_MAX

Found = Mapping[str, Any]

WITHIN_RATIO = 1.3
MARK = "!"
SHOWN_MAX = 8
EXPLAINED = (
    "rho: Spearman's, ties by mean ranks; p: the share of 9,999 orders of the policies, within "
    "each scenario, whose rho is at least as high. traffic: seconds that the pages cost, reckoned "
    "from their counts at the same prices in both worlds; time: the mean slowdown against running "
    "alone. testbed itself: rho of one half of its seeds with the other half."
)


def tables_of(found: Found) -> Iterator[Table]:
    """The ranks, the ratios, the slowdowns, the targets."""
    yield _ranks(found)
    yield _ratios(found)
    yield _slowdowns(found)
    yield _targets(found)


def _ranks(found: Found) -> Table:
    lines: list[list[Cell]] = []
    for scenario in [*found["scenarios"], POOLED, WITHIN]:
        known = {kind: found["correlations"][kind].get(scenario) for kind in (TRAFFIC, TIME, READS)}
        if known[TRAFFIC] is None:
            continue
        shown = [_rho(known[kind]) for kind in known]
        itself = _number(found["repeats"].get(scenario), ".2f")
        lines.append([scenario, str(known[TRAFFIC]["n"]), *shown, itself])
    head = ["scenario", "n", *(f"{kind}, rho (p)" for kind in (TRAFFIC, TIME, READS))]
    return Table("Do both worlds rank the policies alike", [*head, "testbed itself"], lines)


def _rho(one: Mapping[str, Any] | None) -> str:
    if one is None or one["rho"] is None:
        return MISSING
    return f"{one['rho']:.2f} ({one['p']:.2g})"


def _ratios(found: Found) -> Table:
    lines: list[list[Cell]] = []
    for policy, one in found["policies"].items():
        ratio, inside = one["ratio"], one["by_scenario"].values()
        text = _number(ratio["value"], ".2f")
        if ratio["low"] is not None:
            text += f" [{ratio['low']:.2f}, {ratio['high']:.2f}]"
        near = sum(1 / WITHIN_RATIO <= value <= WITHIN_RATIO for value in inside)
        spread, reads_spread = (
            f"{one[f'{of}least']:.2f} to {one[f'{of}most']:.2f}" for of in ("", "reads_")
        )
        counted = f"{near} of {len(inside)}"
        lines.append([policy, text, spread, counted, f"{one['reads_ratio']:.2f}", reads_spread])
    head = ["policy", "slowdown [95 %]", "by scenario", f"within {WITHIN_RATIO} x"]
    return Table(
        "The testbed's figures over the simulator's",
        [*head, "disk reads", "by scenario"],
        lines,
    )


def _slowdowns(found: Found) -> Table:
    lines: list[list[Cell]] = []
    for policy in found["policies"]:
        cells: list[Cell] = [policy]
        for scenario in found["scenarios"]:
            row = found["rows"].get(f"{scenario}/{policy}")
            cells.append(MISSING if row is None else _both(row))
        lines.append(cells)
    title = f"Mean slowdown, simulator / testbed; {MARK}: others used the machine meanwhile"
    return Table(title, ["policy", *found["scenarios"]], lines)


def _both(row: Mapping[str, Any]) -> str:
    mark = MARK if row["marked"] else ""
    return f"{row[SIM]['slowdown']:.2f} / {row[TESTBED]['slowdown']:.2f}{mark}"


def _targets(found: Found) -> Table:
    lines = [
        [
            name, _number(one["measured"], ".3f"), f"{one['must']:g}", f"{one['aim']:g}",
            one["reached"],
        ]
        for name, one in found["targets"].items()
    ]  # fmt: skip
    return Table("targets", ["target", "measured", "must", "aim", "reached"], lines)


def _number(value: float | None, form: str) -> str:
    return MISSING if value is None else f"{value:{form}}"


def closing_lines(found: Found) -> list[str]:
    """What the columns are, the load, who is left out, what failed."""
    machine = found["machine"]
    before, after = machine["load_before_1m"], machine["load_after_1m"]
    lines = [EXPLAINED, f"load average {before} before, {after} after."]
    marked, runs = found["marked_runs"], found["real_runs"]
    if marked:
        left = "left out of the times" if found["times_comparable"] else (
            f"so that times are not comparable ({', '.join(OF_TIMES)}); traffic and disk reads are"
        )  # fmt: skip
        lines.append(
            f"{marked} of {runs} real runs are marked: others used more than {OTHERS_CPUS_MAX} "
            f"CPUs during it, or while its domains ran alone; {left}."
        )
    elif before > machine["load_before_max"]:
        lines.append(f"The load before is above {machine['load_before_max']}; no run is marked.")
    lines += [f"left out: {name}: {why}" for name, why in found["left_out"].items()]
    other = found["differences"]
    lines += [f"another overlap than the scenario's: {text}" for text in other[:SHOWN_MAX]]
    if len(other) > SHOWN_MAX:
        lines.append(f"and {len(other) - SHOWN_MAX} more")
    return [*lines, *found["errors"]]


def markdown(found: Found) -> str:
    """All tables, and where they come from."""
    machine, seeds = found["machine"], len(found["seeds"])
    command = f"memcoord bench agreement{' --quick' if found['quick'] else ''}"
    cpu = f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}"
    sizes = f"at {found['scale']:g} of their full size, but never below that of their file"
    policies, scenarios = len(found["policies"]), len(found["scenarios"])
    text = [
        f"Made by `{command}`: {policies} policies, {scenarios} scenarios {sizes}, {seeds} seeds, "
        f"costs `{found['costs']}`; {cpu}.",
    ]
    for table in tables_of(found):
        text += ["", *tables.markdown(table)]
    return "\n".join([*text, "", *(f"- {line}" for line in closing_lines(found))]) + "\n"
