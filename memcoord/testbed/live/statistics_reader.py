"""The publications of a hypervisor, one per tick, read by the process that runs it.

Owns: the SUB socket on ``stats.ipc`` and the counts over ticks that a run's report needs. Called by
``memcoord.testbed.live.session`` from one thread; a context manager.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import zmq

from hypervisor.public import messages
from hypervisor.public.errors import MemcoordError
from memcoord.testbed.runs.control_client import token_of

PUBLICATIONS_MAX = 1000


class BadStatistics(MemcoordError):
    """A hypervisor published something other than a ``Publication``."""


class StatisticsReader:
    """The publications of the hypervisor in ``directory``; subscribe once it answers a ping.

    Each tick comes once, also over a restart of the hypervisor.
    """

    def __init__(self, directory: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._directory = directory
        self._endpoint = f"ipc://{directory / messages.STATS_SOCKET}"
        self.ticks = self.served_ticks = 0  # all, and those with domains
        self.faults = self.faulty_ticks = 0  # of the policy; ticks with domains and a new one
        self._clock = clock
        self._last_tick = 0
        self.begin_s = clock()

    def __enter__(self) -> Self:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close(0)
        self._context.term()

    def subscribe(self) -> None:
        """Receive from now on; times are counted from here."""
        self._socket.linger = 0
        self._socket.rcvhwm = PUBLICATIONS_MAX
        self._socket.subscribe(token_of(self._directory).encode())
        self._socket.connect(self._endpoint)
        self.begin_s = self._clock()

    @property
    def elapsed_s(self) -> float:
        """Seconds since ``subscribe``."""
        return self._clock() - self.begin_s

    def read(self, wait_ms: int = 0) -> Iterator[messages.Publication]:
        """The publications that have come; waits up to ``wait_ms`` for the first. BadStatistics."""
        self._socket.poll(wait_ms)
        for _ in range(PUBLICATIONS_MAX):
            try:
                message = messages.decode(self._socket.recv_multipart(zmq.NOBLOCK)[-1])
            except zmq.Again:
                return
            except messages.BadMessage as error:
                raise BadStatistics(f"statistics cannot be read: {error}") from None
            if not isinstance(message, messages.Publication):
                raise BadStatistics(f"statistics hold a {type(message).__name__}")
            if message.tick <= self._last_tick:
                continue  # of the hypervisor before, which had published it
            self._last_tick = message.tick
            faults = message.host.get("policy_faults", 0)
            self.ticks += 1
            self.served_ticks += bool(message.domains)
            self.faulty_ticks += bool(message.domains) and faults > self.faults
            self.faults = faults
            yield message
