"""``memcoord nbd`` with a real hypervisor: every byte while the hypervisor dies, targets move and
tmem freezes; what a kill of the server, of a client, of the hypervisor leaves."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from nbd_client import NbdClient, NbdError

import memcoord
from hypervisor.public.errors import MemcoordError

pytestmark = pytest.mark.process
WAIT_S = 120.0
BLOCK, BLOCKS = 4096, 4096
SIZE = BLOCK * BLOCKS
CHAOS_STEPS, CHAOS_KILLS = 14, 3


def wait_until(done: Callable[[], Any]) -> Any:
    until = time.monotonic() + WAIT_S
    while not (found := done()):
        assert time.monotonic() < until, "did not happen in time"
        time.sleep(0.01)
    return found


class Server:
    """One ``memcoord nbd``."""

    def __init__(self, directory: Path, *words: str, name: str = "disk") -> None:
        self.socket = directory / f"{name}.sock"
        command = [sys.executable, "-P", "-m", "memcoord", "nbd", "--name", name, "--json"]
        command += ["--socket", str(self.socket), "--file", str(directory / f"{name}.file")]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([*command, *words], stdout=pipe, stderr=pipe, text=True)

    def connect(self) -> NbdClient:
        """A client, once it is served."""

        def attempt() -> NbdClient | None:
            assert self.process.poll() is None, self.process.communicate()
            with contextlib.suppress(OSError, EOFError):
                return NbdClient(self.socket, structured=True)
            return None

        client: NbdClient = wait_until(attempt)
        return client

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        """Exit code, output, errors."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=WAIT_S)
        return self.process.returncode, out, err


@pytest.fixture
def serve(short_path: Path) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def make(*words: str, **more: Any) -> Server:
        servers.append(Server(short_path, *words, **more))
        return servers[-1]

    yield make
    for server in servers:
        server.process.kill()
        server.process.communicate()


@pytest.fixture
def hypervisor(short_path: Path) -> Iterator[memcoord.Hypervisor]:
    with memcoord.Hypervisor("64 MiB", run_dir=short_path / "run") as made:
        yield made


