"""Goal: a server that forks a process per client answers in a domain as it does outside.

PostgreSQL refuses to run as root. Where the tests run as root it runs as nobody, with the one right
that being told of forks needs, and with a hypervisor of its own, which is then nobody's too.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from memcoord.testbed.runs import userfaults

RUN_S = 100
NOBODY = 65534
#: To be told of forks; and to start a Python that lies in the folder of root.
RIGHTS = "+sys_ptrace,+dac_read_search"
CLIENTS = 3
SERVER = ["-c", "listen_addresses=", "-c", "fsync=off", "-c", "shared_buffers=16MB"]
#: Sorts some 30 MiB in memory of its own, in a process of its own.
QUERY = (
    "SET work_mem = '200MB'; SELECT md5(string_agg(h, '' ORDER BY h)) FROM "
    "(SELECT md5((n * {client})::text) || repeat('x', 100) AS h FROM generate_series(1, 80000) n "
    "ORDER BY 1) AS sorted;"
)


def as_user(words: list[str]) -> list[str]:
    """The command, as a user who may run PostgreSQL and be told of forks."""
    if os.getuid():
        return words
    rights = [f"--{kind}-caps={RIGHTS}" for kind in ("inh", "ambient")]
    who = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    return ["setpriv", *who, *rights, *words]


@pytest.fixture
def cluster(short_path: Path) -> Path:
    """A folder with the files of a new server."""
    for program in ("initdb", "postgres", "psql", "setpriv"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program}")
    if obstacle := userfaults.probe().obstacle():
        pytest.skip(obstacle)
    if not os.getuid():
        os.chown(short_path, NOBODY, NOBODY)
    make = ["initdb", "-D", str(short_path / "data"), "-A", "trust", "-U", "me", "--no-sync"]
    subprocess.run(as_user(make), check=True, capture_output=True, cwd="/")
    return short_path


@contextmanager
def server(folder: Path, before: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A server that answers; told to end at the end, in the way in which it waits for nobody."""
    own = ["-D", str(folder / "data"), "-c", f"unix_socket_directories={folder}", *SERVER]
    process = subprocess.Popen(
        as_user([*before, shutil.which("postgres") or "", *own]),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
        env={**os.environ, "HOME": str(folder), "XDG_STATE_HOME": str(folder)},
    )
    try:
        deadline = time.monotonic() + RUN_S
        while told(client(folder, "SELECT 1"))[0] != "1\n":
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield process
    finally:
        process.send_signal(signal.SIGINT)


def client(folder: Path, query: str) -> subprocess.Popen[str]:
    words = ["psql", "-X", "-q", "-t", "-A", "-h", str(folder), "-U", "me", "-d", "postgres"]
    pipe = subprocess.PIPE
    return subprocess.Popen(as_user([*words, "-c", query]), stdout=pipe, stderr=pipe, text=True)


def told(asking: subprocess.Popen[str]) -> tuple[str, str]:
    return asking.communicate(timeout=RUN_S)


def answers(folder: Path) -> list[tuple[str, str]]:
    """What clients are told that ask at the same time."""
    asking = [client(folder, QUERY.format(client=one)) for one in range(1, CLIENTS + 1)]
    return [told(one) for one in asking]


def test_a_server_that_forks_for_each_client(cluster: Path) -> None:
    with server(cluster, []) as outside:
        wanted = answers(cluster)
    told(outside)
    sizes = ["--ram", "64MiB", "--max", "128MiB", "--swap-dir", str(cluster)]
    with server(cluster, [sys.executable, "-m", "memcoord", "exec", *sizes, "--json", "--"]) as one:
        found = answers(cluster)
    said = told(one)[1]
    assert found == wanted
    assert all(len(told.strip()) == len("d41d8cd98f00b204e9800998ecf8427e") for told, _ in wanted)
    figures: dict[str, Any] = json.loads(said.strip().splitlines()[-1])["figures"]
    assert figures["forks"] > CLIENTS
    assert figures["tmem_pages_out"] + figures["disk_pages_out"] > 0
