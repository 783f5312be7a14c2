"""What the hypervisor's Python knows and the next hypervisor must know as well.

Owns: ``Saved`` and its bytes. Memory itself, ledger and tmem are the backend's and not in here.
``LAYOUT`` is raised with every change that an older or newer installation cannot read.
"""

from __future__ import annotations

import socket

import msgspec

from hypervisor.config import DomainConfig
from hypervisor.coordination.kept import KeptCoordination
from hypervisor.domains import DomainEntry
from hypervisor.keeping.calls import DoneCall
from hypervisor.public.errors import InternalError
from hypervisor.public.units import DomId

LAYOUT = 2


class SavedDomain(msgspec.Struct):
    """An attached domain, as the domain table has it, less its file descriptors."""

    domid: int
    config: DomainConfig
    pid: int
    doorbell: str
    doorbell_id: str
    is_told: bool


class Saved(msgspec.Struct):
    """All of it. ``token`` is the operator's, ``spent`` are names whose own token was used.

    ``leaving``: names of detached domains whose memory is not all back, by domid.
    """

    token: str
    ticks: int
    domains: list[SavedDomain]
    spent: list[str]
    leaving: dict[int, str]
    coordination: KeptCoordination
    calls: list[DoneCall]


def saved_domain(entry: DomainEntry) -> SavedDomain:
    """What is saved of ``entry``; its connection and its process are kept beside that."""
    return SavedDomain(
        entry.domid, entry.config, entry.pid, entry.doorbell, entry.doorbell_id, entry.is_told
    )


def entry_of(saved: SavedDomain, fds: dict[str, int]) -> DomainEntry | None:
    """The entry that ``saved`` was made of, with its ``fds``; None when its connection is gone."""
    if "connection" not in fds:
        return None
    connection = socket.socket(fileno=fds["connection"])
    connection.setblocking(False)
    return DomainEntry(
        DomId(saved.domid),
        saved.config,
        saved.pid,
        saved.doorbell,
        connection,
        fds.get("pidfd", -1),
        saved.doorbell_id,
        saved.is_told,
    )


def encode(saved: Saved) -> bytes:
    """The bytes of ``saved``."""
    return msgspec.msgpack.encode(saved)


def decode(data: bytes) -> Saved:
    """What ``encode`` made ``data`` of; InternalError when it is of another layout."""
    try:
        return msgspec.msgpack.decode(data, type=Saved)
    except msgspec.MsgspecError as error:
        raise InternalError(f"what the hypervisor before knew cannot be read: {error}") from None
