"""``bench bursts``, run once against real processes, its demand, and the loop that follows it."""

from __future__ import annotations

import sys
from array import array
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
from bench_results import assert_left_clean, result_of

from hypervisor.public.backend import DomainSpec
from hypervisor.public.errors import ConfigError
from hypervisor.public.units import AREA_FRAMES
from memcoord.benchmarks import tables
from memcoord.benchmarks.bursts import bench as bursts
from memcoord.benchmarks.bursts import demand as series_of
from memcoord.benchmarks.bursts.bench import CANDIDATES, LIMITS_NS, MISSED_NS
from memcoord.benchmarks.bursts.demand import PEAK_AREAS, SERIES, SPAN_S, bounded, demand
from memcoord.benchmarks.bursts.recorded import PROGRAMS, replay, replay_of
from memcoord.benchmarks.harness import Row, Sheet
from memcoord.benchmarks.lab import Lab
from memcoord.benchmarks.mechanisms.stage import Stage
from memcoord.commands.bench import write_page
from memcoord.testbed.report.figures import Axis, Figure, Line, NoFigures, svg
from memcoord.testbed.runs import rundir
from memcoord.testbed.traces.demand import DemandTrace

pytestmark = [pytest.mark.timeout(180), pytest.mark.process]


@pytest.mark.parametrize("series", SERIES)
def test_a_series_stays_within_its_bounds_and_comes_from_its_seed(series: str) -> None:
    for seed in range(20):
        steps = demand(series, seed)
        assert steps == demand(series, seed)
        assert [at for at, _ in steps] == sorted(at for at, _ in steps)
        assert steps[0][0] >= 0
        assert steps[-1][0] <= SPAN_S * 1e9
        levels = list(accumulate(areas for _, areas in steps))
        assert min(levels) >= 0
        assert max(levels) <= PEAK_AREAS
        assert levels[-1] == 0
        assert sum(areas > 0 for _, areas in steps) >= 8
    assert demand(series, 0) != demand(series, 1)
    with pytest.raises(ValueError, match="none of media, social"):
        demand("nothing", 0)


