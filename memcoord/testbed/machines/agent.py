"""The host's side of the agent in a guest: reports, and commands that run there.

Owns: the protocol (``image/agent.c`` says it in full) and the trust in it, which is none. The agent
is optional: a guest without one is a guest of which less is known. Whoever speaks on the port may
be anybody that the guest runs, so every line has a bound, every field a type and a range, and an
agent that breaks the protocol is dropped for good with the reason in ``dropped``: nothing waits for
it, and nothing that it says is believed further than as a report of its own guest.

One reader per agent, in an asyncio loop. ``Agent.open`` connects; ``close`` is always right.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from hypervisor.public.documents import UNREADABLE
from hypervisor.public.errors import MemcoordError

VERSION = 1
#: What the agent may write, in one line and in a second: eight commands that write at full speed
#: need a quarter of that.
LINE_BYTES_MAX, FLOOD_BYTES, FLOOD_LINES, FLOOD_S = 8 << 10, 16 << 20, 20_000, 1.0
#: An agent that reports is silent after this, one that was asked for a greeting after that.
SILENT_S, HELLO_S = 15.0, 15.0
REPORT_MS = 100
#: A command line, and what is kept of what it writes.
COMMAND_BYTES_MAX, WORDS_MAX, OUTPUT_BYTES_MAX = 7 << 10, 200, 256 << 10
COMMANDS_MAX = 8
_PLAIN = frozenset(range(ord("!"), 127)) - {ord("%")}

Count = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Text = Annotated[str, Meta(max_length=256)]


class AgentGone(MemcoordError):
    """There is no agent to ask; the message says since when, and why it was dropped."""


class Report(msgspec.Struct, frozen=True):
    """What a guest says of its memory. What its kernel does not know is None, never 0."""

    uptime_ms: Count
    total_bytes: Count | None = None
    free_bytes: Count | None = None
    available_bytes: Count | None = None
    swap_total_bytes: Count | None = None
    swap_free_bytes: Count | None = None
    major_faults: Count | None = None  # this and the next ones: since the guest booted
    swap_in_pages: Count | None = None
    swap_out_pages: Count | None = None
    oom_kills: Count | None = None
    some_us: Count | None = None  # time in which some task, or all, waited for memory
    full_us: Count | None = None
    working_set_bytes: Count | None = None


class Done(msgspec.Struct, frozen=True):
    """How a command ended: ``exit`` or ``signal``, and what it has used."""

    exit: Count | None = None
    signal: Count | None = None
    cut: Count = 0  # bytes of its output that were not sent
    major_faults: Count = 0
    user_us: Count = 0
    system_us: Count = 0
    max_kib: Count = 0
    output: bytes = b""


class _Line(Report, frozen=True, kw_only=True):
    """Any line of the agent's; which one it is, is in the fields that are there."""

    uptime_ms: Count = 0
    hello: Count | None = None
    kernel: Text = ""
    boot: Text = ""
    since_ms: Count = 0
    error: Text | None = None
    id: Count | None = None
    pid: Count | None = None
    failed: Text | None = None
    out: Annotated[str, Meta(max_length=LINE_BYTES_MAX)] | None = None
    exit: Count | None = None
    signal: Count | None = None
    cut: Count = 0
    user_us: Count = 0
    system_us: Count = 0
    max_kib: Count = 0


class _Running:
    """A command that was asked for."""

    def __init__(self, hear: Callable[[bytes], None]) -> None:
        self.hear = hear
        self.output = bytearray()
        self.done: asyncio.Future[Done] = asyncio.get_running_loop().create_future()


