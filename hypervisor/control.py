"""The control plane: ZeroMQ ROUTER for requests, PUB for statistics, ROUTER for doorbells.

Owns: the sockets ``control.ipc``, ``stats.ipc`` and ``doorbell.ipc`` in the run directory.
Rules: main thread only; nothing here blocks. A message that does not decode to a known request is
counted, logged once by the caller (``bad`` rises), and answered only if it carried a request id.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq

from hypervisor.public.errors import MemcoordError
from hypervisor.public.messages import (
    CONTROL_SOCKET,
    DOORBELL_SOCKET,
    MESSAGE_BYTES_MAX,
    STATS_SOCKET,
    VERSION,
    BadMessage,
    Publication,
    Reply,
    Request,
    check_args,
    decode,
    encode,
)

QUEUE_MESSAGES_MAX = 1000
REQUESTS_PER_EVENT_MAX = 64
FRAMES_PER_MESSAGE_MAX = 4

#: Carry out an operation: its name and checked arguments -> a result msgpack can carry.
Serve = Callable[[str, dict[str, Any]], Any]


class ControlPlane:
    """Serve requests in ``run_dir`` by calling ``serve``."""

    def __init__(self, run_dir: Path, serve: Serve) -> None:
        self._serve = serve
        self._context = zmq.Context()
        self._context.setsockopt(zmq.MAX_SOCKETS, 64)
        self._paths = [run_dir / name for name in (CONTROL_SOCKET, STATS_SOCKET, DOORBELL_SOCKET)]
        self.control = self._bind(zmq.ROUTER, self._paths[0])
        self.stats = self._bind(zmq.PUB, self._paths[1])
        self.doorbell = self._bind(zmq.ROUTER, self._paths[2])
        self.bad = 0

    def _bind(self, kind: int, path: Path) -> zmq.Socket[bytes]:
        made = self._context.socket(kind)
        made.setsockopt(zmq.LINGER, 0)
        made.setsockopt(zmq.SNDHWM, QUEUE_MESSAGES_MAX)
        made.setsockopt(zmq.RCVHWM, QUEUE_MESSAGES_MAX)
        made.setsockopt(zmq.MAXMSGSIZE, MESSAGE_BYTES_MAX)
        if kind == zmq.ROUTER:
            made.setsockopt(zmq.ROUTER_HANDOVER, 1)  # a domain's name may come again
        made.bind(f"ipc://{path}")
        return made

    def handle(self) -> None:
        """Serve what waits on the control socket, at most REQUESTS_PER_EVENT_MAX requests."""
        for _ in range(REQUESTS_PER_EVENT_MAX):
            try:
                frames = self.control.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._answer(frames)

    def _answer(self, frames: list[bytes]) -> None:
        if not 2 <= len(frames) <= FRAMES_PER_MESSAGE_MAX:
            self.bad += 1
            return
        try:
            request = decode(frames[-1])
            if not isinstance(request, Request):
                raise BadMessage(f"{type(request).__name__} where a Request belongs")
        except BadMessage:
            self.bad += 1
            return
        error, result = check_args(request), None
        if error:
            self.bad += 1
        else:
            try:
                result = self._serve(request.op, request.args)
            except MemcoordError as refusal:
                error = str(refusal)
        self._send([*frames[:-1], _reply(request.request_id, error, result)])

    def _send(self, frames: list[bytes]) -> None:
        try:
            self.control.send_multipart(frames, zmq.NOBLOCK)
        except zmq.ZMQError:  # the client is gone or does not read
            return

    def publish(self, publication: Publication) -> None:
        """Send statistics to every subscriber; slow subscribers lose messages."""
        self.stats.send(encode(publication), zmq.NOBLOCK)

    def doorbells(self) -> bool:
        """Whether a domain's doorbell arrived; drains them all (they coalesce)."""
        rang = False
        for _ in range(QUEUE_MESSAGES_MAX):
            try:
                self.doorbell.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return rang
            rang = True
        return rang

    def ring(self, name: str) -> None:
        """Ring the bell of the domain that connected as ``name``."""
        try:
            self.doorbell.send_multipart([name.encode(), b""], zmq.NOBLOCK)
        except zmq.ZMQError:
            return

    def close(self) -> None:
        """Close the sockets and remove their files."""
        for made in (self.control, self.stats, self.doorbell):
            made.close(0)
        self._context.term()
        for path in self._paths:
            path.unlink(missing_ok=True)


def _reply(request_id: int, error: str, result: Any) -> bytes:
    try:
        return encode(Reply(VERSION, request_id, error, result))
    except ValueError as wrong:  # text that is no Unicode, from a policy say
        why = f"the answer cannot be sent: {type(wrong).__name__}"
        return encode(Reply(VERSION, request_id, why, None))
