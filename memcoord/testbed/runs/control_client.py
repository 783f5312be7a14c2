"""The client end of the control plane: one question to a running hypervisor, one answer.

Owns: one DEALER socket per call, its time limit, and turning an error reply into an exception; the
reading of the operator's token, which every call sends. When the hypervisor dies meanwhile, the
call is sent again to the next one, under the same number: it is carried out once.
Used by the commands that act on a run directory; see ``hypervisor/public/messages.py``.
"""

import os
import time
from pathlib import Path
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from hypervisor.public import messages
from hypervisor.public.errors import MemcoordError, PeerGone
from memcoord.testbed.runs.rundir import check_socket_path

TIMEOUT_MS = 3000
STRAY_REPLIES_MAX = 16
#: Hypervisors that may die under one call: fewer than a keeper starts in a row (CRASHES_MAX), so
#: that a call that ends a hypervisor does not end them all.
RESENDS_MAX = 3
ID_BYTES = 7


class Refused(MemcoordError):
    """The hypervisor refused the operation; the text is the hypervisor's."""


def token_of(run_dir: Path) -> str:
    """The operator's token of the hypervisor in ``run_dir``; empty where it cannot be read."""
    try:
        return (run_dir / messages.TOKEN_FILE).read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""


def call(run_dir: Path, op: str, timeout_ms: int = TIMEOUT_MS, **args: Any) -> Any:
    """The hypervisor's answer to the operation ``op``, one of ``messages.OPS``, with ``args``.

    Raises Refused when the hypervisor says no, when this process cannot read the operator's token
    in ``run_dir`` (``ping`` needs none), or when the arguments do not belong to ``op``; PeerGone
    when no hypervisor serves ``run_dir`` or none answers within ``timeout_ms`` milliseconds.
    """
    endpoint = run_dir / messages.CONTROL_SOCKET
    check_socket_path(endpoint)
    if not endpoint.exists():
        raise PeerGone(f"no hypervisor serves {run_dir}")
    request_id = int.from_bytes(os.urandom(ID_BYTES), "little")
    request = messages.Request(messages.VERSION, request_id, op, args, token_of(run_dir))
    problem = messages.check_args(request)
    if problem:
        raise Refused(problem)
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.sndtimeo = timeout_ms
        until_s = time.monotonic() + timeout_ms / 1000
        with socket.get_monitor_socket(zmq.EVENT_DISCONNECTED) as ends:
            socket.connect(f"ipc://{endpoint}")
            try:
                return _result(socket, ends, request, until_s)
            except zmq.Again:
                raise PeerGone(f"the hypervisor of {run_dir} does not answer") from None
            finally:
                socket.disable_monitor()


def _await(socket: zmq.Socket[bytes], ends: Any, request: messages.Request, until_s: float) -> None:
    """Until there is a reply; zmq.Again when there is none in time. Sends again after each end."""
    poller, data = zmq.Poller(), messages.encode(request)
    poller.register(socket, zmq.POLLIN)
    poller.register(ends, zmq.POLLIN)
    for _ in range(RESENDS_MAX):
        ready = dict(poller.poll(max(round((until_s - time.monotonic()) * 1000), 0)))
        if socket in ready:
            return
        if ends not in ready:
            break
        recv_monitor_message(ends)
        socket.send(data)
    raise zmq.Again


def _result(socket: zmq.Socket[bytes], ends: Any, request: messages.Request, until_s: float) -> Any:
    socket.send(messages.encode(request))
    request_id = request.request_id
    for _ in range(STRAY_REPLIES_MAX):
        _await(socket, ends, request, until_s)
        try:
            reply = messages.decode(socket.recv())
        except messages.BadMessage as error:
            raise PeerGone(f"the hypervisor's answer cannot be read: {error}") from None
        if isinstance(reply, messages.Reply) and reply.request_id == request_id:
            if reply.error:
                raise Refused(reply.error)
            return reply.result
    raise PeerGone(f"{STRAY_REPLIES_MAX} replies to other requests")
