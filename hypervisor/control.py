"""The control plane: ZeroMQ ROUTER for requests, XPUB for statistics, ROUTER for doorbells.

Owns: the sockets ``control.ipc``, ``stats.ipc`` and ``doorbell.ipc`` in the run directory, and the
operator's token: without it a client is told nothing but that the hypervisor lives.
Rules: main thread only; nothing here blocks. A call that changed something is not carried out again
when it comes again under its number (``keeping/calls.py``). A message that does not decode to a
known request, or lacks the token, is counted, logged once by the caller (``bad`` rises), and
answered only if it carried a request id. A peer at the doorbells is let in under an identity that
was given out and that no other peer has.
"""

import hmac
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypervisor.door import Listen, listen
from hypervisor.keeping.calls import Calls
from hypervisor.public.errors import MemcoordError
from hypervisor.public.feed import TOPICS
from hypervisor.public.messages import (
    CONTROL_SOCKET,
    DOORBELL_SOCKET,
    MESSAGE_BYTES_MAX,
    OPEN_OPS,
    PLAIN_OPS,
    STATS_SOCKET,
    TOKEN_FILE,
    VERSION,
    BadMessage,
    Reply,
    Request,
    check_args,
    decode,
    encode,
)
from hypervisor.run_dir import make_token
from hypervisor.zmtp import Line, ZmtpServer

#: Of a message: an envelope, which comes back with the answer, and the request.
FRAMES_PER_MESSAGE_MAX = 3
SUBSCRIBE = b"\x01"
#: What a subscriber gets who comes later: after a restart, until it is there again.
BACKLOG_MAX = 128
BACKLOG_TOPICS = ("tick", "why")
HELLO = "hello"
NO_TOKEN = f"refused: the operator's token is needed ({TOKEN_FILE} in the run directory)"

_TOPIC_ENDS = frozenset(f".{topic}".encode() for topic in TOPICS.values())

#: Carry out an operation: its name and checked arguments -> a result msgpack can carry.
Serve = Callable[[str, dict[str, Any]], Any]


