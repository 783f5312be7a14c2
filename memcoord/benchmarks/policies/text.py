"""How ``bench policies`` looks: tables for a terminal, Markdown for docs/policies.md.

Owns: the layout of both; pure. What a page says between its markers is replaced, the rest of
the page is its author's.
"""

from __future__ import annotations

import importlib
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from hypervisor.public.errors import ConfigError
from memcoord.benchmarks.policies.bench import SIM, SLOWDOWNS, TESTBED
from memcoord.benchmarks.policies.figure import frontier, points
from memcoord.benchmarks.sweep.grid import scenario_text
from memcoord.benchmarks.sweep.table import number

Found = Mapping[str, Any]

TITLES = {"mean_slowdown": "Mean slowdown", "worst_slowdown": "Slowdown of the worst domain"}
#: Further figures, of the simulator, with what is better.
FIGURES = (
    ("unfairness", "unfairness"),
    ("jain_speed", "Jain"),
    ("weighted_speedup", "weighted speed-up"),
    ("harmonic_speedup", "harmonic speed-up"),
    ("welfare_fairness", "welfare"),
    ("pareto_gap", "Pareto gap"),
    ("utilisation", "utilisation"),
    ("failed_put_ratio", "failed puts"),
    ("settling_s", "settling (s)"),
    ("overshoot", "overshoot"),
    ("churn", "churn"),
    ("sign_flips_per_minute", "flips/min"),
    ("regret", "regret"),
)
CLOSE = 0.005  # slowdowns that print alike are best alike


def begin(name: str) -> str:
    """The marker before what is generated."""
    return f"<!-- {name} begin -->"


def end(name: str) -> str:
    """The marker behind it."""
    return f"<!-- {name} end -->"


def replace_between(page: str, name: str, text: str) -> str:
    """``page`` with ``text`` between the markers of ``name``; ConfigError when they are not there.

    The same text gives the same page.
    """
    before, first, rest = page.partition(begin(name))
    _, last, after = rest.partition(end(name))
    if not first or not last:
        raise ConfigError("--markdown", f"the file has no {begin(name)} and {end(name)}")
    return f"{before}{first}\n{text.strip()}\n{last}{after}"


def policy_order(found: Found) -> list[str]:
    """Policies, the best over all scenarios first; those without an order last."""
    means = found["overall"].get(SIM) or found["overall"].get(TESTBED) or {}
    return [*means, *(name for name in found["policies"] if name not in means)]


def cell_text(found: Found, world: str, scenario: str, policy: str, name: str) -> str:
    """ "1.24 ±0.03", without an interval where there is one run only; "" where there is none."""
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
        if entry["world"] == world and entry["scenario"] == scenario
    }
    known = [mean for mean in means.values() if not math.isnan(mean)]
    own = means.get(policy, math.nan)
    return bool(known) and own <= min(known) + CLOSE


def _worlds(found: Found) -> list[str]:
    there = {entry["world"] for entry in found["rows"].values()}
    return [world for world in (SIM, TESTBED) if world in there]


def terminal_tables(found: Found) -> Iterator[Table]:
    """Policies x scenarios, a table per slowdown; simulator above testbed, * the best."""
    worlds = _worlds(found)
    for name in SLOWDOWNS:
        table = Table(title=f"{TITLES[name]}: {' above '.join(worlds)}", title_justify="left")
        table.padding = (0, 0)
        table.add_column("policy", no_wrap=True)
        for scenario in found["scenarios"]:
            table.add_column(scenario, justify="right")
        table.add_column("all", justify="right")
        for policy in policy_order(found):
            cells = []
            for scenario in found["scenarios"]:
                lines = [
                    cell_text(found, world, scenario, policy, name).replace(" ", "")
                    + ("*" if is_best(found, world, scenario, policy, name) else "")
                    for world in worlds
                ]
                cells.append("\n".join(lines).rstrip())
            means = [_overall(found, world, policy, name) for world in worlds]
            table.add_row(policy, *cells, "\n".join(means).rstrip())
        yield table


def _overall(found: Found, world: str, policy: str, name: str) -> str:
    mean = number(found["overall"].get(world, {}).get(policy, {}).get(name))
    return "" if math.isnan(mean) else f"{mean:.2f}"


