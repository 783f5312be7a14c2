"""Who looks at the page: a bounded number of viewers, each with a bounded queue of messages.

Owns: ``Viewers``, and the stream of server-sent events that each of them is served. A browser that
does not take what it is sent loses the oldest of it, and after SEND_S its place. One event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

VIEWERS_MAX, MESSAGES_MAX = 8, 8
#: How long a browser may leave what it was sent where it is.
SEND_S = 10.0
#: A browser that is gone is noticed when something is sent.
SILENT_S = 5.0


class Viewer:
    """One page in some browser, and which domain is opened in it."""

    def __init__(self, domain: str) -> None:
        self.domain = domain
        self._queue: deque[bytes] = deque(maxlen=MESSAGES_MAX)
        self._has_some = asyncio.Event()
        self._is_over = False

    def put(self, message: bytes) -> None:
        """Send this when there is time; of too many the oldest is dropped."""
        self._queue.append(message)
        self._has_some.set()

    def end(self) -> None:
        """Let the stream end: the server does."""
        self._is_over = True
        self._has_some.set()

    async def get(self) -> bytes | None:
        """The next message, waited for; a comment where none came in SILENT_S; None at the end."""
        while not self._queue:
            if self._is_over:
                return None
            self._has_some.clear()
            try:
                async with asyncio.timeout(SILENT_S):
                    await self._has_some.wait()
            except TimeoutError:
                return b": nothing new\n\n"
        return self._queue.popleft()


class Viewers:
    """All of them; an iterable."""

    def __init__(self) -> None:
        self._all: set[Viewer] = set()

    def __iter__(self) -> Iterator[Viewer]:
        return iter(tuple(self._all))

    @property
    def is_full(self) -> bool:
        """Whether another one is refused."""
        return len(self._all) >= VIEWERS_MAX

    def end(self) -> None:
        """Let all streams end."""
        for viewer in self:
            viewer.end()

    @contextmanager
    def seated(self, viewer: Viewer) -> Iterator[None]:
        """Have a place meanwhile."""
        self._all.add(viewer)
        try:
            yield
        finally:
            self._all.discard(viewer)


def event(name: str, data: bytes) -> bytes:
    """A server-sent event; ``data`` is JSON, which has no line break."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), data)


class Stream(Response):
    """What a viewer is sent until its browser goes or takes nothing any more."""

    media_type = "text/event-stream"

    def __init__(self, viewers: Viewers, viewer: Viewer) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._viewers, self._viewer = viewers, viewer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve it, as ASGI asks."""
        gone = asyncio.create_task(_until_gone(receive))
        sending = asyncio.create_task(self._send(send))
        with self._viewers.seated(self._viewer):
            try:
                await asyncio.wait({gone, sending}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (gone, sending):
                    task.cancel()
                await asyncio.gather(gone, sending, return_exceptions=True)

    async def _send(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        is_more = True
        while is_more:  # until its browser is gone, or the server ends
            body = await self._viewer.get()
            is_more = body is not None
            message = {"type": "http.response.body", "body": body or b"", "more_body": is_more}
            async with asyncio.timeout(SEND_S):
                await send(message)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