def page(block: int, version: int) -> bytes:
    return (block << 32 | version).to_bytes(8, "big") * (BLOCK // 8)


class User(threading.Thread):
    """A client that writes blocks of its own, one to 40 at once, reads them, discards some."""

    def __init__(self, client: NbdClient, number: int) -> None:
        super().__init__()
        self.client, self.rng = client, random.Random(number)
        self.begin, self.end = number * BLOCKS // 2, (number + 1) * BLOCKS // 2
        self.versions: dict[int, int] = {}
        self.wrong: list[int] = []
        self.stop, self.steps = False, 0

    def run(self) -> None:
        while not self.stop:
            self.steps += 1
            count = self.rng.choice((1, 1, 8, 40))
            first = self.rng.randrange(self.begin, self.end - count)
            blocks, kind = range(first, first + count), self.rng.random()
            if kind < 0.55:
                self.client.write(first * BLOCK, b"".join(page(k, self.steps) for k in blocks))
                self.versions |= dict.fromkeys(blocks, self.steps)
            elif kind < 0.65:
                self.client.trim(first * BLOCK, count * BLOCK)
                for block in blocks:
                    self.versions.pop(block, None)
            else:
                self.look(first, count)

    def look(self, first: int, count: int) -> None:
        data = self.client.read(first * BLOCK, count * BLOCK)
        for place, block in enumerate(range(first, first + count)):
            version = self.versions.get(block)
            expected = bytes(BLOCK) if version is None else page(block, version)
            if data[place * BLOCK : (place + 1) * BLOCK] != expected:
                self.wrong.append(block)


def test_every_byte_while_hypervisors_die_targets_move_and_tmem_freezes(
    hypervisor: memcoord.Hypervisor, serve: Any
) -> None:
    server = serve("--run-dir", str(hypervisor.run_dir), "--size", str(SIZE))
    users = [User(server.connect(), number) for number in range(2)]
    for user in users:
        user.start()
    rng, pid = random.Random(1), 0
    for step in range(CHAOS_STEPS):
        before = [user.steps for user in users]
        with contextlib.suppress(MemcoordError):  # a hypervisor that has just died
            hypervisor.control("tmem-set", domain="disk", target_pages=rng.choice((0, 500, 10**6)))
            hypervisor.control(rng.choice(("tmem-freeze", "tmem-thaw")), domain="disk")
        if step % (CHAOS_STEPS // CHAOS_KILLS) == 1:
            pid = wait_until(lambda last=pid: _another_pid(hypervisor, last))
            os.kill(pid, signal.SIGKILL)
        wait_until(
            lambda counts=before: all(
                user.steps > count + 20 or not user.is_alive()
                for user, count in zip(users, counts, strict=True)
            )
        )
    for user in users:
        user.stop = True
        user.join(WAIT_S)
        assert not user.is_alive()
    for user in users:
        for first in range(user.begin, user.end, 64):
            user.look(first, 64)
        assert user.wrong == []
        user.client.close()
    code, out, err = server.end()
    assert code == 0, err
    counted = json.loads(out)
    assert min(counted["puts"], counted["refused"], counted["file_reads"]) > 0
    assert (counted["errors"], counted["lost"], counted["late"]) == (0, 0, 0)


def _another_pid(hypervisor: memcoord.Hypervisor, last: int) -> int:
    with contextlib.suppress(MemcoordError):
        pid = int(hypervisor.control("ping")["pid"])
        return pid if pid != last else 0
    return 0


def test_tmem_list_and_the_quota_hold_for_the_device(
    hypervisor: memcoord.Hypervisor, serve: Any
) -> None:
    server = serve("--run-dir", str(hypervisor.run_dir), "--size", "1 MiB")
    with server.connect() as client:
        hypervisor.control("tmem-quota", domain="disk", pages=100)
        for block in range(256):
            client.write(block * BLOCK, page(block, 1))
        listed = hypervisor.control("tmem-list", domain="disk")
        assert listed["pools"][0]["pages"] == listed["clients"][0]["persistent_pages"] == 100
        assert listed["clients"][0]["puts_failed_nomem"] == 156
        for block in range(256):
            assert client.read(block * BLOCK, BLOCK) == page(block, 1)
    code, out, err = server.end(signal.SIGINT)
    assert code == 0, err
    counted = json.loads(out)
    assert (counted["tmem_blocks"], counted["file_blocks"]) == (100, 156)


def test_a_server_that_is_killed_leaves_no_file_no_page_and_no_domain(
    hypervisor: memcoord.Hypervisor, serve: Any, short_path: Path
) -> None:
    words = ("--run-dir", str(hypervisor.run_dir), "--size", str(SIZE))
    server, other = serve(*words), serve(*words, name="other")
    with server.connect() as client, other.connect() as second:
        client.write(0, b"a" * SIZE)
        second.write(0, b"b" * BLOCK)
        server.process.kill()
        with pytest.raises((EOFError, ConnectionError)):
            client.read(0, BLOCK)
        assert not (short_path / "disk.file").exists()
        wait_until(lambda: [domain["name"] for domain in hypervisor.control("list")] == ["other"])
        assert second.read(0, BLOCK) == b"b" * BLOCK
    again = serve(*words)  # in the place of its socket
    with again.connect() as client:
        assert client.read(0, BLOCK) == bytes(BLOCK)


def test_a_hypervisor_that_ends_for_good_ends_the_server_with_an_error(
    short_path: Path, serve: Any
) -> None:
    with memcoord.Hypervisor("64 MiB", run_dir=short_path / "run") as hypervisor:
        server = serve("--run-dir", str(hypervisor.run_dir), "--size", "1 MiB")
        client = server.connect()
        client.write(0, page(0, 1))
    with client, pytest.raises((NbdError, EOFError, ConnectionError)):
        client.read(0, BLOCK)
    out, err = server.process.communicate(timeout=WAIT_S)
    assert server.process.returncode != 0
    assert "hypervisor" in err
    assert json.loads(out)["puts"] == 1


def test_a_full_disk_is_told_to_the_client_and_nothing_is_lost_that_was_written(
    hypervisor: memcoord.Hypervisor, serve: Any
) -> None:
    words = ("--run-dir", str(hypervisor.run_dir), "--size", str(SIZE))
    server = serve(*words)
    with server.connect() as client:
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        hypervisor.control("tmem-freeze", domain="disk")
        client.write(0, b"k" * (1 << 20))
        with pytest.raises(NbdError):
            client.write(8 << 20, b"x" * BLOCK)
        assert client.read(0, 1 << 20) == b"k" * (1 << 20)
        hypervisor.control("tmem-thaw", domain="disk")
        client.write(8 << 20, b"y" * BLOCK)
        assert client.read(8 << 20, BLOCK) == b"y" * BLOCK


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--size", "5000"), "--size"),
        (("--size", "0"), "--size"),
        (("--size", "much"), "--size"),
        (("--size", "1 MiB", "--memory", "1 MiB"), "--memory"),
        (("--size", "1 MiB", "--run-dir", "/nowhere", "--memory", "1 GiB"), "--memory"),
    ],
)
def test_wrong_options_end_before_anything_is_started(
    serve: Any, words: tuple[str, ...], said: str
) -> None:
    server = serve(*words)
    _, err = server.process.communicate(timeout=WAIT_S)
    assert server.process.returncode == 2
    assert said in err
