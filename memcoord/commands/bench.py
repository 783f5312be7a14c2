"""``memcoord bench``: run one bench, keep its samples, print its table or its JSON.

Owns: what the benches have in common around the measuring: run directory, progress, output.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from hypervisor.public.errors import ConfigError
from memcoord.benchmarks import cpus, page, ring
from memcoord.benchmarks.bursts import bench as bursts
from memcoord.benchmarks.grant import bench as grant
from memcoord.benchmarks.harness import ROUNDS_MAX, ROUNDS_MIN, Sheet
from memcoord.benchmarks.hostile.table import bench_cheats
from memcoord.benchmarks.interference import bench as interference
from memcoord.benchmarks.lab import Lab
from memcoord.benchmarks.mechanisms import bench as mechanisms
from memcoord.benchmarks.mechanisms import table as mechanism_table
from memcoord.benchmarks.tmem import bench as tmem
from memcoord.testbed.runs import rundir

BENCHES = {
    "bursts": (bursts.run, bursts.PLAN),
    "grant": (grant.run, grant.PLAN),
    "interference": (interference.run, interference.PLAN),
    "mechanisms": (mechanisms.run, mechanisms.PLAN),
    "ring": (ring.run, ring.PLAN),
    "tmem": (tmem.run, tmem.PLAN),
}
#: Not made of rounds: a bench of its own kind.
POLICIES = "policies"
FEW_ROUNDS = f"fewer than {ROUNDS_MIN} rounds: a look, not a measurement"
COLUMNS = ("min", "p50", "p90", "p99", "p999", "max")
WHOLE_FROM_NS = 1000
TABLE_WIDTH = 132


def bench(
    which: str,
    as_json: bool,
    rounds: int | None,
    out: str | None,
    of_policies: Mapping[str, Any] | None = None,
) -> int:
    """Run the bench named ``which`` and print it; the exit code is 0 for a missed target too.

    ``out`` is a new directory for samples and JSON, by default one below the runs' directory.
    ``of_policies`` are the options that only the bench of policies has: the fields of its
    ``PolicyBenchOptions`` and ``markdown``, empty ones left out.
    ConfigError for an unknown bench, a bad number of rounds or an unusable directory.
    """
    if which == POLICIES:
        return _policies(as_json, rounds, out, dict(of_policies or {}))
    if of_policies:
        raise ConfigError(f"--{next(iter(of_policies))}", f"only for bench {POLICIES}")
    if which == "cheats":  # verdicts, not samples: a table of its own
        return bench_cheats(as_json, out)
    if which not in BENCHES:
        known = " or ".join([*BENCHES, "cheats", POLICIES])
        raise ConfigError("bench", f"{which!r} is unknown: choose {known}")
    rounds = BENCHES[which][1].rounds if rounds is None else rounds
    if not 1 <= rounds <= ROUNDS_MAX:
        raise ConfigError("--rounds", f"must be 1 to {ROUNDS_MAX}")
    run = rundir.create(f"bench-{which}", path=out)
    state = "failed"
    try:
        result = measure(run, which, rounds)
        state = "finished"
    except KeyboardInterrupt:
        state = "interrupted"
        raise
    finally:
        run.finish(state)
    if as_json:
        sys.stdout.write(msgspec.json.encode(result).decode() + "\n")
    else:
        show(result, Console(width=None if sys.stdout.isatty() else TABLE_WIDTH))
        sys.stdout.write(f"samples: {run.path}\n")
    return 0


def _policies(as_json: bool, rounds: int | None, out: str | None, options: dict[str, Any]) -> int:
    from memcoord.benchmarks.policies.bench import (
        PolicyBenchOptions,  # no other bench needs a simulator
    )
    from memcoord.commands.bench_policies import bench_policies

    if rounds is not None:
        raise ConfigError("--rounds", f"not for bench {POLICIES}: its rounds are --seeds")
    page = options.pop("markdown", None)
    return bench_policies(PolicyBenchOptions(**options), as_json, out, page)


def measure(run: rundir.RunDir, which: str, rounds: int) -> dict[str, Any]:
    """Run one bench in ``run`` and save its samples; the result is what ``--json`` prints."""
    measure_rounds, plan = BENCHES[which]
    placement = cpus.pair()
    facts = cpus.describe(placement)
    if rounds < ROUNDS_MIN:
        facts["warnings"].append(FEW_ROUNDS)
    sheet = Sheet(plan)
    console = Console(stderr=True)
    columns = (TextColumn(f"bench {which}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        Progress(*columns, console=console, disable=not console.is_terminal) as bar,
        Lab(run) as lab,
    ):
        task = bar.add_task("", total=rounds)
        measure_rounds(lab, sheet, rounds, placement, lambda done: bar.update(task, completed=done))
    facts["warnings"] += [f"skipped {name}: {why}" for name, why in sheet.skipped.items()]
    result = sheet.result(cpus.finish(facts))
    sheet.save(run.path, result)
    return result


def show(result: Mapping[str, Any], console: Console) -> None:
    """Print the rows, then the ratios beside what they must reach."""
    if result["bench"] == mechanisms.PLAN.bench:
        mechanism_table.show(result, console)
    elif result["bench"] in page.VIEWS:
        page.show(result, console)
    else:
        _show_rows(result, console)
    ratios = Table(title="ratios", title_justify="left")
    ratios.add_column("ratio", no_wrap=True)
    for name in ("measured", "must", "aim", "reached"):
        ratios.add_column(name, justify="right")
    for key, target in result["targets"].items():
        measured = target["measured"]
        text = "" if measured is None else f"{measured:.3f}"
        ratios.add_row(key, text, f"{target['must']:g}", f"{target['aim']:g}", target["reached"])
    for key, ratio in result["ratios"].items():
        if key not in result["targets"]:
            ratios.add_row(key, f"{ratio:.3f}", "", "", "")
    console.print(ratios)
    for warning in result["machine"]["warnings"]:
        console.print(f"warning: {warning}", highlight=False)


def _show_rows(result: Mapping[str, Any], console: Console) -> None:
    rows = Table(title=f"bench {result['bench']}, nanoseconds per operation", title_justify="left")
    rows.add_column("row", no_wrap=True)
    for name in ("count", *COLUMNS):
        rows.add_column(name, justify="right")
    for name, row in result["rows"].items():
        figures = [_short(row[column]) for column in COLUMNS]
        rows.add_row(name, f"{row['count']:,}", *figures)
    console.print(rows)
    for name, row in result["rows"].items():
        notes = [row["note"]] if "note" in row else []
        notes += [f"{key} {value}" for key, value in row.items() if key in row_extras(row)]
        if notes:
            console.print(f"{name}: {'; '.join(notes)}", highlight=False)


def _short(value_ns: float) -> str:
    return f"{value_ns:,.0f}" if value_ns >= WHOLE_FROM_NS else f"{value_ns:.1f}"


def row_extras(row: Mapping[str, Any]) -> list[str]:
    """The keys of a row that only its own bench knows."""
    common = {"unit", "count", "rounds", "ops_per_sample", "note", *COLUMNS}
    return [key for key in row if key not in common]