def closing_lines(found: Found) -> list[str]:
    """The order in both worlds, their correlation, the frontier, the speeds, what failed."""
    lines = []
    for world, means in found["overall"].items():
        lines.append(f"order in {world}: {', '.join(means)}")
    correlations = _correlations(found)
    if correlations:
        lines.append(f"rank correlation (Spearman): {correlations}")
    front = frontier(points(found))
    if front:
        lines.append(f"on the frontier of mean and worst slowdown: {', '.join(front)}")
    for name, target in found["targets"].items():
        measured = number(target["measured"])
        if not math.isnan(measured):
            lines.append(f"{name}: {measured:,g} ({target['reached']}, {target['must']:,g})")
    return [*lines, *found["errors"]]


def _correlations(found: Found) -> str:
    known = {name: number(value) for name, value in found["rank_correlation"].items()}
    return ", ".join(f"{name} {v:.2f}" for name, v in known.items() if not math.isnan(v))


def markdown(found: Found) -> str:
    """Both tables, the other figures, and where the numbers are from."""
    lines = [_made_by(found)]
    for name in SLOWDOWNS:
        lines += ["", f"**{TITLES[name]}**{_legend(found)}", "", *_slowdown_rows(found, name)]
    correlations = _correlations(found)
    if correlations:
        lines += ["", f"Rank correlation of the two worlds (Spearman): {correlations}."]
    lines += ["", "**Other figures**, means over the scenarios, simulated.", ""]
    lines += _figure_rows(found)
    front = frontier(points(found))
    lines += ["", f"On the frontier of mean and worst slowdown: {', '.join(front)}."]
    return "\n".join(lines) + "\n"


def _made_by(found: Found) -> str:
    cpu = found["machine"].get("cpu", "")
    seeds = len(found["seeds"])
    what = f"{len(found['policies'])} policies, {len(found['scenarios'])} scenarios"
    return f"Made by `memcoord bench policies`: {what}, {seeds} seeds{f'; {cpu}' if cpu else ''}."


def _legend(found: Found) -> str:
    both = "; simulator / testbed" if len(_worlds(found)) > 1 else ""
    return f" against running alone, mean ± 95 % interval over seeds{both}; bold: the best."


def _slowdown_rows(found: Found, name: str) -> Iterator[str]:
    yield from _head(["policy", *found["scenarios"], "all"])
    for policy in policy_order(found):
        cells = [policy]
        for scenario in found["scenarios"]:
            texts = []
            for world in _worlds(found):
                text = cell_text(found, world, scenario, policy, name)
                best = text and is_best(found, world, scenario, policy, name)
                texts.append(f"**{text}**" if best else text)
            cells.append(" / ".join(filter(None, texts)))
        means = [_overall(found, world, policy, name) for world in _worlds(found)]
        yield _line([*cells, " / ".join(filter(None, means))])


def _figure_rows(found: Found) -> Iterator[str]:
    yield from _head(["policy", *(title for _, title in FIGURES), "gain from lying", "isolation"])
    for policy in policy_order(found):
        own = [e for e in found["rows"].values() if (e["world"], e["policy"]) == (SIM, policy)]
        cells = [policy]
        for name, _ in FIGURES:
            values = [number(entry["figures"].get(name, {}).get("mean")) for entry in own]
            cells.append(_mean(values))
        lie, isolated = found["gain_from_lying"].get(policy), found["isolation"].get(policy)
        yield _line([*cells, _mean([number(lie)]), _mean([number(isolated)])])


def _mean(values: Sequence[float]) -> str:
    known = [value for value in values if math.isfinite(value)]
    return f"{sum(known) / len(known):.3g}" if known else ""


def _head(columns: Sequence[str]) -> Iterator[str]:
    yield _line(columns)
    yield _line(["---", *["--:"] * (len(columns) - 1)])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def policy_list() -> str:
    """Every built-in policy, out of its docstring: the law in a line, its parameters, its flaw."""
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
    """Every shipped scenario and what the comment at its top says of it."""
    from memcoord.testbed.scenarios.schema import shipped

    lines = []
    for name in shipped():
        comment = itertools.takewhile(
            lambda line: line.startswith("#"), scenario_text(name).splitlines()
        )
        lines.append(f"- **{name}**: {' '.join(line.strip('# ') for line in comment)}")
    return "\n".join(lines) + "\n"
