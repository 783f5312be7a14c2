"""The keeper's own socket: an operator asks that another installation take over.

Owns: ``KEEPER_SOCKET`` in the run directory and the one request under way (``TakeOvers``, the
keeper's side), and the asking (``ask``, the operator's). A request without the operator's token is
refused. One request is under way at a time; its answer may take as long as a start.
"""

from __future__ import annotations

import socket
from pathlib import Path

import msgspec

from hypervisor.door import Door, Peer
from hypervisor.keeping.channel import MESSAGE_BYTES_MAX, Message, Taken, TakeOver
from hypervisor.public.documents import UNREADABLE
from hypervisor.public.errors import ConfigError, MemcoordError
from hypervisor.public.messages import KEEPER_SOCKET, TOKEN_FILE

PER_PROCESS_MAX = 4
ANSWER_S = 600.0  # a new installation may have to compile its kernels


class TakeOvers:
    """Hear those who ask; ConfigError when the socket cannot be made."""

    def __init__(self, run_dir: Path) -> None:
        self._token_path = run_dir / TOKEN_FILE
        self._asking: Peer | None = None
        self._asked: TakeOver | None = None
        self._door: Door[Peer] = Door(
            run_dir / KEEPER_SOCKET,
            socket.SOCK_SEQPACKET,
            Peer,
            hear=self._hear,
            refuse=lambda peer, _, reason: _send(peer, Taken(reason)),
            per_process_max=PER_PROCESS_MAX,
        )
        self.poll_fds, self.expire = self._door.poll_fds, self._door.expire
        self.close = self._door.close

    def handle(self, fileno: int) -> TakeOver | None:
        """Serve one of ``poll_fds``; a request that is to be carried out and answered now."""
        self._door.handle(fileno)
        asked, self._asked = self._asked, None
        return asked

    def answer(self, refusal: str, pid: int = 0) -> None:
        """Answer the request under way, if there is one."""
        peer, self._asking = self._asking, None
        if peer is not None and self._door.peers.get(peer.connection.fileno()) is peer:
            _send(peer, Taken(refusal, pid))
            self._door.drop(peer)

    def _hear(self, peer: Peer) -> None:
        try:
            data = peer.connection.recv(MESSAGE_BYTES_MAX)
            request = msgspec.msgpack.decode(data, type=Message) if data else None
        except BlockingIOError:
            return
        except (OSError, *UNREADABLE):
            request = None
        if peer is self._asking or not isinstance(request, TakeOver):
            self._door.drop(peer)  # whoever asked waits no longer; the request is carried out
        elif not self._is_token(request.token):
            self._door.turn_out(peer, "token", f"the operator's token ({TOKEN_FILE}) is needed")
        elif self._asking is not None:
            self._door.turn_out(peer, "busy", "another installation is taking over just now")
        else:
            peer.is_known = True
            self._asking, self._asked = peer, request

    def _is_token(self, given: str) -> bool:
        try:
            token = self._token_path.read_bytes()
        except OSError:
            return False
        import hmac  # slow to import, and hardly ever wanted

        return bool(token) and hmac.compare_digest(given.encode(), token)


def ask(run_dir: Path, token: str, python: str, packages: str) -> int:
    """Have an installation take over the hypervisor of ``run_dir``; the new one's process id.

    ConfigError when no keeper is there, MemcoordError with the keeper's reason when it refuses.
    """
    path = run_dir / KEEPER_SOCKET
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(ANSWER_S)
        try:
            connection.connect(str(path))
            connection.send(msgspec.msgpack.encode(TakeOver(token, python, packages)))
            answer = msgspec.msgpack.decode(connection.recv(MESSAGE_BYTES_MAX), type=Message)
        except (FileNotFoundError, ConnectionRefusedError):
            why = f"no keeper serves {run_dir}: its memory is gone, start another hypervisor"
            raise ConfigError("--recover", why) from None
        except (OSError, *UNREADABLE) as error:
            raise MemcoordError(f"the keeper of {run_dir} does not answer: {error}") from None
    if not isinstance(answer, Taken) or answer.refusal:
        why = answer.refusal if isinstance(answer, Taken) else type(answer).__name__
        raise MemcoordError(f"not taken over: {why}")
    return answer.pid


def _send(peer: Peer, answer: Taken) -> None:
    try:
        peer.connection.send(msgspec.msgpack.encode(answer))
    except OSError:
        return
