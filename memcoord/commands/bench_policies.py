"""``memcoord bench policies``: run it, print its tables, fill docs/policies.md.

Owns: the bench's directory, and which files are written. With ``--markdown FILE`` what is between
the file's markers is replaced and the figure is written beside it.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
from rich.console import Console

from hypervisor.public.errors import ConfigError
from memcoord.benchmarks.policies import text
from memcoord.benchmarks.policies.bench import PolicyBenchOptions, PolicyBenchPlan, measure_policies
from memcoord.benchmarks.policies.figure import svg
from memcoord.benchmarks.sweep.run import Run
from memcoord.testbed.runs import rundir

FIGURE = "policies_frontier.svg"
TABLE_WIDTH = 200


def bench_policies(
    options: PolicyBenchOptions,
    as_json: bool,
    out: str | None,
    page: str | None,
    *,
    speeds: bool = True,
    run: Run | None = None,
) -> int:
    """Measure and print; 0, or 1 when a run failed. ConfigError or PolicyError before anything.

    ``out`` is a directory whose results are used again; ``page`` a Markdown file with markers.
    """
    plan = PolicyBenchPlan.of(options)
    if page is not None:
        filled(_read(page), "")  # complains before hours are spent
    with _directory(out) as directory:
        found = measure_policies(plan, directory, speeds=speeds, run=run)
        (directory / FIGURE).write_text(svg(found), encoding="utf-8")
    if page is not None:
        path = Path(page)
        path.write_text(filled(_read(page), text.markdown(found)), encoding="utf-8")
        (path.parent / FIGURE).write_text(svg(found), encoding="utf-8")
    if as_json:
        sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
    else:
        console = Console(width=None if sys.stdout.isatty() else TABLE_WIDTH)
        for table in text.terminal_tables(found):
            console.print(table)
        for line in text.closing_lines(found):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        sys.stdout.write(f"results: {directory}\n")
    return 1 if found["errors"] else 0


def filled(page: str, table: str) -> str:
    """``page`` with both lists and ``table`` between their markers; ConfigError without them."""
    parts = {"policies": text.policy_list(), "scenarios": text.scenario_list(), "table": table}
    for name, part in parts.items():
        page = text.replace_between(page, name, part)
    return page


@contextlib.contextmanager
def _directory(out: str | None) -> Iterator[Path]:
    if out is not None:
        directory = Path(out)
        directory.mkdir(parents=True, exist_ok=True)
        yield directory
        return
    run = rundir.create("bench-policies")
    state = "failed"
    try:
        yield run.path
        state = "finished"
    except KeyboardInterrupt:
        state = "interrupted"
        raise
    finally:
        run.finish(state)


def _read(page: str) -> str:
    try:
        return Path(page).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("--markdown", f"{page}: {error}") from None
