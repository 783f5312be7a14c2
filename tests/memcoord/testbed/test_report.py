"""Report: the table, and the chart of tmem over time."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

from rich.console import Console

from memcoord.testbed.report.chart import ASCII, BLOCKS, ram_chart, tmem_chart
from memcoord.testbed.report.printed import (
    closing,
    json_report,
    plain_table,
    rich_tables,
    text_report,
)
from memcoord.testbed.report.results import (
    DomainResult,
    PolicyResult,
    RunReport,
)
from memcoord.testbed.report.series import Sample


def result(domain: str, run_s: float, **fields: Any) -> DomainResult:
    return DomainResult(domain=domain, workload="sort", run_s=run_s, **fields)


def report_of(*policies: PolicyResult, exit_code: int = 0) -> RunReport:
    return RunReport(
        scenario="main",
        run_dir="/somewhere",
        exit_code=exit_code,
        wall_s=12.5,
        tmem_capacity_pages=1000,
        policies=list(policies),
    )


def test_good_means_that_every_domain_was_done() -> None:
    good = PolicyResult(policy="greedy", domains=[result("vm1", 1.0)])
    assert good.good
    assert not PolicyResult(policy="greedy", domains=good.domains, error="no").good
    assert not PolicyResult(policy="greedy", domains=[result("vm1", 1.0, state="killed")]).good


def test_plain_table_is_aligned() -> None:
    killed = result("vm2", 0.0, state="killed", reason="killed by SIGKILL")
    greedy = PolicyResult(policy="greedy", domains=[result("vm1", 1.0, references=305275), killed])
    lines = plain_table(report_of(greedy, exit_code=1))
    assert len(lines) == 3
    end = lines[0].index("references") + len("references")
    assert lines[1][:end].endswith(" 305,275")
    assert lines[2][:end].endswith(" 0")
    assert lines[2].endswith("killed")


def test_tables_for_a_terminal_fit_into_80_columns() -> None:
    counts = dict.fromkeys(
        ("references", "faults", "tmem_hits", "swap_ins", "failed_puts"), 234_567
    )
    killed = result("vm1", 23.45, state="stopped", slowdown=123.45, **counts)
    greedy = PolicyResult(policy="greedy", domains=[killed])
    console = Console(width=80, file=io.StringIO())
    for table in rich_tables(report_of(greedy)):
        console.print(table)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.count("234,567") == 5
    assert "stopped" in text
    assert "…" not in text


def test_closing_says_what_broke() -> None:
    killed = result("vm2", 0.0, state="killed", reason="killed by SIGKILL")
    broken = PolicyResult(policy="greedy", domains=[killed], error="it died")
    text = "\n".join(closing(report_of(broken, exit_code=1)))
    assert "greedy: it died" in text
    assert "greedy: vm2 killed: killed by SIGKILL" in text
    assert "/somewhere" in text
    assert "all right" not in text


def test_json_is_one_object_on_one_line() -> None:
    greedy = PolicyResult(policy="greedy", domains=[result("vm1", 1.0, failed_puts=3)])
    data = json_report(report_of(greedy))
    assert b"\n" not in data
    decoded = json.loads(data)
    assert decoded["policies"][0]["domains"][0]["failed_puts"] == 3
    assert decoded["exit_code"] == 0


def sample(time_s: float, used: int, target: int = -1, domain: str = "vm1") -> Sample:
    return Sample("greedy", time_s, domain, used, target)


def bars_of(line: str) -> str:
    return line[len("vm1 target ") :].split(" max ")[0]


def test_chart_rises_with_use_to_one_scale() -> None:
    samples = [sample(t, used) for t, used in enumerate([0, 25, 50, 75, 100])]
    samples += [sample(t, 50, 100, domain="vm2") for t in range(5)]
    header, used1, target1, used2, target2 = tmem_chart(samples, columns=5, bars=BLOCKS)
    assert "100 pages" in header
    assert bars_of(used1) == " ▂▄▆█"
    assert "no limit" in target1
    assert bars_of(used2) == "▄▄▄▄▄"
    assert bars_of(target2) == "█████"
    assert used2.endswith("max 50")


def test_chart_is_blank_outside_a_domains_life_and_steady_between_ticks() -> None:
    samples = [sample(t, 100) for t in range(0, 10)]
    samples += [sample(4, 100, domain="vm3"), sample(6, 100, domain="vm3")]
    lines = tmem_chart(samples, columns=10, bars=ASCII)
    assert bars_of(lines[3]) == "    @@@   "


def test_ram_is_drawn_where_it_moved_and_only_there() -> None:
    still = [replace(sample(n, 5), ram_frames=512, ram_target_frames=512) for n in range(3)]
    assert ram_chart(still) == []
    moved = [*still, replace(sample(3, 5), ram_frames=1024, ram_target_frames=2048)]
    header, held, target = ram_chart(moved, columns=4, bars=ASCII)
    assert "2,048" in header
    assert held.startswith("vm1 held")
    assert held.endswith("max 1,024")
    assert target.endswith("max 2,048")
    report = report_of(PolicyResult(policy="greedy", domains=[result("vm1", 1.0)]))
    assert "RAM under greedy" in text_report(report, moved)
    assert "RAM under greedy" not in text_report(report, still)


def test_the_smallest_use_can_be_seen() -> None:
    lines = tmem_chart([sample(0, 1), sample(1, 100_000)], columns=2, bars=ASCII)
    assert bars_of(lines[1]) == ".@"


def test_a_chart_of_nothing_and_of_one_tick() -> None:
    assert tmem_chart([]) == []
    assert tmem_chart([sample(1.0, 0, 0)]) == []  # a host without tmem
    assert len(tmem_chart([sample(1.0, 0, 1)])) == 3


def test_text_report_holds_one_chart_per_policy() -> None:
    greedy = PolicyResult(policy="greedy", domains=[result("vm1", 1.0)])
    smart = PolicyResult(policy="smart-alloc", domains=[result("vm1", 1.0)])
    samples = [sample(0, 1), sample(1, 5)]
    text = text_report(report_of(greedy, smart), samples)
    assert "tmem under greedy" in text
    assert "tmem under smart-alloc" not in text  # it has no samples
    assert text_report(report_of(greedy), samples, unicode=False).isascii()


def test_a_slowdown_that_is_known_is_shown() -> None:
    alone, shared = result("vm1", 1.0), result("vm2", 2.5, slowdown=1.8)
    header, *lines = plain_table(report_of(PolicyResult(policy="greedy", domains=[alone, shared])))
    end = header.index("slowdown") + len("slowdown")
    assert [line[:end].split()[-3:] for line in lines] == [
        ["1.00", "s", "-"],
        ["2.50", "s", "x1.80"],
    ]
