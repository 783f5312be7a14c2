"""The runner of every bench: directory, progress, result, tables, page.

Owns: ``Bench``, which every bench satisfies, ``run_bench``, which runs any of them, and
``RoundsBench``, a bench that measures rows round by round with real processes.
Called by: ``memcoord.commands``. A bench never prints; it hands over tables and lines.
"""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import msgspec
from rich.console import Console

from hypervisor.public.errors import ConfigError
from memcoord.benchmarks import cpus, tables
from memcoord.benchmarks.harness import QUANTILES, ROUNDS_MAX, ROUNDS_MIN, BenchPlan, Sheet
from memcoord.benchmarks.lab import Lab
from memcoord.benchmarks.tables import MISSING, Table
from memcoord.testbed.report import figures
from memcoord.testbed.report.figures import Figure
from memcoord.testbed.report.progress import Progress, duration
from memcoord.testbed.runs import rundir
from memcoord.testbed.runs.facts import load as load_now

FEW_ROUNDS = f"fewer than {ROUNDS_MIN} rounds: a look, not a measurement"
#: Above this load before the bench its times are not comparable with those of other runs.
LOAD_BEFORE_MAX = 0.5
LOADED = (
    "load {load} before the bench, above {most}: its times cannot be compared with other runs; "
    "ratios and counts within the run stay"
)
TERMINAL_COLUMNS = 200  # where stdout is no terminal
COLUMNS = ("min", *QUANTILES, "max")

Result = Mapping[str, Any]
Tables = Callable[[Result], Iterator[Table]]
DrawFigure = Callable[[Result], Figure]


class Bench(Protocol):
    """A bench: how it measures, and how its result is shown."""

    name: str  # on the command line and in the bench's files
    figure_file: str = ""  # of the figure, beside the page; "" when the bench has none

    def directory(self, out: str | None) -> contextlib.AbstractContextManager[rundir.RunDir | Path]:
        """A fresh run directory, at ``out`` or below the user's runs."""
        return fresh_directory(f"bench-{self.name}", out)

    def measure(self, where: rundir.RunDir | Path, progress: Progress) -> dict[str, Any]:
        """Measure; the object that ``--json`` prints."""

    def tables(self, result: Result) -> Iterator[Table]:
        """The tables for a terminal."""

    def lines(self, result: Result) -> list[str]:
        """Lines below them."""
        return []

    def parts(self, result: Result) -> dict[str, str]:
        """The generated parts of the bench's page, by the names of their markers."""
        return {}

    def figure(self, result: Result) -> Figure | None:
        """The figure of the page."""
        return None

    def status(self, result: Result) -> int:
        """The exit code: 0, or 1 for a failure; a missed target is no failure."""
        return 0


def run_bench(bench: Bench, as_json: bool, out: str | None, page: str | None = None) -> int:
    """Measure, save, print and, with ``page``, fill that Markdown file; the exit code.

    ConfigError for an unusable directory, or a page without the markers of the bench.
    """
    if page is not None:
        fill_page(bench, None, Path(page))  # complains before hours are spent
    result, directory = measured(bench, out)
    if page is not None:
        fill_page(bench, result, Path(page))
    if as_json:
        sys.stdout.write(msgspec.json.encode(result).decode() + "\n")
        return bench.status(result)
    console = Console(width=None if sys.stdout.isatty() else TERMINAL_COLUMNS)
    for table in bench.tables(result):
        tables.show(table, console)
    for line in bench.lines(result):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    sys.stdout.write(f"results: {directory}\n")
    sys.stdout.write(f"as a page: memcoord report {shlex.quote(str(directory))}\n")
    return bench.status(result)


def measured(bench: Bench, out: str | None) -> tuple[dict[str, Any], Path]:
    """Measure and save: the object that ``--json`` prints, and the directory; errors as above."""
    with bench.directory(out) as where, Progress() as progress:
        found = bench.measure(where, progress)
        result: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(found))
        directory = where if isinstance(where, Path) else where.path
        text = msgspec.json.format(msgspec.json.encode(result), indent=2)
        (directory / f"{bench.name}.json").write_bytes(text + b"\n")
        draw(bench, result, directory)
    return result, directory


