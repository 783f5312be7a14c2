"""Saving a client and restoring it in another pool, as migration and suspend do.

API: a host that moves a guest to another machine saves its tmem here and restores it there; no
command of this project does so yet.

Owns: the protocol. ``Saving(tmem, client)`` freezes the client; the host sends ``image`` and
``pages``. With ``live`` the guest runs on meanwhile: its gets and flushes work, its puts fail, and
the pages that go are logged. After the guest has stopped, the host sends ``invalidations`` and
calls ``end``. The receiver calls ``restore`` with the image, ``put`` for each page and
``flush_page`` for each invalidation. Only persistent pages are sent; ephemeral pages may vanish at
any time, and here they do. How a page is stored makes no difference. The rules of use are those of
``Tmem``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tmem import layout, serve
from tmem.codes import Code, PoolFlag, TmemError
from tmem.control import PoolEntry

if TYPE_CHECKING:
    from tmem.pool import Tmem

Name = tuple[int, tuple[int, int, int], int]  # pool slot, oid, index


@dataclass(frozen=True)
class ClientImage:
    """A client's settings and pools, without its pages."""

    weight: int
    quota: int
    mm_target: int
    uuids: tuple[tuple[int, int], ...]  # it may share pools of
    pools: tuple[PoolEntry, ...]


class Saving:
    """A client being saved. TmemError when it has no pool, or is being saved already."""

    def __init__(self, tmem: Tmem, client: int, live: bool = False) -> None:
        count, pools = tmem.get_pools(client)
        if count <= 0:
            raise TmemError(f"client {client} has no pool to save")
        self._tmem, self._client = tmem, client
        words = tmem._state.clients[client]
        if words["is_saving"]:
            raise TmemError(f"client {client} is being saved already")
        uuids = words["uuids"].view(np.uint64).reshape(-1, 2).tolist()
        self.image = ClientImage(
            int(words["weight"]),
            int(words["quota"]),
            int(words["mm_target"]),
            tuple((low, high) for low, high in uuids if (low, high) != (2**64 - 1, 2**64 - 1)),
            pools,
        )
        self._was_frozen = int(words["is_frozen"])
        for name, value in (
            ("is_saving", 1 + self._was_frozen),  # first, so that a recovery can thaw
            ("is_frozen", 1),
            ("is_migrating", int(live)),
        ):
            tmem._state.clients[name][client] = value
        self._names = list(self._persistent())

    def _persistent(self) -> Iterator[Name]:
        state = self._tmem._state
        pages, objects = state.cells["page"], state.cells["object"]
        anchor = layout.client_anchor(self._client, layout.ANCHOR_PERSISTENT)
        cell = int(pages[anchor]["of_client"]["next"])
        while cell != anchor:
            page = pages[cell]
            owner = objects[page["object"]]
            oid0, oid1, oid2 = owner["oid"].tolist()
            slot = int(owner["pool"]) % layout.POOLS_PER_CLIENT
            yield slot, (oid0, oid1, oid2), int(page["index"])
            cell = int(page["of_client"]["next"])

    def pages(self) -> Iterator[tuple[Name, bytes]]:
        """Name and 4096 bytes of every persistent page in put order, without those flushed since.
        The first call yields them, a second nothing."""
        page = bytearray(layout.PAGE_BYTES)
        names, self._names = self._names, []
        for name in names:
            if self._tmem.peek(self._client, *name, page) == Code.DONE:
                yield name, bytes(page)

    def invalidations(self) -> Iterator[Name]:
        """The name of each page flushed, replaced or destroyed since a live save began, once."""
        out = np.zeros(5, np.uint64)
        while serve.py_take_gone(self._tmem.state_address, self._client, int(out.ctypes.data)):
            slot, index, *oid = out.tolist()
            yield slot, (oid[0], oid[1], oid[2]), index

    def end(self) -> None:
        """Freeze the client no longer, if it was not frozen before; drop the rest of the log."""
        for _ in self.invalidations():
            pass
        frozen = self._was_frozen
        for name, value in (("is_saving", 0), ("is_frozen", frozen), ("is_migrating", 0)):
            self._tmem._state.clients[name][self._client] = value


def restore(tmem: Tmem, client: int, image: ClientImage) -> int:
    """Make a client with the pools of ``image``, in their slots, without pages: 0; EEXIST, EPERM.

    A shared pool for which this side has no place is made a private one.
    """
    code = tmem.open_client(client)
    if code < 0:
        return code
    for uuid in image.uuids:
        tmem.authorise(client, uuid)
    wanted = {entry.slot: entry for entry in image.pools}
    # A new pool takes the lowest free slot, so slots between are filled and emptied again.
    for slot in range(max(wanted, default=-1) + 1):
        entry = wanted.get(slot, PoolEntry(int(PoolFlag.VERSION), slot, 0, 0, 0))
        uuid = entry.uuid_lo, entry.uuid_hi
        if tmem.new_pool(client, entry.flags, uuid) < 0:
            tmem.new_pool(client, entry.flags & ~PoolFlag.SHARED, uuid)
    for slot in set(range(max(wanted, default=-1) + 1)) - set(wanted):
        tmem.destroy_pool(client, slot)
    tmem.set_weight(client, image.weight)
    tmem.set_quota(client, image.quota)
    tmem.clients["mm_target"][client] = image.mm_target
    return 0
