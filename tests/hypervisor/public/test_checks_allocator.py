"""Goal: every check of the allocator, the ring, the bells and the memory calls is seen to fire.

Method: ``allocator_faults.c`` injects one fault per call. The process must end by SIGABRT, and its
report must name a check. Together the reports must name every check there is.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
from pathlib import Path

import pytest

from hypervisor.public._cdef import COMPILE_ARGS

HERE = Path(__file__).resolve().parent
ABI = HERE.parents[2] / "hypervisor" / "public" / "abi"
ALLOCATOR = ("frames.c", "search.c", "claims.h", "reclaim.c", "layout.c")
CHECKED = (*ALLOCATOR, "frames.h", "ring.c", "bell.c", "backing.c")
LINES_PER_CHECK = 25
TIMEOUT_S = 120
CC = os.environ.get("CC", "cc").split()
REPORT = re.compile(r"^memcoord: check failed: (\S+):(\d+): (\w+): (.+): (.+)$", re.MULTILINE)
CALL = re.compile(r"\bMC_CHECK\(.*?\);", re.DOTALL)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("faults") / "allocator_faults"
    options = [*COMPILE_ARGS, "-Werror", "-D_GNU_SOURCE", f"-I{ABI}", "-o", str(path)]
    sources = [str(HERE / "allocator_faults.c"), str(ABI / "check.c")]
    subprocess.run([*CC, *options, *sources], check=True, timeout=TIMEOUT_S)
    return path


def run(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(program), *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
    )


def checks_of(name: str) -> set[tuple[str, int, int]]:
    """File, first and last line of every check in a source."""
    text = (ABI / name).read_text(encoding="utf-8")
    return {
        (name, text[: found.start()].count("\n") + 1, text[: found.end()].count("\n") + 1)
        for found in CALL.finditer(text)
    }


def test_every_check_reports_its_fault_and_ends_the_process(program: Path) -> None:
    checks = {check for name in CHECKED for check in checks_of(name)}
    seen = set()
    faults = run(program).stdout.split()
    for fault in faults:
        ended = run(program, fault)
        report = REPORT.search(ended.stderr)
        assert ended.returncode == -signal.SIGABRT, (fault, ended)
        assert report is not None, (fault, ended.stderr)
        name, line = Path(report[1]).name, int(report[2])
        assert re.search(r"\d|0x", report[5]), f"{fault}: no values: {report[5]}"
        hit = {check for check in checks if check[0] == name and check[1] <= line <= check[2]}
        assert len(hit) == 1, (fault, report[0])
        assert re.search(rf"\b{report[3]}\(", (ABI / name).read_text(encoding="utf-8"))
        seen |= hit
    assert sorted(checks - seen) == [], "no fault makes these fire"
    assert len(faults) == len(set(faults)) >= len(checks)


def test_the_allocator_has_a_check_for_every_25_lines() -> None:
    lines = sum(len((ABI / name).read_text(encoding="utf-8").splitlines()) for name in ALLOCATOR)
    assert sum(len(checks_of(name)) for name in ALLOCATOR) * LINES_PER_CHECK >= lines


def test_the_fields_of_an_area_word_are_what_the_masks_name(program: Path) -> None:
    assert run(program, "masks").returncode == 0


def test_a_name_that_is_no_fault_is_told_apart_from_one_that_nobody_notices(program: Path) -> None:
    assert run(program, "no such fault").returncode == 2