def fill_page(bench: Bench, result: Result | None, page: Path) -> None:
    """Put a result between the markers of a page and draw its figure beside it.

    Without a result, only look whether the page can be filled. ConfigError when it cannot be read
    or lacks a marker.
    """
    try:
        text = page.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("--markdown", f"{page}: {error}") from None
    for name, part in bench.parts(result or {}).items():
        text = tables.fill(text, name, part)
    if result is not None:
        page.write_text(text, encoding="utf-8")
        draw(bench, result, page.parent)


def draw(bench: Bench, result: Result, directory: Path) -> None:
    """Draw the bench's figure, if it has one; without matplotlib, or data, say so in a line."""
    figure = bench.figure(result) if bench.figure_file else None
    if figure is None:
        return
    if not figure.lines:
        sys.stderr.write(f"{bench.figure_file} is left out: too few samples for what it shows\n")
        return
    try:
        (directory / bench.figure_file).write_text(figures.svg(figure), encoding="utf-8")
    except figures.NoFigures as error:
        sys.stderr.write(f"{bench.figure_file} is left out: {error}\n")


@contextlib.contextmanager
def fresh_directory(name: str, out: str | None) -> Iterator[rundir.RunDir]:
    """A run directory whose manifest tells how the block ended."""
    run = rundir.create(name, path=out)
    state = "failed"
    try:
        yield run
        state = "finished"
    except KeyboardInterrupt:
        state = "interrupted"
        raise
    finally:
        run.finish(state)


@dataclass(frozen=True)
class Setting:
    """The processes, the sheet and the CPUs of one run of a bench of rounds."""

    lab: Lab
    sheet: Sheet
    placement: cpus.Placement
    rounds: int


class Rounds(Protocol):
    """One run of a bench of rounds, made from its ``Setting``."""

    def round(self, index: int, done: Callable[[float], None]) -> None:
        """Measure every row once more; ``done`` may be told the share of the round, 0 to 1."""

    def finish(self) -> None:
        """Called after the last round."""


StartRounds = Callable[[Setting], Rounds]