class ControlPlane:
    """Serve requests in ``run_dir`` by calling ``serve``; ConfigError when it cannot be served.

    ``token`` is the operator's where there is one already. ``save`` is called after each change,
    before it is answered. With ``backlog`` nobody misses a tick: who comes gets the last ones.
    """

    def __init__(
        self,
        run_dir: Path,
        serve: Serve,
        *,
        calls: Calls | None = None,
        save: Callable[[], None] = lambda: None,
        token: str = "",
        backlog: bool = False,
        listen: Listen = listen,
    ) -> None:
        self._serve, self._save = serve, save
        self._calls = calls or Calls()
        self._backlog: deque[list[bytes]] = deque(maxlen=BACKLOG_MAX if backlog else 0)
        self._hello: list[bytes] = []
        self._token_path = run_dir / TOKEN_FILE
        self.token = make_token(run_dir, token)
        self._token = self.token.encode()
        self._doorbell_ids: set[bytes] = set()
        self._has_rung = False
        self._control = ZmtpServer(run_dir / CONTROL_SOCKET, "ROUTER", self._answer, listen=listen)
        self._stats = ZmtpServer(run_dir / STATS_SOCKET, "XPUB", self._subscribe, listen=listen)
        self._doorbell = ZmtpServer(
            run_dir / DOORBELL_SOCKET, "ROUTER", self._rung, admit=self._let_in, listen=listen
        )
        self._servers = (self._control, self._stats, self._doorbell)
        self.bad = 0

    def poll_fds(self) -> dict[int, int]:
        """What is to be polled, for which events; each event to ``handle``."""
        return {fd: what for server in self._servers for fd, what in server.poll_fds().items()}

    def handle(self, fileno: int, events: int) -> bool:
        """Serve one of ``poll_fds``; whether it is one of them still."""
        for server in self._servers:
            if fileno in server.poll_fds():
                server.handle(fileno, events)
                return True
        return False

    def expire(self) -> None:
        """Let go of peers that connected and did not say what makes them welcome."""
        for server in self._servers:
            server.expire()

    def _answer(self, line: Line, frames: list[bytes]) -> None:
        if len(frames) > FRAMES_PER_MESSAGE_MAX:
            self.bad += 1
            return
        try:
            request = decode(frames[-1])
            if not isinstance(request, Request):
                raise BadMessage(f"{type(request).__name__} where a Request belongs")
        except BadMessage:
            self.bad += 1
            return
        line.is_known = self._is_token(request.token.encode())
        allowed = line.is_known or request.op in OPEN_OPS
        error, result = check_args(request) if allowed else NO_TOKEN, None
        if error:
            self.bad += 1
        else:
            error, result = self._carry_out(request)
        self._control.send(line, [*frames[:-1], _reply(request.request_id, error, result)])

    def _carry_out(self, request: Request) -> tuple[str, Any]:
        """The error and the result of a call, now or when it was carried out before."""
        if (before := self._calls.find(request.request_id, request.op)) is not None:
            return "", before.result
        self._calls.begin(request.request_id, request.op)
        try:
            result = self._serve(request.op, request.args)
        except MemcoordError as refusal:
            return str(refusal), None
        if request.op not in PLAIN_OPS:
            self._calls.done(result)
            self._save()
        return "", result

    def publish(self, topic: str, data: bytes) -> None:
        """Send a message of the feed to those who subscribed with the token; the slow lose some.

        Whoever subscribes later gets the last ``HELLO`` first.
        """
        message = [self._token + b"." + topic.encode(), data]
        if topic == HELLO:
            self._hello = message
        elif topic in BACKLOG_TOPICS:
            self._backlog.append(message)
        for line in self._stats.lines:
            self._send_wanted(line, message)

    def _send_wanted(self, line: Line, message: list[bytes]) -> None:
        if any(message[0].startswith(topic) for topic in line.topics):
            self._stats.send(line, message)

    def _subscribe(self, line: Line, frames: list[bytes]) -> None:
        topic = frames[0][1:]
        end = len(self._token)
        if frames[0][:1] != SUBSCRIBE or not self._is_token(topic[:end]):
            return
        line.is_known = True
        if (topic[end:] and topic[end:] not in _TOPIC_ENDS) or topic in line.topics:
            return
        line.topics.add(topic)
        for message in (self._hello, *self._backlog):
            if message and message[0].startswith(topic):
                self._stats.send(line, message)

    def _is_token(self, given: bytes) -> bool:
        return hmac.compare_digest(given, self._token)

    def expect_doorbell(self, doorbell_id: str) -> None:
        """Take doorbells that come under ``doorbell_id`` from now on; empty is nobody's."""
        if doorbell_id:
            self._doorbell_ids.add(doorbell_id.encode())

    def forget_doorbell(self, doorbell_id: str) -> None:
        """Drop what comes under ``doorbell_id`` from now on."""
        self._doorbell_ids.discard(doorbell_id.encode())

    def _line_of(self, identity: bytes) -> Line | None:
        known = (line for line in self._doorbell.lines if line.is_known)
        return next((line for line in known if line.identity == identity), None)

    def _let_in(self, line: Line) -> bool:
        if line.identity not in self._doorbell_ids or self._line_of(line.identity) is not None:
            return False
        line.is_known = True
        # A bell may have been lost with the hypervisor before, in either direction.
        self._has_rung = True
        self._doorbell.send(line, [b""])
        return True

    def _rung(self, line: Line, frames: list[bytes]) -> None:
        self._has_rung = self._has_rung or line.identity in self._doorbell_ids

    def doorbells(self) -> bool:
        """Whether a domain's doorbell arrived since the last call (they coalesce)."""
        rang, self._has_rung = self._has_rung, False
        return rang

    def ring(self, doorbell_id: str) -> None:
        """Ring the bell of the domain that connected under ``doorbell_id``."""
        line = self._line_of(doorbell_id.encode())
        if line is not None:
            self._doorbell.send(line, [b""])

    def close(self) -> None:
        """Close the sockets and remove their files, and the token's."""
        for server in self._servers:
            server.close()
        self._token_path.unlink(missing_ok=True)


def _reply(request_id: int, error: str, result: Any) -> bytes:
    try:
        data = encode(Reply(VERSION, request_id, error, result))
    except ValueError as wrong:  # text that is no Unicode, from a policy say
        why = f"the answer cannot be sent: {type(wrong).__name__}"
        return encode(Reply(VERSION, request_id, why, None))
    if len(data) > MESSAGE_BYTES_MAX:
        why = f"the answer is too long: {len(data)} bytes, at most {MESSAGE_BYTES_MAX}"
        return encode(Reply(VERSION, request_id, why, None))
    return data
