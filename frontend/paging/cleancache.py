"""Cleancache: clean file pages that leave the guest's RAM, kept in tmem while it has room.

Owns: one ephemeral pool per mounted filesystem, and how a file page is named there: the object is
the inode, the index the page's number in the file. Linux' contracts (``mm/cleancache.c``):

  put          When an up-to-date page, the same as on disk, is evicted. The caller is not told
               whether tmem took it. For any other page the caller says ``invalidate_page``.
  get          On a read miss, before the disk is asked. A page found is gone from a private pool.
  coherence    After two puts of a page a get never gives the first one's data. A page that was
               missed once is missed until it is put again.
  invalidate   When a page or an inode is truncated or written past the page cache, and when the
               filesystem is unmounted.

A filesystem for which tmem has no pool, and a page number beyond 32 bits, are simply not cached.
Rules: one thread. Every operation raises PeerGone when the hypervisor is dead. A get that raises is
no miss: a late answer may still write the frame.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import NewType

from frontend.tmem_client import DONE, INDEX_MAX, Oid, TmemClient
from hypervisor.public.errors import ConfigError, NoMemory
from hypervisor.public.units import PoolId

#: A file's key: its inode number, or up to this many bits of what the filesystem calls a handle.
INODE_BITS = 192

#: A mounted filesystem, until it is unmounted.
FilesystemId = NewType("FilesystemId", int)

_WORD = (1 << 64) - 1


def oid_of(inode: int) -> Oid:
    """The object of a file, its key zero-extended to 192 bits."""
    if not 0 <= inode < 1 << INODE_BITS:
        raise ValueError(f"inode {inode} has more than {INODE_BITS} bits, or is negative")
    return inode & _WORD, inode >> 64 & _WORD, inode >> 128


class Cleancache:
    """The page cache's second chance. Counters are public and only rise."""

    def __init__(self, tmem: TmemClient) -> None:
        self.puts = self.hits = self.misses = self.invalidates = 0
        self._tmem = tmem
        self._pools: dict[FilesystemId, PoolId | None] = {}
        self._mounts = 0

    def mount(self, shared_uuid: tuple[int, int] | None = None) -> FilesystemId:
        """Mount a filesystem.

        With ``shared_uuid`` (a cluster filesystem) its pages are shared with every domain that
        mounts it and is authorised; then a page stays in tmem after a get.
        """
        shared = shared_uuid is not None
        pool: PoolId | None = None
        with contextlib.suppress(NoMemory):
            pool = self._tmem.new_pool(persistent=False, uuid=shared_uuid or (0, 0), shared=shared)
        mounted = FilesystemId(self._mounts)
        self._mounts += 1
        self._pools[mounted] = pool
        return mounted

    def unmount(self, filesystem: FilesystemId) -> None:
        """Forget a filesystem and its pages (``invalidate_fs``).

        API: for a guest whose filesystems come and go.
        """
        pool = self._pool_of(filesystem)
        if pool is not None:
            self._tmem.destroy_pool(pool)
            self.invalidates += 1
        del self._pools[filesystem]

    def put(self, filesystem: FilesystemId, inode: int, index: int, frame: int) -> None:
        """Offer a clean, up-to-date page that is being evicted."""
        pool = self._pool_for(filesystem, index)
        if pool is not None:
            self._tmem.put(pool, oid_of(inode), index, frame)
            self.puts += 1

    def get(self, filesystem: FilesystemId, inode: int, index: int, frame: int) -> bool:
        """Fill ``frame``; False: the frame is untouched, and the caller reads the disk."""
        pool = self._pool_for(filesystem, index)
        answer = 0 if pool is None else self._tmem.get(pool, oid_of(inode), index, frame)
        return self._settle(answer)

    def get_ahead(
        self, filesystem: FilesystemId, inode: int, index: int, frames: Sequence[int]
    ) -> list[bool]:
        """``get`` of the page at ``index`` and of those that follow it, for one doorbell.

        One frame for each, at most RING_SLOTS. The pages found are gone from a private pool.
        """
        pool = self._pool_for(filesystem, index)
        answers = [0] * len(frames)
        if pool is not None:
            answers = self._tmem.get_ahead(pool, oid_of(inode), index, frames)
        return [self._settle(answer) for answer in answers]

    def invalidate_page(self, filesystem: FilesystemId, inode: int, index: int) -> None:
        """Forget a page that has changed on disk, or that differs from the disk."""
        pool = self._pool_for(filesystem, index)
        if pool is not None:
            self._tmem.flush_page(pool, oid_of(inode), index)
            self.invalidates += 1

    def invalidate_inode(self, filesystem: FilesystemId, inode: int) -> None:
        """Forget all pages of a file that is truncated or removed, as Linux calls it then."""
        pool = self._pool_of(filesystem)
        if pool is not None:
            self._tmem.flush_object(pool, oid_of(inode))
            self.invalidates += 1

    def _settle(self, answer: int) -> bool:
        """What ``get`` returns for tmem's answer."""
        hit = answer == DONE
        self.hits += hit
        self.misses += not hit
        return hit

    def _pool_of(self, filesystem: FilesystemId) -> PoolId | None:
        if filesystem not in self._pools:
            raise ConfigError("filesystem", f"{filesystem}: is not mounted")
        return self._pools[filesystem]

    def _pool_for(self, filesystem: FilesystemId, index: int) -> PoolId | None:
        if index < 0:
            raise IndexError(f"page {index} of a file")
        pool = self._pool_of(filesystem)
        return pool if index <= INDEX_MAX else None
