"""A run's verdicts, with stand-ins for hypervisor and domains: who died, what the report says.

The stand-ins behave as their names tell; the real processes are in test_run_real.py.
"""

from __future__ import annotations

import csv
import errno
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from hypervisor.public.errors import ConfigError
from memcoord.commands.run import RunOptions, run_command
from memcoord.testbed.live import hypervisor
from memcoord.testbed.live.statistics_reader import StatisticsReader
from memcoord.testbed.runs.rundir import RunDirError
from policies.base import PolicyError

LIMIT_S = 60.0
HERE = Path(__file__).parent

Run = Callable[..., int]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a scenario with the named domains against a stand-in hypervisor of the named mode."""
    (tmp_path / "tiny.csv").write_text("page,dt,flags\n0,1,1\n1,1,0\n0,1,0\n1,1,1\n")
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    monkeypatch.setattr("memcoord.testbed.live.hypervisor.MODULE", "fake_hypervisor")
    monkeypatch.setattr("memcoord.testbed.live.nurseries.GUEST", "fake_guest")

    def do(
        *domains: str,
        mode: str = "good",
        policies: tuple[str, ...] = ("greedy",),
        more: dict[str, str] | None = None,
        **options: Any,
    ) -> int:
        more = more or {}
        monkeypatch.setenv("FAKE_MODE", mode)
        text = 'name = "fake"\nmemory = "32 MiB"\ninterval_ms = 20\n'
        for name in domains:
            text += f'[[domain]]\nname = "{name}"\nmaxmem = "2 MiB"\nram = "2 MiB"\n'
            text += f'workload = {{kind = "page-trace", trace = "{tmp_path / "tiny.csv"}", '
            text += 'resident = "4 pages"}\n'
            text += more.get(name, "")
        (tmp_path / "fake.toml").write_text(text)
        before = {child.pid for child in psutil.Process().children()}
        made = RunOptions(
            policies=policies,
            as_json=options.pop("as_json", True),
            run_dir=str(tmp_path / "run"),
            alone=options.pop("alone", False),
            **options,
        )
        code = run_command(str(tmp_path / "fake.toml"), made)
        assert {child.pid for child in psutil.Process().children()} <= before
        return code

    return do


def report_in(tmp_path: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((tmp_path / "run" / "report.json").read_text())
    return report


def events_in(tmp_path: Path) -> list[dict[str, Any]]:
    text = (tmp_path / "run" / "events.jsonl").read_text()
    whole = text[: text.rfind("\n") + 1]  # another thread may be writing a line
    return [json.loads(line) for line in whole.splitlines()]


def when_started(tmp_path: Path, process: str, act: Callable[[int], None]) -> threading.Thread:
    """Do ``act`` with the pid of ``process`` as soon as the run has started it."""

    def wait() -> None:
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline:
            if (tmp_path / "run" / "events.jsonl").exists():
                for event in events_in(tmp_path):
                    if event["event"] == "started" and event["process"] == process:
                        act(event["pid"])
                        return
            time.sleep(0.01)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def leftovers(tmp_path: Path) -> list[str]:
    return [
        str(path)
        for path in (tmp_path / "run").rglob("*")
        if path.is_socket() or path.is_symlink() or path.name == "swap"
    ]


def test_a_good_run_reports_every_domain_under_every_policy(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("vm1", "vm2", policies=("greedy", "smart-alloc:P=2")) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed) == report_in(tmp_path)
    policies = report_in(tmp_path)["policies"]
    assert [policy["policy"] for policy in policies] == ["greedy", "smart-alloc:P=2"]
    for policy in policies:
        assert [domain["domain"] for domain in policy["domains"]] == ["vm1", "vm2"]
        assert all(domain["state"] == "done" for domain in policy["domains"])
        assert policy["notices"] == ["NaN for vm1"]
    assert policies[1]["against_baseline"]["disk_reads"]["value"] == 1.0
    assert policies[1]["against_baseline"]["disk_reads"]["verdict"] == "no difference shown"
    with (tmp_path / "run" / "series.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["policy"] for row in rows} == {"greedy", "smart-alloc:P=2"}
    assert rows[-1]["domain"] == "vm1"
    assert int(rows[-1]["tmem_used_pages"]) > 0
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["state"] == "finished"
    assert len(manifest["processes"]) == 1 + 2 * 3
    assert leftovers(tmp_path) == []


def test_rounds_are_interleaved_and_domains_run_alone_beside_them(run: Run, tmp_path: Path) -> None:
    policies = ("greedy", "smart-alloc:P=2")
    assert run("vm1", "vm2", policies=policies, alone=True, repeat=2) == 0
    ready = [e["source"] for e in events_in(tmp_path) if e["event"] == "ready"]
    alone = ["vm1 alone", "vm2 alone"]
    assert ready == [*policies, *alone, *reversed(policies), *alone]
    report = report_in(tmp_path)
    assert report["alone"] == {"vm1": 0.25, "vm2": 0.25}
    for policy in report["policies"]:
        assert policy["worst_slowdown"] == {"value": 1.0, "low": 1.0, "high": 1.0, "n": 2}
        assert policy["mean_slowdown"]["n"] == 2
        assert policy["disk_reads"] == {"value": 2.0, "low": 2.0, "high": 2.0, "n": 2}
        assert [domain["slowdown"] for domain in policy["domains"]] == [1.0, 1.0]
        assert [one["round_index"] for one in policy["rounds"]] == [0, 1]
        assert all(one["load"]["others_cpus"] >= 0 for one in policy["rounds"])
        assert policy["moves_ram"] is False
    with (tmp_path / "run" / "series.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["policy"], row["round"]) for row in rows} <= {
        (name, number) for name in policies for number in "01"
    }


def test_a_domain_that_fails_alone_leaves_no_slowdown_and_fails_the_run(
    run: Run, tmp_path: Path
) -> None:
    assert run("vm1", "wrong", alone=True) == 1
    report = report_in(tmp_path)
    assert "wrong alone: exit code 1" in report["notes"][0]
    assert report["policies"][0]["worst_slowdown"]["value"] is None


def test_seeds_make_rounds(run: Run, tmp_path: Path) -> None:
    assert run("vm1", seeds="3,8") == 0
    rounds = report_in(tmp_path)["policies"][0]["rounds"]
    assert [(one["seed"], one["round_index"]) for one in rounds] == [(3, 0), (8, 1)]


def test_a_pipe_gets_plain_lines(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("vm1", as_json=False) == 0
    captured = capsys.readouterr()
    assert captured.out == (tmp_path / "run" / "report.txt").read_text()
    assert "\x1b" not in captured.out + captured.err
    assert "greedy: running" in captured.err.splitlines()


def test_a_domain_that_fails_is_named_with_its_last_line(run: Run, tmp_path: Path) -> None:
    assert run("wrong", "vm1") == 1
    wrong, good = report_in(tmp_path)["policies"][0]["domains"]
    assert wrong["state"] == "failed"
    assert "wrong content: domain wrong, page 3" in wrong["reason"]
    assert good["state"] == "done"


def test_a_domain_without_a_result_failed(run: Run, tmp_path: Path) -> None:
    assert run("cut", "nested", "binary", "endless", "vm1") == 1
    domains = report_in(tmp_path)["policies"][0]["domains"]
    assert [domain["state"] for domain in domains] == ["failed"] * 4 + ["done"]
    assert all("no result: " in domain["reason"] for domain in domains[:4])


def test_a_killed_domain_does_not_stop_the_run(run: Run, tmp_path: Path) -> None:
    killer = when_started(tmp_path, "sleeper", lambda pid: os.kill(pid, signal.SIGKILL))
    assert run("sleeper", "vm1") == 1
    killer.join(LIMIT_S)
    killed, good = report_in(tmp_path)["policies"][0]["domains"]
    assert (killed["state"], killed["reason"]) == ("killed", "killed by SIGKILL")
    assert good["state"] == "done"
    assert any(e["event"] == "killed" and e["process"] == "sleeper" for e in events_in(tmp_path))


def test_a_killed_hypervisor_ends_the_run_and_its_domains(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memcoord.testbed.live.session.FAREWELL_S", 0.1)

    def kill_hypervisor(pid: int) -> None:
        started = [e for e in events_in(tmp_path) if e["event"] == "started"]
        os.kill(started[0]["pid"], signal.SIGKILL)

    killer = when_started(tmp_path, "sleeper", kill_hypervisor)
    assert run("sleeper") == 1
    killer.join(LIMIT_S)
    policy = report_in(tmp_path)["policies"][0]
    assert policy["error"] == "the hypervisor died: killed by SIGKILL"
    assert policy["domains"][0]["state"] == "stopped"
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("how", ["killed", "cannot start", "full disk"])
def test_after_a_policy_that_broke_the_others_run(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    begin, made = hypervisor.start, list[Any]()

    def start(launcher: Any, *rest: Any) -> Any:
        if not made and how == "cannot start":
            made.append(None)
            raise OSError(errno.EAGAIN, "no process to be had")
        child = begin(launcher, *rest)
        if not made and how == "killed":
            child.process.kill()
        made.append(child)
        return child

    def subscribe(*_: Any) -> None:
        if len(made) == 1 and how == "full disk":
            raise RunDirError(tmp_path, "No space left on device")

    monkeypatch.setattr(hypervisor, "start", start)
    monkeypatch.setattr(
        StatisticsReader, "subscribe", patched(StatisticsReader.subscribe, subscribe)
    )
    assert run("vm1", policies=("greedy", "static-alloc"), alone=True) == 1
    broken, good = report_in(tmp_path)["policies"]
    assert report_in(tmp_path)["alone"].keys() == {"vm1"}
    assert [broken["domains"][0]["state"], good["domains"][0]["state"]] == ["stopped", "done"]
    assert any(word in broken["error"] for word in ("SIGKILL", "no process", "No space"))
    assert good["error"] == ""
    assert leftovers(tmp_path) == []


def patched(method: Callable[..., Any], first: Callable[..., None]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        first(*arguments)
        return method(*arguments)

    return call


def test_a_hypervisor_that_refuses_to_start_says_why(run: Run, tmp_path: Path) -> None:
    assert run("vm1", mode="refuses") == 1
    policy = report_in(tmp_path)["policies"][0]
    assert policy["error"].endswith("exit code 1: hypervisor: total_frames: too few")
    assert policy["domains"][0]["state"] == "stopped"


def test_what_the_hypervisor_has_to_say_to_the_user_is_in_the_report(
    run: Run, tmp_path: Path
) -> None:
    assert run("vm1", mode="compiles") == 0
    notices = report_in(tmp_path)["policies"][0]["notices"]
    assert notices == ["compiled again", "NaN for vm1"]


def test_a_hypervisor_that_ends_badly_is_reported(run: Run, tmp_path: Path) -> None:
    assert run("vm1", mode="ends badly") == 1
    assert "exit code 3" in report_in(tmp_path)["policies"][0]["error"]


def test_a_hypervisor_that_does_not_shut_down_is_ended(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memcoord.testbed.live.hypervisor.ASK_S", 0.1)
    monkeypatch.setattr("memcoord.testbed.runs.launcher.TERM_S", 0.1)
    assert run("vm1", mode="stubborn") == 1
    assert "SIGKILL" in report_in(tmp_path)["policies"][0]["error"]


def test_statistics_that_cannot_be_read_end_the_run(run: Run, tmp_path: Path) -> None:
    assert run("sleeper", mode="publishes garbage") == 1
    assert "cannot be read" in report_in(tmp_path)["policies"][0]["error"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_everything(run: Run, tmp_path: Path, number: signal.Signals) -> None:
    sender = when_started(tmp_path, "sleeper", lambda pid: os.kill(os.getpid(), number))
    assert run("sleeper", policies=("greedy", "static-alloc")) == 128 + number
    sender.join(LIMIT_S)
    report = report_in(tmp_path)
    assert [policy["policy"] for policy in report["policies"]] == ["greedy"]
    assert number.name in report["policies"][0]["error"]
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["state"] == "interrupted"
    assert leftovers(tmp_path) == []


def test_ctrl_c_while_the_hypervisor_starts(run: Run, tmp_path: Path) -> None:
    sender = when_started(tmp_path, "hypervisor", lambda pid: os.kill(os.getpid(), signal.SIGINT))
    assert run("vm1", mode="silent") == 130
    sender.join(LIMIT_S)


def test_a_run_that_stands_still_is_ended(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memcoord.testbed.live.session.STALL_S", 0.3)
    assert run("sleeper") == 1
    assert "no reference was done" in report_in(tmp_path)["policies"][0]["error"]


def test_wrong_policies_are_refused_before_anything_is_made(run: Run, tmp_path: Path) -> None:
    with pytest.raises(PolicyError):
        run("vm1", policies=("no-such-policy",))
    with pytest.raises(ConfigError):
        run("vm1", policies=("greedy", "greedy"))
    assert not (tmp_path / "run").exists()


def test_a_crash_the_scenario_asks_for_is_no_failure(run: Run, tmp_path: Path) -> None:
    crash = {"vm1": "crash_at = 0.25\n"}  # of 4 references, of which 1 is seen done
    assert run("vm1", "vm2", mode="vm1 is to crash", more=crash) == 0
    crashed, done = report_in(tmp_path)["policies"][0]["domains"]
    assert (crashed["state"], crashed["reason"]) == ("crashed as told", "")
    assert crashed["references"] == 1
    assert done["state"] == "done"


def test_a_domain_starts_when_another_has_come_far_enough(run: Run, tmp_path: Path) -> None:
    later = {
        "vm2": 'start_when = {domain = "vm1", done = 0.25}\n',
        "vm3": 'start_when = {domain = "vm2", done = 1.0}\n',  # nothing tells of it but its end
    }
    assert run("vm1", "vm2", "vm3", more=later) == 0
    events = [(e["event"], e["process"]) for e in events_in(tmp_path) if e.get("process")]
    at = {event: place for place, event in enumerate(events)}
    # All processes wait before the first goes, and a late one goes when its time has come.
    assert max(at["started", name] for name in ("vm1", "vm2", "vm3")) < at["go", "vm1"]
    assert at["go", "vm1"] < at["go", "vm2"] < at["done", "vm2"] < at["go", "vm3"]
    # vm1 could not be over before vm2 had begun, however late anybody looked.
    assert at["go", "vm2"] < at["done", "vm1"]


def test_a_domain_that_is_never_ready_ends_the_run(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memcoord.testbed.live.session.GATHER_S", 0.3)
    assert run("vm1", "slow") == 1
    policy = report_in(tmp_path)["policies"][0]
    assert "were not ready" in policy["error"]
    assert all(domain["state"] == "stopped" for domain in policy["domains"])


def test_another_overlap_than_the_scenarios_is_reported(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    later = {"vm2": 'start_when = {domain = "vm1", done = 0.25}\n'}
    assert run("vm1", "vm2", mode="vm1 is over at once", more=later, as_json=False) == 0
    (text,) = report_in(tmp_path)["policies"][0]["overlap"]
    assert text == "vm2 was to start with vm1 at 25%, and started with it at 100%"
    assert text in capsys.readouterr().out


def test_a_policy_that_never_decides_is_a_failed_run(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("vm1", mode="policy fails", as_json=False) == 1
    assert "greedy: the policy failed at every one of" in capsys.readouterr().out
    policy = report_in(tmp_path)["policies"][0]
    assert policy["policy_faults"] > 0
    assert policy["domains"][0]["state"] == "done"


def test_the_streams_of_a_run_are_made_once_for_all_its_rounds(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[object] = []

    def length_of(workload: object, seed: int) -> int:
        made.append(workload)
        return 4

    monkeypatch.setattr("memcoord.commands.run.length_of", length_of)
    assert run("vm1", "vm2", policies=("greedy", "static-alloc"), repeat=2) == 0
    assert len(made) == 2
