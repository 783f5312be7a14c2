"""``memcoord web``: the address, an extra that is absent, what the process gives up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from memcoord.testbed.runs import rundir

WAIT_S = 60.0
#: The command, with the server replaced by what a test wants to know.
COMMAND = """
import ctypes, sys
{before}
from memcoord.__main__ import main
main()
"""
TOLD = """
from memcoord.testbed.web import serving
def serve(place, port, told):
    told(f"{place.name} {port} dumpable {ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)}")
serving.serve = serve
"""


def web(before: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-c", COMMAND.format(before=before), "web", *words],
        capture_output=True, text=True, timeout=WAIT_S, check=False,
    )  # fmt: skip


@pytest.fixture
def place(short_path: Path) -> Path:
    run = rundir.create("main", base=short_path)
    run.finish("finished")
    return run.path


@pytest.mark.parametrize("package", ["starlette", "uvicorn"])
def test_an_absent_extra_is_told_in_one_line_with_the_command(place: Path, package: str) -> None:
    done = web(f"sys.modules[{package!r}] = None", str(place))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "pip install 'memcoord[web]'" in done.stderr


def test_the_address_is_told_and_what_it_is_good_for(place: Path) -> None:
    done = web(TOLD, str(place), "--port", "1234")
    assert done.stdout.splitlines()[0].startswith(f"{place.name} 1234")
    assert "read-only" in done.stdout
    assert "ssh -L" in done.stdout


def test_no_other_process_of_the_user_may_trace_it(place: Path) -> None:
    assert "dumpable 0" in web(TOLD, str(place)).stdout


def test_a_port_that_is_taken_is_the_callers_mistake(place: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = web("", str(place), "--port", str(taken.getsockname()[1]))
    assert (done.returncode, done.stdout) == (2, "")
    assert "--port" in done.stderr


def test_a_run_that_is_not_there_is_the_callers_mistake(short_path: Path) -> None:
    done = web("", "no-such-run")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no-such-run" in done.stderr
