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
REDIS = "redis-server"
SOCKET = "served"
#: What a server is asked for in a second.
A_SECOND = 400
#: After its server has ended, a client says what it saw within this time.
END_S = 10.0
#: Told to its client by the environment of a server that is told nothing of it.
ROWS_VARIABLE, REQUESTS_VARIABLE = "SERVED_MIB", "SERVED_REQUESTS"


def sqlite_work(mib: int, requests: int) -> dict[str, Any]:
    """The server of ours as a workload: its unit of work is a hundred requests."""
    words = ["python3", "-P", "-m", SERVER, SOCKET, str(mib), str(requests)]
    asked = {ROWS_VARIABLE: str(mib), REQUESTS_VARIABLE: str(requests)}
    return {"argv": words, "work": "hundred requests", "total": requests // 100, "env": asked}


def redis_work(mib: int, requests: int) -> dict[str, Any]:
    """Redis as a workload; it does not say how much it has done."""
    words = [REDIS, "--port", "0", "--unixsocket", SOCKET]
    asked = {ROWS_VARIABLE: str(mib), REQUESTS_VARIABLE: str(requests)}
    return {"argv": words, "env": asked}


def protocol_of(work: ProgramWorkload) -> str:
    """What the program of ``work`` speaks; empty when it is no server."""
    if SERVER in work.argv:
        return "sqlite"
    return "redis" if work.argv[0] == REDIS else ""


@contextmanager
def clients(scenario: Scenario, run_dir: Path) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """A client for each server of ``scenario`` by its domain's name; all end with the block."""
    started: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for domain in scenario.domain:
            work = domain.workload
            if not isinstance(work, ProgramWorkload) or not (protocol := protocol_of(work)):
                continue
            socket = run_dir / "*" / domain.name / "work" / SOCKET
            asked = work.env[ROWS_VARIABLE], work.env[REQUESTS_VARIABLE]
            started[domain.name] = start_python(
                "-P", "-m", CLIENT, str(socket), protocol, *asked, str(A_SECOND),
                str(scenario.seed),
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
