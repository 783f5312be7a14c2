"""Goal: a hypervisor by itself takes a file, a scenario or nothing, and says what is wrong."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from hypervisor.config import HypervisorConfig
from hypervisor.public.errors import ConfigError
from testbed import host, rundir, scenario


def test_nothing_means_an_open_host() -> None:
    config = host.configuration(None)
    assert config.open_attach
    assert config.total_frames > 0


def test_a_scenario_is_a_configuration() -> None:
    main = scenario.load()
    assert host.configuration("main") == scenario.to_hypervisor_config(main, main.policies[0])


def test_the_json_of_an_earlier_run_is_a_configuration(tmp_path: Path) -> None:
    config = host.configuration("main")
    file = tmp_path / "hypervisor.json"
    file.write_bytes(msgspec.json.encode(config))
    assert host.configuration(str(file)) == config


@pytest.mark.parametrize("text", ["", "{}", '{"total_frames": 4096, "colour": 1}'])
def test_a_wrong_file_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "hypervisor.json"
    with pytest.raises(ConfigError, match=r"hypervisor\.json"):
        host.configuration(str(file))
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"hypervisor\.json"):
        host.configuration(str(file))


def test_the_run_directory_tells_how_it_ended(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[tuple[HypervisorConfig, Path]] = []

    def serve(config: HypervisorConfig, run_dir: Path) -> int:
        served.append((config, run_dir))
        if len(served) > 1:
            raise RuntimeError("broken")
        return 0

    monkeypatch.setattr(host, "serve", serve)
    one, two = short_path / "one", short_path / "two"
    assert host.host_command(None, str(one)) == 0
    with pytest.raises(RuntimeError):
        host.host_command(None, str(two))
    assert [path for _, path in served] == [one, two]
    assert rundir.read_manifest(one).state == "finished"
    assert rundir.read_manifest(two).state == "failed"
    assert "attach.sock" in rundir.read_manifest(one).files
