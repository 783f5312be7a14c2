"""The memory that outlives a hypervisor: its books, the state of tmem, and the pages of tmem.

Owns: one memfd for each of ``FILES``, and the way from the fds that were kept to a ``struct
mc_host`` and to tmem's part of its ledger (the Python half of ``backend/abi/recover.h``).
The books, and the ram and meta of each domain, are mapped at the same addresses in every process
that has them (``backend/abi/books.h``). The keeper process holds duplicates of them and of the fds
of every domain. When the hypervisor is killed, the next process makes ``Books`` of the keeper's
fds, and a ``HostBackend`` with ``kept`` goes on with what lies there.
Rules: the hypervisor's main thread only. One host with books in a process at a time: the addresses
are taken. ``keep``, ``on_domain`` and ``on_gone`` hand fds to the keeper. Each fd stays the
caller's own, so whoever keeps it duplicates it (sending it over a socket does).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any

from backend._service import ffi, lib
from backend.ghosts import Ghosts, Leaver
from backend.tmem_pool import TmemPool
from hypervisor.public.errors import ConfigError, Status, error_of
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
    ``on_gone(domid)`` when nothing of the domain is left but its file, which is watched
    (``ghosts.py``): it was handed to ``keep`` before, as "ghost/KEY"; ``drop(name)`` takes that
    back. ``ghosts``: those of the process before, by key.
    """

    def __init__(
        self,
        fds: Mapping[str, int] | None = None,
        *,
        ghosts: Mapping[str, int] | None = None,
        keep: Callable[[str, int], None] | None = None,
        drop: Callable[[str], None] | None = None,
        on_domain: Callable[[DomId, Mapping[str, int]], None] | None = None,
        on_gone: Callable[[DomId], None] | None = None,
    ) -> None:
        self.fds = {name: fd for name, fd in (fds or {}).items() if name in FILES}
        self._keep, self._drop = keep, drop
        self._on_domain, self._on_gone = on_domain, on_gone
        self._kept_ghosts = dict(ghosts or {})

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

    def ghosts(self) -> Ghosts:
        """The files of closed domains that are watched, those of the process before first."""
        kept, self._kept_ghosts = self._kept_ghosts, {}
        return Ghosts(kept, keep=self._keep_ghost, drop=self._drop_ghost)

    def _keep_ghost(self, key: str, fd: int) -> None:
        if self._keep is not None:
            self._keep(f"ghost/{key}", fd)

    def _drop_ghost(self, key: str) -> None:
        if self._drop is not None:
            self._drop(f"ghost/{key}")

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
        for fd in (*self.fds.values(), *self._kept_ghosts.values()):
            os.close(fd)
        self.fds, self._kept_ghosts = {}, {}


def mapping_error(error: int) -> str:
    """What to say when the books could not be mapped at their address for ``error``."""
    return (
        f"they cannot be mapped at {lib.MC_BOOKS_ADDRESS:#x} ({os.strerror(error)}): a process has "
        "room for one hypervisor with books; start it in a process of its own"
    )


@dataclass(frozen=True)
class Recovery:
    """What was found when a host was recovered."""

    domains: tuple[DomId, ...]  # that go on, or are still being closed
    again: int  # records of their rings that are executed again
    due_areas: int  # areas that are punched first
    tmem_pages: int = 0  # persistent ones, all kept
    dropped_pages: int = 0  # ephemeral ones


def open_host(books: Books | None, areas: int, slack_areas: int, spin_ns: int) -> Any:
    """A new ``struct mc_host *``, in the books when there are any.

    ConfigError when their place is taken, InternalError when a system call fails.
    """
    out = ffi.new("struct mc_host **")
    fd = -1 if books is None else books.file("books", lib.MC_BOOKS_BYTES)
    _check(lib.mc_host_open(out, areas, slack_areas, spin_ns, fd), "open host")
    return out[0]


def recover_host(
    books: Books, kept: Mapping[DomId, KeptDomain], ghosts: Ghosts
) -> tuple[Any, Recovery]:
    """The ``struct mc_host *`` that lies in the books; the fds in ``kept`` become its own.

    Those of domains that were not open any more are closed, and the books say so; their files are
    watched from now on. Raises as ``open_host``, and ConfigError for books of another layout;
    InternalError for broken ones.
    """
    out, found = ffi.new("struct mc_host **"), ffi.new("struct mc_recovery *")
    fds = [(d, k.fds["ram"], k.fds["meta"], k.fds["bell"]) for d, k in kept.items()]
    books_fd = books.file("books", lib.MC_BOOKS_BYTES)
    given = ffi.new("struct mc_domain_fds[]", fds)
    _check(lib.mc_host_recover(out, books_fd, given, len(fds), found), "recover host")
    for domid in kept:
        if not found.kept >> domid & 1:
            ram_fd = kept[domid].fds["ram"]
            ghosts.adopt(Leaver.of(kept[domid].name, ram_fd, os.fstat(ram_fd).st_size))
            for fd in kept[domid].fds.values():
                os.close(fd)
            books.tell_gone(domid)
    going_on = tuple(domid for domid in kept if found.kept >> domid & 1)
    return out[0], Recovery(going_on, found.again, found.due)


def recover_tmem(host: Any, pool: TmemPool, domids: Container[DomId]) -> tuple[int, int]:
    """Pages of domains that are no more go; the ledger learns which slab areas are held.

    How many pages were kept and how many dropped; InternalError when the two contradict.
    """
    found = pool.recovered
    assert found is not None
    with pool.locked() as tmem:
        for client in found.clients:
            if client not in domids:
                tmem.close_client(client)
    pool.free_unheld()
    held = ffi.new("uint8_t[]", host.tmem.slab_areas)
    for area in found.areas:
        held[area] = 1
    _check(lib.mc_tmem_recover(host, held), "recover tmem")
    return found.pages, found.ephemeral_pages


def _check(status: int, what: str) -> None:
    if status == Status.EKERNEL and ffi.errno == errno.EEXIST:
        raise ConfigError("books", mapping_error(ffi.errno))
    if status == Status.ELAYOUT:
        why = "another version of memcoord wrote them: go on with that one, or start anew"
        raise ConfigError("books", why)
    if status < 0:
        raise error_of(status, what)
