"""The attach listener: it admits processes as domains and hands their memory over.

Owns: ``attach.sock`` (AF_UNIX, SOCK_SEQPACKET) and connections that have not attached yet.
Rules: main thread only; nothing here blocks. ``hypervisor.public.messages`` lists the steps. A peer
of another user, a message that is no ``AttachRequest`` and a peer that stays silent for
``REQUEST_TIMEOUT_S`` are refused and counted.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

from hypervisor.public.errors import AttachRefused, ConfigError, MemcoordError, NoMemory
from hypervisor.public.messages import (
    ATTACH_SOCKET,
    SOCKET_PATH_BYTES_MAX,
    VERSION,
    Attached,
    AttachRequest,
    BadMessage,
    Refused,
    decode,
    encode,
)

PENDING_MAX = 64
REQUEST_TIMEOUT_S = 5.0
ACCEPTS_PER_EVENT_MAX = 16
REQUEST_BYTES_MAX = 4096

_UCRED = struct.Struct("3i")

#: Admit a domain: its request, its pid, its connection -> the answer and the fds to hand over.
Admit = Callable[[AttachRequest, int, socket.socket], tuple[Attached, list[int]]]


class AttachListener:
    """Listen in ``run_dir``; ``poll_fds`` are to be polled for input, each event to ``handle``."""

    def __init__(
        self,
        run_dir: Path,
        admit: Admit,
        *,
        uid: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        path = str(run_dir / ATTACH_SOCKET)
        if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
            raise ConfigError("run-dir", f"{path} is too long for a socket: choose a shorter one")
        self._admit, self._clock = admit, clock
        self._uid = os.getuid() if uid is None else uid
        self._pending: dict[int, tuple[socket.socket, int, float]] = {}
        self.refused = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        try:
            self._socket.bind(path)
        except OSError as error:
            self._socket.close()
            raise ConfigError("run-dir", f"{path}: {error.strerror}") from None
        self._path = path
        self._socket.listen(PENDING_MAX)

    def poll_fds(self) -> list[int]:
        """The listening socket, then every connection that has not attached yet."""
        return [self._socket.fileno(), *self._pending]

    def handle(self, fileno: int) -> None:
        """Accept or read: ``fileno``, one of ``poll_fds``, has input."""
        if fileno == self._socket.fileno():
            for _ in range(ACCEPTS_PER_EVENT_MAX):
                if not self._accept():
                    return
        elif fileno in self._pending:
            self._receive(fileno)

    def expire(self) -> None:
        """Refuse connections that have been silent for too long."""
        now = self._clock()
        for fileno, (_, _, since) in list(self._pending.items()):
            if now - since > REQUEST_TIMEOUT_S:
                self._refuse(fileno, "silent", f"no request within {REQUEST_TIMEOUT_S:g} s")

    def close(self) -> None:
        """Stop listening; connections already handed over are not touched."""
        for connection, _, _ in self._pending.values():
            connection.close()
        self._pending.clear()
        self._socket.close()
        Path(self._path).unlink(missing_ok=True)

    def _accept(self) -> bool:
        try:
            connection, _ = self._socket.accept()
        except BlockingIOError:
            return False
        except OSError:  # the peer went away, or no fd is left: the next event tries again
            return False
        connection.setblocking(False)
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        pid, uid, _ = _UCRED.unpack(raw)
        fileno = connection.fileno()
        self._pending[fileno] = (connection, pid, self._clock())
        if uid != self._uid:
            self._refuse(fileno, "other-user", f"uid {uid} may not attach to a run of {self._uid}")
        elif len(self._pending) > PENDING_MAX:
            self._refuse(fileno, "busy", f"{PENDING_MAX} others are attaching")
        return True

    def _receive(self, fileno: int) -> None:
        connection, pid, _ = self._pending[fileno]
        try:
            data, fds, _, _ = socket.recv_fds(connection, REQUEST_BYTES_MAX + 1, 4)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        for fd in fds:  # a request carries no fds
            os.close(fd)
        if not data:
            self._drop(fileno)
            return
        try:
            if len(data) > REQUEST_BYTES_MAX:
                raise BadMessage(f"more than {REQUEST_BYTES_MAX} bytes")
            request = decode(data)
            if not isinstance(request, AttachRequest):
                raise BadMessage(f"{type(request).__name__} where an AttachRequest belongs")
            answer, handles = self._admit(request, pid, connection)
        except BadMessage as error:
            self._refuse(fileno, "bad-message", str(error))
        except NoMemory as error:
            self._refuse(fileno, "no-memory", str(error))
        except AttachRefused as error:
            self._refuse(fileno, error.code, error.reason)
        except MemcoordError as error:  # out of fds, say: only this domain is refused
            self._refuse(fileno, "failed", str(error))
        else:
            del self._pending[fileno]
            _send(connection, encode(answer), handles)

    def _refuse(self, fileno: int, code: str, reason: str) -> None:
        self.refused += 1
        _send(self._pending[fileno][0], encode(Refused(VERSION, code, reason)), [])
        self._drop(fileno)

    def _drop(self, fileno: int) -> None:
        self._pending.pop(fileno)[0].close()


def _send(connection: socket.socket, data: bytes, fds: list[int]) -> None:
    """Send or give up: the end of its connection tells of a peer that is gone."""
    try:
        socket.send_fds(connection, [data], fds)
    except OSError:
        return
