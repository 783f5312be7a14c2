"""Goal: a machine's paging is named as it is. Method: the real probe, and machines made up."""

from __future__ import annotations

import ctypes
import os
import platform

import msgspec
import pytest

from memcoord.commands import doctor
from memcoord.testbed.runs import userfaults

ALL = userfaults.Userfaults("", "", "", "", "", "", "")
REFUSED = "Operation not permitted"


def made(**refused: str) -> userfaults.Userfaults:
    return msgspec.structs.replace(ALL, **refused)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of x86-64")
def test_the_probe_says_what_the_kernel_says() -> None:
    found = userfaults.probe()
    fd = ctypes.CDLL(None).syscall(323, os.O_CLOEXEC)
    if fd >= 0:
        os.close(fd)
    assert (found.full == "") == (fd >= 0)
    assert "not known" not in found.pagemap_scan


@pytest.mark.skipif(platform.machine() != "x86_64", reason="programs are paged there only")
@pytest.mark.parametrize(
    ("machine", "words"),
    [
        (made(full=REFUSED, device=REFUSED), userfaults.SYSCTL_LINE),
        (made(move="Invalid argument"), "Linux 6.8"),
        (made(pagemap_scan="Inappropriate ioctl"), "PAGEMAP_SCAN"),
        (made(events=REFUSED), "events"),
        (made(fork=REFUSED), userfaults.FORK_LINE),
    ],
)
def test_an_obstacle_comes_with_its_cure(machine: userfaults.Userfaults, words: str) -> None:
    assert words in machine.obstacle()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="programs are paged there only")
def test_the_device_stands_in_for_the_system_call() -> None:
    assert made(full=REFUSED).obstacle() == ALL.obstacle() == ""


def test_doctor_tells_what_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(userfaults, "probe", lambda: made(full=REFUSED, device=REFUSED))
    checks = {check.what: check for check in doctor.diagnose()}
    assert checks["userfaultfd"].value == "user mode"
    assert userfaults.SYSCTL_LINE in checks["userfaultfd"].meaning
    assert checks["unmodified programs"].value == "without limit"
    assert checks["paging calls"].level == "ok"
