"""Joining a hypervisor: the handshake over its ``attach.sock``, for ``frontend.attach``.

Owns: connecting, the ``AttachRequest``, and the checks of the answer. The steps stand in
``hypervisor.public.messages``. When an error is raised, no fd stays open.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from frontend.domain import Domain, Handles
from hypervisor.public import messages
from hypervisor.public.errors import AttachRefused, ConfigError, PeerGone, RingBroken, Status
from hypervisor.public.units import AREA_BYTES, MAX_AREAS

if TYPE_CHECKING:
    from frontend.relay import ZmqRelay

#: How doorbells may travel: on one host, or over ZeroMQ.
DOORBELLS = ("futex", "zmq")
#: Between two tries to connect.
RETRY_S = 0.02
#: ram, meta, eventfd.
HANDED_FDS = 3
#: Room for more fds than that, so that superfluous ones are seen and closed.
FDS_MAX = 8


class _CutOff(PeerGone):
    """The connection ended before there was an answer."""


def join(
    path: str,
    name: str,
    maxmem_frames: int,
    *,
    doorbell: str,
    timeout_s: float,
    wait: bool,
    token: str,
    mechanism: str = "",
    lend: Callable[[Handles], None] = lambda _: None,
) -> Domain:
    """See ``frontend.attach``.

    ``mechanism``: how a domain that is not in the configuration is to be resized. ``lend`` is
    called with the descriptors before the domain owns them; it may duplicate them.
    """
    if doorbell not in DOORBELLS:
        raise ConfigError("doorbell", f"{doorbell!r} is none of {', '.join(DOORBELLS)}")
    if os.path.isdir(path) or os.path.basename(path) != messages.ATTACH_SOCKET:
        path = os.path.join(path, messages.ATTACH_SOCKET)
    deadline = time.monotonic() + timeout_s
    name = name or f"vm{os.getpid()}"
    request = messages.AttachRequest(
        messages.VERSION, name, maxmem_frames, doorbell, token, mechanism
    )
    connection, answer, fds = _ask(path, request, deadline, wait)
    try:
        relay = None
        try:
            _check(answer, fds)
            connection.settimeout(None)
            if doorbell == "zmq":
                relay = _relay(os.path.dirname(path), answer.doorbell_id)
                os.close(fds[2])  # not this way
                fds[2] = relay.bell_fd
            handles = Handles(ram=fds[0], meta=fds[1], bell=fds[2])
            lend(handles)
            return Domain(answer, handles, connection, relay)
        except BaseException:
            if relay is not None:
                relay.stop()
            _close_all(fds)
            raise
    except BaseException:
        connection.close()
        raise


def _ask(
    path: str, request: messages.AttachRequest, deadline: float, wait: bool
) -> tuple[socket.socket, messages.Attached, list[int]]:
    """Connect and ask, and again when the hypervisor died meanwhile: the next one listens there."""
    while True:  # until the deadline
        connection = _connect(path, deadline, wait)
        try:
            return connection, *_exchange(connection, request, path, deadline)
        except _CutOff:
            connection.close()
            if time.monotonic() + RETRY_S > deadline:
                raise
        except BaseException:
            connection.close()
            raise
        time.sleep(RETRY_S)


def _relay(run_dir: str, doorbell_id: str) -> ZmqRelay:
    from frontend.relay import ZmqRelay

    return ZmqRelay(f"ipc://{os.path.join(run_dir, messages.DOORBELL_SOCKET)}", doorbell_id)


def _connect(target: str, deadline: float, wait: bool) -> socket.socket:
    while True:  # until the deadline
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        try:
            connection.settimeout(max(deadline - time.monotonic(), RETRY_S))
            connection.connect(target)
            return connection
        except (OSError, ValueError) as error:
            connection.close()
            is_worth_waiting = wait or isinstance(error, BlockingIOError)  # others are in the queue
            if not is_worth_waiting or time.monotonic() + RETRY_S > deadline:
                raise PeerGone(
                    f"no hypervisor listens at {target} ({error}): "
                    "start one with `memcoord hypervisor`"
                ) from None
        time.sleep(RETRY_S)


def _exchange(
    connection: socket.socket, request: messages.AttachRequest, target: str, deadline: float
) -> tuple[messages.Attached, list[int]]:
    """The answer and the fds that came with it; none is left open when this raises."""
    fds: list[int] = []
    try:
        with contextlib.suppress(BrokenPipeError):  # refused already: the answer says why
            connection.send(messages.encode(request))
        connection.settimeout(max(deadline - time.monotonic(), RETRY_S))
        data, fds, flags = _receive(connection)
        if flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC):
            raise messages.BadMessage("the answer was cut short")
        answer = messages.decode(data) if data else None
    except ConnectionError as error:
        raise _CutOff(f"the hypervisor at {target} does not answer: {error}") from None
    except OSError as error:
        raise PeerGone(f"the hypervisor at {target} does not answer: {error}") from None
    except messages.BadMessage as error:
        _close_all(fds)
        raise RingBroken(f"attach answer: {error}", Status.ELAYOUT) from None
    if isinstance(answer, messages.Attached):
        return answer, fds
    _close_all(fds)
    if isinstance(answer, messages.Refused):
        raise AttachRefused(answer.code, answer.reason)
    if answer is None:
        raise _CutOff(f"the hypervisor at {target} closed the connection without an answer")
    raise RingBroken(f"attach answer: a {type(answer).__name__}", Status.ELAYOUT)


def _receive(connection: socket.socket) -> tuple[bytes, list[int], int]:
    try:
        data, fds, flags, _ = socket.recv_fds(connection, messages.MESSAGE_BYTES_MAX + 1, FDS_MAX)
    except ConnectionResetError:  # closed before it read the request; what it said is still there
        data, fds, flags, _ = socket.recv_fds(connection, messages.MESSAGE_BYTES_MAX + 1, FDS_MAX)
    return data, fds, flags


def _check(answer: messages.Attached, fds: list[int]) -> None:
    """RingBroken when the fds are not what ``answer`` says they are."""
    areas = answer.ram_bytes // AREA_BYTES
    if len(fds) != HANDED_FDS:
        raise RingBroken(f"attach: {len(fds)} fds, wanted {HANDED_FDS}", Status.ELAYOUT)
    if answer.ram_bytes % AREA_BYTES or not 1 <= areas <= MAX_AREAS:
        raise RingBroken(f"attach: ram of {answer.ram_bytes} bytes", Status.ELAYOUT)
    if answer.spin_ns < 0:
        raise RingBroken(f"attach: spin of {answer.spin_ns} ns", Status.ELAYOUT)
    sizes = (os.fstat(fds[0]).st_size, os.fstat(fds[1]).st_size)
    if sizes != (answer.ram_bytes, answer.meta_bytes):
        raise RingBroken(
            f"attach: ram and meta of {sizes[0]} and {sizes[1]} bytes, "
            f"announced {answer.ram_bytes} and {answer.meta_bytes}",
            Status.ELAYOUT,
        )


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
