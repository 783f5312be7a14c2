"""The subscriber's end of the feed: one socket, messages out of it, ticks put together.

Owns: the SUB socket on ``stats.ipc``. A reader cannot slow the hypervisor: what it does not take is
dropped there. ZeroMQ connects again when the hypervisor is another one. Used from one thread; a
context manager.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Self

import zmq

from hypervisor.public import feed
from hypervisor.public.errors import MemcoordError
from hypervisor.public.feed import FeedMessage, Hello, Tick
from hypervisor.public.messages import STATS_SOCKET, BadMessage
from memcoord.testbed.runs.control_client import token_of
from memcoord.testbed.watch.publications import Assembly, Publication

#: What is taken at most before the caller has its turn again.
MESSAGES_MAX = 1000


class BadStatistics(MemcoordError):
    """A hypervisor published something that is no message of the feed."""


class FeedReader:
    """The feed of the hypervisor in ``directory``; subscribe once it answers a ping."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._assembly = Assembly()
        self._token = b""

    def __enter__(self) -> Self:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close(0)
        self._context.term()

    @property
    def hello(self) -> Hello | None:
        """The last one that came."""
        return self._assembly.hello

    def subscribe(self) -> None:
        """Receive from now on."""
        self._socket.linger = 0
        self._socket.rcvhwm = MESSAGES_MAX
        self._token = token_of(self._directory).encode()
        self._socket.subscribe(self._token)
        self._socket.connect(f"ipc://{self._directory / STATS_SOCKET}")

    def subscribe_now(self, wait_ms: int) -> bool:
        """Subscribe, and wait until the hypervisor has taken the connection: False if it has not.

        What it publishes from then on is received; ``subscribe`` may miss the first ticks.
        """
        monitor = self._socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        try:
            self.subscribe()
            return bool(monitor.poll(wait_ms))
        finally:
            self._socket.disable_monitor()
            monitor.close(0)

    def follow(self) -> None:
        """Subscribe to the hypervisor that serves the directory now, if it is another one.

        A run has one after the other; each has a token of its own.
        """
        token = token_of(self._directory).encode()
        if token and token != self._token:
            self._socket.unsubscribe(self._token)
            self._socket.subscribe(token)
            self._token = token

    def read(self, wait_ms: int = 0) -> Iterator[Publication | FeedMessage]:
        """What has come: ticks as publications; waits up to ``wait_ms``. BadStatistics."""
        self._socket.poll(wait_ms)
        for _ in range(MESSAGES_MAX):
            try:
                data = self._socket.recv_multipart(zmq.NOBLOCK)[-1]
                message = feed.decode(data)
                whole = self._take(message)
            except zmq.Again:
                return
            except BadMessage as error:
                raise BadStatistics(f"statistics cannot be read: {error}") from None
            if whole is not None:
                yield whole

    def _take(self, message: FeedMessage) -> Publication | FeedMessage | None:
        if isinstance(message, Hello):
            self._assembly.schema(message)
        if isinstance(message, Tick):
            return self._assembly.add(message)
        return message
