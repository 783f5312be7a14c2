"""The HTTP server of the page: on the loopback, with limits for whoever connects.

Owns: the socket, uvicorn and its bounds, and how the server ends. It serves until it is
interrupted; whatever ends the reading of the feed ends the server too.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from hypervisor.public.errors import ConfigError
from memcoord.testbed.runs.loopback import ADDRESS
from memcoord.testbed.web.application import application
from memcoord.testbed.web.following import Following
from memcoord.testbed.web.guard import Guard

CONNECTIONS_MAX = 64
#: How long a connection may be silent before it has asked for anything, and between requests.
FIRST_S, BETWEEN_S = 5.0, 5
HEADER_BYTES_MAX = 16 << 10
#: How long answers under way may take when the server ends; streams have no end of their own.
END_S = 1


class _Bounded(H11Protocol):
    """A connection that must ask for something soon, and one of few."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS_MAX:
            transport.abort()
            return
        self.loop.call_later(FIRST_S, self._hurry)

    def _hurry(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.abort()


class _Server(uvicorn.Server):
    """A server that ends by a signal as if it were told to, and lets its streams end first."""

    def __init__(self, config: uvicorn.Config, following: Following) -> None:
        super().__init__(config)
        self._following = following

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End at SIGINT and SIGTERM.

        API: uvicorn serves within this; its own raises the signal again in the end.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End all streams, then what uvicorn has."""
        self._following.viewers.end()
        await super().shutdown(sockets)


def serve(place: Path, port: int, told: Callable[[str], None]) -> None:
    """Serve the run in ``place`` until SIGINT or SIGTERM; ``told`` is given the address once.

    ConfigError where the port is taken; BadStatistics where the feed cannot be read.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((ADDRESS, port))
        except OSError as error:
            raise ConfigError("--port", f"{port}: {error.strerror or error}") from None
        asyncio.run(_serve(place, listening, told))


async def _serve(place: Path, listening: socket.socket, told: Callable[[str], None]) -> None:
    port = listening.getsockname()[1]
    following = Following(place)
    guard = Guard(application(following, place), port)
    config = uvicorn.Config(
        guard,
        http=_Bounded,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=BETWEEN_S,
        timeout_graceful_shutdown=END_S,
        h11_max_incomplete_event_size=HEADER_BYTES_MAX,
    )
    server = _Server(config, following)
    reading = asyncio.create_task(following.follow())
    reading.add_done_callback(lambda _: setattr(server, "should_exit", True))
    listening.listen(CONNECTIONS_MAX)
    told(f"http://{ADDRESS}:{port}/?token={guard.token}")
    try:
        await server.serve(sockets=[listening])
    finally:
        if not reading.done():
            reading.cancel()
        await asyncio.wait({reading})
    if not reading.cancelled():
        await reading
