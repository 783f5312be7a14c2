"""``memcoord plot``: figures of a run for a paper, the data of each as CSV beside it.

Owns: what a figure of a run shows. How it looks is ``memcoord.testbed.report.figures``'s business,
the same as of every bench; what is drawn over time is ``over_time``'s, the same as on pages.
"""

from __future__ import annotations

import csv
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from hypervisor.public.errors import ConfigError
from memcoord.testbed.archive.columns import in_order, length, rows_where
from memcoord.testbed.archive.outcome import Outcome
from memcoord.testbed.archive.over_time import CURVES_MAX, QUANTITIES, Panel, panels
from memcoord.testbed.archive.thinning import thinned
from memcoord.testbed.report.figures import Axis, Figure, Line, write, write_sheet
from memcoord.testbed.report.headline import FIGURES

SLICES = 400
LABEL_CHARACTERS_MAX = 20
INTERVAL = "over the rounds, with its 95 % interval"
Rows = list[list[object]]
#: Figures in rows, the header of their data, the data.
Drawn = tuple[list[list[Figure]], Sequence[str], Rows]


def _over_time(run: Outcome, wanted: Iterable[str]) -> Drawn:
    """A row of panels per quantity, a column per policy: the first round."""
    courses = [(name, run.series(name, round=0)) for name in run.policies]
    found = panels([one for one in courses if length(one[1])])
    if not found:
        raise ConfigError("RUN", f"no ticks were recorded in {run.path or run}")
    rows, data = [], []
    names = [name for name in wanted if name in found]
    if not names:
        raise ConfigError("--what", f"did not move in this run: choose of {', '.join(found)}")
    for number, name in enumerate(names):
        is_last = number == len(names) - 1
        rows.append([_panel(one, with_title=not number, is_last=is_last) for one in found[name]])
        data += [
            [name, one.policy, line.name, x, y]
            for one in found[name]
            for line in one.lines
            for x, y in zip(line.time_s.tolist(), line.values.tolist(), strict=True)
        ]
    return rows, ("quantity", "policy", "line", "time_s", "value"), data


def _panel(panel: Panel, *, with_title: bool, is_last: bool) -> Figure:
    if panel.rows:
        raise ConfigError("RUN", f"more than {CURVES_MAX} domains: lines would be a thicket")
    lines = []
    for one in panel.lines:
        xs, ys = thinned(one.time_s, one.values, SLICES)
        points = list(zip(xs.tolist(), ys.tolist(), strict=True))
        is_level = panel.unit == "MiB"
        lines.append(Line(one.name, points, one.colour, one.is_target, False, is_level))
    x_axis = Axis("time, s" if is_last else "", end=panel.end_s or None)
    title = panel.policy if with_title else ""
    label = textwrap.fill(panel.title, LABEL_CHARACTERS_MAX)
    return Figure(lines, x_axis, Axis(label, end=panel.top), title)


def _outcome(run: Outcome) -> Drawn:
    """Every figure by policy, with its interval over rounds where there is one."""
    figures, data = [], []
    for field, title, _ in FIGURES:
        points, bounds = [], []
        for at, policy in enumerate(run.report.policies):
            found = getattr(policy, field)
            if found.value is None:
                continue
            low = found.value if found.low is None else found.low
            high = found.value if found.high is None else found.high
            points.append((float(at), found.value))
            bounds.append((low, high))
            data.append([title, policy.policy, found.value, found.low, found.high, found.n])
        names = tuple(name.replace(":", ":\n") for name in run.policies)
        top = 1.1 * max((high for _, high in bounds), default=1.0)
        lines = [Line(INTERVAL, points, 0, is_joined=False, bounds=bounds)] if points else []
        figures.append(Figure(lines, Axis("", names=names), Axis(title, end=top)))
    return [figures], ("figure", "policy", "value", "low", "high", "rounds"), data


def _latency(run: Outcome) -> Drawn:
    """The share of grants that took at most so long, by path, on the host's clock."""
    found = run.latencies()
    if not length(found):
        raise ConfigError("RUN", f"no latencies were kept in {run.path or run}")
    lines, data = [], []
    own = rows_where(found, word="host")
    for number, path in enumerate(in_order(own["path"]) if length(own) else []):
        rows = rows_where(own, path=path)
        order = np.argsort(rows["high_s"], kind="stable")
        share = np.cumsum(rows["count"][order]) / rows["count"].sum()
        points = list(zip(rows["high_s"][order].tolist(), share.tolist(), strict=True))
        lines.append(Line(path, points, number, has_marks=False, is_step=True))
        data += [[path, "host", x, y] for x, y in points]
    figure = Figure(lines, Axis("grant takes at most, s", is_log=True), Axis("share", end=1.02))
    return [[figure]], ("path", "word", "at_most_s", "share"), data


def _one(name: str) -> Callable[[Outcome], Drawn]:
    return lambda run: _over_time(run, [name])


#: What can be drawn.
KINDS: dict[str, Callable[[Outcome], Drawn]] = {
    "course": lambda run: _over_time(run, [what.name for what in QUANTITIES]),
    **{what.name: _one(what.name) for what in QUANTITIES},
    "outcome": _outcome,
    "latency": _latency,
}


def plot(run: Outcome, out: Path, what: str = "") -> list[Path]:
    """Draw ``what`` (default: course) of ``run`` to ``out``; that file and the CSV beside it.

    ConfigError for an unknown kind, a format that is none, or a run that has nothing of the kind.
    """
    what = what or "course"
    if what not in KINDS:
        raise ConfigError("--what", f"{what!r} is unknown: choose {', '.join(KINDS)}")
    rows, header, data = KINDS[what](run)
    write_sheet(rows, out)
    return [out, _write_data(out, header, data)]


def plot_figure(figure: Figure, out: Path) -> list[Path]:
    """Draw one figure, as of a bench; that file and its data beside it. Errors as of ``plot``."""
    write(figure, out)
    data: Rows = [[line.name, x, y] for line in figure.lines for x, y in line.points]
    header = ("line", figure.x_axis.label or "x", figure.y_axis.label or "y")
    return [out, _write_data(out, header, data)]


def _write_data(out: Path, header: Sequence[str], data: Rows) -> Path:
    beside = out.with_suffix(".csv")
    with beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(data)
    return beside
