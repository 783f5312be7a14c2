"""Goal: a hypervisor by itself takes a file, a scenario or nothing, and says what is wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from hypervisor.public.errors import ConfigError, MemcoordError, PeerGone
from memcoord.commands import serve
from memcoord.testbed.runs import control_client, rundir
from memcoord.testbed.scenarios import schema

STEP_S = 0.05
#: The first start on a machine compiles kernels.
READY_STEPS_MAX = 2000
END_S = 60


def test_nothing_means_an_open_host() -> None:
    config = serve.configuration(None)
    assert config.open_attach
    assert config.total_frames > 0


def test_a_scenario_is_a_configuration() -> None:
    main = schema.load()
    assert serve.configuration("main") == schema.to_hypervisor_config(main, main.policies[0])


def test_the_json_of_an_earlier_run_is_a_configuration(tmp_path: Path) -> None:
    config = serve.configuration("main")
    file = tmp_path / "hypervisor.json"
    file.write_bytes(msgspec.json.encode(config))
    assert serve.configuration(str(file)) == config


@pytest.mark.parametrize("text", ["", "{}", '{"total_frames": 4096, "colour": 1}'])
def test_a_wrong_file_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "hypervisor.json"
    with pytest.raises(ConfigError, match=r"hypervisor\.json"):
        serve.configuration(str(file))
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"hypervisor\.json"):
        serve.configuration(str(file))


def test_the_run_directory_tells_how_it_ended(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[Path] = []

    def served_by_nobody(run_dir: Path, meanwhile: Callable[[], None]) -> int:
        served.append(run_dir)
        assert rundir.read_manifest(run_dir).machine == {}
        meanwhile()
        if len(served) > 1:
            raise RuntimeError("broken")
        return 0

    monkeypatch.setattr(serve, "keep", served_by_nobody)
    one, two = short_path / "one", short_path / "two"
    assert serve.host_command(None, str(one)) == 0
    with pytest.raises(RuntimeError):
        serve.host_command(None, str(two))
    assert served == [one, two]
    assert rundir.read_manifest(one).state == "finished"
    assert rundir.read_manifest(one).machine["cores"] >= 1
    assert rundir.read_manifest(two).state == "failed"
    assert "attach.sock" in rundir.read_manifest(one).files


def wait_ready(run_dir: Path, process: subprocess.Popen[str]) -> None:
    """Until the hypervisor answers a ping, a bounded number of times."""
    for _ in range(READY_STEPS_MAX):
        assert process.poll() is None, process.communicate()[1]
        try:
            control_client.call(run_dir, "ping", timeout_ms=500)
        except PeerGone:
            time.sleep(STEP_S)
        else:
            return
    pytest.fail("the hypervisor never answered")


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_real_one_and_leaves_no_socket(
    short_path: Path, number: signal.Signals
) -> None:
    run_dir = short_path / "hv"
    packages = str(Path(serve.__file__).resolve().parents[2])
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "memcoord", "hypervisor", "--run-dir", str(run_dir)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": packages},
        process_group=0,
    ) as process:
        try:
            wait_ready(run_dir, process)
            assert rundir.live(run_dir, rundir.read_manifest(run_dir))
            with pytest.raises(MemcoordError, match="vm9"):
                control_client.call(run_dir, "why", timeout_ms=END_S * 1000, domain="vm9")
            process.send_signal(number)
            out, err = process.communicate(timeout=END_S)
        finally:
            process.kill()
    assert (process.returncode, err) == (0, "")
    assert out == f"serving {run_dir}; Ctrl-C ends it\n"
    assert rundir.read_manifest(run_dir).state == "finished"
    left = ["events.jsonl", "hypervisor.json", "manifest.json"]
    assert sorted(entry.name for entry in run_dir.iterdir()) == left


def test_a_directory_is_used_again_once_its_hypervisor_has_ended(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "keep", lambda run_dir, **_: 0)
    for _ in range(2):
        assert serve.host_command(None, str(short_path / "hv")) == 0
    assert rundir.read_manifest(short_path / "hv").state == "finished"
    with pytest.raises(ConfigError, match="holds a run already"):
        rundir.create("main", path=short_path / "hv", again=True)

    def serve_beside(run_dir: Path, **_: object) -> int:
        manifest = (run_dir / rundir.MANIFEST).read_bytes()
        with pytest.raises(ConfigError, match=f"process {os.getpid()}"):
            serve.host_command(None, str(run_dir))
        assert (run_dir / rundir.MANIFEST).read_bytes() == manifest
        return 0

    monkeypatch.setattr(serve, "keep", serve_beside)
    assert serve.host_command(None, str(short_path / "hv")) == 0
