"""The memory that outlives a hypervisor: its books, the state of tmem, and the pages of tmem.

Owns: one memfd for each of ``FILES``. The books, and the ram and meta of each domain, are mapped at
the same addresses in every process that has them (``backend/abi/books.h``). A keeper, a process
that does nothing else, holds duplicates of them and of the fds of every domain. When the hypervisor
is killed, the next process makes ``Books`` of the keeper's fds, and a ``HostBackend`` with ``kept``
goes on with what lies there.
Rules: the hypervisor's main thread only. One host with books in a process at a time: the addresses
are taken. ``keep``, ``on_domain`` and ``on_gone`` hand fds to the keeper. Each fd stays the
caller's own, so whoever keeps it duplicates it (sending it over a socket does).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from backend._service import lib
from hypervisor.public.errors import ConfigError
from hypervisor.public.units import DomId

#: What is kept of the host: its state, and tmem's state and pages.
FILES = ("books", "tmem", "slab")


@dataclass(frozen=True)
class KeptDomain:
    """A domain of the process before: its name, and the fds "ram", "meta" and "bell"."""

    name: str
    fds: Mapping[str, int]


class Books:
    """Memfds that another process can go on with; ``fds``, by ``FILES``, are of the one before.

    ``keep(name, fd)`` is called for each memfd when it is made. ``on_domain(domid, fds)`` is called
    when a domain was opened, before its guest is told, with the fds "ram", "meta" and "bell";
    ``on_gone(domid)`` when nothing of the domain is left.
    """

    def __init__(
        self,
        fds: Mapping[str, int] | None = None,
        *,
        keep: Callable[[str, int], None] | None = None,
        on_domain: Callable[[DomId, Mapping[str, int]], None] | None = None,
        on_gone: Callable[[DomId], None] | None = None,
    ) -> None:
        self.fds = dict(fds or {})
        self._keep, self._on_domain, self._on_gone = keep, on_domain, on_gone

    def file(self, name: str, size: int) -> int:
        """The memfd ``name``, of ``size`` bytes; made unless the process before had it.

        ConfigError when there is one of another size: it is of another configuration.
        """
        if name not in self.fds:
            fd = int(lib.mc_memfd(f"memcoord-{name}".encode(), size))
            if fd < 0:
                raise OSError(-fd, f"memfd for {name}: {os.strerror(-fd)}")
            self.fds[name] = fd
            if self._keep is not None:
                self._keep(name, fd)
        found = os.fstat(self.fds[name]).st_size
        if found != size:
            why = (
                f"{name} has {found} bytes, {size} are wanted: start anew, with a new run directory"
            )
            raise ConfigError("recover", why)
        return self.fds[name]

    def tell_domain(self, domid: DomId, fds: Mapping[str, int]) -> None:
        """A domain was opened: whoever keeps fds is to keep these."""
        if self._on_domain is not None:
            self._on_domain(domid, fds)

    def tell_gone(self, domid: DomId) -> None:
        """Nothing is left of a domain: its fds need not be kept any more."""
        if self._on_gone is not None:
            self._on_gone(domid)

    def close(self) -> None:
        """Close the memfds; idempotent. No host lies in them any more."""
        for fd in self.fds.values():
            os.close(fd)
        self.fds = {}


def mapping_error(error: int) -> str:
    """What to say when the books could not be mapped at their address for ``error``."""
    return (
        f"they cannot be mapped at {lib.MC_BOOKS_ADDRESS:#x} ({os.strerror(error)}): a process has "
        "room for one hypervisor with books; start it in a process of its own"
    )
