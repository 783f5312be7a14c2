"""Going on with the books of a hypervisor that was killed: the Python half of recover.h.

Owns: the way from kept fds to a ``struct mc_host``, and from a rebuilt tmem to its ledger. Called
by ``HostBackend``'s constructor, before any thread of the host runs.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from backend._service import ffi, lib
from backend.books import Books, KeptDomain, mapping_error
from backend.tmem_pool import TmemPool
from hypervisor.public.errors import ConfigError, Status, error_of
from hypervisor.public.units import DomId


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


def recover_host(books: Books, kept: Mapping[DomId, KeptDomain]) -> tuple[Any, Recovery]:
    """The ``struct mc_host *`` that lies in the books; the fds in ``kept`` become its own.

    Those of domains that were not open any more are closed, and the books say so. Raises as
    ``open_host``, and ConfigError for books of another layout; InternalError for broken ones.
    """
    out, found = ffi.new("struct mc_host **"), ffi.new("struct mc_recovery *")
    fds = [(d, k.fds["ram"], k.fds["meta"], k.fds["bell"]) for d, k in kept.items()]
    books_fd = books.file("books", lib.MC_BOOKS_BYTES)
    given = ffi.new("struct mc_domain_fds[]", fds)
    _check(lib.mc_host_recover(out, books_fd, given, len(fds), found), "recover host")
    for domid in kept:
        if not found.kept >> domid & 1:
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
