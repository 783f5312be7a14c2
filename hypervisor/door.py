"""A listening socket whose peers are counted: nobody fills it, and no flood takes the last fds.

Owns: one AF_UNIX socket in the run directory, the connections that came through it, and their
limits. A peer of another user is refused. A peer that is not ``is_known`` within SILENCE_S is let
go. When one process, or all of them, have too many unknown connections, or few file descriptors are
left, the oldest of the process that has most gives way to the newest: so a process that connects
and says nothing keeps out nobody. Without any file descriptor left, newcomers are
accepted by means of a spare one and dropped: left waiting, they would wake the main loop for ever.
Rules: main thread only; nothing here blocks. Used by the attach listener and the ZeroMQ sockets.
"""

import contextlib
import errno
import os
import resource
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from hypervisor.public.errors import ConfigError
from hypervisor.public.messages import SOCKET_PATH_BYTES_MAX

PEERS_MAX = 64
SILENCE_S = 2.0
#: Connections the kernel holds until they are accepted.
QUEUE_MAX = 256
ACCEPTS_PER_EVENT_MAX = 16
#: File descriptors that newcomers never take.
FDS_KEPT = 8
NO_FDS_TEXT = "the hypervisor has no file descriptors for it: raise its limit (ulimit -n)"

_NO_FDS = (errno.EMFILE, errno.ENFILE)
_UCRED = struct.Struct("3i")


@dataclass(eq=False)
class Peer:
    """One connection, and the process that made it."""

    connection: socket.socket
    pid: int
    since_s: float
    is_known: bool = False  # it has said what makes it welcome


AnyPeer = TypeVar("AnyPeer", bound=Peer)


def listen(path: Path, kind: socket.SocketKind) -> socket.socket:
    """A socket that listens at ``path``; ConfigError when the path cannot be bound."""
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
        raise ConfigError("run-dir", f"{path} is too long for a socket: choose a shorter one")
    made = socket.socket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC)
    try:
        made.bind(os.fsencode(path))
    except OSError as error:
        made.close()
        raise ConfigError("run-dir", f"{path}: {error.strerror}") from None
    made.listen(QUEUE_MAX)
    return made


#: Where a listening socket comes from: ``listen``, or from the hypervisor before.
Listen = Callable[[Path, socket.SocketKind], socket.socket]


class Door(Generic[AnyPeer]):
    """Listen at ``path``; ``hear`` is called when a peer has said something or has ended.

    ``refuse`` tells a peer a code and a reason before it is dropped. ConfigError when the path
    cannot be bound.
    """

    def __init__(
        self,
        path: Path,
        kind: socket.SocketKind,
        make: Callable[[socket.socket, int, float], AnyPeer],
        *,
        hear: Callable[[AnyPeer], None],
        refuse: Callable[[AnyPeer, str, str], None] = lambda *_: None,
        per_process_max: int,
        uid: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        listen: Listen = listen,
    ) -> None:
        self._path, self._make, self._hear, self._refuse = path, make, hear, refuse
        self._per_process_max, self._clock = per_process_max, clock
        self._uid = os.getuid() if uid is None else uid
        self.peers: dict[int, AnyPeer] = {}
        self.refused = 0
        self._socket = listen(path, kind)
        self._socket.setblocking(False)
        self._spare = _spare_fd()

    def poll_fds(self) -> list[int]:
        """The listening socket, then every connection."""
        return [self._socket.fileno(), *self.peers]

    def handle(self, fileno: int) -> None:
        """There is input on one of ``poll_fds``."""
        if fileno == self._socket.fileno():
            for _ in range(ACCEPTS_PER_EVENT_MAX):
                if not self._accept():
                    return
        elif fileno in self.peers:
            self._hear(self.peers[fileno])

    def expire(self) -> None:
        """Let go of those that have been unknown for too long."""
        now_s = self._clock()
        for peer in list(self.peers.values()):
            if not peer.is_known and now_s - peer.since_s > SILENCE_S and self._stays_silent(peer):
                self.turn_out(peer, "silent", f"no request within {SILENCE_S:g} s")

    def turn_out(self, peer: AnyPeer, code: str, reason: str) -> None:
        """Refuse a peer, count it and end its connection."""
        self.refused += 1
        self._refuse(peer, code, reason)
        self.drop(peer)

    def drop(self, peer: AnyPeer) -> None:
        """End a peer's connection."""
        self.release(peer)
        peer.connection.close()

    def release(self, peer: AnyPeer) -> None:
        """Hand a peer's connection over: it is the caller's from now on."""
        del self.peers[peer.connection.fileno()]

    def close(self) -> None:
        """Stop listening, end every connection and remove the socket's file."""
        for peer in list(self.peers.values()):
            self.drop(peer)
        self._socket.close()
        if self._spare >= 0:
            os.close(self._spare)
        self._path.unlink(missing_ok=True)

    def _accept(self) -> bool:
        try:
            connection, _ = self._socket.accept()
        except OSError as error:
            return error.errno in _NO_FDS and self._turn_away()
        peer = self._enter(connection)
        if peer is not None:
            self._make_room(peer)
        return True

    def _enter(self, connection: socket.socket) -> AnyPeer | None:
        connection.setblocking(False)
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        pid, uid, _ = _UCRED.unpack(raw)
        peer = self.peers[connection.fileno()] = self._make(connection, pid, self._clock())
        if uid == self._uid:
            return peer
        self.turn_out(peer, "other-user", f"uid {uid} may not attach to a run of {self._uid}")
        return None

    def _make_room(self, newest: AnyPeer) -> None:
        unknown = [peer for peer in self.peers.values() if not peer.is_known]
        counts = Counter(peer.pid for peer in unknown)
        most = counts.most_common(1)[0][0]
        if counts[newest.pid] > self._per_process_max:
            most, others = newest.pid, f"{self._per_process_max} others of process {newest.pid}"
        elif len(unknown) > PEERS_MAX:
            others = f"{PEERS_MAX} others"
        elif fds_left() < FDS_KEPT:
            others = "with few file descriptors left, others"
        else:
            return
        oldest = next(peer for peer in unknown if peer.pid == most)
        if self._stays_silent(oldest):
            self.turn_out(oldest, "busy", f"{others} are attaching")

    def _stays_silent(self, peer: AnyPeer) -> bool:
        """Whether a peer is unknown still. What it has to say may wait here: the main thread may
        have been the slow one."""
        self._hear(peer)
        return self.peers.get(peer.connection.fileno()) is peer and not peer.is_known

    def _turn_away(self) -> bool:
        """Refuse the next peer by means of the spare fd; False when even that cannot be done."""
        if self._spare < 0:
            return False
        os.close(self._spare)
        try:
            connection, _ = self._socket.accept()
            peer = self._enter(connection)
            if peer is not None:
                self.turn_out(peer, "no-fds", NO_FDS_TEXT)
        except OSError:
            return False
        else:
            return True
        finally:
            self._spare = _spare_fd()


def fds_left() -> int:
    """How many file descriptors this process may still open."""
    try:
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0] - len(os.listdir("/proc/self/fd"))
    except OSError:  # there is none even to look with
        return 0


def _spare_fd() -> int:
    with contextlib.suppress(OSError):
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    return -1
