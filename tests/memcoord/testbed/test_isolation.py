"""Goal: a domain that the launcher starts reaches nobody else. Method: have one try everything."""

import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hypervisor.config import DomainConfig, HypervisorConfig, attach_token
from hypervisor.public.units import AREA_FRAMES
from memcoord.testbed.live import hypervisor
from memcoord.testbed.runs import confine
from memcoord.testbed.runs.confine import Rights
from memcoord.testbed.runs.launcher import Child, Launcher

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

    def __init__(self, run_dir: Path, launcher: Launcher) -> None:
        self.run_dir, self._launcher, self._secret = run_dir, launcher, "0123" * 16
        sizes = {"maxmem_frames": 4 * AREA_FRAMES, "boot_frames": AREA_FRAMES}
        domains = tuple(
            DomainConfig(name=name, target_frames=4 * AREA_FRAMES, **sizes) for name in NAMES
        )
        config = HypervisorConfig(
            total_frames=32 * AREA_FRAMES,
            interval_ms=50,
            domains=domains,
            attach_secret=self._secret,
        )
        self.hypervisor = hypervisor.start(launcher, run_dir, config)
        wait(lambda: hypervisor.answers(run_dir), self.hypervisor)

    def start(self, name: str, **more: object) -> Child:
        folder = self.run_dir / name
        folder.mkdir()
        told = {
            "run_dir": str(self.run_dir),
            "folder": str(folder),
            "token": attach_token(self._secret, name),
            **more,
        }
        (folder / "told.json").write_text(json.dumps(told))
        rights = Rights(secret=str(self.run_dir), writes=(str(folder),))
        return self._launcher.start(name, name, str(folder / "told.json"), rights=rights)


@pytest.fixture
def stage(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    path = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(HERE), path])))
    with Launcher(short_path) as launcher:
        made = Stage(short_path, launcher)
        yield made
        assert hypervisor.end(launcher, made.hypervisor, short_path) == ""


needs_landlock = pytest.mark.skipif(
    confine.landlock_abi() < 6, reason="the kernel's Landlock does not keep signals in"
)


@pytest.mark.process
@needs_landlock
def test_a_domain_of_the_launcher_reaches_nobody_else(stage: Stage) -> None:
    victim = stage.start("victim")
    wait(lambda: b"ok" in victim.stdout_path.read_bytes(), victim)
    frame, address = json.loads(victim.stdout_path.read_text().splitlines()[0])
    attacker = stage.start(
        "attacker",
        victim=victim.pid,
        victim_folder=str(stage.run_dir / "victim"),
        hypervisor=stage.hypervisor.pid,
        launcher=os.getpid(),
        frame=frame,
        address=address,
    )
    attacker.process.wait(WAIT_S)
    assert attacker.returncode == 0, attacker.how_it_ended()
    said = json.loads(attacker.stdout_path.read_text())
    assert {name: what for name, what in said.items() if not what.startswith("no: ")} == {}
    assert len(said) > 40
    rounds = victim.stdout_path.read_bytes().count(b"ok")
    wait(lambda: victim.stdout_path.read_bytes().count(b"ok") > rounds + 3, victim)


HIDDEN = """
import ctypes, sys
from memcoord.testbed.runs.confine import hide
sys.stdout.write(f"{hide()} {ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)}")
"""


@pytest.mark.parametrize(("debug", "said"), [("", "True 0"), ("0", "True 0"), ("1", "False 1")])
def test_processes_are_hidden_unless_debugging_was_asked_for(debug: str, said: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", HIDDEN],
        env={**environment, confine.DEBUG_VARIABLE: debug},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == said, done.stderr


@pytest.mark.process
def test_without_landlock_the_rest_holds_and_one_phrase_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(confine, "landlock_abi", lambda: 0)
    assert len(confine.lacking()) == 1
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
