"""The tables, lists and figure of ``memcoord bench policies``. Pure.

Owns: the layout for a terminal and for docs/policies.md.
"""

from __future__ import annotations

import importlib
import itertools
import math
import re
from collections.abc import Iterator, Sequence

from memcoord.benchmarks import tables
from memcoord.benchmarks.policies import rivals, split
from memcoord.benchmarks.policies.summary import SIM, SLOWDOWNS, TESTBED, Found, frontier, points
from memcoord.benchmarks.sweep.cell import BEST_STATIC
from memcoord.benchmarks.sweep.grid import scenario_text
from memcoord.benchmarks.sweep.table import number
from memcoord.benchmarks.tables import Cell, Part, Table
from memcoord.testbed.report.figures import Axis, Figure, Line

TITLES = {"mean_slowdown": "Mean slowdown", "worst_slowdown": "Slowdown of the worst domain"}
#: Further figures of the simulator, and their names in the table.
FIGURES = {
    "unfairness": "unfairness", "jain_speed": "Jain", "weighted_speedup": "weighted speed-up",
    "harmonic_speedup": "harmonic speed-up", "welfare_fairness": "welfare",
    "pareto_gap": "Pareto gap", "utilisation": "utilisation", "failed_put_ratio": "failed puts",
    "settling_s": "settling (s)", "overshoot": "overshoot", "churn": "churn",
    "sign_flips_per_minute": "flips/min", "regret": "regret",
}  # fmt: skip
CLOSE = 0.005  # slowdowns that print alike are best alike


def policy_order(found: Found) -> list[str]:
    """Policies, the best over all scenarios first; those without an order last."""
    means = found["overall"].get(SIM) or found["overall"].get(TESTBED) or {}
    return [*means, *(name for name in found["policies"] if name not in means)]


def cell_text(found: Found, world: str, scenario: str, policy: str, name: str) -> str:
    """ "1.24 ±0.03"; of a single run without the interval; "" without any run."""
    entry = found["rows"].get(f"{world}/{scenario}/{policy}")
    figure = {} if entry is None else entry["figures"].get(name, {})
    mean, low, high = (number(figure.get(key)) for key in ("mean", "low", "high"))
    if math.isnan(mean):
        return ""
    wide = max(mean - low, high - mean)
    return f"{mean:.2f}" if math.isnan(wide) else f"{mean:.2f} ±{wide:.2f}"


def is_best(found: Found, world: str, scenario: str, policy: str, name: str) -> bool:
    """Whether no policy is better there."""
    means = {
        entry["policy"]: number(entry["figures"].get(name, {}).get("mean"))
        for entry in found["rows"].values()
        if entry["world"] == world
        and entry["scenario"] == scenario
        and entry["policy"] != BEST_STATIC  # a bound, which nobody can be
    }
    known = [mean for mean in means.values() if not math.isnan(mean)]
    own = means.get(policy, math.nan)
    return bool(known) and own <= min(known) + CLOSE


def by_costs(found: Found) -> list[Found]:
    """The result once for each cost set, with the figures of that set."""
    parts = found.get("by_costs", {})
    return [{**found, **part, "costs": name} for name, part in parts.items()] or [found]


def _costs_said(found: Found) -> str:
    """The cost set, where anything was simulated with it."""
    return f", costs {found['costs']}" if "costs" in found and SIM in _worlds(found) else ""


def _worlds(found: Found) -> list[str]:
    there = {entry["world"] for entry in found["rows"].values()}
    return [world for world in (SIM, TESTBED) if world in there]


def slowdown_tables(found: Found, with_legend: bool = False) -> Iterator[Table]:
    """Policies x scenarios, a table per slowdown and part of the split; the simulator's cell
    first."""
    worlds = _worlds(found)
    legend = _legend(found) if with_legend else " above ".join(worlds)
    for (part, scenarios), name in itertools.product(found["splits"].items(), SLOWDOWNS):
        lines: list[list[Cell]] = []
        for policy in policy_order(found):
            cells: list[Cell] = [policy]
            for scenario in scenarios:
                parts = []
                for world in worlds:
                    place = (world, scenario, policy, name)
                    text = cell_text(found, *place)
                    parts.append(Part(text, bool(text) and is_best(found, *place)))
                cells.append(parts)
            cells.append([Part(_overall(found, part, world, policy, name)) for world in worlds])
            lines.append(cells)
        heads = [scenario.rpartition("/")[2] for scenario in scenarios]
        title = f"{TITLES[name]}, {part}{_costs_said(found)}, {legend}"
        yield Table(title, ["policy", *heads, "all"], lines)


def _overall(found: Found, part: str, world: str, policy: str, name: str) -> str:
    means = found["overall_by_split"].get(part, {}).get(world, {})
    mean = number(means.get(policy, {}).get(name))
    return "" if math.isnan(mean) else f"{mean:.2f}"


