"""The results of a run, per domain and policy, the gain over greedy, and how they are shown.

Owns: the result types, their arithmetic, the two forms of the report file, and ``print_report``,
the only function here that is not pure.
"""

import sys
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Literal

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from memcoord.testbed.report.chart import ASCII, BLOCKS, tmem_chart
from memcoord.testbed.report.series import Sample

BASELINE = "greedy"
DONE = "done"
#: Killed because the scenario says so (``crash_at``); not a failure.
CRASHED = "crashed as told"
SCHEMA = 1


class DomainResult(msgspec.Struct, kw_only=True):
    """One domain under one policy. Counts are the guest's; ``failed_puts`` the puts tmem refused.

    ``state`` is done, crashed as told, killed, failed or stopped; unless it is done, the counts are
    the last ones the hypervisor saw, and ``reason`` says what went wrong. ``gain_percent`` is how
    much shorter the run was than under greedy (negative: longer), ``slowdown`` how many times as
    long as alone on the host; None when there is nothing to compare with.
    """

    domain: str
    workload: str
    state: str = DONE
    reason: str = ""
    references: int = 0
    faults: int = 0
    tmem_hits: int = 0
    swap_ins: int = 0
    swap_outs: int = 0
    file_reads: int = 0
    failed_puts: int = 0
    pages_verified: int = 0
    run_s: float = 0.0
    gain_percent: float | None = None
    slowdown: float | None = None


class PolicyResult(msgspec.Struct, kw_only=True):
    """The same scenario under one policy; ``error`` is empty unless the run itself broke.

    ``notices`` are complaints of the hypervisor, such as faults of the policy. ``overlap`` says
    where domains ran at other times than the scenario asks for: such a run shows something else.
    """

    policy: str
    domains: list[DomainResult]
    wall_s: float = 0.0
    ticks: int = 0
    policy_faults: int = 0  # ticks at which the policy failed and its last valid plan stayed
    error: str = ""
    notices: list[str] = msgspec.field(default_factory=list)
    overlap: list[str] = msgspec.field(default_factory=list)

    @property
    def good(self) -> bool:
        """True when every domain did all the scenario asks of it."""
        return not self.error and all(result.state in (DONE, CRASHED) for result in self.domains)


def policy_failure(faulty_ticks: int, served_ticks: int) -> str:
    """The error of a run whose policy failed at every tick; empty when it decided anything.

    ``served_ticks`` are the ticks with domains.
    """
    if not served_ticks or faulty_ticks < served_ticks:
        return ""
    return f"the policy failed at every one of {served_ticks} ticks"


class RunReport(msgspec.Struct, kw_only=True):
    """One ``memcoord run``; the object that ``--json`` prints."""

    schema: int = SCHEMA
    scenario: str
    run_dir: str
    exit_code: int
    wall_s: float
    tmem_capacity_pages: int
    policies: list[PolicyResult]
    error: str = ""


def set_gains(policies: Sequence[PolicyResult]) -> None:
    """Fill ``gain_percent`` of every domain that was done both here and under greedy."""
    baseline = {
        result.domain: result.run_s
        for policy in policies
        if policy.policy.partition(":")[0] == BASELINE
        for result in policy.domains
        if result.state == DONE and result.run_s > 0
    }
    for policy in policies:
        for result in policy.domains:
            before_s = baseline.get(result.domain)
            if before_s is not None and result.state == DONE:
                result.gain_percent = (before_s - result.run_s) / before_s * 100


HEADINGS: tuple[str, ...] = ("policy", "domain", "workload")
HEADINGS += ("references", "faults", "tmem hits", "swap-ins", "failed puts")
HEADINGS += ("run time", "gain over greedy", "state")
_counts = attrgetter("references", "faults", "tmem_hits", "swap_ins", "failed_puts")
_TEXT_COLUMNS = frozenset({"policy", "domain", "workload", "state"})


def rows(policies: Sequence[PolicyResult]) -> Iterator[tuple[str, ...]]:
    """The cells of the table, a row per policy and domain, in the order of ``HEADINGS``.

    Behind a run time stands the slowdown where it is known, such as ``x1.80``.
    """
    for policy in policies:
        for result in policy.domains:
            gain, slower = result.gain_percent, result.slowdown
            yield (
                *(policy.policy, result.domain, result.workload),
                *(f"{count:,}" for count in _counts(result)),
                f"{result.run_s:.2f} s" + ("" if slower is None else f" x{slower:.2f}"),
                "-" if gain is None else f"{gain:+.1f} %",
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
    """tmem used and target over time, one chart per policy."""
    lines = []
    for policy in report.policies:
        own = [sample for sample in samples if sample.policy == policy.policy]
        chart = tmem_chart(own, bars=BLOCKS if unicode else ASCII)
        if chart:
            lines += ["", f"tmem under {policy.policy}: {chart[0]}", *chart[1:]]
    return lines


def closing(report: RunReport) -> list[str]:
    """The last lines: errors, the number of verified pages, the run directory."""
    lines = []
    for policy in report.policies:
        problems = [policy.error] if policy.error else []
        problems += [f"{r.domain} {r.state}: {r.reason}" for r in policy.domains if r.reason]
        problems += [f"not the overlap of the scenario: {text}" for text in policy.overlap]
        lines += [f"{policy.policy}: {problem}" for problem in [*problems, *policy.notices]]
    if report.error:
        lines.append(report.error)
    results = [result for policy in report.policies for result in policy.domains]
    verified = sum(result.pages_verified for result in results)
    verdict = "see above" if lines or report.exit_code else "all right"
    lines.append(f"{verified:,} pages verified byte by byte, {verdict}; {report.wall_s:.1f} s")
    lines.append(f"run directory: {report.run_dir}")
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
    return "\n".join([*plain_table(report), *chart, "", *end, ""])


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
        for table in rich_tables(report):
            console.print(table)
        end = closing(report) if last is None else last
        for line in [*charts(report, samples, unicode=unicode), "", *end]:
            console.print(line, markup=False, highlight=False, soft_wrap=True)
