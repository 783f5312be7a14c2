"""The clients of the servers in a run: processes outside of every domain.

Owns: which domains are servers, by the module that their program runs, and how the client of one is
started and ended. It finds the socket of its server below the run directory.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from memcoord.testbed.runs.launcher import start_python
from memcoord.testbed.scenarios.programs import ProgramWorkload

if TYPE_CHECKING:
    from memcoord.testbed.scenarios.schema import Scenario

SERVER = "memcoord.testbed.applications.server"
CLIENT = "memcoord.testbed.applications.client"
#: What a server is asked for in a second.
A_SECOND = 400
#: After its server has ended, a client says what it saw within this time.
END_S = 10.0


def server_words(mib: int, requests: int) -> list[str]:
    """The program of a server, as a workload names it."""
    return ["python3", "-P", "-m", SERVER, "served", str(mib), str(requests)]


@contextmanager
def clients(scenario: Scenario, run_dir: Path) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """A client for each server of ``scenario`` by its domain's name; all end with the block."""
    started: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for domain in scenario.domain:
            work = domain.workload
            if not isinstance(work, ProgramWorkload) or SERVER not in work.argv:
                continue
            where, mib, requests = work.argv[work.argv.index(SERVER) + 1 :]
            socket = run_dir / "*" / domain.name / "work" / where
            started[domain.name] = start_python(
                "-P", "-m", CLIENT, str(socket), mib, requests, str(A_SECOND), str(scenario.seed),
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        yield started
    finally:
        for process in started.values():
            process.kill()
            process.communicate()


def latencies(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """What a client saw; empty when it did not end well."""
    try:
        said, _ = process.communicate(timeout=END_S)
        found: dict[str, Any] = msgspec.json.decode(said)
    except (subprocess.TimeoutExpired, msgspec.DecodeError):
        return {}
    return found