def closing_lines(found: Found) -> list[str]:
    """The order in both worlds, their correlation, the frontier, the speeds, the failures."""
    lines = []
    for one in by_costs(found):
        of = _costs_said(one)
        orders = one["overall"].items()
        lines += [f"order in {world}{of}: {', '.join(means)}" for world, means in orders]
        correlations = _correlations(one)
        if correlations:
            lines.append(f"rank correlation (Spearman){of}: {correlations}")
        front = frontier(points(one))
        if front:
            lines.append(f"on the frontier of mean and worst slowdown{of}: {', '.join(front)}")
        lines += [f"{line}{of}" for line in rivals.verdict(one)]
    for name, target in found["targets"].items():
        measured = number(target["measured"])
        if not math.isnan(measured):
            lines.append(f"{name}: {measured:,g} ({target['reached']}, {target['must']:,g})")
    return [*lines, *found["errors"]]


def _correlations(found: Found) -> str:
    known = {name: number(value) for name, value in found["rank_correlation"].items()}
    return ", ".join(f"{name} {v:.2f}" for name, v in known.items() if not math.isnan(v))


def markdown(found: Found) -> str:
    """The tables of each cost set, the other figures, and the origin of the numbers."""
    lines = [_made_by(found)]
    for one in by_costs(found):
        of = _costs_said(one)
        for table in slowdown_tables(one, with_legend=True):
            lines += ["", *tables.markdown(table)]
        for table in rivals.tables(one, of):
            lines += ["", *tables.markdown(table)]
        lines += ["", *(f"- {line}{of}." for line in rivals.verdict(one))]
        correlations = _correlations(one)
        if correlations:
            lines += ["", f"Rank correlation of the two worlds (Spearman){of}: {correlations}."]
        front = frontier(points(one))
        lines += ["", f"On the frontier of mean and worst slowdown{of}: {', '.join(front)}."]
    lines += ["", *tables.markdown(_figure_table(found))]
    return "\n".join(lines) + "\n"


def _made_by(found: Found) -> str:
    machine = found["machine"]
    seeds = ", ".join(map(str, found["seeds"]))
    told = [
        f"{len(found['policies'])} policies, {len(found['scenarios'])} scenarios, seeds {seeds}",
        machine.get("cpu", ""),
        f"{machine['cores']} cores" if "cores" in machine else "",
        f"load {machine['load_1m']} before" if "load_1m" in machine else "",
        f"commit {machine['commit']}" if machine.get("commit") else "",
    ]
    return f"Made by `{found['command']}`: {'; '.join(filter(None, told))}."


def _legend(found: Found) -> str:
    both = "; simulator / testbed" if len(_worlds(found)) > 1 else ""
    return f"against running alone, mean ± 95 % interval over seeds{both}; bold: the best"


def _figure_table(found: Found) -> Table:
    lines = []
    for policy in policy_order(found):
        own = [e for e in found["rows"].values() if (e["world"], e["policy"]) == (SIM, policy)]
        cells = [policy]
        for name in FIGURES:
            values = [number(entry["figures"].get(name, {}).get("mean")) for entry in own]
            cells.append(_mean(values))
        lie, isolated = found["gain_from_lying"].get(policy), found["isolation"].get(policy)
        lines.append([*cells, _mean([number(lie)]), _mean([number(isolated)])])
    head = ["policy", *FIGURES.values(), "gain from lying", "isolation"]
    of = _costs_said(by_costs(found)[0])
    return Table(f"Other figures, means over the scenarios, simulated{of}", head, lines)


def _mean(values: Sequence[float]) -> str:
    known = [value for value in values if math.isfinite(value)]
    return f"{sum(known) / len(known):.3g}" if known else ""


def figure(found: Found) -> Figure:
    """Mean against worst slowdown, a dot per policy, the frontier joined; down left is better."""
    known = points(found)
    front = frontier(known)
    dots = [Line(policy, [known[policy]], number) for number, policy in enumerate(known, start=1)]
    joined = [Line("frontier", [known[policy] for policy in front], 0, is_dashed=True)]
    return Figure([*joined, *dots], Axis("mean slowdown"), Axis("slowdown of the worst domain"))


def policy_list() -> str:
    """Every built-in policy by its docstring: the law in a line, the parameters, the flaw."""
    from policies import describe
    from policies.loader import BUILT_IN

    lines = []
    for name, where in BUILT_IN.items():
        told = describe(name)
        lines.append(f"- **{name}**: {told.summary}")
        if told.parameters:
            given = ", ".join(f"{key}={value}" for key, value in told.parameters.items())
            lines.append(f"  Parameters: `{given}`.")
        text = importlib.import_module(where.partition(":")[0]).__doc__ or ""
        flaw = re.search(r"Bad at:\s+(.+?)(?:\n\n|\Z)", text, re.DOTALL)
        if flaw is not None:
            lines.append(f"  Bad at: {' '.join(flaw[1].split())}")
    return "\n".join(lines) + "\n"


def scenario_list() -> str:
    """Every shipped scenario with its part of the split and the comment at its top."""
    lines = []
    for name in split.default_scenarios():
        text = scenario_text(name).splitlines()
        comment = itertools.takewhile(lambda line: line.startswith("#"), text)
        told = " ".join(line.strip("# ") for line in comment)
        lines.append(f"- **{name}** ({split.split_of(name)}): {told}")
    return "\n".join(lines) + "\n"
