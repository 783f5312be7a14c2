"""Goal: an agent that is not ours, or not well, costs nobody anything. Method: a fake one talks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from memcoord.testbed.machines import agent as module
from memcoord.testbed.machines.agent import Agent, AgentGone, Report

HELLO = b'{"hello":1,"kernel":"6.1","boot":"b1","since_ms":7}\n'
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
LIMIT_S = 60.0


def meet(path: Path, fake: Talk, act: Callable[[Agent], Awaitable[None]]) -> Agent:
    """Open an agent whose other end is ``fake``, and act."""

    async def both() -> Agent:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await fake(reader, writer)
                await reader.read()
            except (ConnectionError, asyncio.CancelledError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_unix_server(talk, str(path / "port"))
        agent = Agent()
        try:
            await agent.open(path / "port", limit_s=LIMIT_S)
            await asyncio.wait_for(act(agent), LIMIT_S)
        finally:
            await agent.close()
            server.close()
        return agent

    return asyncio.run(both())


def saying(*lines: bytes) -> Talk:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for line in lines:
            writer.write(line)
        await writer.drain()

    return talk


async def is_dropped(agent: Agent) -> None:
    while not agent.dropped:
        await asyncio.sleep(0.005)


async def reported(agent: Agent) -> None:
    while agent.report is None:
        await asyncio.sleep(0.005)


def why_dropped(path: Path, *lines: bytes) -> str:
    """Why an agent is dropped; what it says at once after its greeting may be heard with it."""
    try:
        return meet(path, saying(*lines), is_dropped).dropped
    except AgentGone as gone:
        return str(gone)


def test_a_report_is_read_and_what_is_missing_is_unknown(short_path: Path) -> None:
    line = b'{"uptime_ms":5,"total_bytes":4096,"major_faults":3,"later_version":[1]}\n'
    agent = meet(short_path, saying(HELLO, line), reported)
    assert agent.report == Report(uptime_ms=5, total_bytes=4096, major_faults=3)
    assert agent.report.working_set_bytes is None


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ((HELLO, b"\x00\xff garbage\n"), "sent what no agent sends"),
        ((HELLO, b'{"total_bytes":-1}\n'), "sent what no agent sends"),
        ((HELLO, b'{"total_bytes":"many"}\n'), "sent what no agent sends"),
        ((HELLO, b"[" * 5000 + b"\n"), "sent what no agent sends"),
        ((HELLO, b"x" * 20_000), "sent what no agent sends"),
        ((HELLO, HELLO.replace(b"b1", b"b2")), "booted again"),
        ((HELLO, HELLO.replace(b":7", b":8")), "started again"),
    ],
)
def test_an_agent_that_breaks_the_protocol_is_dropped(
    short_path: Path, lines: tuple[bytes, ...], why: str
) -> None:
    assert why in why_dropped(short_path, *lines)


def test_half_a_line_is_no_line(short_path: Path) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HELLO + b'{"uptime_ms":1')
        await writer.drain()
        await reader.readline()
        writer.close()

    assert meet(short_path, talk, is_dropped).dropped == "it has hung up"


def test_a_flood_is_dropped(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FLOOD_LINES", 100)
    monkeypatch.setattr(module, "FLOOD_S", LIMIT_S)
    assert "more than any guest" in why_dropped(short_path, HELLO, b'{"uptime_ms":1}\n' * 200)


def test_a_silent_agent_is_dropped(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENT_S", 0.1)
    assert "silent" in meet(short_path, saying(HELLO), is_dropped).dropped


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ((HELLO.replace(b":1,", b":2,"),), "version 2, not 1"),
        ((b"hello yourself\n",), "sent what no agent sends"),
        ((), "no greeting"),
    ],
)
def test_who_does_not_greet_is_no_agent(
    short_path: Path, lines: tuple[bytes, ...], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not lines:
        monkeypatch.setitem(globals(), "LIMIT_S", 0.1)
    with pytest.raises(AgentGone, match=why):
        meet(short_path, saying(*lines), is_dropped)


def test_a_port_that_is_not_there_is_no_agent(short_path: Path) -> None:
    with pytest.raises(AgentGone, match="No such file"):
        asyncio.run(Agent().open(short_path / "none"))


def test_a_command_is_asked_for_and_its_answers_are_its_own(short_path: Path) -> None:
    asked: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HELLO)
        while not (line := await reader.readline()).startswith(b"run"):
            pass
        asked.append(line)
        writer.write(
            b'{"id":9,"exit":1}\n{"id":1,"pid":3}\n{"id":1,"out":"\\u00ff\\u000a"}\n'
            b'{"uptime_ms":1}\n{"id":1,"exit":0,"major_faults":5}\n'
        )
        await writer.drain()

    heard: list[bytes] = []

    async def run(agent: Agent) -> None:
        done = await agent.run(["echo", "a b%\n"], {"N": "1"}, heard.append)
        assert (done.exit, done.signal, done.major_faults) == (0, None, 5)
        assert done.output == b"\xff\n"

    meet(short_path, talk, run)
    assert asked == [b"run 1 1 N=1 echo a%20b%25%0a\n"]
    assert heard == [b"\xff\n"]


def test_a_command_that_cannot_be_started_says_so(short_path: Path) -> None:
    failed = b'{"id":1,"failed":"No such file or directory"}\n'

    async def run(agent: Agent) -> None:
        with pytest.raises(OSError, match="No such file"):
            await agent.run(["nothing"])

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HELLO)
        while not (await reader.readline()).startswith(b"run"):
            pass
        writer.write(failed)

    meet(short_path, talk, run)


def test_a_command_ends_with_its_agent(short_path: Path) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HELLO)
        while not (await reader.readline()).startswith(b"run"):
            pass
        writer.close()

    async def run(agent: Agent) -> None:
        with pytest.raises(AgentGone, match="hung up"):
            await agent.run(["sleep", "600"])
        with pytest.raises(AgentGone):
            await agent.run(["sleep", "600"])

    meet(short_path, talk, run)


def test_output_has_a_bound(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OUTPUT_BYTES_MAX", 10)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HELLO)
        while not (await reader.readline()).startswith(b"run"):
            pass
        writer.write(b'{"id":1,"out":"12345678"}\n' * 3 + b'{"id":1,"signal":9}\n')

    async def run(agent: Agent) -> None:
        done = await agent.run(["yes"])
        assert (done.output, done.signal) == (b"1234567812", 9)

    meet(short_path, talk, run)


@pytest.mark.parametrize("words", [[], [""], ["x" * 8000], ["x"] * 300])
def test_what_is_no_command_is_refused(short_path: Path, words: list[str]) -> None:
    async def run(agent: Agent) -> None:
        with pytest.raises(ValueError, match="command"):
            await agent.run(words)

    meet(short_path, saying(HELLO), run)
