"""The page of a sweep: a map of policies against scenarios, the frontier, the table.

Owns: what is drawn of a sweep's ``results.csv``. A cell of the map is the mean over seeds of the
slowdown of the domain that suffered most; its shade is how much worse that is than the best policy
on the same scenario. Every number has its count of seeds and its interval beside it. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from memcoord.testbed.archive import page, svg
from memcoord.testbed.archive.columns import Columns, in_order, length
from memcoord.testbed.report.intervals import Interval, interval

FIGURE, OTHER = "worst_slowdown", "mean_slowdown"
TABLE_HEADS: tuple[str, ...] = (
    "scenario",
    "policy",
    "seeds",
    "worst slowdown",
    "95 %",
    "against the best",
)
TABLE_HEADS += ("mean slowdown", "pages from disk", "failed")
#: From the best of a scenario, shade 0, to this factor of it and beyond.
SHADE_FACTOR_MAX = 4.0
ROWS_MAX = 2000


@dataclass(frozen=True)
class Cell:
    """One policy with its parameters on one scenario with its settings, over the seeds."""

    scenario: str
    policy: str
    worst: Interval
    mean: Interval
    disk_reads: float
    failed: int

    @property
    def value(self) -> float:
        """The figure of the map."""
        return self.worst.mean


def body(rows: Columns, title: str) -> str:
    """All of it but the frame of a page."""
    return page.article(f"sweep {title}", _parts(cells_of(rows)))


def cells_of(rows: Columns) -> list[Cell]:
    """The cells, in the order of the table: by scenario, then policy."""
    found: dict[tuple[str, str], list[int]] = {}
    for number in range(length(rows)):
        found.setdefault(_names(rows, number), []).append(number)
    made = []
    for (scenario, policy), numbers in found.items():
        own = {name: values[numbers] for name, values in rows.items()}
        disk = own.get("swap_ins", np.zeros(len(numbers))) + own.get("file_reads", 0.0)
        bad = own["error"] != "" if own["error"].dtype.kind == "U" else np.isnan(own[FIGURE])
        made.append(
            Cell(
                scenario,
                policy,
                interval(own[FIGURE]),
                interval(own.get(OTHER, own[FIGURE])),
                float(np.nanmean(disk)) if np.isfinite(disk).any() else np.nan,
                int(np.count_nonzero(bad | np.isnan(own[FIGURE]))),
            )
        )
    return made


def _names(rows: Columns, number: int) -> tuple[str, str]:
    """What a row ran, and under which policy: settings and parameters are part of the names."""
    policy = str(rows["policy"][number])
    settings, params = [], []
    for name in options_of(list(rows)):
        text = _plain(rows[name][number])
        own, dot, key = name.partition(".")
        if not text:
            continue
        if dot and own == policy:
            params.append(f"{key}={text}")
        else:
            settings.append(f"{name}={text}")
    scenario = " ".join([str(rows["scenario"][number]), *settings])
    if len(in_order(rows["world"])) > 1:
        scenario += f" ({rows['world'][number]})"
    return scenario, ":".join(filter(None, (policy, ",".join(params))))


def options_of(names: list[str]) -> list[str]:
    """The columns of parameters and settings: they stand between the policy and the seed."""
    return names[names.index("policy") + 1 : names.index("seed")]


def _plain(value: object) -> str:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:g}"
    return str(value)


def _parts(cells: list[Cell]) -> Iterator[str]:
    yield page.verdict(verdict(cells))
    if not cells:
        return
    yield page.heading("Policies against scenarios")
    yield page.note(
        "A number is the slowdown of the domain that suffered most, the mean over seeds; the "
        "darker, the worse it is than the best policy on that scenario (x1 white, x4 and more "
        "darkest). Bold: the best."
    )
    yield _map(cells)
    yield page.heading("Worst and mean slowdown, over all scenarios")
    yield page.note("Geometric means. Further left and down is better.")
    drawn = svg.dots(_points(cells), "mean slowdown", "Worst against mean slowdown of policies")
    yield page.pictures([("worst slowdown, upwards", drawn)])
    yield page.heading("All cells, worst first within a scenario")
    yield page.table("All cells", TABLE_HEADS, list(_rows(cells))[:ROWS_MAX], words=2)


def verdict(cells: list[Cell]) -> list[str]:
    """Which policy is best on how many scenarios, which is nowhere far from the best."""
    best = _best(cells)
    if not best:
        return ["No cell has a result."]
    wins: dict[str, int] = {}
    for cell in cells:
        if cell.value == best.get(cell.scenario):
            wins[cell.policy] = wins.get(cell.policy, 0) + 1
    most = max(wins.values())
    names = ", ".join(name for name, count in wins.items() if count == most)
    said = [f"Least worst slowdown on {most} of {len(best)} scenarios: {names}."]
    far = {
        name: max((c.value / best[c.scenario] for c in cells if c.policy == name), default=np.nan)
        for name in dict.fromkeys(cell.policy for cell in cells)
    }
    known = {name: value for name, value in far.items() if np.isfinite(value)}
    if known:
        name = min(known, key=lambda one: known[one])
        said.append(f"Nowhere far from the best: {name}, at most x{known[name]:.2f} of it.")
    if failed := sum(cell.failed for cell in cells):
        said.append(f"{failed} runs did not finish; they are counted in no mean.")
    seeds = min(cell.worst.count for cell in cells)
    if seeds < 2:
        said.append("One seed in places: nothing tells a difference there from chance.")
    return said


def _best(cells: list[Cell]) -> dict[str, float]:
    best: dict[str, float] = {}
    for cell in cells:
        if np.isfinite(cell.value):
            best[cell.scenario] = min(cell.value, best.get(cell.scenario, np.inf))
    return best


def _map(cells: list[Cell]) -> str:
    """A table with shades: readable without them, too."""
    scenarios = list(dict.fromkeys(cell.scenario for cell in cells))
    best, by_name = _best(cells), {(c.policy, c.scenario): c for c in cells}
    rows = []
    for policy in dict.fromkeys(cell.policy for cell in cells):
        made = []
        for scenario in scenarios:
            cell = by_name.get((policy, scenario))
            made.append(_shaded(cell, best.get(scenario, np.nan)))
        rows.append(f'<tr><th scope="row">{page.escape(policy)}</th>{"".join(made)}</tr>')
    heads = "".join(f'<th scope="col">{page.escape(name)}</th>' for name in scenarios)
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Map"><table><thead><tr>'
        f'<th scope="col" class="t">policy</th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _shaded(cell: Cell | None, best: float) -> str:
    if cell is None or not np.isfinite(cell.value):
        return "<td>-</td>"
    part = np.log(cell.value / best) / np.log(SHADE_FACTOR_MAX)
    number = int(np.clip(round(part * (len(svg.SHADES) - 1)), 0, len(svg.SHADES) - 1))
    ink = "#fff" if number > 2 else "#1b1b1b"
    bold = ";font-weight:700" if cell.value == best else ""
    style = f"background:{svg.SHADES[number]};color:{ink}{bold}"
    return f'<td style="{style}">{cell.value:.2f}</td>'


def _points(cells: list[Cell]) -> list[tuple[str, float, float]]:
    found = []
    for policy in dict.fromkeys(cell.policy for cell in cells):
        own = [cell for cell in cells if cell.policy == policy]
        values = [_geometric([getattr(c, f).mean for c in own]) for f in ("mean", "worst")]
        if np.isfinite(values).all():
            found.append((policy, values[0], values[1]))
    return sorted(found, key=lambda one: one[2])[: svg.HEIGHT // svg.LABEL_PITCH - 2]


def _geometric(values: list[float]) -> float:
    known = [value for value in values if np.isfinite(value) and value > 0]
    return float(np.exp(np.mean(np.log(known)))) if known else np.nan


def _rows(cells: list[Cell]) -> Iterator[list[page.Cell]]:
    best = _best(cells)
    for scenario in dict.fromkeys(cell.scenario for cell in cells):
        own = [cell for cell in cells if cell.scenario == scenario]
        for cell in sorted(own, key=lambda one: -np.nan_to_num(one.value, nan=np.inf)):
            ratio = cell.value / best.get(scenario, np.nan)
            yield [
                cell.scenario,
                cell.policy,
                f"{cell.worst.count}",
                _number(cell.value),
                f"{_number(cell.worst.low)} to {_number(cell.worst.high)}",
                f"x{ratio:.2f}" if np.isfinite(ratio) else "-",
                _number(cell.mean.mean),
                _number(cell.disk_reads, ",.0f"),
                f"{cell.failed}",
            ]


def _number(value: float, form: str = ",.2f") -> str:
    return f"{value:{form}}" if np.isfinite(value) else "-"
