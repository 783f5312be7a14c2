"""The HTTP server that Prometheus scrapes: on this machine only, and for reading only.

Owns: the socket on 127.0.0.1 and who may ask. It answers GET and HEAD of ``/metrics`` and nothing
else. A request needs the token (``Authorization: Bearer``), unless there is none, and a ``Host`` of
this machine, so that no page in a browser can read it under a name of its own. At most REQUESTS_MAX
are served at once, each for REQUEST_S at most. No request reaches the hypervisor.
"""

from __future__ import annotations

import contextlib
import hmac
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any

from hypervisor.public.errors import ConfigError
from memcoord.testbed.metrics.exposition import Exposition
from memcoord.testbed.runs.loopback import ADDRESS, HOSTS

PATH = "/metrics"
REQUESTS_MAX = 8
REQUEST_S = 10.0
_BUSY = b"HTTP/1.0 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


class _Server(ThreadingTCPServer):
    """As http.server's own, which would ask the network for the name of this machine."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = REQUESTS_MAX

    def __init__(self, port: int, exposition: Exposition, token: str) -> None:
        self.exposition, self.token = exposition, token
        self._free = threading.BoundedSemaphore(REQUESTS_MAX)
        super().__init__((ADDRESS, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            with contextlib.suppress(OSError):
                request.setblocking(False)
                request.send(_BUSY)
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread can be started now
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        # A client that sends a byte now and then would keep its place for ever.
        end = threading.Timer(REQUEST_S, _cut, (request,))
        end.daemon = True
        try:
            end.start()
            super().process_request_thread(request, client_address)
        finally:
            end.cancel()
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """API: socketserver calls it. A client that goes away amid an answer is no news."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


def _cut(request: socket.socket) -> None:
    with contextlib.suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version, sys_version = "memcoord", ""

    def do_GET(self) -> None:
        """API: answer one scrape."""
        refused = self._refused()
        if refused is not None:
            status, why = refused
            self._answer(status, f"{why}\n".encode(), "text/plain; charset=utf-8")
            return
        accept = self.headers.get("Accept", "")
        self._answer(HTTPStatus.OK, *self.server.exposition.text(accept))

    do_HEAD = do_GET

    def _refused(self) -> tuple[HTTPStatus, str] | None:
        host, _, port = self.headers.get("Host", "").rpartition(":")
        if not port.isdigit() or host not in HOSTS:
            return HTTPStatus.FORBIDDEN, f"ask for {ADDRESS}, not for another name"
        wanted = f"Bearer {self.server.token}".encode()
        given = self.headers.get("Authorization", "").encode("utf-8", "replace")
        if self.server.token and not hmac.compare_digest(given, wanted):
            return HTTPStatus.UNAUTHORIZED, "send the token: Authorization: Bearer TOKEN"
        if self.path != PATH:
            return HTTPStatus.NOT_FOUND, f"only {PATH} is here"
        return None

    def _answer(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        if status == HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", "Bearer")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """API: http.server calls it for each request; a scrape every few seconds is no news."""


@contextmanager
def serving(exposition: Exposition, port: int, token: str) -> Iterator[int]:
    """Serve within the block, on ``port`` or, if that is 0, on a free one; which one it is.

    ``token``: empty for none. ConfigError when the port cannot be had.
    """
    try:
        server = _Server(port, exposition, token)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ConfigError("--port", f"{port}: {why}; name another one, or 0 for any") from None
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    with server:
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join(REQUEST_S)
