"""The domain table: the attached domains, by number, name and connection.

Owns: domids (lowest free first) and one ``DomainEntry`` per attached domain. Main thread only.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass

from hypervisor.config import DomainConfig
from hypervisor.public.constants import MAX_DOMAINS
from hypervisor.public.errors import AttachRefused, MemcoordError
from hypervisor.public.units import DomId


@dataclass
class DomainEntry:
    """One attached domain; the end of ``connection`` or of the process ``pidfd`` is its end.

    ``pidfd`` is -1 where the kernel has none to give, or the process had ended already.
    ``is_told``: it was sent what it needs to be a domain. One that was not, because the hypervisor
    died, is told by the next hypervisor.
    """

    domid: DomId
    config: DomainConfig
    pid: int
    doorbell: str
    connection: socket.socket
    pidfd: int = -1  # of the process that attached
    doorbell_id: str = ""  # its identity at doorbell.ipc; empty with a futex
    is_told: bool = False

    @property
    def name(self) -> str:
        """The name it attached under, unique while it is attached."""
        return self.config.name


class DomainTable:
    """Attached domains by domid, by name and by connection."""

    def __init__(self) -> None:
        self._entries: dict[DomId, DomainEntry] = {}
        #: Domids that are detached, but whose memory is not all back yet, and the domains' names.
        self.leaving: dict[DomId, str] = {}

    def __iter__(self) -> Iterator[DomainEntry]:
        return iter(list(self._entries.values()))

    def __len__(self) -> int:
        return len(self._entries)

    def next_domid(self, name: str) -> DomId:
        """The lowest free domid for ``name``; AttachRefused when the name or the table is taken."""
        if any(entry.name == name for entry in self._entries.values()):
            raise AttachRefused("name-taken", f"a domain named {name} is attached already")
        for number in range(MAX_DOMAINS):
            if DomId(number) not in self._entries and DomId(number) not in self.leaving:
                return DomId(number)
        raise AttachRefused("table-full", f"{MAX_DOMAINS} domains are attached already")

    def add(self, entry: DomainEntry) -> None:
        """Enter a domain whose domid came from ``next_domid``."""
        self._entries[entry.domid] = entry

    def remove(self, domid: DomId) -> DomainEntry | None:
        """Strike a domain off; None when it was not there."""
        return self._entries.pop(domid, None)

    def get(self, domid: DomId) -> DomainEntry | None:
        """The domain with this number."""
        return self._entries.get(domid)

    def named(self, name: str) -> DomainEntry | None:
        """The domain with this name."""
        return next((e for e in self._entries.values() if e.name == name), None)

    def attached(self, name: str) -> DomainEntry:
        """The domain with this name; MemcoordError when there is none now."""
        entry = self.named(name)
        if entry is None:
            raise MemcoordError(f"no domain named {name!r} is attached")
        return entry

    def count_of(self, pid: int) -> int:
        """How many domains the process ``pid`` is."""
        return sum(entry.pid == pid for entry in self._entries.values())

    def on_fd(self, fileno: int) -> DomainEntry | None:
        """The domain whose connection or process this is."""
        return next(
            (e for e in self._entries.values() if fileno in (e.connection.fileno(), e.pidfd)), None
        )
