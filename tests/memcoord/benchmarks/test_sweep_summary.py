"""Goal: a sweep's summary says how sure it is, and what its cells are. Method: rows by hand."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from memcoord.benchmarks.sweep.cell import Cell
from memcoord.benchmarks.sweep.grid import Grid, SweepTable, cells_of
from memcoord.benchmarks.sweep.summary import as_csv, counted, summarise, text, write_summary
from memcoord.benchmarks.sweep.table import RunRow


def row(policy: str, seed: int, slowdown: float, reads: float, **more: str | float) -> RunRow:
    figures = {"worst_slowdown": slowdown, "mean_slowdown": slowdown / 2}
    counts = {"swap_ins": reads, "file_reads": 1.0}
    where = {"world": "sim", "scenario": "loop", "policy": policy, "seed": str(seed), "error": ""}
    return {**where, **figures, **counts, **more}


P2 = {"fallow.P": "2"}
ROWS = [
    *(row("greedy", seed, 4.0 + seed / 10, 100.0 * seed) for seed in (1, 2, 3)),
    *(row("fallow", seed, 2.0 + seed / 20, 100.0 * seed, **P2) for seed in (1, 2, 3)),
]


def test_runs_that_differ_by_their_seed_are_one_line_beside_greedy() -> None:
    lines = {(line.policy, line.figure): line for line in summarise(ROWS)}
    assert {policy for policy, _ in lines} == {"greedy", "fallow:P=2"}
    worst = lines["fallow:P=2", "worst_slowdown"]
    assert worst.value.n == 3
    assert worst.value.low is not None
    assert worst.against is not None
    assert worst.against.value == pytest.approx(0.5)
    assert worst.against.verdict == "better"
    reads = lines["fallow:P=2", "disk_reads"]
    assert reads.value.value == pytest.approx(201.0)
    assert reads.against is not None
    assert (reads.against.value, reads.against.verdict) == (1.0, "no difference shown")
    assert lines["greedy", "disk_reads"].against is None


def test_a_seed_that_greedy_has_not_is_left_out_of_the_ratio() -> None:
    lines = summarise([*ROWS, row("fallow", 4, 99.0, 5.0, **P2)])
    worst = next(one for one in lines if one.policy != "greedy" and one.figure == "worst_slowdown")
    assert (worst.value.n, worst.against and worst.against.n) == (4, 3)


def test_settings_are_situations_of_their_own(tmp_path: Path) -> None:
    rows = [
        row(policy, 1, 2.0, 7.0, **{"domain[0].ram": ram})
        for ram in ("4 MiB", "8 MiB")
        for policy in ("greedy", "fallow")
    ]
    lines = summarise(rows)
    told = text(lines)
    assert "loop, domain[0].ram=4 MiB, sim, 1 seed" in told
    assert max(map(len, told)) <= 80
    assert any(line.split() == ["fallow", "8", "x1.00"] for line in told)
    found = [*csv.DictReader(write_summary(tmp_path, lines).read_text("utf-8").splitlines())]
    assert len(found) == 2 * 2 * 3
    assert {one["domain[0].ram"] for one in found} == {"4 MiB", "8 MiB"}
    assert [one["ratio"] for one in found if one["figure"] == "disk_reads"] == ["", "1"] * 2


def test_a_difference_that_no_digit_shows_is_none() -> None:
    rows = [row("greedy", seed, 2.0, 1e6) for seed in (1, 2)]
    told = text(summarise([*rows, *(row("fallow", seed, 2.0, 1e6 + 50) for seed in (1, 2))]))
    assert [line.split("x1.00")[1] for line in told if "fallow" in line] == [
        " [1.00, 1.00] the same to 1 %"
    ] * 3
    assert [line.split()[0] for line in told[2:4]] == ["greedy", "fallow"]


def test_a_figure_that_nobody_has_is_not_shown() -> None:
    lines = summarise([row("greedy", 1, float("nan"), 3.0)])
    told = "\n".join(text(lines))
    assert "slowdown" not in told
    assert "a grid needs 'greedy' and another policy" in told
    assert as_csv(lines).splitlines()[1] == "sim,loop,greedy,worst_slowdown,0,,,,,,,"


def cells(**more: tuple[str, ...]) -> list[Cell]:
    table = SweepTable(("greedy", "smart-alloc"), ("loop",), 3)
    return cells_of(Grid(table, {"smart-alloc": {"P": (1, 2)}}, dict(more)))


def test_the_count_of_cells_is_explained() -> None:
    alone = len({cell.domain for cell in cells() if cell.kind == "alone"}) * 3
    assert counted(cells()) == (
        f"{9 + alone} cells: 9 runs (3 policies x 1 scenario x 3 seeds), "
        f"and {alone} of a domain alone, for slowdowns"
    )
    assert "(3 policies x 1 scenario x 2 settings x 3 seeds)" in counted(
        cells(interval_ms=("50", "100"))
    )
