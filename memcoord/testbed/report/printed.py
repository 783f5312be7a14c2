"""How a report is shown: tables, charts, the last lines.

Owns: the two forms of the report file, and ``print_report``, the only function here that is not
pure. Called by ``memcoord.commands``.
"""

import shlex
import sys
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Literal

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from memcoord.testbed.report import headline, verdict
from memcoord.testbed.report.chart import ASCII, BLOCKS, ram_chart, tmem_chart
from memcoord.testbed.report.results import PolicyResult, RunReport
from memcoord.testbed.report.series import Sample

HEADINGS: tuple[str, ...] = ("policy", "domain", "workload")
HEADINGS += ("references", "faults", "tmem hits", "swap-ins", "failed puts")
HEADINGS += ("run time", "slowdown", "state")
_counts = attrgetter("references", "faults", "tmem_hits", "swap_ins", "failed_puts")
_TEXT_COLUMNS = frozenset({"policy", "domain", "workload", "state"})


def rows(policies: Sequence[PolicyResult]) -> Iterator[tuple[str, ...]]:
    """The cells of the table, a row per policy and domain, in the order of ``HEADINGS``."""
    for policy in policies:
        for result in policy.domains:
            slower = result.slowdown
            yield (
                *(policy.policy, result.domain, result.workload),
                *(f"{count:,}" for count in _counts(result)),
                f"{result.run_s:.2f} s",
                "-" if slower is None else f"x{slower:.2f}",
                result.state,
            )


def rich_tables(report: RunReport) -> Iterator[Table]:
    """The same for a terminal, a table per policy; fits into 80 columns."""
    for policy in report.policies:
        title = f"{report.scenario} under {policy.policy}"
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
        table.padding = (0, 0)
        for heading in ("domain", *HEADINGS[3:]):
            # Words of a heading stand one above the other, so that numbers decide the width.
            justify: Literal["left", "right"] = "left" if heading in _TEXT_COLUMNS else "right"
            table.add_column("\n".join(heading.rsplit(" ", 1)), justify=justify)
        for row in rows([policy]):
            table.add_row(f"{row[1]} {row[2].rpartition('/')[2]}", *row[3:])
        yield table


def plain_table(report: RunReport) -> list[str]:
    """The same as aligned columns of plain text."""
    cells = [HEADINGS, *rows(report.policies)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(HEADINGS))]
    lines = []
    for row in cells:
        aligned = (
            f"{cell:<{width}}" if heading in _TEXT_COLUMNS else f"{cell:>{width}}"
            for heading, cell, width in zip(HEADINGS, row, widths, strict=True)
        )
        lines.append("  ".join(aligned).rstrip())
    return lines


def charts(report: RunReport, samples: Sequence[Sample], *, unicode: bool) -> list[str]:
    """tmem used and target over time, one chart per policy, and one of RAM where it moved."""
    lines = []
    for policy in report.policies:
        own = [sample for sample in samples if sample.policy == policy.policy]
        for what, draw in (("tmem", tmem_chart), ("RAM", ram_chart)):
            chart = draw(own, bars=BLOCKS if unicode else ASCII)
            if chart:
                lines += ["", f"{what} under {policy.policy}: {chart[0]}", *chart[1:]]
    return lines


def troubles(report: RunReport) -> list[str]:
    """What went wrong, a line each."""
    lines = []
    for policy in report.policies:
        problems = [policy.error] if policy.error else []
        problems += [f"{r.domain} {r.state}: {r.reason}" for r in policy.domains if r.reason]
        problems += [f"not the overlap of the scenario: {text}" for text in policy.overlap]
        lines += [f"{policy.policy}: {problem}" for problem in [*problems, *policy.notices]]
    if report.error:
        lines.append(report.error)
    return lines


def closing(report: RunReport) -> list[str]:
    """The last lines: errors, the number of verified pages, the run directory, how to see it."""
    lines = troubles(report)
    results = [result for policy in report.policies for result in policy.domains]
    verified = sum(result.pages_verified for result in results)
    verdict = "as far as the domains came" if report.exit_code else "all right"
    checked = f"{verified:,} pages verified byte by byte, {verdict}; " if verified else ""
    lines.append(f"{checked}{report.wall_s:.1f} s in all")
    lines.append(f"run directory: {report.run_dir}")
    lines.append(f"as a page: memcoord report {shlex.quote(report.run_dir)}")
    return lines


def text_report(
    report: RunReport,
    samples: Sequence[Sample],
    *,
    unicode: bool = True,
    last: Sequence[str] | None = None,
) -> str:
    """``report.txt``, which a pipe gets too. ``last``: the final lines, those of ``closing``."""
    chart = charts(report, samples, unicode=unicode)
    end = closing(report) if last is None else last
    first = [*verdict.sentences(report), "", *headline.table(report), ""]
    first += [*headline.remarks(report), ""]
    body = [*plain_table(report), "", *headline.EXPLAINED, *chart]
    return "\n".join([*first, *body, "", *end, ""])


def json_report(report: RunReport) -> bytes:
    """``report.json``, one line."""
    return msgspec.json.encode(report)


def print_report(
    report: RunReport, samples: Sequence[Sample], as_json: bool, last: Sequence[str] | None = None
) -> None:
    """Write the report to stdout: one JSON object, tables for a terminal, or plain text."""
    console = Console()
    unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    if as_json:
        sys.stdout.write(json_report(report).decode() + "\n")
    elif not console.is_terminal:
        sys.stdout.write(text_report(report, samples, unicode=unicode, last=last))
    else:
        said = [*verdict.sentences(report), "", *headline.table(report), ""]
        for line in [*said, *headline.remarks(report), ""]:
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        for table in rich_tables(report):
            console.print(table)
        end = closing(report) if last is None else last
        shown = charts(report, samples, unicode=unicode)
        for line in ["", *headline.EXPLAINED, *shown, "", *end]:
            console.print(line, markup=False, highlight=False, soft_wrap=True)
