"""Goal: the bench of programs measures what it names, and leaves nothing. Never its times."""

from __future__ import annotations

import os
from array import array
from pathlib import Path

import pytest
from bench_results import assert_left_clean, result_of

from memcoord.benchmarks.harness import Sheet
from memcoord.benchmarks.programs import kernel, plan, views
from memcoord.benchmarks.programs.catalogue import QUICK
from memcoord.benchmarks.programs.plan import FILE, OURS, OURS_ON_FILE, ZRAM
from memcoord.benchmarks.runner import RoundsBench
from memcoord.commands.bench import bench_of
from memcoord.testbed.runs import userfaults

SHARE = QUICK.shares[0]


@pytest.fixture
def paged() -> None:
    """Skips where this machine cannot page programs."""
    obstacle = userfaults.probe().obstacle()
    if obstacle:
        pytest.skip(obstacle)


@pytest.mark.usefixtures("paged")
def test_the_quick_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "p"
    result = result_of("programs", out, capsys, quick=True)
    rows = set(result["rows"])
    wanted = {plan.cpu(name, side) for name in QUICK.programs for side in ("native", OURS)}
    wanted |= {plan.wall(name, SHARE, OURS) for name in QUICK.programs}
    wanted |= {plan.wall(name, SHARE, OURS_ON_FILE) for name in QUICK.on_file}
    wanted |= {plan.touch(order, OURS) for order in plan.ORDERS}
    wanted |= {plan.START_PLAIN, plan.START_DOMAIN, plan.START_COMMAND, plan.FALL}
    wanted |= {plan.fault(OURS)}
    assert wanted <= rows
    assert (plan.touching(2) in rows) == (len(os.sched_getaffinity(0)) > 1)
    skipped = set(result["skipped"])
    assert (plan.touch("uniform", ZRAM) in rows) == (ZRAM not in skipped)
    assert {plan.START_MS, plan.FALL_MS, plan.ABOVE, plan.ABOVE_OUTSIDE} <= set(result["ratios"])
    assert f"{plan.fault(OURS)}/zram recorded elsewhere" in result["ratios"]
    assert set(result["targets"]) == set(plan.PLAN.targets)
    assert_left_clean(out)
    titles = [table.title for table in views.tables(result)]
    assert len(titles) == 5
    assert not list(Path("/sys/fs/cgroup").glob(f"*/memcoord-bench-{os.getpid()}"))


def test_a_machine_without_swap_is_told_and_compared_with_records(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert "root" in kernel.why_no_group()
    sheet = Sheet(plan.PLAN)
    sheet.add(plan.touch("uniform", OURS), array("Q", [4900]).tobytes(), 1)
    assert sheet.ratios() == {f"{plan.touch('uniform', OURS)}/zram recorded elsewhere": 0.5}


def test_a_program_that_the_kernel_kills_is_named_and_not_in_the_mean() -> None:
    sheet = Sheet(plan.PLAN)
    times = {("sort", OURS): 2, ("sort", ZRAM): 4, ("java", OURS): 9, ("objects", OURS): 6,
             ("objects", ZRAM): 3}  # fmt: skip
    for (name, side), seconds in times.items():
        sheet.add(plan.wall(name, 50, side), array("Q", [seconds * 10**9]).tobytes(), 1)
    sheet.facts["killed_by_the_kernel"] = {f"java 50% {ZRAM}": 1}
    assert sheet.ratios()[plan.TIGHT] == pytest.approx(1.0)  # a half, and two
    tight = list(views.tables(sheet.result({})))[1]
    assert next(line for line in tight.lines if line[0] == "java, 50 %")[2] == "killed in 1 runs"


@pytest.mark.parametrize(
    ("limit_mib", "held_mib", "share"), [(100, 100, 0.0), (100, 102, 1.0), (100, 90, 0.0)]
)
def test_above_the_limit(limit_mib: int, held_mib: int, share: float) -> None:
    assert plan.above(limit_mib * plan.MIB, held_mib * plan.MIB) == pytest.approx(share)


def test_the_default_has_five_rounds_and_says_how_long() -> None:
    full = bench_of("programs")
    quick = bench_of("programs", options={"quick": True})
    assert isinstance(full, RoundsBench)
    assert isinstance(quick, RoundsBench)
    assert (full._rounds, quick._rounds) == (5, 1)
    assert full._plan.round_s > quick._plan.round_s > 0
    assert FILE in plan.PLAN.skippable
