"""Messages of the control plane and of attaching: msgpack arrays, checked against these schemas.

Owns: every message that is not a ring record. Each is one msgpack array ``[tag, version, ...]``,
at most MESSAGE_BYTES_MAX long; ``decode`` refuses anything else with ``BadMessage``.

Attaching, over AF_UNIX SOCK_SEQPACKET ``attach.sock`` in the run directory:
  1. the domain connects; the hypervisor compares SO_PEERCRED's uid with its own;
  2. domain -> ``AttachRequest``, with the one-time token its launcher gave it, if there is one;
  3. hypervisor -> ``Attached`` with three fds (ram, meta, eventfd) by SCM_RIGHTS, or ``Refused``;
  4. the connection stays open: its end is the end of the domain, whichever side closes or dies.
     The end of the process that connected is the end of the domain as well, whoever else still
     holds the connection.

Control, over ZeroMQ ``control.ipc`` (ROUTER here, DEALER at the client): one frame with a request,
one frame back with the reply carrying the same ``request_id``. A request carries the operator's
token, the text of ``TOKEN_FILE`` in the run directory (mode 0600, new at each start of a
hypervisor); only ``OPEN_OPS`` do without. A list of records with the same fields travels as a
table, which names each field once. Statistics on XPUB ``stats.ipc``: see ``feed.py``.
"""

from __future__ import annotations

from typing import Any

import msgpack
import msgspec

from hypervisor.public.run_files import ATTACH_SOCKET as ATTACH_SOCKET
from hypervisor.public.run_files import CONTROL_SOCKET as CONTROL_SOCKET
from hypervisor.public.run_files import DOORBELL_SOCKET as DOORBELL_SOCKET
from hypervisor.public.run_files import KEEPER_SOCKET as KEEPER_SOCKET
from hypervisor.public.run_files import SOCKETS as SOCKETS
from hypervisor.public.run_files import STATS_SOCKET as STATS_SOCKET
from hypervisor.public.run_files import TOKEN_BYTES as TOKEN_BYTES
from hypervisor.public.run_files import TOKEN_FILE as TOKEN_FILE

VERSION = 1
MESSAGE_BYTES_MAX = 65536
#: A pidfd of the process at the other end of a socket (Linux 6.5).
SO_PEERPIDFD = 77
SOCKET_PATH_BYTES_MAX = 107  # ``sun_path`` of Linux, less its final zero


#: Of a list of alike records: what its table is told by.
_COLUMNS, _ROWS = "\0columns", "\0rows"


class BadMessage(ValueError):
    """Bytes that are no message of this protocol; the text says which field."""


# Not written in the class line: type checkers would then want ``frozen=True`` of every subclass.
_SHAPE: dict[str, Any] = {"array_like": True, "frozen": True, "forbid_unknown_fields": True}


class _Message(msgspec.Struct, **_SHAPE):
    version: int  # of this protocol


class AttachRequest(_Message, tag="attach"):
    """Domain to hypervisor. ``maxmem_frames`` 0 means: as the hypervisor's configuration says.

    ``mechanism``: the one that a domain which is not in the configuration asks for; empty: direct.
    """

    name: str  # what it wants to be called
    maxmem_frames: int  # 0: as it is configured
    doorbell: str = "futex"  # futex or zmq
    token: str = ""  # what its launcher gave it
    mechanism: str = ""  # of a domain that is not configured; "": direct


class Attached(_Message, tag="attached"):
    """Hypervisor to domain, with the fds ram, meta, eventfd in this order.

    ``doorbell_id``: with ZeroMQ doorbells, the identity under which the domain connects to
    ``doorbell.ipc``, else empty. It is random, so that no other process can take it.
    """

    domid: int  # its number
    name: str  # its name
    ram_bytes: int  # size of the file ram
    meta_bytes: int  # size of the file meta
    spin_ns: int  # how long it spins before it sleeps
    doorbell_id: str = ""  # who it is at ``doorbell.ipc``


class Refused(_Message, tag="refused"):
    """Hypervisor to domain: ``code`` is one word a program may test, ``reason`` is for people."""

    code: str  # for programs
    reason: str  # for people


class Request(_Message, tag="request"):
    """Client to hypervisor: ``op`` is one of ``OPS``, ``args`` its arguments by name.

    ``request_id`` names the call: sent again, it is carried out once.
    """

    request_id: int  # of this call
    op: str  # the operation
    args: dict[str, Any]  # its arguments, by name
    token: str = ""  # the operator's


class Reply(_Message, tag="reply"):
    """Hypervisor to client: ``error`` is empty on success."""

    request_id: int  # of the request
    error: str  # "": it was done
    result: Any  # what the operation answers


