"""Goal: pages, figures and traces of ended runs. Method: one simulated run, files by hand."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import memcoord
from hypervisor.public.errors import ConfigError
from memcoord.benchmarks.bursts.bench import burst_row
from memcoord.benchmarks.bursts.recorded import PROGRAMS
from memcoord.cli import app
from memcoord.testbed.archive import bench_page, perfetto, run_page
from memcoord.testbed.archive.columns import BadRunFile
from memcoord.testbed.archive.latencies import by_path, seconds
from memcoord.testbed.archive.moves import moves_of
from memcoord.testbed.archive.over_time import CURVES_MAX, panels
from memcoord.testbed.archive.plots import plot_figure
from memcoord.testbed.archive.run import Run, open_run
from memcoord.testbed.report.figures import Axis, Figure, Line, NoFigures

SCENARIO = """
name = "</script><b>"
memory = "16 MiB"
slack = "2 MiB"
tmem = "4 MiB"
interval_ms = 50
policies = ["greedy", "static-alloc", "ram-max-min"]
"""
DOMAIN = """
[[domain]]
name = "vm{number}"
maxmem = "8 MiB"
ram = "2 MiB"
workload = {{ kind = "loop", size = "700 pages", repeat = 60, resident = "200 pages" }}
"""
VOID = {"meta", "link", "br"}


class Page(HTMLParser):
    """Tags that are open, and everything a browser would fetch or run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [tag] if tag == "script" else []
        self.fetched += [
            f"{name}={value}"
            for name, value in attrs
            if name in ("src", "href") and not (value or "").startswith("data:")
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scenario") / "three.toml"
    path.write_text(SCENARIO + "".join(DOMAIN.format(number=number) for number in (1, 2, 3)))
    return path


@pytest.fixture(scope="module")
def run(scenario: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    where = tmp_path_factory.mktemp("r") / "run"
    return memcoord.simulate(str(scenario), seed=1, run_dir=where)


@pytest.fixture
def command(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run a verb of the command: what it printed; with ``--json``, decoded."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    def call(*words: str) -> Any:
        done = CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    return call


def test_a_saved_run_is_the_one_in_memory(run: Run, scenario: Path) -> None:
    again = memcoord.simulate(str(scenario), seed=1)
    assert run.verdict == again.verdict
    for found, wanted in ((run.table, again.table), (run.series(), again.series())):
        assert list(found) == list(wanted)
        for name, values in wanted.items():
            np.testing.assert_array_equal(found[name], values, err_msg=name)
    assert run.decisions()["rule"].tolist() == again.decisions()["rule"].tolist() != []
    assert again.path is None
    assert run.manifest is not None


def test_its_table_has_a_row_per_policy_and_domain(run: Run) -> None:
    assert sorted(run.policies) == ["greedy", "ram-max-min", "smart-alloc", "static-alloc"]
    assert {len(values) for values in run.table.values()} == {12}
    own = run.table["policy"] == "ram-max-min"
    report = next(one for one in run.report.policies if one.policy == "ram-max-min")
    assert run.table["disk_reads"][own].sum() == report.disk_reads.value
    assert np.isnan(run.table["seconds_against_greedy"][run.table["policy"] == "greedy"]).all()


def test_its_ticks_are_in_bytes_and_add_up_to_the_host(run: Run) -> None:
    ticks = run.series("greedy")
    sums = sum(ticks[f"host_{name}_bytes"] for name in ("free", "installed", "tmem"))
    assert (sums <= 16 << 20).all()
    assert set(ticks["ram_bytes"].tolist()) == {2 << 20}
    assert np.isinf(ticks["tmem_target_bytes"]).all()
    moved = run.series("ram-max-min")
    assert len(np.unique(moved["ram_bytes"])) > 1


def test_a_share_of_time_is_one_at_most(run: Run) -> None:
    waits = run.rate("stall_s", window_s=0.2)["per_s"]
    assert np.nanmax(waits) <= 1.0
    assert np.nanmax(waits) > 0.1
    with pytest.raises(ConfigError, match="no 'nothing' here"):
        run.rate("nothing")


def test_a_policy_goes_by_its_name_before_the_colon(run: Run) -> None:
    assert len(run.series("static-alloc")["tick"])
    with pytest.raises(ConfigError, match="'nobody' names 0 policies"):
        run.series("nobody")


def test_the_page_needs_nothing_else_and_is_the_same_twice(run: Run) -> None:
    text = run_page.document(run)
    assert text == run_page.document(open_run(run.path))
    page = Page(text)
    assert page.fetched == []
    assert run.verdict[0] in page.words
    assert page.words.index(run.verdict[0]) < page.words.index("Results")
    assert f"</script><b>: {', '.join(run.policies)}" in page.words
    assert {"RAM held, MiB", "tmem held, MiB", "time spent waiting for memory, %"} <= {*page.words}
    assert text.count("<svg ") == 4 * 4
    assert len(text.encode()) < 300_000
    assert run._repr_html_() in text


def test_all_policies_of_a_quantity_have_one_scale(run: Run) -> None:
    found = panels([(name, run.series(name)) for name in run.policies])
    for name, of_quantity in found.items():
        assert len({(one.top, one.end_s) for one in of_quantity}) == 1, name
        assert [one.policy for one in of_quantity] == run.policies
        for one in of_quantity:
            assert all(
                np.nanmax(line.values) <= one.top for line in one.lines if not line.is_target
            )
    aims = [line for one in found["tmem"] for line in one.lines if line.is_target]
    assert {line.name for line in aims} == {"vm1 target", "vm2 target", "vm3 target"}


def test_ram_that_did_not_move_is_said_and_not_drawn(run: Run) -> None:
    assert "ram" not in panels([("greedy", run.series("greedy"))])


def test_many_domains_are_a_map_and_an_hour_of_them_is_small() -> None:
    count, domains = 36_000, 64
    assert domains > CURVES_MAX
    rng = np.random.default_rng(1)
    time_s = np.arange(count) * 0.1
    own = {"ram_bytes": rng.integers(1, 64, count) * 1048576.0, "stall_s": time_s * 0.7}
    ticks = {
        "domain": np.repeat([f"vm{number:02}" for number in range(domains)], count),
        "time_s": np.tile(time_s, domains),
        **{name: np.tile(values, domains) for name, values in own.items()},
    }
    drawn = "".join(run_page.course_pictures([("greedy", ticks)]))
    assert "vm63" in drawn
    assert len(drawn.encode()) < 2_000_000


def test_a_domain_that_a_policy_never_saw_keeps_its_row() -> None:
    names = [f"vm{number:02}" for number in range(CURVES_MAX + 1)]

    def ticks(domains: list[str]) -> dict[str, np.ndarray]:
        own = {"time_s": np.arange(9.0), "stall_s": np.arange(9.0) / 2}
        tiled = {column: np.tile(values, len(domains)) for column, values in own.items()}
        return {"domain": np.repeat(domains, 9), **tiled}

    drawn = "".join(run_page.course_pictures([("a", ticks(names)), ("b", ticks(names[1:]))]))
    assert drawn.count(">vm00<") == drawn.count(">vm01<") == 2
    assert "A line per domain" in drawn


def test_two_runs_are_set_against_each_other(
    run: Run, scenario: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    change = {"tmem": "2 MiB"}
    other = memcoord.simulate(
        str(scenario), ["greedy"], seed=1, alone=False, settings=change, run_dir=tmp_path / "b"
    )
    out = tmp_path / "two.html"
    done = command("report", str(run.path), str(other.path), "--out", str(out))
    page = Page(out.read_text())
    assert done == {"page": str(out), "bytes": out.stat().st_size}
    assert page.fetched == []
    assert "Under greedy, B against A: no difference shown." in page.words
    assert {"greedy, A", "greedy, B"} <= {*page.words}


def test_the_page_of_a_run_lies_beside_it(run: Run, command: Callable[..., Any]) -> None:
    assert run.path is not None
    assert command("report", str(run.path))["page"] == str(run.path / "report.html")


def test_a_run_that_is_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="no finished run below"):
        open_run()
    with pytest.raises(ConfigError, match="no such directory, nor a run of that name"):
        open_run("nowhere")
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(BadRunFile, match=r"report\.json"):
        open_run(tmp_path)


def bench_result() -> dict[str, Any]:
    row = {"unit": "ns", "count": 50, "p50": 5.8, "p90": 10.8, "p99": None, "p999": None}
    row |= {"max": 5390.0, "p50_low": 5.5, "p50_high": 6.1}
    rival = row | {"p50": 36.6, "p90": 66.4, "p99": 74.0, "count": 44_000}
    target = {"must": 2.0, "aim": 1.0, "measured": 0.158, "reached": "aim"}
    return {
        "bench": "grant",
        "machine": {"cpu": "EPYC", "warnings": ["few cores"]},
        "rows": {"local": row, "malloc": rival, "alone": rival},
        "ratios": {"local/malloc": 0.158},
        "targets": {
            "local/malloc": target,
            "slow": target | {"measured": 3.0, "reached": "missed"},
        },
    }


def test_a_bench_is_drawn_beside_its_rival_and_no_quantile_is_made_up() -> None:
    page = Page(bench_page.document(bench_result()))
    assert "1 of 2 targets are kept, 1 in full." in page.words
    assert {"Missed: slow.", "Careful: few cores.", "x0.16", "5.80 ns", "36.6 ns"} <= {*page.words}
    assert page.words.count("too few") == 2 + 1 + 1
    assert page.words.index("local") < page.words.index("malloc")


def test_a_bench_without_times_has_its_tables() -> None:
    result = {"bench": "cheats", "rows": [{"cheat": "x<y", "grants": 0.5, "damage": False}], "n": 3}
    page = Page(bench_page.document(result))
    assert {"x<y", "0.5", "no", "n: 3"} <= {*page.words}


def test_the_json_of_a_bench_is_shown_where_it_lies(
    tmp_path: Path, command: Callable[..., Any]
) -> None:
    path = tmp_path / "grant.json"
    path.write_text(json.dumps(bench_result()))
    assert command("report", str(path))["page"] == str(tmp_path / "grant.html")
    assert command("report", str(tmp_path))["page"] == str(tmp_path / "report.html")
    path.write_text("{}")
    with pytest.raises(BadRunFile, match="not the JSON of a bench"):
        command("report", str(path))


def test_a_sweep_is_a_map_of_policies_against_scenarios(
    tmp_path: Path, command: Callable[..., Any]
) -> None:
    heads = "world,scenario,policy,fair.P,seed,worst_slowdown,mean_slowdown,swap_ins,error"
    rows = [
        f"sim,{scenario},{policy},{p},{seed},{worst + seed / 10},{worst / 2},{100 * worst},"
        for scenario, policy, p, worst in (
            ("main", "greedy", "", 8),
            ("main", "fair", 2, 2),
            ("usemem", "greedy", "", 3),
            ("usemem", "fair", 2, 4),
        )
        for seed in (1, 2)
    ]
    (tmp_path / "results.csv").write_text("\n".join([heads, *rows, ""]))
    found = memcoord.open_sweep(tmp_path)
    assert len(found.table["seed"]) == 8
    assert found.verdict[1] == "Nowhere far from the best: fair:P=2, at most x1.32 of it."
    page = Page(Path(command("report", str(tmp_path))["page"]).read_text())
    assert {"greedy", "fair:P=2", "main", "usemem", "8.15", "2.15"} <= {*page.words}


def test_a_figure_has_its_data_beside_it(run: Run, tmp_path: Path) -> None:
    figure, data = run.plot(tmp_path / "fig.svg", "tmem")
    text = figure.read_text()
    assert all(word in text for word in ("tmem held", "vm3 target", *run.policies))
    with data.open() as file:
        rows = list(csv.DictReader(file))
    assert {row["policy"] for row in rows} == set(run.policies)
    vm1 = [row for row in rows if row["policy"] == "greedy" and row["line"] == "vm1"]
    held = run.series("greedy")
    held_mib = held["tmem_bytes"][held["domain"] == "vm1"] / (1 << 20)
    assert [float(row["value"]) for row in vm1] == held_mib.tolist()


@pytest.mark.parametrize("suffix", [".svg", ".pdf", ".png"])
def test_the_same_figure_gives_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    figure = Figure([Line("held", [(0.0, 1.0), (1.0, 2.0)], 0)], Axis("s"), Axis("MiB"))
    written = [plot_figure(figure, tmp_path / f"{name}{suffix}") for name in "ab"]
    (a, data), (b, _) = written
    assert a.read_bytes() == b.read_bytes() != b""
    assert data.read_text() == "line,s,MiB\nheld,0.0,1.0\nheld,1.0,2.0\n"


def test_what_cannot_be_drawn_is_said(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"ends in \.pdf, \.svg, \.png"):
        run.plot(tmp_path / "fig.gif")
    with pytest.raises(ConfigError, match="'pie' is unknown: choose course, ram"):
        run.plot(tmp_path / "fig.svg", "pie")
    with pytest.raises(ConfigError, match="no latencies were kept"):
        run.plot(tmp_path / "fig.svg", "latency")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(NoFigures, match=r"pip install 'memcoord\[figures\]'"):
        run.plot(tmp_path / "fig.svg")


def test_the_outcome_of_all_policies_is_drawn_by_the_command(
    run: Run, tmp_path: Path, command: Callable[..., Any]
) -> None:
    out = tmp_path / "outcome.svg"
    done = command("plot", str(run.path), "--what", "outcome", "--out", str(out))
    assert done["files"] == [str(out), str(out.with_suffix(".csv"))]
    assert "worst slowdown" in out.read_text()


def test_a_run_is_a_trace_with_a_track_per_domain(
    run: Run, tmp_path: Path, command: Callable[..., Any]
) -> None:
    out = tmp_path / "trace.json"
    done = command("trace", "perfetto", str(run.path), "--out", str(out))
    events = json.loads(out.read_text())["traceEvents"]
    assert done["events"] == len(events)
    names = {e["args"]["name"] for e in events if e["ph"] == "M"}
    assert {"ticks", "vm1", "vm2", "vm3", *run.policies} == names
    lives = [e for e in events if e["ph"] == "X"]
    assert len(lives) == 3 * len(run.policies)
    assert all(event["dur"] > 0 and event["args"]["state"] == "done" for event in lives)
    assert [e["ts"] for e in events if e.get("cat") == "tick"]
    decided = [event for event in events if event.get("cat") == "decision"]
    assert decided
    assert all(event["args"]["rule"] for event in decided)
    counters = {event["name"] for event in events if event["ph"] == "C"}
    assert {"vm1 RAM, MiB", "vm1 tmem, MiB", "vm1 waits, %", "host memory, MiB"} <= counters
    for event in events:
        assert event["ph"] == "M" or event["ts"] >= 0


def test_latencies_and_decisions_of_a_real_run_are_shown(run: Run, tmp_path: Path) -> None:
    """Files as ``memcoord run`` keeps them: targets in pages, counts by bucket."""
    assert run.path is not None
    shutil.copytree(run.path, tmp_path / "run")
    where = {"policy": "greedy", "round": 0, "time_s": 1.0, "domain": "vm1"}
    moved = where | {"tick": 3, "kind": "tmem", "rule": "grow", "clamp": "", "asked": None}
    decided = [moved | {"old": -1, "new": 256}, moved | {"old": 256, "new": 512}]
    decided += [moved | {"old": 512, "new": 256, "rule": "shrink", "clamp": "floor"}]
    decided += [{"policy": "greedy", "more": True}]
    counted = [where | {"path": "ring", "word": "host", "counts": {"44": 99, "48": 1}}]
    counted += [where | {"path": "transfer", "word": "guest", "counts": {"50": 3}}]
    for name, rows in (("decisions", decided), ("latency", counted)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "run" / f"{name}.jsonl").write_text(lines)
    found = open_run(tmp_path / "run")
    moves = found.decisions("greedy", "vm1")
    assert moves["old_target_bytes"].tolist() == [np.inf, 1 << 20, 2 << 20]
    assert np.isnan(moves["asked_target_bytes"]).all()
    (only,) = moves_of(moves)
    assert (only.first_bytes, only.last_bytes, only.count, only.turns) == (np.inf, 1 << 20, 3, 2)
    assert only.rules == (("grow", 2), ("shrink (floor)", 1))
    ring, transfer = by_path(found.latencies("greedy"))
    assert (ring.path, ring.word, ring.count, transfer.count) == ("ring", "host", 100, 3)
    low_s = 256e-9 * 2**11
    assert ring.p50 == ring.p99 == pytest.approx(low_s * 1.125)
    assert transfer.p99 is None
    words = Page(run_page.document(found)).words
    assert {"no limit", "grow x2, shrink (floor) x1", "590 µs", "too few", "the host's"} <= {*words}
    names = {event["name"] for event in perfetto.events(found)}
    assert {"tmem no limit -> 1.0 MiB", "vm1 ring, µs"} <= names
    assert found.plot(tmp_path / "latency.svg", "latency")[1].read_text().count("ring,host") == 2


@pytest.mark.parametrize(
    ("value_s", "shown"),
    [
        (5.8e-9, "5.8 ns"),
        (507e-6, "507 µs"),
        (1.36e-3, "1.4 ms"),
        (12.0, "12 s"),
        (None, "too few"),
    ],
)
def test_a_time_has_its_unit_and_all_of_its_digits(value_s: float | None, shown: str) -> None:
    assert seconds(value_s) == shown


def test_the_figure_of_a_bench_is_drawn_from_its_json(
    tmp_path: Path, command: Callable[..., Any]
) -> None:
    rows: dict[str, Any] = {f"hyperalloc {name}": {"held_idle_gib_s": 2.0} for name in PROGRAMS}
    rows[burst_row("hyperalloc")] = {"in_time": {"value": 0.5}}
    path = tmp_path / "bursts.json"
    path.write_text(json.dumps({"bench": "bursts", "rows": rows}))
    out = tmp_path / "bursts.svg"
    command("plot", str(path), "--out", str(out))
    assert "hyperalloc" in out.read_text()
    assert out.with_suffix(".csv").read_text().splitlines()[1] == "hyperalloc,2.0,50.0"
    path.write_text(json.dumps({"bench": "ring", "rows": {}}))
    with pytest.raises(ConfigError, match="bench ring has no figure"):
        command("plot", str(path), "--out", str(out))


@pytest.mark.process
def test_a_program_runs_processes_as_the_command_does(scenario: Path, short_path: Path) -> None:
    where = short_path / "run"
    change = {"domain[0].workload.repeat": 2}
    run = memcoord.run(
        str(scenario), ["static-alloc"], settings=change, repeat=1, alone=False, run_dir=where
    )
    assert (run.path, run.policies) == (where, ["static-alloc"])
    assert run.table["state"].tolist() == ["done"] * 3
    assert run.table["references"].tolist() == [2 * 700, 60 * 700, 60 * 700]
    assert set(run.decisions()["kind"].tolist()) == {"tmem"}
    assert run.series("static-alloc")["references"].max() <= 60 * 700
    assert Page(run_page.document(run)).fetched == []