class RoundsBench(Bench):
    """A bench whose rows are all measured once in every round."""

    def __init__(
        self, plan: BenchPlan, start: StartRounds, own_tables: Tables | None = None,
        own_figure: DrawFigure | None = None, rounds: int | None = None,
    ) -> None:  # fmt: skip
        """ConfigError for a bad number of rounds."""
        self.name, self._plan, self._start = plan.bench, plan, start
        self._rounds = plan.rounds if rounds is None else rounds
        if not 1 <= self._rounds <= ROUNDS_MAX:
            raise ConfigError("--rounds", f"must be 1 to {ROUNDS_MAX}")
        self._tables, self._figure = own_tables or _rows_table, own_figure
        self.figure_file = f"{self.name}.svg" if own_figure else ""

    def measure(self, where: rundir.RunDir | Path, progress: Progress) -> dict[str, Any]:
        """Measure all rounds; the samples are saved beside the result."""
        assert isinstance(where, rundir.RunDir)
        placement = cpus.pair()
        facts = cpus.describe(placement)
        if self._rounds < ROUNDS_MIN:
            facts["warnings"].append(FEW_ROUNDS)
        load = facts["load_before_1m"]
        if load > LOAD_BEFORE_MAX:
            facts["warnings"].append(LOADED.format(load=load, most=LOAD_BEFORE_MAX))
        loads: list[float] = []
        sheet = Sheet(self._plan)

        def done(index: int, share: float) -> None:
            progress.advance(index + share, self._rounds)

        if self._plan.round_s:
            expected = duration(self._plan.round_s * self._rounds)
            sys.stderr.write(f"bench {self.name}: {expected} on two quiet cores\n")
        progress.begin(f"bench {self.name}", self._rounds)
        with Lab(where) as lab:
            run = self._start(Setting(lab, sheet, placement, self._rounds))
            for index in range(self._rounds):
                run.round(index, partial(done, index))
                loads.append(load_now())
                done(index, 1.0)
            run.finish()
        facts["load_by_round_1m"] = loads
        facts["warnings"] += [f"skipped {name}: {why}" for name, why in sheet.skipped.items()]
        sheet.save(where.path)
        return sheet.result(cpus.finish(facts))

    def tables(self, result: Result) -> Iterator[Table]:
        """The bench's own tables, or its rows; then the ratios beside their targets."""
        yield from self._tables(result)
        yield _ratios_table(result)

    def lines(self, result: Result) -> list[str]:
        """Notes on rows, and the warnings."""
        notes = _notes(result) if self._tables is _rows_table else []
        return [*notes, *(f"warning: {text}" for text in result["machine"]["warnings"])]

    def parts(self, result: Result) -> dict[str, str]:
        """The machine, the tables, and the ratios that have a target."""
        if not result:
            return {"measured": ""}
        machine = result["machine"]
        cpu, kernel = f"{machine['cpu']}, {machine['cores']} cores", machine["kernel"]
        loads = machine["load_before_1m"], machine["load_after_1m"]
        load = f"load {loads[0]} before the run, {loads[1]} after it"
        text = [f"Measured on: {cpu}, Linux {kernel}; {load}."]
        for table in self._tables(result):
            text += ["", *tables.markdown(table)]
        measured = [
            [key, tables.short(target["measured"]), f"{target['must']:g}", f"{target['aim']:g}",
             target["reached"]]
            for key, target in result["targets"].items()
            if target["measured"] is not None
        ]  # fmt: skip
        if measured:
            head = ["ratio", "measured", "must", "aim", "reached"]
            text += ["", *tables.markdown(Table("ratios", head, measured))]
        if result.get("skipped"):
            text += ["", f"Left out: {', '.join(result['skipped'])}."]
        return {"measured": "\n".join(text)}

    def figure(self, result: Result) -> Figure | None:
        """The bench's own."""
        return self._figure(result) if self._figure else None


def _rows_table(result: Result) -> Iterator[Table]:
    lines = [
        [
            name,
            f"{row['count']:,}",
            f"{row['ops_per_sample']}",
            *(_short_ns(row[column]) for column in COLUMNS),
        ]
        for name, row in result["rows"].items()
    ]
    title = f"bench {result['bench']}, nanoseconds per operation"
    yield Table(title, ["row", "samples", "ops/sample", *COLUMNS], lines)


def _ratios_table(result: Result) -> Table:
    lines = []
    for key, target in result["targets"].items():
        measured = target["measured"]
        shown = MISSING if measured is None else f"{measured:.3f}"
        lines.append([key, shown, f"{target['must']:g}", f"{target['aim']:g}", target["reached"]])
    for key, ratio in result["ratios"].items():
        if key not in result["targets"]:
            lines.append([key, f"{ratio:.3f}", "", "", ""])
    return Table("ratios", ["ratio", "measured", "must", "aim", "reached"], lines)


def _notes(result: Result) -> list[str]:
    """Per row, its note and the facts that only its own bench knows."""
    common = {"unit", "count", "rounds", "ops_per_sample", "note", "mean", "median", *COLUMNS}
    common |= {"p50_low", "p50_high"}
    found = []
    for name, row in result["rows"].items():
        notes = [row["note"]] if "note" in row else []
        notes += [f"{key} {value}" for key, value in row.items() if key not in common]
        if notes:
            found.append(f"{name}: {'; '.join(notes)}")
    return found


def _short_ns(value_ns: float | None) -> str:
    if value_ns is None:  # more than the samples can carry
        return MISSING
    return f"{value_ns:,.0f}" if value_ns >= tables.WHOLE_FROM else f"{value_ns:.1f}"