def test_bursts_are_heavy_tailed() -> None:
    """Few of the requests of a feed are for most of its memory: Pareto below 1.5."""
    sizes = sorted((areas for seed in range(20) for _, areas in demand("social", seed)), key=abs)
    wanted = [areas for areas in sizes if areas > 0]
    assert sum(wanted[-len(wanted) // 5 :]) > 0.4 * sum(wanted)


def test_who_finds_no_room_does_not_come() -> None:
    whole = (0.1, 0.3, PEAK_AREAS)
    refused, late = (0.2, 0.25, 1), (0.35, 9.0, 2)
    assert bounded([whole, refused, late]) == [
        (100_000_000, PEAK_AREAS),
        (300_000_000, -PEAK_AREAS),
        (350_000_000, 2),
        (round(SPAN_S * 1e9), -2),
    ]


def test_without_recorded_data_a_walk_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(series_of, "EXCERPT", "is_not_there.csv.xz")
    assert series_of.excerpt(0) == []
    assert sum(areas for _, areas in demand("bitbrains", 3)) == 0


def test_every_mechanism_is_put_to_every_series(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bursts, "demand", lambda series, seed: demand(series, seed)[:12])
    monkeypatch.setattr(bursts, "FULL", bursts.Sizes(programs=("player",), window_s=0.1))
    result = result_of("bursts", tmp_path / "b", capsys)
    assert result["skipped"] == []
    for series in SERIES:
        wanted = sum(areas > 0 for _, areas in demand(series, 0)[:12])
        for candidate in CANDIDATES:
            row = result["rows"][f"{candidate.name} {series}"]
            assert row["count"] == wanted
            shares = [row[key] for key in LIMITS_NS]
            assert shares == sorted(shares)
            assert row["missed"] == pytest.approx(1 - shares[-1])
            assert row["touched_p99_ns"] >= row["granted_p99_ns"] > 0
            assert row["held_idle_gib_s"] >= 0
    for candidate in CANDIDATES:
        of_all = result["rows"][bursts.burst_row(candidate.name)]
        assert of_all["count"] == len(replay("player", 0.1).bursts) > 0
        assert 0 <= of_all["in_time"]["value"] <= 1
        assert of_all["in_time"] == result["rows"][f"{candidate.name} bursts of player"]["in_time"]
    held = result["rows"]["held player"]["held_idle_gib_s"]
    assert held > result["rows"]["balloon player"]["held_idle_gib_s"]
    document = tmp_path / "p.md"
    document.write_text(f"{tables.begin('measured')}\n{tables.end('measured')}\n")
    write_page(tmp_path / "b" / "bursts.json", document)
    assert document.read_text().count("| direct credit 4 |") == len(SERIES) + 4
    assert "hyperalloc" in (tmp_path / "bursts.svg").read_text()
    assert_left_clean(tmp_path / "b")


def _trace(*rows: tuple[int, int]) -> DemandTrace:
    """Times in ms and KiB."""
    t_us, kib = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    ones = np.ones(len(rows), np.int64)
    return DemandTrace(t_us * 1000, 1000 * ones, kib, 0 * ones, ones)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_recorded_program_wants_what_it_wanted_within_the_bounds(program: str) -> None:
    made = replay(program, 1.0)
    levels = list(accumulate(areas for _, areas in made.steps))
    assert min(levels) >= 0
    assert max(levels) == made.peak_areas <= 160
    assert levels[-1] == 0
    assert made.bursts
    assert 0 < made.scale <= 1
    requests = sum(areas > 0 for _, areas in made.steps)
    assert all(0 <= own.start < own.stop <= requests for own, _ in made.bursts)
    assert all(bound >= 1_000_000 for _, bound in made.bursts)


def test_a_burst_is_in_time_when_its_longest_wait_is_short_for_it() -> None:
    """Two bursts of 8 MiB: in 40 ms, and at once; 2 MiB are given back between them."""
    slow = [(10 * step, 1024 + 2048 * step) for step in range(5)]
    made = replay_of(_trace((0, 1024), *slow[1:], (100, 3000), (200, 11_264), (300, 100)), 1.0)
    assert [(own.stop - own.start, bound) for own, bound in made.bursts] == [
        (4, 3_100_000),
        (1, 1_000_000),
    ]
    waits = np.array([9_000_000, 1, 3_000_000, 2, 3, 1_000_001], np.uint64)
    assert list(made.stalls(waits)) == [3_000_000, 1_000_001]
    assert made.in_time(made.stalls(waits)) == 0.5
    with pytest.raises(ValueError, match="no burst"):
        replay_of(_trace((0, 1024), (1, 2000)), 1.0)


def test_a_page_without_markers_is_left_alone(tmp_path: Path) -> None:
    document, result = tmp_path / "p.md", tmp_path / "r.json"
    document.write_text("nothing")
    result.write_text('{"bench": "bursts"}')
    with pytest.raises(ConfigError, match="no <!-- measured"):
        write_page(result, document)
    assert document.read_text() == "nothing"


def test_what_is_not_granted_in_time_is_missed() -> None:
    raw = array("Q", [5_000, 0, MISSED_NS + 1, 50_000_000]).tobytes()
    row = Row(1, "", {"touched_ns": [bursts.waits(raw)], "held_gib_s": [1.0, 3.0]})
    row.rounds.append(np.frombuffer(bursts.waits(raw), np.uint64).astype(np.float64))
    bursts.summarise(row)
    assert [row.extra[key] for key in (*LIMITS_NS, "missed")] == [0.25, 0.25, 0.5, 0.5]
    assert row.extra["held_idle_gib_s"] == 2.0


def test_a_request_that_cannot_be_served_is_given_up_and_its_release_too(tmp_path: Path) -> None:
    """Six areas where there are four: the second request is missed, the third finds room."""
    spec = DomainSpec("vm1", 4 * AREA_FRAMES, 4 * AREA_FRAMES, 4 * AREA_FRAMES, credit_areas=0)
    run = rundir.create("test-bursts", path=str(tmp_path / "run"))
    with Lab(run) as lab, Stage(8, 0, "", "") as stage:
        vm = stage.guest(lab.remote("vm1", bursts.GUEST), spec)
        steps = [(0, 3), (1000, 3), (2000, -3), (3000, 1), (4000, -4), (90_000_000, 4)]
        granted, touched = vm.ask(
            "demand", steps=steps, asks=False, plea_fd=-1, missed_ns=20_000_000
        )
        waits = np.frombuffer(granted, np.uint64), np.frombuffer(touched, np.uint64)
        assert [bool(wait) for wait in waits[0]] == [True, False, True, True]
        assert (waits[0] <= waits[1]).all()
        assert waits[0][2] > 15_000_000  # it was due while the one before still waited
        assert vm.ask("take", limit=9 * AREA_FRAMES, asks=False)[0] == 4 * AREA_FRAMES
    run.finish("finished")


def test_a_figure_places_what_it_is_given_and_is_the_same_each_time() -> None:
    lines = [Line("a < b", [(0, 1), (1, 1000)], 0), Line("c", [(1, 10)], 1, is_dashed=True)]
    figure = Figure(lines, Axis("n", names=("0", "8")), Axis("us", is_log=True))
    text = svg(figure)
    assert text == svg(figure)
    assert text.startswith("<?xml")
    for wanted in ("a &lt; b", ">8<", ">us<", "stroke-dasharray"):
        assert wanted in text


def test_without_matplotlib_a_figure_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(NoFigures, match=r"pip install 'memcoord\[figures\]'"):
        svg(Figure([], Axis("n"), Axis("us")))


def test_ratios_are_to_the_domain_that_asks_for_nothing_special() -> None:
    sheet = Sheet(bursts.PLAN)
    for name, p99 in (("direct credit 1", 2), ("hyperalloc", 6)):
        row = sheet.add(f"{name} media", array("Q", [1]).tobytes(), 1)
        row.extra |= {"granted_p99_ns": p99, "held_idle_gib_s": 0.0}
    assert sheet.ratios() == {"hyperalloc/direct credit 1 media p99": 3.0}
