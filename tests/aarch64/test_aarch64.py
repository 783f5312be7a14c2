"""Goal: both halves work on 64-bit ARM. Method: cross-built C, without Python, under qemu-user."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from hypervisor.public.settings import MECHANISMS
from memcoord.benchmarks import arm
from memcoord.benchmarks.arm import MODELS, Tools

pytestmark = [pytest.mark.timeout(300), pytest.mark.process]

MACHINES = {"EM_X86_64": 62, "EM_AARCH64": 183}


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tools, dict[str, Path]]:
    """What is run, and by what."""
    with_ = arm.tools()
    if isinstance(with_, str):
        pytest.skip(f"64-bit ARM {with_}")
    return with_, arm.build(with_, tmp_path_factory.mktemp("aarch64"))


def test_it_is_built_for_arm(programs: tuple[Tools, dict[str, Path]]) -> None:
    for path in programs[1].values():
        machine = int.from_bytes(path.read_bytes()[18:20], "little")
        assert machine == MACHINES["EM_AARCH64"]


def test_a_domain_lives_under_every_mechanism(programs: tuple[Tools, dict[str, Path]]) -> None:
    lived = arm.live(programs[0], programs[1]["both_halves"])
    assert list(lived) == list(MECHANISMS)
    assert {name: said for name, said in lived.items() if not said.startswith("ok")} == {}


@pytest.mark.parametrize("name", MODELS)
def test_no_interleaving_breaks_what_is_shared(
    name: str, programs: tuple[Tools, dict[str, Path]]
) -> None:
    found = arm.explore(programs[0], programs[1][name], MODELS[name][2])
    assert len(found) >= 10
    assert {one["verdict"] for one in found} <= {"bounded", "complete"}


def test_without_the_tools_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(arm.shutil, "which", lambda _: None)
    told = arm.tried(tmp_path)["missing"]
    assert "gcc-aarch64-linux-gnu" in told
    assert "qemu-user-static" in told


def test_a_source_that_does_not_compile_is_no_crash(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(arm, "tools", lambda: Tools("false"))
    assert arm.tried(tmp_path / "out") == {"missing": "it does not compile: "}
    with pytest.raises(subprocess.CalledProcessError):
        arm.build(Tools("false"), tmp_path / "again")
