"""The client end of the control plane: one question to a running hypervisor, one answer.

Owns: one DEALER socket per call, its time limit, and turning an error reply into an exception.
Used by the commands that act on a run directory; see ``hypervisor/public/messages.py``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import zmq

from hypervisor.public import messages
from hypervisor.public.errors import MemcoordError, PeerGone
from memcoord.testbed.runs.rundir import check_socket_path

TIMEOUT_MS = 3000
STRAY_REPLIES_MAX = 16


class Refused(MemcoordError):
    """The hypervisor refused the operation; the text is the hypervisor's."""


def call(run_dir: Path, op: str, timeout_ms: int = TIMEOUT_MS, **args: Any) -> Any:
    """The hypervisor's answer to the operation ``op``, one of ``messages.OPS``, with ``args``.

    Raises Refused when the hypervisor says no or the arguments do not belong to ``op``, PeerGone
    when no hypervisor serves ``run_dir`` or none answers within ``timeout_ms`` milliseconds.
    """
    endpoint = run_dir / messages.CONTROL_SOCKET
    check_socket_path(endpoint)
    if not endpoint.exists():
        raise PeerGone(f"no hypervisor serves {run_dir}")
    request_id = int.from_bytes(os.urandom(4), "little")
    request = messages.Request(messages.VERSION, request_id, op, args)
    problem = messages.check_args(request)
    if problem:
        raise Refused(problem)
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.sndtimeo = timeout_ms
        socket.rcvtimeo = timeout_ms
        socket.connect(f"ipc://{endpoint}")
        try:
            socket.send(messages.encode(request))
            return _result(socket, request_id)
        except zmq.Again:
            raise PeerGone(f"the hypervisor of {run_dir} does not answer") from None


def _result(socket: zmq.Socket[bytes], request_id: int) -> Any:
    for _ in range(STRAY_REPLIES_MAX):
        try:
            reply = messages.decode(socket.recv())
        except messages.BadMessage as error:
            raise PeerGone(f"the hypervisor's answer cannot be read: {error}") from None
        if isinstance(reply, messages.Reply) and reply.request_id == request_id:
            if reply.error:
                raise Refused(reply.error)
            return reply.result
    raise PeerGone(f"{STRAY_REPLIES_MAX} replies to other requests")
