"""The attach listener: it admits processes as domains and hands their memory over.

Owns: ``attach.sock`` (AF_UNIX, SOCK_SEQPACKET) and connections that have not attached yet.
Rules: main thread only; nothing here blocks. ``hypervisor.public.messages`` lists the steps. A peer
of another user, a message that is no ``AttachRequest``, a peer that stays silent and one beyond the
limits of ``hypervisor.door`` are refused and counted. So is a domain when the hypervisor has not
the file descriptors for it beside those it keeps for the domains it serves.
"""

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

from hypervisor.door import FDS_KEPT, NO_FDS_TEXT, Door, Listen, Peer, fds_left, listen
from hypervisor.public.errors import AttachRefused, MemcoordError, NoMemory
from hypervisor.public.messages import (
    ATTACH_SOCKET,
    VERSION,
    Attached,
    AttachRequest,
    BadMessage,
    Refused,
    decode,
    encode,
)

PENDING_PER_PROCESS_MAX = 8
#: File descriptors that one domain takes of those of the hypervisor.
FDS_PER_DOMAIN = 9
REQUEST_BYTES_MAX = 4096

#: Admit a domain: its request, its pid, its connection -> the answer and the fds to hand over.
Admit = Callable[[AttachRequest, int, socket.socket], tuple[Attached, list[int]]]
#: Told that the answer to a domain was sent.
Told = Callable[[Attached], None]


class AttachListener:
    """Listen in ``run_dir``; ``poll_fds`` are to be polled for input, each event to ``handle``."""

    def __init__(
        self,
        run_dir: Path,
        admit: Admit,
        told: Told = lambda _: None,
        *,
        uid: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        listen: Listen = listen,
    ) -> None:
        self._admit, self._told = admit, told
        self._door: Door[Peer] = Door(
            run_dir / ATTACH_SOCKET,
            socket.SOCK_SEQPACKET,
            Peer,
            hear=self._receive,
            refuse=_refuse,
            per_process_max=PENDING_PER_PROCESS_MAX,
            uid=uid,
            clock=clock,
            listen=listen,
        )
        self.poll_fds = self._door.poll_fds
        self.handle = self._door.handle
        self.expire = self._door.expire
        self.close = self._door.close

    @property
    def refused(self) -> int:
        """How many peers were refused so far."""
        return self._door.refused

    def _receive(self, peer: Peer) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(peer.connection, REQUEST_BYTES_MAX + 1, 4)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        for fd in fds:  # nobody asked for these
            os.close(fd)
        if not data:
            self._door.drop(peer)
            return
        try:
            answer, handles = self._admit(_request(data), peer.pid, peer.connection)
        except BadMessage as error:
            self._door.turn_out(peer, "bad-message", str(error))
        except NoMemory as error:
            self._door.turn_out(peer, "no-memory", str(error))
        except AttachRefused as error:
            self._door.turn_out(peer, error.code, error.reason)
        except MemcoordError as error:  # out of fds, say: this domain's loss, nobody else's
            self._door.turn_out(peer, "failed", str(error))
        else:
            self._door.release(peer)
            hand_over(peer.connection, answer, handles)
            self._told(answer)


def hand_over(connection: socket.socket, answer: Attached, fds: list[int]) -> None:
    """Tell a domain that it is one, and give it its memory."""
    _send(connection, encode(answer), fds)


def _request(data: bytes) -> AttachRequest:
    if len(data) > REQUEST_BYTES_MAX:
        raise BadMessage(f"more than {REQUEST_BYTES_MAX} bytes")
    request = decode(data)
    if not isinstance(request, AttachRequest):
        raise BadMessage(f"{type(request).__name__} where an AttachRequest belongs")
    if fds_left() < FDS_KEPT + FDS_PER_DOMAIN:
        raise AttachRefused("no-fds", NO_FDS_TEXT)
    return request


def _refuse(peer: Peer, code: str, reason: str) -> None:
    _send(peer.connection, encode(Refused(VERSION, code, reason)), [])


def _send(connection: socket.socket, data: bytes, fds: list[int]) -> None:
    """Send or give up: the end of its connection tells of a peer that is gone."""
    try:
        socket.send_fds(connection, [data], fds)
    except OSError:
        return
