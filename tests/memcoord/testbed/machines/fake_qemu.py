"""A QEMU that is only its QMP socket: the calls of a backend, and every way they can go wrong.

Not a test. ``FakeQemu`` listens on a Unix socket within the test's own event loop. ``faults`` maps
a command to a coroutine that is run instead of answering; the module's functions are such ones.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Self

GREETING = {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}}, "capabilities": []}}
MIB = 1 << 20

Fault = Callable[["FakeQemu", asyncio.StreamWriter, dict[str, Any]], Awaitable[None]]


class FakeQemu:
    """Sizes move towards their targets by ``step_bytes`` at each query: they lag."""

    def __init__(self, path: Path, base_mib: int = 512, plugs: int = 0) -> None:
        self.path, self.base = path, base_mib * MIB
        self.kept = self.kept_target = self.base
        self.plugged, self.requested = [0] * plugs, [0] * plugs
        self.step_bytes = 1 << 40
        self.status, self.polling = "running", 0
        self.updated: int | None = None  # None: now
        self.statistics = {
            "stat-total-memory": 400 * MIB,
            "stat-free-memory": 100 * MIB,
            "stat-available-memory": 150 * MIB,
            "stat-disk-caches": 20 * MIB,
            "stat-swap-in": 0,
            "stat-swap-out": 0,
            "stat-major-faults": 7,
            "stat-htlb-pgalloc": 0,
        }
        self.calls: list[dict[str, Any]] = []
        self.connections = 0
        self.faults: dict[str, Fault] = {}
        self.greeting: bytes | None = json.dumps(GREETING).encode() + b"\r\n"
        # What a pilot asks of the process.
        self.memory = {"ram0": 0}
        self.resident = 200 * MIB
        self.returncode: int | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.vanish()

    async def listen(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, str(self.path))

    async def vanish(self) -> None:
        """As when QEMU is killed: nobody listens, every connection is cut."""
        self._server.close()
        for writer in list(self._writers):
            writer.close()
        self.path.unlink(missing_ok=True)
        await asyncio.sleep(0)

    def resident_bytes(self, part: str) -> int:
        assert part in self.memory
        return self.resident

    async def say(self, event: str, data: dict[str, Any] | None = None, times: int = 1) -> None:
        """An event, to everybody."""
        stamp = {"seconds": int(time.time()), "microseconds": 0}
        line = json.dumps({"event": event, "data": data or {}, "timestamp": stamp}).encode()
        for writer in list(self._writers):
            for _ in range(times):
                writer.write(line + b"\r\n")
            await writer.drain()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            if self.greeting is None:
                await asyncio.sleep(3600)
            writer.write(self.greeting or b"")
            text = ""
            while data := await reader.read(1 << 16):  # requests follow each other without a mark
                text += data.decode()
                while text := text.lstrip():
                    try:
                        request, end = json.JSONDecoder().raw_decode(text)
                    except ValueError:
                        break
                    text = text[end:]
                    await self._answer(writer, request)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, request: dict[str, Any]) -> None:
        command, arguments = request["execute"], request.get("arguments", {})
        self.calls.append({"execute": command, **arguments})
        if fault := self.faults.get(command):
            await fault(self, writer, request)
            return
        try:
            reply = {"return": self._do(command, arguments)}
        except ValueError as error:
            reply = {"error": {"class": "GenericError", "desc": str(error)}}
        await send(writer, request, reply)

    def _do(self, command: str, arguments: dict[str, Any]) -> Any:
        if command in ("qmp_capabilities", "quit"):
            return {}
        if command == "query-status":
            return {"status": self.status, "running": self.status == "running"}
        if command == "balloon":
            if arguments["value"] <= 0:
                raise ValueError("Parameter 'target' expects a size")
            self.kept_target = min(arguments["value"], self.base)
            return {}
        if command == "query-balloon":
            self.kept = self._nearer(self.kept, self.kept_target)
            return {"actual": self.kept}
        return self._property(command, arguments)

    def _property(self, command: str, arguments: dict[str, Any]) -> Any:
        path, name = arguments["path"], arguments["property"]
        if name == "guest-stats-polling-interval":
            self.polling = arguments["value"]
            return {}
        if name == "guest-stats":
            at = int(time.time()) if self.updated is None else self.updated
            return {"last-update": at if self.polling else 0, "stats": self.statistics}
        number = int(path.removeprefix("/machine/peripheral/plug"))
        if command == "qom-set":
            if arguments["value"] % (2 * MIB):
                raise ValueError("'requested-size' has to be a multiple of 'block-size'")
            self.requested[number] = arguments["value"]
            return {}
        self.plugged[number] = self._nearer(self.plugged[number], self.requested[number])
        return self.plugged[number]

    def _nearer(self, size: int, target: int) -> int:
        return (
            max(target, size - self.step_bytes)
            if target < size
            else min(target, size + self.step_bytes)
        )


async def send(
    writer: asyncio.StreamWriter, request: dict[str, Any], reply: dict[str, Any]
) -> None:
    writer.write(json.dumps(reply | {"id": request.get("id")}).encode() + b"\r\n")
    await writer.drain()


# Faults.


async def never(_: FakeQemu, __: asyncio.StreamWriter, ___: dict[str, Any]) -> None:
    """A stopped QEMU: no answer to this call."""


async def hang_up(_: FakeQemu, writer: asyncio.StreamWriter, __: dict[str, Any]) -> None:
    writer.close()


async def half(_: FakeQemu, writer: asyncio.StreamWriter, __: dict[str, Any]) -> None:
    writer.write(b'{"return": {"actual": 12')
    await writer.drain()
    writer.close()


async def garbage(_: FakeQemu, writer: asyncio.StreamWriter, __: dict[str, Any]) -> None:
    writer.write(b"\x00\xff no json \r\n")
    await writer.drain()


async def too_long(_: FakeQemu, writer: asyncio.StreamWriter, __: dict[str, Any]) -> None:
    writer.write(b'{"return": "' + b"x" * (1 << 20) + b'"}\r\n')
    await writer.drain()


def answers(value: Any) -> Fault:
    """Another value than the call's."""

    async def fault(_: FakeQemu, writer: asyncio.StreamWriter, request: dict[str, Any]) -> None:
        await send(writer, request, {"return": value})

    return fault


def refuses(text: str) -> Fault:
    async def fault(_: FakeQemu, writer: asyncio.StreamWriter, request: dict[str, Any]) -> None:
        await send(writer, request, {"error": {"class": "GenericError", "desc": text}})

    return fault
