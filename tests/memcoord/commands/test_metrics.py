"""``memcoord metrics``: printed once; served by a process; dashboard and alerts without a run."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from published_feed import PublishedFeed
from typer.testing import CliRunner

from hypervisor.public.errors import ConfigError
from memcoord.cli import app
from memcoord.commands.metrics import MetricsOptions, metrics_command
from memcoord.testbed.metrics import table
from memcoord.testbed.metrics.alerts import ALERTS
from memcoord.testbed.metrics.exposition import NoMetrics
from memcoord.testbed.runs import rundir

WAIT_S = 60.0
MAIN = [sys.executable, "-P", "-c", "from memcoord.__main__ import main; main()", "metrics"]


def test_once_prints_all_of_it(live: rundir.RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    with PublishedFeed(live.path):
        assert metrics_command(str(live.path), MetricsOptions(is_once=True)) == 0
    out = capsys.readouterr().out
    assert "memcoord_up 1.0" in out
    assert f'run="{live.path.name}"' in out
    assert 'memcoord_domain_grant_seconds_count{domain="vm1",path="ring",word="guest"}' in out


def test_once_of_a_run_that_is_over_says_so_at_once(
    short_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = rundir.create("main", base=short_path)
    run.finish("finished")
    assert metrics_command(str(run.path), MetricsOptions(is_once=True)) == 1
    assert "memcoord_up 0.0" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="is over"):
        metrics_command(str(run.path), MetricsOptions())


@pytest.mark.process
def test_a_process_serves_a_run_and_says_when_it_is_silent(live: rundir.RunDir) -> None:
    secret = live.path / "secret"
    command = [*MAIN, str(live.path), "--port", "0", "--token-file", str(secret)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        told = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/metrics", told)
        assert found, told
        assert str(secret) in told
        request = urllib.request.Request(found[0])
        request.add_header("Authorization", f"Bearer {secret.read_text().strip()}")

        def wait_for(word: str) -> str:
            until = time.monotonic() + WAIT_S
            while True:
                with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
                    text: str = answer.read().decode()
                if word in text:
                    return text
                assert time.monotonic() < until, text
                time.sleep(0.05)

        with PublishedFeed(live.path):
            assert 'memcoord_domain_ram_bytes{domain="vm1"}' in wait_for("memcoord_up 1.0")
        assert "memcoord_domain" not in wait_for("memcoord_up 0.0")
        with PublishedFeed(live.path):
            wait_for("memcoord_up 1.0")
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_S) == 0
    finally:
        process.kill()
        process.communicate()


def test_it_is_said_what_to_install(live: rundir.RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(NoMetrics, match=r"pip install 'memcoord\[metrics\]'"):
        metrics_command(str(live.path), MetricsOptions(is_once=True))


def test_a_dashboard_and_alerts_need_neither_a_run_nor_a_library() -> None:
    code = "import sys; sys.modules['prometheus_client'] = None; " + MAIN[3]
    found = {}
    for what in ("--dashboard", "--alerts"):
        done = subprocess.run(
            [sys.executable, "-P", "-c", code, "metrics", what],
            capture_output=True, text=True, timeout=WAIT_S, check=False,
            env=os.environ | {"XDG_STATE_HOME": "/nowhere"},
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        found[what] = done.stdout
    assert json.loads(found["--dashboard"])["title"] == "memcoord"
    assert "alert: MemcoordDomainStarved" in found["--alerts"]


@pytest.mark.parametrize(
    "words", [["--port", "70000"], ["--dashboard", "--alerts"], ["--no-token", "--token-file", "x"]]
)
def test_a_wrong_option_is_refused(words: list[str]) -> None:
    done = CliRunner().invoke(app, ["metrics", *words])
    assert done.exit_code == 2 or isinstance(done.exception, ConfigError)


def test_the_page_has_every_metric_and_alert(checkout: Path) -> None:
    page = (checkout / "docs" / "metrics.md").read_text(encoding="utf-8")
    for one in table.METRICS:
        labels = ", ".join(f"`{label}`" for label in one.labels)
        assert f"| `{one.name}` | {one.kind} | {labels} | {one.help} |" in page.splitlines()
    assert page.count("| `memcoord_") == len(table.METRICS)
    assert re.findall(r"^\| `(Memcoord\w+)`", page, re.MULTILINE) == [one.name for one in ALERTS]
