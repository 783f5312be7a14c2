"""Goal: ``import memcoord`` is the API and costs nothing. Method: fresh Pythons, a real host."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memcoord
from hypervisor.config import DomainConfig
from hypervisor.public.errors import (
    AttachRefused,
    ConfigError,
    MemcoordError,
    NotCompiled,
    PeerGone,
)
from hypervisor.public.units import AREA_FRAMES
from memcoord.commands.clean import clean
from memcoord.commands.packages import ROOTS
from memcoord.testbed.runs import rundir

HEAVY = ("numba", "numpy", "zmq", "msgspec", "rich", "typer")


def in_a_fresh_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.process
@pytest.mark.parametrize(
    ("use", "loaded"),
    [
        ("memcoord.__version__", []),
        ("memcoord.attach", []),
        ("memcoord.control", ["msgspec", "zmq"]),
        ("memcoord.Hypervisor", ["msgspec", "zmq"]),
        ("memcoord.open_run", ["msgspec", "numpy"]),
        ("memcoord.simulate", ["msgspec", "numpy"]),
    ],
)
def test_a_name_loads_only_what_it_needs(use: str, loaded: list[str]) -> None:
    code = f"import memcoord; {use}; print(sorted(set({HEAVY}) & set(sys.modules)))"
    assert in_a_fresh_python(code) == str(loaded)


@pytest.mark.process
def test_importing_it_loads_nothing_of_ours() -> None:
    code = "import memcoord; print([name for name in sys.modules if name.startswith('frontend')])"
    assert in_a_fresh_python(code) == "[]"


def test_the_version_is_the_projects(checkout: Path) -> None:
    project = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert memcoord.__version__ == project["version"]
    verbs = {"run", "simulate", "sweep", "bench", "open_run", "open_sweep"}
    assert set(memcoord.__all__) == verbs | {
        *("Env", "Hypervisor", "__version__", "attach", "control"),
    }
    with pytest.raises(AttributeError, match="no attribute 'balloons'"):
        _ = memcoord.balloons


@pytest.mark.process
def test_two_domains_of_a_hypervisor_of_ones_own(short_path: Path) -> None:
    with memcoord.Hypervisor(memory="32 MiB", run_dir=short_path / "hv") as host:
        assert host.run_dir == short_path / "hv"
        with (
            memcoord.attach(host.run_dir, "vm1", maxmem_frames=4 * AREA_FRAMES) as vm1,
            memcoord.attach(host.run_dir, "vm2", maxmem_frames=4 * AREA_FRAMES) as vm2,
        ):
            frames = [domain.alloc(9) for domain in (vm1, vm2)]
            rows = host.control("statistics")["domains"]
            assert [row["name"] for row in rows] == ["vm1", "vm2"]
            assert all(row["current_frames"] >= AREA_FRAMES for row in rows)
            asked = memcoord.control(host.run_dir, "list", timeout_ms=10_000)
            assert [row["name"] for row in asked] == ["vm1", "vm2"]
            for domain, frame in zip((vm1, vm2), frames, strict=True):
                domain.free(frame, 9)
    manifest = rundir.read_manifest(host.run_dir)
    assert manifest.state == "finished"
    assert not rundir.live(host.run_dir, manifest)  # although this process goes on
    assert clean(run_dir=str(host.run_dir), force=True)["killed"] == 0
    assert not list(host.run_dir.glob("*.ipc"))
    with pytest.raises(PeerGone):
        memcoord.control(host.run_dir, "ping")


@pytest.mark.process
def test_what_happened_so_far_is_a_run(short_path: Path) -> None:
    where = short_path / "hv"
    with memcoord.Hypervisor("32 MiB", interval_ms=20, run_dir=where) as host:
        assert host.history().policies == ["greedy"]
        with host.attach("vm1", "8 MiB") as vm1:
            vm1.alloc_areas(2)
            have = host.statistics()
            assert have["name"].tolist() == ["vm1"]
            held = have["ram_bytes"][0]  # more than it asked for: an area is granted ahead
            assert held >= 4 << 20
            for _ in range(1000):
                ticks = host.history().series()
                if held in ticks.get("ram_bytes", ()):
                    break
                time.sleep(0.01)
        assert set(ticks["domain"].tolist()) == {"vm1"}
        assert (np.diff(ticks["time_s"]) > 0).all()
        assert held in ticks["ram_bytes"]
        assert len(host.history().series()["tick"]) >= len(ticks["tick"])  # nothing is forgotten


@pytest.mark.process
def test_only_named_domains_attach_to_a_host_that_names_them(short_path: Path) -> None:
    named = DomainConfig("vm1", AREA_FRAMES, 0, AREA_FRAMES)
    size = 16 << 20
    with memcoord.Hypervisor(size, domains=[named], run_dir=short_path / "hv") as host:
        assert host.control("statistics")["host"]["total_frames"] == size // 4096
        with pytest.raises(AttachRefused):
            memcoord.attach(host.run_dir, "vm2", maxmem_frames=AREA_FRAMES)
        memcoord.attach(host.run_dir, "vm1").close()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def answering(host: memcoord.Hypervisor) -> dict[str, Any]:
    """The answer to a ping, from whoever answers first."""
    for _ in range(600):
        try:
            answer: dict[str, Any] = host.control("ping")
        except MemcoordError:
            time.sleep(0.05)
        else:
            return answer
    pytest.fail("nobody answers")


@pytest.mark.process
def test_it_ends_with_a_parent_that_is_killed(short_path: Path) -> None:
    code = (
        "import os, memcoord; host = memcoord.Hypervisor('16 MiB', "
        f"run_dir={str(short_path / 'hv')!r}); host.__enter__(); "
        "print(host.control('ping')['pid'], flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    pid = int(done.stdout)
    manifest = rundir.read_manifest(short_path / "hv")
    for _ in range(2000):
        if not rundir.live(short_path / "hv", manifest) and not is_alive(pid):
            return
        time.sleep(0.01)
    pytest.fail("the hypervisor outlived its parent")


@pytest.mark.process
def test_a_hypervisor_that_is_killed_is_soon_there_again(short_path: Path) -> None:
    with memcoord.Hypervisor("16 MiB", run_dir=short_path / "hv") as host:
        before = host.control("ping")["pid"]
        os.kill(before, signal.SIGKILL)
        assert answering(host)["pid"] != before
    assert rundir.read_manifest(short_path / "hv").state == "finished"


@pytest.mark.process
def test_a_hypervisor_that_nobody_restarts_is_told_when_the_block_is_left(
    short_path: Path,
) -> None:
    host = memcoord.Hypervisor("16 MiB", run_dir=short_path / "hv")

    def killed_meanwhile() -> None:
        with host:
            made = rundir.read_manifest(short_path / "hv").processes
            for pid in {process.pid for process in made} - {os.getpid()}:
                os.kill(pid, signal.SIGKILL)

    with pytest.raises(MemcoordError, match="killed by SIGKILL"):
        killed_meanwhile()
    assert rundir.read_manifest(short_path / "hv").state == "failed"


@pytest.mark.process
def test_a_hypervisor_that_cannot_start_says_why(short_path: Path) -> None:
    host = memcoord.Hypervisor("16 MiB", policy="nobody", run_dir=short_path / "hv")
    with pytest.raises(MemcoordError, match="no policy 'nobody'"), host:
        pass
    assert rundir.read_manifest(short_path / "hv").state == "failed"


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"memory": "much"}, "memory"),
        ({"memory": 4097}, "memory"),
        ({"memory": 0}, "memory"),
        ({"memory": "2 MiB"}, "total_frames"),
        ({"interval_ms": 1}, "interval_ms"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, str | int], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        memcoord.Hypervisor(**arguments)  # type: ignore[arg-type]
    assert caught.value.key == key


@pytest.mark.process
@pytest.mark.parametrize(
    "use",
    [
        "import memcoord; memcoord.attach('/nowhere')",
        "import frontend.domain",
        "import backend.host",
        "import memcoord.testbed.guests.replaying",
    ],
)
def test_a_checkout_in_which_nothing_is_compiled_says_what_to_do(
    use: str, checkout: Path, tmp_path: Path
) -> None:
    for root in ROOTS:
        shutil.copytree(
            checkout / root, tmp_path / root, ignore=shutil.ignore_patterns("*.so", "__pycache__")
        )
    path = [str(tmp_path), *(entry for entry in sys.path if Path(entry) != checkout)]
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"import sys; sys.path[:] = {path!r}; {use}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    last = done.stderr.splitlines()[-1]
    assert last.startswith("hypervisor.public.errors.NotCompiled: ")
    assert "is not compiled: run `python -m pip install -e .` in the checkout" in last
    assert issubclass(NotCompiled, ImportError)
