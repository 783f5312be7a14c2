"""The memory that outlives a hypervisor: its books, the state of tmem, and the pages of tmem.

Owns: one memfd for each of ``PLACES``, mapped at the same address in every process that has them
(``backend/abi/books.h``). A keeper, a process that does nothing else, holds duplicates of them and
of the fds of every domain. When the hypervisor is killed, the next process makes ``Books`` of the
keeper's fds, and ``HostBackend.recover`` goes on with what lies there.
Rules: the hypervisor's main thread only. One ``Books`` in a process at a time: the addresses are
taken. ``keep``, ``on_domain`` and ``on_gone`` hand fds to the keeper; each fd stays the caller's
own, so whoever keeps it duplicates it (sending it over a socket does).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from backend._service import lib
from hypervisor.public.errors import ConfigError
from hypervisor.public.units import DomId

#: What is kept, and where each is mapped.
PLACES = {
    "books": lib.MC_BOOKS_ADDRESS,
    "tmem": lib.MC_TMEM_STATE_ADDRESS,
    "slab": lib.MC_TMEM_SLAB_ADDRESS,
}


class Books:
    """Memfds that another process can go on with; ``fds``, by ``PLACES``, are of the one before.

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
        self.is_recovering = bool(fds)
        self._keep, self._on_domain, self._on_gone = keep, on_domain, on_gone
        self._mapped: dict[str, int] = {}

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

    def map(self, name: str, size: int) -> int:
        """Map ``size`` bytes of the memfd ``name`` at its address; the address.

        Raises as ``file``, and OSError when something else lies there.
        """
        address = int(lib.mc_map_at(self.file(name, size), size, PLACES[name]))
        if address < 0:
            raise OSError(-address, mapping_error(name, -address))
        self._mapped[name] = size
        return address

    def tell_domain(self, domid: DomId, fds: Mapping[str, int]) -> None:
        """A domain was opened: whoever keeps fds is to keep these."""
        if self._on_domain is not None:
            self._on_domain(domid, fds)

    def tell_gone(self, domid: DomId) -> None:
        """Nothing is left of a domain: its fds need not be kept any more."""
        if self._on_gone is not None:
            self._on_gone(domid)

    def close(self) -> None:
        """Unmap what ``map`` mapped and close the memfds; idempotent."""
        for name, size in self._mapped.items():
            lib.mc_unmap(PLACES[name], size)
        for fd in self.fds.values():
            os.close(fd)
        self._mapped, self.fds = {}, {}


def mapping_error(name: str, error: int) -> str:
    """What to say when ``name`` could not be mapped at its address for ``error``."""
    return (
        f"{name} cannot be mapped at {PLACES[name]:#x} ({os.strerror(error)}): a process has room "
        "for one hypervisor with books; start it in a process of its own"
    )