Message = AttachRequest | Attached | Refused | Request | Reply

#: Operations of ``Request`` and the arguments each takes.
OPS: dict[str, dict[str, type]] = {
    "ping": {},  # whether it is there: its process, ticks and number of domains
    "list": {},  # number, name, process and doorbell of every domain
    "statistics": {},  # all counters: of the host, of every domain, of the control plane
    "validate": {},  # check the ledger and the pool; what was counted
    "why": {"domain": str},  # the last decisions about a domain
    "mem-set": {"domain": str, "target_frames": int},  # pin a target of RAM; -1: the policy's again
    "mem-pin": {"domain": str, "frame": int, "count": int},  # keep frames where they are, for DMA
    "mem-unpin": {"domain": str, "frame": int, "count": int},  # let go of them
    "tmem-set": {"domain": str, "target_pages": int},  # the same of tmem
    "tmem-list": {"domain": str},  # every counter and pool of a domain in tmem
    "tmem-freeze": {"domain": str},  # no new pages; "": of every domain
    "tmem-thaw": {"domain": str},  # new pages again; "": of every domain
    "tmem-weight": {"domain": str, "weight": int},  # its share of ephemeral memory
    "tmem-quota": {"domain": str, "pages": int},  # the most persistent pages; -1: no limit
    "tmem-shared-auth": {"domain": str, "uuid": str, "allow": bool},  # may it share pools of it?
    "tmem-freeable": {},  # MiB that tmem could give back now
    "detach": {"domain": str},  # throw a domain out
    "shutdown": {},  # end the hypervisor
}
#: Operations that change nothing, or the end of it all: they may be carried out again.
PLAIN_OPS = frozenset(
    ("ping", "list", "statistics", "validate", "why", "tmem-list", "tmem-freeable", "shutdown")
)
#: Operations that need no token: whether a hypervisor is there at all.
OPEN_OPS = ("ping",)


def encode(message: Message) -> bytes:
    """The bytes of ``message``."""
    raw = list(msgspec.to_builtins(message))
    if isinstance(message, Reply):
        raw[-1] = _folded(raw[-1])
    data: bytes = msgpack.packb(raw)
    return data


def decode(data: bytes) -> Message:
    """The message in ``data``; BadMessage says what is wrong with it."""
    if len(data) > MESSAGE_BYTES_MAX:
        raise BadMessage(f"{len(data)} bytes, more than {MESSAGE_BYTES_MAX}")
    try:
        raw = msgpack.unpackb(data, strict_map_key=True, max_str_len=MESSAGE_BYTES_MAX)
        message: Message = msgspec.convert(raw, Message)
        if isinstance(message, Reply):
            message = msgspec.structs.replace(message, result=_unfolded(message.result))
    except Exception as error:  # msgpack raises many unrelated types on garbage
        raise BadMessage(str(error) or type(error).__name__) from None
    if message.version != VERSION:
        raise BadMessage(f"version {message.version}, this side speaks {VERSION}")
    return message


def _folded(value: Any) -> Any:
    """``value`` with every list of alike records as a table."""
    if isinstance(value, dict):
        return {key: _folded(inner) for key, inner in value.items()}
    if not isinstance(value, list | tuple):
        return value
    inner = [_folded(one) for one in value]
    first = inner[0] if inner else None
    if not isinstance(first, dict) or not first or len(inner) < 2:
        return inner
    columns = list(first)
    if any(not isinstance(one, dict) or list(one) != columns for one in inner):
        return inner
    return {_COLUMNS: columns, _ROWS: [list(one.values()) for one in inner]}


def _unfolded(value: Any) -> Any:
    """What ``_folded`` was given; ValueError for a table whose rows do not fit its columns."""
    if isinstance(value, list):
        return [_unfolded(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    if value.keys() != {_COLUMNS, _ROWS}:
        return {key: _unfolded(inner) for key, inner in value.items()}
    columns = value[_COLUMNS]
    return [
        {column: _unfolded(inner) for column, inner in zip(columns, row, strict=True)}
        for row in value[_ROWS]
    ]


def check_args(request: Request) -> str:
    """Empty when ``request`` is a known op with the right arguments, else what is wrong."""
    wanted = OPS.get(request.op)
    if wanted is None:
        return f"unknown op {request.op!r}"
    if set(request.args) != set(wanted):
        return f"{request.op}: takes {sorted(wanted)}, got {sorted(request.args)}"
    for name, kind in wanted.items():
        value = request.args[name]
        if type(value) is not kind:
            return f"{request.op}.{name}: wants {kind.__name__}"
        if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
            return f"{request.op}.{name}: does not fit into 64 bits"
    return ""
