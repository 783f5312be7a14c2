"""Goal: a domain that the launcher starts reaches nobody else. Method: have one try everything."""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hypervisor.config import DomainConfig, HypervisorConfig, attach_token
from hypervisor.public.units import AREA_BYTES, AREA_FRAMES
from memcoord.testbed.live import hypervisor
from memcoord.testbed.runs import cgroups, confine, control_client, hiding, namespaces
from memcoord.testbed.runs.cgroups import Slice
from memcoord.testbed.runs.confine import Rights
from memcoord.testbed.runs.identity import start_ticks
from memcoord.testbed.runs.launcher import Child, Launcher
from memcoord.testbed.runs.nursery import Born, Nursery

WAIT_S = 300.0
HERE = Path(__file__).parent
NAMES = ("victim", "attacker", "absent")


def wait(done: Callable[[], object], *children: Child) -> None:
    """Until ``done``, unless one of ``children`` ends first."""
    until = time.monotonic() + WAIT_S
    while not done():
        assert time.monotonic() < until, "did not happen in time"
        for child in children:
            assert child.process.poll() is None, child.how_it_ended()
        time.sleep(0.02)


class Stage:
    """A hypervisor and confined domains, started as ``memcoord run`` starts them."""

    def __init__(
        self,
        run_dir: Path,
        launcher: Launcher,
        groups: Slice | None,
        *,
        forked: bool = False,
        **config: Any,
    ) -> None:
        self.groups, self.forked = groups, forked
        self.run_dir, self._launcher, self._secret = run_dir, launcher, "0123" * 16
        sizes = (4 * AREA_FRAMES, AREA_FRAMES, 4 * AREA_FRAMES)
        domains = tuple(DomainConfig(name, *sizes) for name in NAMES)
        told = HypervisorConfig(
            total_frames=32 * AREA_FRAMES,
            interval_ms=50,
            domains=domains,
            attach_secret=self._secret,
            cgroup="" if groups is None else str(groups.path),
            **config,
        )
        self.hypervisor = hypervisor.start(launcher, run_dir, told)
        wait(lambda: hypervisor.answers(run_dir), self.hypervisor)

    def start(self, name: str, module: str = "", **more: object) -> Child:
        folder = self.run_dir / name
        folder.mkdir()
        told = {
            "run_dir": str(self.run_dir),
            "folder": str(folder),
            "token": attach_token(self._secret, name),
            **more,
        }
        (folder / "told.json").write_text(json.dumps(told))
        rights = Rights(
            secret=str(self.run_dir),
            writes=(str(folder),),
            cgroup="" if self.groups is None else str(self.groups.of(name)),
        )
        return self._launcher.start(name, module or name, str(folder / "told.json"), rights=rights)

    def pid(self, name: str) -> int:
        """The process that attached, by its number here."""
        attached = {one["name"]: one["pid"] for one in control_client.call(self.run_dir, "list")}
        return int(attached[name])


@contextlib.contextmanager
def staged(run_dir: Path, *, grouped: bool, forked: bool = False, **config: Any) -> Iterator[Stage]:
    where = cgroups.place() if grouped else None
    with contextlib.ExitStack() as stack:
        groups = None
        if where is not None:
            path = cgroups.path_of(where, run_dir.name)
            sizes = dict.fromkeys(NAMES, 4 * AREA_BYTES)
            groups = stack.enter_context(Slice(path, where.controllers, 32 * AREA_BYTES, sizes))
        forks: dict[str, Nursery] = {}
        if forked:
            nursery = stack.enter_context(Nursery(run_dir, ["attacker", "victim"]))
            forks = {"attacker": nursery, "victim": nursery}
        launcher = stack.enter_context(Launcher(run_dir, forks))
        made = Stage(run_dir, launcher, groups, forked=forked, **config)
        yield made
        assert hypervisor.end(launcher, made.hypervisor, run_dir) == ""
    assert groups is None or not groups.path.exists()


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children find the modules of this folder."""
    path = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(HERE), path])))


@pytest.fixture(params=[False, True], ids=["executed", "forked"])
def stage(short_path: Path, request: pytest.FixtureRequest) -> Iterator[Stage]:
    with staged(short_path, grouped=True, forked=request.param) as made:
        yield made


#: Landlock that keeps signals in, PID namespaces, a limit of processes.
needs_all = pytest.mark.skipif(
    confine.landlock_abi() < 6 or len(namespaces.given()) < 3, reason="the kernel has not all of it"
)


@pytest.mark.process
@needs_all
def test_a_domain_of_the_launcher_reaches_nobody_else(stage: Stage) -> None:
    victim = stage.start("victim")
    wait(lambda: b"ok" in victim.stdout_path.read_bytes(), victim)
    frame, address = json.loads(victim.stdout_path.read_text().splitlines()[0])
    attacker = stage.start(
        "attacker",
        victim=stage.pid("victim"),
        victim_folder=str(stage.run_dir / "victim"),
        hypervisor=stage.hypervisor.pid,
        launcher=os.getpid(),
        frame=frame,
        address=address,
        groups="/nonexistent" if stage.groups is None else str(stage.groups.path),
    )
    attacker.process.wait(WAIT_S)
    assert attacker.returncode == 0, attacker.stderr_path.read_text()
    assert isinstance(attacker.process, Born) == stage.forked
    said = json.loads(attacker.stdout_path.read_text())
    assert {name: what for name, what in said.items() if not what.startswith("no: ")} == {}
    assert len(said) > 40
    rounds = victim.stdout_path.read_bytes().count(b"ok")
    wait(lambda: victim.stdout_path.read_bytes().count(b"ok") > rounds + 3, victim)


@pytest.mark.process
@pytest.mark.parametrize("grouped", [True, False], ids=["control group", "PID namespace"])
def test_a_violator_is_ended_with_all_that_it_forked(short_path: Path, grouped: bool) -> None:
    if grouped and cgroups.place() is None:
        pytest.skip("no control group may be made here")
    if not grouped and namespaces.PID not in namespaces.given():
        pytest.skip("no PID namespaces here")
    with staged(short_path, grouped=grouped, on_violation="kill") as stage:
        child = stage.start("attacker", "hoarder")
        child.process.wait(WAIT_S)
        assert child.returncode == -signal.SIGKILL, child.how_it_ended()
        pids = [int(line) for line in child.stdout_path.read_text().split()]
        assert len(pids) == 2
        wait(lambda: all(start_ticks(pid) < 0 for pid in pids), stage.hypervisor)


HIDDEN = """
import ctypes, sys
from memcoord.testbed.runs.hiding import hide
sys.stdout.write(f"{hide()} {ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)}")
"""


@pytest.mark.parametrize(("debug", "said"), [("", "True 0"), ("0", "True 0"), ("1", "False 1")])
def test_processes_are_hidden_unless_debugging_was_asked_for(debug: str, said: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", HIDDEN],
        env={**environment, hiding.DEBUG_VARIABLE: debug},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == said, done.stderr


@pytest.mark.process
def test_without_landlock_the_rest_holds_and_one_phrase_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = confine.lacking()
    monkeypatch.setattr(confine, "landlock_abi", lambda: 0)
    assert len(set(confine.lacking()) - set(before)) == 1
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        confine.confine(Rights(secret="/nonexistent"))
        libc = ctypes.CDLL(None)
        os.write(write, f"{libc.prctl(39, 0, 0, 0, 0)} {libc.prctl(3, 0, 0, 0, 0)}".encode())
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(read, 64) == b"1 0"  # no_new_privs, and not to be traced
    os.close(read)
    os.close(write)