class Agent:
    """The agent at one port. ``hear`` is called with each report, in the loop's thread."""

    def __init__(self, hear: Callable[[Report], None] = lambda report: None) -> None:
        self.dropped = ""  # why there is no agent any more
        self.kernel = self.boot = ""
        self.report: Report | None = None
        self.heard_s = 0.0  # when the last line came, by time.monotonic
        self._hear = hear
        self._running: dict[int, _Running] = {}
        self._next_id, self._rate_ms, self._since_ms = 1, 0, -1
        self._greeted = asyncio.Event()
        self._writer: asyncio.StreamWriter | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self, path: Path, rate_ms: int = REPORT_MS, limit_s: float = HELLO_S) -> None:
        """Connect and greet; AgentGone when nobody answers as an agent does."""
        try:
            async with asyncio.timeout(limit_s):
                reader, self._writer = await asyncio.open_unix_connection(
                    str(path), limit=LINE_BYTES_MAX
                )
                self._rate_ms = rate_ms
                self._tasks = [asyncio.create_task(self._read(reader))]
                self._say()  # ends what another may have left half
                self._say("hello")
                self._say("rate", str(rate_ms))
                await self._greeted.wait()
        except TimeoutError:
            self._drop(f"no greeting in {limit_s:.0f} s")
        except OSError as error:
            self._drop(str(error))
        if self.dropped:
            await self.close()
            raise AgentGone(f"agent: {self.dropped}")
        self._tasks.append(asyncio.create_task(self._watch()))

    async def run(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str] | None = None,
        hear: Callable[[bytes], None] = lambda line: None,
    ) -> Done:
        """Run a command in the guest to its end; ``hear`` gets what it writes, piece by piece.

        AgentGone when the agent is dropped meanwhile, ValueError for a command that no line holds,
        OSError for one that cannot be started. A task that is cancelled kills the command.
        """
        number, running = self._begin(arguments, environment or {}, hear)
        try:
            return await running.done
        except asyncio.CancelledError:
            self._say("kill", str(number), str(int(signal.SIGKILL)))
            raise
        finally:
            self._running.pop(number, None)

    async def close(self) -> None:
        """Hang up. Commands that run go on in the guest."""
        self._drop("it was closed")
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._writer is not None:
            self._writer.close()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()

    def look_at_pages(self, every_ms: int) -> None:
        """Have the working set counted so often, where the guest's kernel can; 0: not at all."""
        self._say("idle", str(every_ms))

    def _begin(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        hear: Callable[[bytes], None],
    ) -> tuple[int, _Running]:
        if self.dropped or not self._greeted.is_set():
            raise AgentGone(f"agent: {self.dropped or 'it has not answered yet'}")
        if len(self._running) >= COMMANDS_MAX:
            raise ValueError(f"{COMMANDS_MAX} commands run in the guest already")
        given = [f"{name}={value}" for name, value in environment.items()]
        number, self._next_id = self._next_id, self._next_id + 1
        words = ["run", str(number), str(len(given)), *given, *arguments]
        if not arguments or not all(words) or len(words) > WORDS_MAX:
            raise ValueError(f"a command is 1 to {WORDS_MAX} words, none of them empty")
        line = " ".join(map(_escaped, words))
        if len(line) > COMMAND_BYTES_MAX:
            raise ValueError(f"a command has {COMMAND_BYTES_MAX} bytes at most")
        running = self._running[number] = _Running(hear)
        self._write(line)
        return number, running

    def _say(self, *words: str) -> None:
        self._write(" ".join(words))

    def _write(self, line: str) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(line.encode("ascii") + b"\n")

    async def _read(self, reader: asyncio.StreamReader) -> None:
        """Take lines until the agent is dropped."""
        until, lines_left, bytes_left = 0.0, 0, 0
        try:
            while True:
                line = await reader.readline()
                now = time.monotonic()
                if not line.endswith(b"\n"):
                    return self._drop("it has hung up")
                if now >= until:
                    until, lines_left, bytes_left = now + FLOOD_S, FLOOD_LINES, FLOOD_BYTES
                lines_left, bytes_left = lines_left - 1, bytes_left - len(line)
                if lines_left < 0 or bytes_left < 0:
                    return self._drop("it sends more than any guest needs to")
                self.heard_s = now
                self._take(msgspec.json.decode(line, type=_Line))
                if self.dropped:
                    return None
        except (ValueError, *UNREADABLE):  # ValueError: readline's, for a line without end
            self._drop("it has sent what no agent sends")
        except OSError as error:
            self._drop(str(error))

    def _take(self, line: _Line) -> None:
        """Do what a line is for."""
        if line.hello is not None:
            if line.hello != VERSION:
                return self._drop(f"it speaks version {line.hello}, not {VERSION}")
            if self.boot and line.boot != self.boot:
                return self._drop("its guest has booted again")
            if self._since_ms not in (-1, line.since_ms):
                return self._drop("it was started again, and knows of no command")
            self.kernel, self.boot, self._since_ms = line.kernel, line.boot, line.since_ms
            self._greeted.set()
        elif line.id is not None:
            self._take_of_command(self._running.get(line.id), line)
        elif line.error is None and self._greeted.is_set():
            known = {name: getattr(line, name) for name in Report.__struct_fields__}
            self.report = Report(**known)
            self._hear(self.report)

    def _take_of_command(self, running: _Running | None, line: _Line) -> None:
        if running is None or running.done.done():  # one that nobody waits for any more
            return
        if line.out is not None:
            data = line.out.encode("latin-1", errors="replace")
            running.output += data[: max(0, OUTPUT_BYTES_MAX - len(running.output))]
            running.hear(data)
        elif line.failed is not None:
            running.done.set_exception(OSError(line.failed))
        elif line.exit is not None or line.signal is not None:
            used = (line.cut, line.major_faults or 0, line.user_us, line.system_us, line.max_kib)
            done = Done(line.exit, line.signal, *used, bytes(running.output))
            running.done.set_result(done)

    async def _watch(self) -> None:
        """Drop an agent that was to report and does not."""
        while not self.dropped:
            await asyncio.sleep(SILENT_S / 4)
            if self._rate_ms and time.monotonic() - self.heard_s > SILENT_S:
                self._drop(f"silent for {SILENT_S:.0f} s")

    def _drop(self, why: str) -> None:
        """Believe and ask this agent no more; the first reason stays."""
        if self.dropped:
            return
        self.dropped = why
        self._greeted.set()
        for running in self._running.values():
            if not running.done.done():
                running.done.set_exception(AgentGone(f"agent: {why}"))
        if self._writer is not None:
            self._writer.close()


def _escaped(word: str) -> str:
    """A word with every byte that would end it, or is none of ASCII's, as %XX."""
    return "".join(
        chr(byte) if byte in _PLAIN else f"%{byte:02x}"
        for byte in word.encode("utf-8", "surrogateescape")
    )
