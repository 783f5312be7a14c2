"""Goal: the agent's C keeps its protocol. Method: it runs here, with a made-up /proc and /sys."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from memcoord.testbed.machines.agent import Agent, AgentGone
from memcoord.testbed.machines.image.build import PROGRAMS
from memcoord.testbed.machines.image.compiling import compiled, compiler

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(compiler() is None, reason="no C compiler"),
]
PAGE_BYTES = os.sysconf("SC_PAGESIZE")
LIMIT_S = 60.0
MEMINFO = "MemTotal:  1000 kB\nMemFree:   400 kB\nMemAvailable: 500 kB\nSwapTotal: 0 kB\n"
VMSTAT = "nr_free_pages 1\npgmajfault 7\npswpin 8\npswpout 9\n"
PSI = "some avg10=0.00 avg60=0.00 avg300=0.00 total=11\nfull avg10=0.00 total=12\n"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("agent") / "agent"
    file.write_bytes(compiled(PROGRAMS[0]))
    file.chmod(0o755)
    return file


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in {
        "proc/meminfo": MEMINFO,
        "proc/vmstat": VMSTAT,
        "proc/pressure/memory": PSI,
        "proc/sys/kernel/random/boot_id": "b00\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


class Port:
    """The agent, and where it is met: by an ``Agent``, or by the bytes of a test."""

    def __init__(self, program: Path, root: Path, path: Path) -> None:
        self._program, self._root, self._path = program, root, path

    def start(self, port: socket.socket) -> None:
        words = [self._program, f"fd:{port.fileno()}", self._root]
        self.process = subprocess.Popen(words, pass_fds=[port.fileno()])

    def raw(self) -> socket.socket:
        """Start the agent; our end of its port."""
        ours, theirs = socket.socketpair()
        with theirs:
            self.start(theirs)
        ours.settimeout(LIMIT_S)
        return ours

    def talk(self, act: Callable[[Agent], Awaitable[None]], rate_ms: int = 20) -> None:
        """Start the agent, open it and act."""

        async def both(listening: socket.socket) -> None:
            async def meet() -> None:
                port, _ = await asyncio.get_running_loop().sock_accept(listening)
                with port:
                    self.start(port)

            agent, met = Agent(), asyncio.create_task(meet())
            try:
                await agent.open(self._path, rate_ms, LIMIT_S)
                await asyncio.wait_for(act(agent), LIMIT_S)
            finally:
                await agent.close()
                await met

        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(self._path))
            listening.listen(1)
            listening.setblocking(False)
            asyncio.run(both(listening))

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def port(program: Path, root: Path, short_path: Path) -> Iterator[Port]:
    made = Port(program, root, short_path / "port")
    yield made
    made.close()


def test_figures_are_the_kernel_s_and_missing_ones_are_missing(port: Port) -> None:
    async def look(agent: Agent) -> None:
        while agent.report is None:
            await asyncio.sleep(0.005)
        seen = agent.report
        assert (seen.total_bytes, seen.free_bytes) == (1000 << 10, 400 << 10)
        assert (seen.available_bytes, seen.swap_total_bytes) == (500 << 10, 0)
        assert (seen.major_faults, seen.swap_in_pages, seen.swap_out_pages) == (7, 8, 9)
        assert (seen.some_us, seen.full_us) == (11, 12)
        assert (seen.oom_kills, seen.swap_free_bytes, seen.working_set_bytes) == (None, None, None)
        assert agent.boot == "b00"

    port.talk(look)


def test_a_rate_of_none_is_silence(port: Port) -> None:
    async def look(agent: Agent) -> None:
        await asyncio.sleep(0.2)
        assert agent.report is None

    port.talk(look, rate_ms=0)


def test_pages_in_use_are_those_whose_idle_bit_went(
    program: Path, root: Path, short_path: Path
) -> None:
    bitmap = root / "sys/kernel/mm/page_idle/bitmap"
    bitmap.parent.mkdir(parents=True)
    bitmap.write_bytes(b"")
    port = Port(program, root, short_path / "port")

    async def look(agent: Agent) -> None:
        agent.look_at_pages(200)
        used = 8 + 8 + 4
        while agent.report is None or not agent.report.working_set_bytes:
            with bitmap.open("r+b") as file:  # a kernel would do that where pages are used
                file.write(b"\x00\x00\x0f")
            await asyncio.sleep(0.02)
        assert agent.report.working_set_bytes == used * PAGE_BYTES

    try:
        port.talk(look)
    finally:
        port.close()


def test_a_command_gets_words_and_environment_and_tells_its_end(port: Port) -> None:
    async def run(agent: Agent) -> None:
        words = ["sh", "-c", 'printf "%s|%s" "$A" "$0"; exit 7', "a b%41\n\xe9"]
        done = await agent.run(words, {"A": "x=y"})
        assert (done.exit, done.output.decode()) == (7, "x=y|a b%41\n\xe9")
        done = await agent.run(["sh", "-c", "kill -TERM $$"])
        assert (done.exit, done.signal) == (None, signal.SIGTERM)
        with pytest.raises(OSError, match="No such file"):
            await agent.run(["/no/such/program"])

    port.talk(run)


def test_commands_run_side_by_side_up_to_a_bound(port: Port) -> None:
    async def run(agent: Agent) -> None:
        tasks = [asyncio.create_task(agent.run(["sleep", "600"])) for _ in range(8)]
        await asyncio.sleep(0)
        with pytest.raises(ValueError, match="8 commands"):
            await agent.run(["true"])
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        while True:  # until the agent has seen one of them end
            try:
                assert (await agent.run(["true"])).exit == 0
                return
            except OSError:
                await asyncio.sleep(0.01)

    port.talk(run)


def test_output_is_cut_and_what_was_cut_is_counted(port: Port) -> None:
    async def run(agent: Agent) -> None:
        done = await agent.run(["sh", "-c", "head -c 700000 /dev/zero"])
        assert len(done.output) == 256 << 10
        assert done.cut == 700_000 - (256 << 10)
        done = await agent.run(["sh", "-c", "yes | head -c 4"])  # SIGPIPE ends `yes`, as it should
        assert done.output == b"y\ny\n"

    port.talk(run)


def test_who_holds_the_output_does_not_hold_the_end(port: Port) -> None:
    async def run(agent: Agent) -> None:
        done = await agent.run(["sh", "-c", "setsid sleep 3 & echo begun"])
        assert (done.exit, done.output) == (0, b"begun\n")
        done = await agent.run(["sh", "-c", "setsid timeout 5 yes & exit 4"])
        assert done.exit == 4

    port.talk(run)


@pytest.mark.parametrize(
    "said",
    [
        b"nonsense\n",
        b"run\n",
        b"run 1 9 true\n",
        b"run 1 -1 true\n",
        b"kill 77 9\nx\n",
        b"run " + b"a " * 1000 + b"\n",
        b"x" * 20_000 + b"\n",
        b"%\n%4\n%zz\n",
    ],
)
def test_what_it_does_not_understand_leaves_it_alive(port: Port, said: bytes) -> None:
    heard = b""
    with port.raw() as ours:
        ours.sendall(said + b"\nhello\n")
        while heard.count(b'"hello"') < 2:  # the first is its own
            heard += ours.recv(4096)
    assert b"error" in heard or b"failed" in heard
    assert port.process.poll() is None


def test_a_host_that_does_not_read_stops_nothing(port: Port) -> None:
    heard = b""
    with port.raw() as ours:
        ours.sendall(b"rate 20\nrun 1 0 sh -c yes%20|%20head%20-c%20900000\n")
        time.sleep(1.0)
        while b'"exit"' not in heard:
            heard = heard[-100:] + ours.recv(1 << 16)
    assert port.process.poll() is None


def test_an_agent_that_is_killed_is_gone(port: Port) -> None:
    async def kill(agent: Agent) -> None:
        running = asyncio.create_task(agent.run(["sleep", "2"]))
        await asyncio.sleep(0.1)
        port.process.kill()
        with pytest.raises(AgentGone, match="hung up"):
            await running

    port.talk(kill)
