"""Goal: processes start quickly. Method: ask each what it has imported; no clock is read."""

import subprocess
import sys

import pytest

from memcoord.testbed.live.nurseries import loaded

#: Each costs a tenth of a second or more of a start.
SLOW = {"numba", "llvmlite", "typer", "rich", "importlib.metadata", "pandas", "scipy"}
#: Beside these, what a process that only starts others can do without.
NOT_TO_START_OTHERS = SLOW | {"numpy", "zmq", "msgspec", "msgpack", "json", "inspect"}
LOAD = """
from hypervisor.config import HypervisorConfig
from memcoord.testbed.live.hypervisor_main import load
load(HypervisorConfig(total_frames=4096))
"""


def imported_by(code: str) -> set[str]:
    """The modules that a fresh Python has after ``code``."""
    told = f"{code}\nimport sys; sys.stdout.write(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", told], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_a_keeper_starts_the_standby_before_it_imports_anything_that_takes_long() -> None:
    found = imported_by("import memcoord.testbed.live.keeper_main")
    assert found & NOT_TO_START_OTHERS == set()


def test_a_hypervisor_needs_no_compiler_and_nothing_of_the_command_line() -> None:
    found = imported_by(LOAD)
    assert found & (SLOW | {"zmq"}) == set()
    assert {"hypervisor.loop", "backend.host", "tmem.serve", "policies.host_process"} <= found


@pytest.mark.parametrize("module", loaded(tmem=True))
def test_a_nursery_loads_what_starts_a_process_and_no_compiler(module: str) -> None:
    loads = loaded(tmem=True)[module]
    found = imported_by(f"import {', '.join(loads)}")
    assert found & (SLOW | {"zmq"}) == set()
    assert {*loads, "numpy", "hypervisor.public.messages"} <= found


EXEC = """
from memcoord import ending, quick
from memcoord.commands import packages
quick.command_of(["exec", "true"])
import memcoord.commands.exec_program
"""


def test_a_program_starts_in_a_domain_of_a_running_hypervisor_without_what_takes_long() -> None:
    slow = SLOW | {"numpy", "zmq", "tomllib", "hypervisor.config", "memcoord.testbed.runs.confine"}
    assert imported_by(EXEC) & slow == set()


def test_a_hypervisor_is_asked_for_without_the_app() -> None:
    code = "import memcoord.quick, memcoord.ending, memcoord.commands.serve"
    assert imported_by(code) & (SLOW | {"numpy", "zmq", "tomllib"}) == set()


@pytest.mark.parametrize("code", ["import memcoord", "import frontend", "import memcoord.quick"])
def test_the_public_packages_import_nothing_that_takes_long(code: str) -> None:
    assert imported_by(code) & (SLOW | {"numpy", "zmq"}) == set()
