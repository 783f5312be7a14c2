"""A guest in QEMU for tests: one boot for many of them, in a loop of its own."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Self, TypeVar

from memcoord.testbed.machines.agent import Agent
from memcoord.testbed.machines.process import BOOT_S, Machine
from memcoord.testbed.machines.spec import MachineSpec

Result = TypeVar("Result")
#: How long anything may take in a guest that is emulated on a busy machine.
LIMIT_S = 120.0


class Loop:
    """An asyncio loop in a thread, which stays until the end: a guest ends with its thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def do(self, work: Coroutine[Any, Any, Result], limit_s: float = LIMIT_S) -> Result:
        """The result of ``work``, which runs in the loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(limit_s)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(LIMIT_S)
        self._loop.close()


class BootedGuest:
    """A machine that has booted, and its agent. Use it with ``with``."""

    def __init__(self, spec: MachineSpec) -> None:
        self.spec = spec
        self.agent = Agent()
        self._folder = tempfile.TemporaryDirectory(prefix="mc-")
        self.machine = Machine(spec, Path(self._folder.name), "guest")
        self._loop = Loop()

    def __enter__(self) -> Self:
        try:
            self.do(self._boot(), BOOT_S + LIMIT_S)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.do(self._end())
        finally:
            self._loop.close()
            self._folder.cleanup()

    def do(self, work: Coroutine[Any, Any, Result], limit_s: float = LIMIT_S) -> Result:
        return self._loop.do(work, limit_s)

    def output(self, *command: str) -> str:
        """What a command in the guest prints; it must end well."""
        done = self.do(self.agent.run(command))
        assert done.exit == 0, done
        return done.output.decode()

    async def _boot(self) -> None:
        await self.machine.__aenter__()
        await self.machine.booted()
        await self.agent.open(self.machine.agent_path, limit_s=LIMIT_S)

    async def _end(self) -> None:
        await self.agent.close()
        await self.machine.__aexit__()
