"""Goal: QEMU is never left behind, and what it says has a bound.

Method: a program of the test's stands on PATH as QEMU.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from hypervisor.public.errors import ConfigError
from memcoord.testbed.machines import accelerator, process, tethered
from memcoord.testbed.machines.command_line import PROGRAM
from memcoord.testbed.machines.process import READY, GuestFailed, Machine, Trouble
from memcoord.testbed.machines.spec import MachineSpec

MIB = 1 << 20
SPEC = MachineSpec(kernel="/k", initrd="/i", memory_bytes=128 * MIB)
BEGIN = f"#!{sys.executable} -IS\nimport os, re, signal, socket, sys, time\n"
CONSOLE = """
console = socket.socket(fileno=int(re.search(r"id=console0,fd=(\\d+)", " ".join(sys.argv))[1]))
"""
LIMIT_S = 60.0


@pytest.fixture
def qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """What makes a program the QEMU of this process."""

    def become(program: str) -> None:
        file = tmp_path / PROGRAM
        file.write_text(BEGIN + program)
        file.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    return become


def boot(folder: Path, limit_s: float = LIMIT_S) -> Machine:
    async def booted() -> Machine:
        async with Machine(SPEC, folder, "vm1") as machine:
            await machine.booted(limit_s)
        return machine

    return asyncio.run(booted())


def test_a_guest_that_is_ready_has_booted_and_is_ended(
    qemu: Callable[[str], None], short_path: Path
) -> None:
    qemu(CONSOLE + f"console.send({READY!r})\ntime.sleep(600)")
    machine = boot(short_path)
    assert machine.returncode == -signal.SIGTERM
    assert READY in (short_path / "console.log").read_bytes()
    assert sorted(path.name for path in short_path.iterdir()) == ["console.log", "qemu.log"]


@pytest.mark.parametrize(
    ("program", "trouble", "said"),
    [
        ("sys.exit('no such device')", Trouble.ENDED, "no such device"),
        (
            CONSOLE + "console.send(b'Kernel panic - not syncing: no init')\ntime.sleep(600)",
            Trouble.PANICKED,
            "Kernel panic - not syncing: no init",
        ),
        ("time.sleep(600)", Trouble.LATE, ""),
    ],
)
def test_what_came_instead_of_a_boot_is_told(
    qemu: Callable[[str], None], short_path: Path, program: str, trouble: Trouble, said: str
) -> None:
    qemu(program)
    limit_s = 0.2 if trouble is Trouble.LATE else LIMIT_S
    with pytest.raises(GuestFailed) as failed:
        boot(short_path, limit_s)
    assert (failed.value.trouble, failed.value.said) == (trouble, said)


def test_a_machine_without_qemu_says_so(
    short_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GuestFailed, match=f"{PROGRAM}: No such file"):
        boot(short_path)


def test_a_folder_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(GuestFailed, match="No such file") as failed:
        boot(tmp_path / "none")
    assert failed.value.trouble is Trouble.NOT_STARTED


def test_a_folder_too_deep_for_a_socket_is_refused(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    with pytest.raises(ConfigError, match="too long"):
        boot(deep)


def test_a_qemu_that_does_not_heed_sigterm_is_killed(
    qemu: Callable[[str], None], short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "TERM_S", 0.2)
    ready = f"signal.signal(signal.SIGTERM, signal.SIG_IGN)\nconsole.send({READY!r})\n"
    qemu(CONSOLE + ready + "time.sleep(600)")
    assert boot(short_path).returncode == -signal.SIGKILL


def test_a_stopped_qemu_is_killed(
    qemu: Callable[[str], None], short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "TERM_S", 0.2)
    qemu(CONSOLE + f"console.send({READY!r})\nos.kill(os.getpid(), signal.SIGSTOP)")

    async def stopped() -> int | None:
        async with Machine(SPEC, short_path, "vm1") as machine:
            await machine.booted(LIMIT_S)
            while psutil.Process(machine.pid).status() != psutil.STATUS_STOPPED:
                await asyncio.sleep(0.005)
        return machine.returncode

    assert asyncio.run(stopped()) == -signal.SIGKILL


def test_a_guest_that_prints_without_end_fills_no_disk(
    qemu: Callable[[str], None], short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "FILE_BYTES_MAX", 1000)
    much = process.TAIL_BYTES_MAX * 4
    qemu(CONSOLE + f"console.sendall(b'x' * {much} + {READY!r})\ntime.sleep(600)")
    machine = boot(short_path)
    assert (short_path / "console.log").stat().st_size == 1000
    assert len(machine.console.tail) <= process.TAIL_BYTES_MAX


def test_it_inherits_what_it_is_given_and_nothing_else(
    qemu: Callable[[str], None], short_path: Path
) -> None:
    qemu(
        CONSOLE + "found = [os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd')"
        " if os.path.exists(f'/proc/self/fd/{n}')]\n"
        "console.sendall(repr(sorted(re.sub(r'\\d', '', one) for one in found)).encode())\n"
        f"console.send({READY!r})\ntime.sleep(600)"
    )
    said = boot(short_path).console.tail.decode()
    kinds = [part.split(":")[0].strip("[]'\" ") for part in said.partition("]M")[0].split("', '")]
    assert sorted(kinds) == [
        *("/dev/null", "/dev/null", "/memfd", "pipe", "socket", "socket", "socket")
    ]


def test_memory_is_counted_as_the_host_has_it(short_path: Path) -> None:
    async def fill() -> tuple[int, int, list[tuple[int, int]]]:
        async with Machine(SPEC, short_path, "vm1") as machine:
            before = machine.resident_bytes("ram0")
            os.pwrite(machine.memory["ram0"], b"x" * 4096, 8 * MIB)
            return before, machine.resident_bytes("ram0"), list(machine.resident_ranges("ram0"))

    before, after, ranges = asyncio.run(fill())
    assert before == 0
    assert after >= 4096
    assert len(ranges) == 1
    assert ranges[0][0] <= 8 * MIB < ranges[0][1]


PARENT = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-IS", sys.argv[1], str(os.getpid()), "sleep", "600"])
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.process
def test_it_ends_with_its_parent() -> None:
    tether = tethered.__file__
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, tether], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        while child.name() != "sleep":
            time.sleep(0.01)
        parent.kill()
        psutil.wait_procs([child], timeout=LIMIT_S)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_parent_that_has_ended_already_is_noticed() -> None:
    words = [sys.executable, "-IS", tethered.__file__, "1", "true"]
    if os.getpid() != 1:
        assert subprocess.run(words).returncode == tethered.EXIT_ORPHANED


def test_without_qemu_an_answer_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "/nowhere")
    found = asyncio.run(accelerator.probe("/k", "/i"))
    assert (found.accelerator, found.why) == ("tcg", f"{PROGRAM} is not there")
    assert list(tmp_path.rglob("accelerator-*")) == []


def test_what_a_boot_has_shown_is_kept(
    qemu: Callable[[str], None],
    tmp_path: Path,
    short_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(short_path))
    monkeypatch.setattr(accelerator, "DEVICE", tmp_path)  # there, and ours to use
    works = f"console.send({READY!r})\ntime.sleep(600)"
    version = "if '--version' in sys.argv: sys.exit(print('QEMU version 1'))\n"
    image = tmp_path / "image"
    image.touch()
    qemu(version + CONSOLE + works)
    assert asyncio.run(accelerator.probe(str(image), str(image))).accelerator == "kvm"
    qemu(version + "sys.exit('no KVM')")
    assert asyncio.run(accelerator.probe(str(image), str(image))).accelerator == "kvm"
    found = asyncio.run(accelerator.probe(str(image), str(image), again=True))
    assert found.accelerator == "tcg"
    assert "no KVM" in found.why
    assert accelerator.known(str(image), str(image)) == found
