"""Goal: no C of ours reads or writes what it may not. Method: the compiler's own checks.

A copy of the checkout is compiled with gcc's AddressSanitizer and UndefinedBehaviorSanitizer. Tests
of the host half run against the copy, and every cheat on every mechanism. A report ends the process
that made it, and is a file; there must be none.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from memcoord.commands.packages import ROOTS

CC = os.environ.get("CC", "gcc")
BUILD_TIMEOUT_S = 900
RUN_TIMEOUT_S = 1500
PYTEST = ("-q", "-x", "-o", f"timeout={RUN_TIMEOUT_S}")
#: What a build in the checkout leaves, and what is not needed.
LEFT_OUT = shutil.ignore_patterns(".*", "build", "*.egg-info", "*.so", "__pycache__", "_*.c")
#: The host half under honest guests, under corrupted words, and under every cheat. Tests that
#: inject faults into our own state (test_checks_*) break what the sanitizers would report.
RUN = {
    "core": (
        "tests/backend/test_balloon.py",
        "tests/backend/test_cmm.py",
        "tests/backend/test_direct.py",
        "tests/backend/test_host_memory.py",
        "tests/backend/test_hyperalloc.py",
        "tests/backend/test_sections.py",
        "tests/backend/test_tmem_over_rings.py",
        "tests/backend/test_virtio_mem.py",
        "tests/frontend/test_movable.py",
    ),
    "corruption": ("tests/backend/test_hostile_guest.py",),
    "cheats": ("tests/cheats/test_cheats.py",),
}


def library(name: str) -> str:
    """The path of a library of the compiler."""
    done = subprocess.run(
        [CC, f"-print-file-name={name}"], capture_output=True, text=True, check=True
    )
    path = Path(done.stdout.strip())
    if not path.is_absolute():
        pytest.skip(f"this {CC} has no {name}")
    return str(path.resolve())


@pytest.fixture(scope="module")
def checked_copy(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout whose C reports what it does wrong."""
    library("libasan.so")
    copy = tmp_path_factory.mktemp("sanitized") / "memcoord"
    copy.mkdir()
    for name in (*ROOTS, "tests"):
        shutil.copytree(checkout / name, copy / name, ignore=LEFT_OUT)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(checkout / name, copy)
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace", "--parallel=2"],
        cwd=copy,
        env=os.environ | {"MEMCOORD_SANITIZE": "1"},
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return copy


def environment(copy: Path, reports: Path) -> dict[str, str]:
    """How a Python that was not built so can load what was."""
    common = f"log_path={reports / 'report'}:abort_on_error=1:halt_on_error=1"
    return os.environ | {
        "LD_PRELOAD": f"{library('libasan.so')}:{library('libubsan.so')}",
        # Python keeps what it has allocated until its end. The domains' memory is shared.
        "ASAN_OPTIONS": f"{common}:detect_leaks=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": f"{common}:print_stacktrace=1",
        "PYTHONPATH": str(copy),
        "PYTHONSAFEPATH": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def run_in(copy: Path, reports: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=copy,
        env=environment(copy, reports),
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.timeout(BUILD_TIMEOUT_S + RUN_TIMEOUT_S)
@pytest.mark.parametrize("part", RUN)
def test_nothing_is_reported(part: str, checked_copy: Path, tmp_path: Path) -> None:
    done = run_in(checked_copy, tmp_path, "-m", "pytest", *PYTEST, *RUN[part])
    reports = [path.read_text(errors="replace")[:4000] for path in tmp_path.iterdir()]
    assert reports == []
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.timeout(BUILD_TIMEOUT_S)
def test_a_fault_would_be_reported(checked_copy: Path, tmp_path: Path) -> None:
    """The library is ours and checked: it is asked to copy from memory that nobody has."""
    fault = (
        "from frontend._guest import ffi, lib\n"
        "import frontend._guest\n"
        f"assert frontend._guest.__file__.startswith({str(checked_copy)!r})\n"
        "small = ffi.new('struct mc_frames_statistics *')\n"
        "lib.mc_frames_statistics(ffi.cast('struct mc_frames *', 8), small)\n"
    )
    done = run_in(checked_copy, tmp_path, "-c", fault)
    assert done.returncode < 0
    assert any("Sanitizer" in path.read_text(errors="replace") for path in tmp_path.iterdir())
