"""What surrounds a run and may not break it: a policy file that prints, a full disk, nohup.

The run under a policy is a stand-in; the real one is in test_run_real.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hypervisor.config import HypervisorConfig
from hypervisor.public.errors import ConfigError
from memcoord.commands.run import RunOptions, run_command
from memcoord.testbed.live.hypervisor_main import serve
from memcoord.testbed.report.results import DomainResult, PolicyResult
from memcoord.testbed.runs.launcher import Interrupts
from memcoord.testbed.runs.rundir import RunDir, RunDirError
from memcoord.testbed.streams import lengths_of

MIN_POLICY = "class Mine:\n    def plan(self, view): ...\n"

Run = Callable[..., int]


class GoodRun:
    """Stands in for ``PolicyRun``: one domain, done."""

    def __init__(self, *arguments: object, **options: object) -> None:
        self._policy = str(arguments[1])

    def execute(self) -> PolicyResult:
        return PolicyResult(policy=self._policy, domains=[DomainResult(domain="vm1", workload="w")])


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr("memcoord.commands.run.PolicyRun", GoodRun)
    monkeypatch.setattr("memcoord.commands.run.lengths_of", lambda scenario, length: {"vm1": 1})

    def do(policy: str = "greedy", as_json: bool = True) -> int:
        return run_command(None, RunOptions([policy], as_json, str(tmp_path / "run"), alone=False))

    return do


def test_what_a_policy_file_prints_does_not_mix_with_the_report(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(f"print('hello')\n{MIN_POLICY}")
    assert run(f"{tmp_path / 'mine.py'}:Mine") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["exit_code"] == 0
    assert "hello" in err


def test_a_disk_that_is_full_at_the_end_does_not_cost_the_report(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def write(self: RunDir, name: str, data: bytes) -> Path:
        raise RunDirError(self.path, f"{name}: No space left on device")

    def finish(self: RunDir, state: str) -> None:
        raise RunDirError(self.path, "manifest.json: No space left on device")

    monkeypatch.setattr(RunDir, "write", write)
    monkeypatch.setattr(RunDir, "finish", finish)
    assert run() == 1
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert report["exit_code"] == 1
    assert "No space left" in report["error"]
    assert report["policies"][0]["domains"][0]["state"] == "done"


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert interrupts.received is None
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.process
def test_without_tmem_domains_swap_to_disk_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "round.csv"
    trace.write_text("page,dt,flags\n" + "".join(f"{i % 8},1,1\n" for i in range(64)))
    scenario = tmp_path / "none.toml"
    scenario.write_text(
        f"""
name = "none"
memory = "8 MiB"
slack = "2 MiB"
tmem = 0
[[domain]]
name = "vm1"
maxmem = "2 MiB"
ram = "2 MiB"
workload = {{ kind = "page-trace", trace = "{trace}", resident = "4 pages" }}
"""
    )
    options = RunOptions(["greedy"], as_json=True, run_dir=str(tmp_path / "run"), alone=False)
    assert run_command(str(scenario), options) == 0
    domain = json.loads(capsys.readouterr().out)["policies"][0]["domains"][0]
    assert domain["state"] == "done"
    assert domain["pages_verified"] == 56
    assert domain["swap_ins"] > 0
    assert domain["tmem_hits"] == 0


def test_ctrl_c_that_an_import_swallows_still_ends_the_hypervisor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def swallow() -> None:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("memcoord.testbed.runs.hiding.hide", swallow)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert serve(HypervisorConfig(total_frames=2048, tmem_max_pages=0), tmp_path) == 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_stream_that_cannot_be_made_leaves_no_run_behind(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def length(*_: object) -> int:
        raise ConfigError("workload.repeat", "makes more than that")

    monkeypatch.setattr("memcoord.commands.run.lengths_of", lengths_of)
    monkeypatch.setattr("memcoord.commands.run.length_of", length)
    with pytest.raises(ConfigError, match=r"domain vm1: workload\.repeat: makes more"):
        run()
    assert not (tmp_path / "run").exists()
