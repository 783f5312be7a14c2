"""Tables and figure of ``memcoord bench build``, from its JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from memcoord.benchmarks import tables as shared
from memcoord.benchmarks.builds.variants import FIXED, REPORTING
from memcoord.benchmarks.tables import MISSING, Table
from memcoord.testbed.report.figures import Axis, Figure, Line

Found = Mapping[str, Any]

CLAIMED_PERCENT = 17
LEAST = "in use (lower bound)"
#: Head of a column -> the figure of a row, and its digits.
FOOTPRINT = {
    "build GiB x min": ("build_gib_min", 2),
    "over use": ("over_use", 3),
    "mean GiB": ("mean_gib", 3),
    "charged GiB": ("charged_mean_gib", 3),
    "peak GiB": ("peak_gib", 2),
    "with delay, clean GiB x min": ("total_gib_min", 2),
    "after delay GiB": ("after_delay_gib", 3),
    "after clean GiB": ("after_clean_gib", 3),
    "late GiB x min": ("late_gib_min", 3),
}
COST = {
    "build s": ("wall_s", 1),
    "CPU s": ("cpu_s", 1),
    "CPU of the frames s": ("mirror_cpu_s", 1),
    "bystander CPU us": ("bystander_cpu_us", 0),
    "bystander us": ("bystander_wall_us", 0),
    "p99": ("bystander_p99_us", 0),
}
OUT = ("zero_pages_out", "tmem_pages_out", "disk_pages_out")
OF_COST = ("wall_s", "cpu_s", "bystander_cpu_us", "bystander_wall_us")


def tables(found: Found) -> Iterator[Table]:
    """Footprint, its difference, and what it cost."""
    lines = [[name, *_cells(row, FOOTPRINT)] for name, row in found["rows"].items()]
    yield Table("Footprint: mean over the rounds [its interval]", ["", *FOOTPRINT],
                [*lines, _least(found)])  # fmt: skip
    head = ["", "build, GiB x min", "the same over use", "with delay and clean"]
    keys = [f"{key} below {REPORTING}" for key in ("build_gib_min", "over_use", "total_gib_min")]
    yield Table(f"Percent below {REPORTING}, within a round", head, [
        [name, *(percent(row[key]) for key in keys)]
        for name, row in found["below_percent"].items() if name != REPORTING
    ])  # fmt: skip
    yield Table("Cost: mean over the rounds [its interval]", ["", *COST], [
        [name, *_cells(row, COST)] for name, row in found["rows"].items()
    ])  # fmt: skip
    head = ["", "build's time", "its CPU time", "bystander's CPU time", "its time"]
    yield Table(f"Percent less than with a {FIXED}, within a round", head, [
        [name, *(percent(row[f"{key} below {FIXED}"]) for key in OF_COST)]
        for name, row in found["below_percent"].items() if name != FIXED
    ])  # fmt: skip


def lines(found: Found) -> list[str]:
    """The claim, what is real and what is not, and what went wrong."""
    said = [f"The claim: {CLAIMED_PERCENT} % below free page reporting, at no measurable cost."]
    said.append("Real: the build, its limit, its charges, every frame's page and what a mechanism "
                "does to it. Mirrored: which frame stands for which page.")  # fmt: skip
    loads = [cell["load_before_1m"] for cell in found["cells"]]
    if loads:
        said.append(f"Load before the builds: {min(loads)} to {max(loads)}, their own in it.")
    short = [cell for cell in found["cells"] if any(cell["pager"].get(key) for key in OUT)]
    if short:
        said.append(f"{len(short)} builds were short of memory for a time.")
    return [*said, *found["errors"], *filter(None, [found["cut_short"]])]


def figure(found: Found) -> Figure:
    """Footprint over time, and what the build had of it in the first variant's run."""
    drawn = []
    for number, (name, series) in enumerate(found["series"].items()):
        if number == 0:
            points = list(zip(series["s"], series["guest"], strict=True))
            drawn.append(Line("in use", points, 7, is_dashed=True, has_marks=False))
        points = list(zip(series["s"], series["resident"], strict=True))
        drawn.append(Line(name, points, number, has_marks=False))
    return Figure(drawn, Axis("time, s"), Axis("memory held, GiB", end=None))


def percent(figure: Mapping[str, Any]) -> str:
    """ "+12.1 [+8.0, +16.3]"."""
    return shared.with_interval(figure, "+.1f")


def markdown(found: Found) -> str:
    """All tables, and the machine."""
    machine, project = found["machine"], found["project"]
    told = [
        f"{project['package']} {project['version']}, `make -j{project['jobs']}`",
        f"{machine.get('cpu', '')}, {machine.get('cores', '')} cores",
        f"load before the run {machine.get('load_before_1m', 'not recorded')}",
        f"rounds {max((cell['round'] for cell in found['cells']), default=-1) + 1}",
    ]
    text = [f"Made by `{found['command']}`: {'; '.join(told)}."]
    for table in tables(found):
        text += ["", *shared.markdown(table)]
    return "\n".join([*text, "", *(f"- {line}" for line in lines(found))]) + "\n"


def _cells(row: Mapping[str, Any], columns: Mapping[str, tuple[str, int]]) -> list[str]:
    return [shared.with_interval(row[key], f",.{digits}f") for key, digits in columns.values()]


def _least(found: Found) -> list[str]:
    """What the build itself had, the mean of all variants' runs."""
    keys = ("guest_gib_min", "guest_mean_gib", "guest_peak_gib")
    rows = list(found["rows"].values())
    means = [sum(row[key]["value"] for row in rows) / len(rows) for key in keys] if rows else []
    time, mean, peak = [f"{value:.2f}" for value in means] or [MISSING] * len(keys)
    return [LEAST, time, "1", mean, MISSING, peak, *[MISSING] * (len(FOOTPRINT) - 5)]
