"""The tmem of a host: the pool of pages that domains put into memory which nobody else uses.

Owns: ``tmem.Tmem``, the slab it lies in, and the C hooks by which the service thread calls it.
Rules: made and driven by the hypervisor's main thread, as a part of ``HostBackend``. The service
thread runs the pool's compiled code under the host lock; ``locked`` keeps it out meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from backend._service import ffi, lib
from hypervisor.public.errors import InternalError
from hypervisor.public.units import AREA_BYTES, AREA_FRAMES, DomId

#: Fields of a domain's snapshot, and the counters of its tmem client that each is the sum of.
COUNTERS = {
    "tmem_used_pages": ("used_pages",),
    "tmem_target_pages": ("mm_target",),
    "puts": ("puts",),
    "puts_failed": tuple(
        f"puts_failed_{why}" for why in ("target", "nomem", "nospc", "frozen", "fault")
    ),
    "gets": ("gets",),
    "gets_hit": ("gets_hit",),
    "flushes": ("flushes",),
}
_HOOKS = ("execute", "grow", "shrink", "open_client", "close_client")


class TmemPool:
    """A pool of at most ``areas`` areas of ``host``; ``options`` are those of ``tmem.Tmem``.

    ``entries_of`` makes the C entry points of a pool: ``tmem.serve.entry_points``, or a stand-in of
    it that sees the operations. With ``mrc_points`` above 1 the pool measures each domain's miss
    ratios at so many sizes. InternalError when the slab cannot be mapped.
    """

    def __init__(
        self,
        host: Any,
        areas: int,
        entries_of: Callable[[Any], Any] | None,
        mrc_points: int,
        **options: bool,
    ) -> None:
        from tmem import Tmem, serve  # compiles its kernels: a host without tmem does not wait

        self._host, self._mrc_points = host, mrc_points
        self._bytes = areas * AREA_BYTES
        self._recount: Any = None  # one that is not done yet
        self._slab = int(lib.mc_map_anonymous(self._bytes))
        if self._slab < 0:
            raise InternalError(f"tmem slab: {os.strerror(-self._slab)}")
        try:
            self.tmem: Any = Tmem(max_areas=areas, slab=self._slab, mrc=mrc_points > 1, **options)
            own = serve.entry_points(self.tmem.state_address)
            self._entries = entries_of(self.tmem) if entries_of else own
        except BaseException:
            self.close()
            raise
        self._slab_used = ffi.new("uint8_t[]", areas)
        self._hook(areas)

    def _hook(self, areas: int) -> None:
        hooks, entries = self._host.tmem, self._entries
        hooks.state, hooks.slab, hooks.slab_areas = entries.state_address, self._slab, areas
        kinds = dict(ffi.typeof("struct mc_tmem_hooks").fields)
        for name in _HOOKS:
            setattr(hooks, name, ffi.cast(kinds[name].type, getattr(entries, name)))
        self._host.slab_used = self._slab_used
        self._host.tmem_areas_max = areas

    def close(self) -> None:
        """Unmap the slab. No thread serves the host any more."""
        lib.mc_unmap(self._slab, self._bytes)

    def recount(self, for_s: float) -> tuple[Any, bool]:
        """Check the pool, or go on where the last call stopped, for about ``for_s`` seconds.

        The service thread waits for one step at most. Returns the ``tmem.recount.Recount`` and
        whether it is done; the next call then begins anew. TmemBroken when something is wrong.
        """
        recount, self._recount = self._recount or self.tmem.recount(), None
        until = time.monotonic() + for_s
        while self._step(recount):
            if time.monotonic() > until:
                self._recount = recount
                return recount, False
        return recount, True

    def _step(self, recount: Any) -> bool:
        with self.locked():
            is_going_on: bool = recount.step()
            return is_going_on

    @contextlib.contextmanager
    def locked(self) -> Iterator[Any]:
        """The pool, while the service thread keeps out of it."""
        lib.mc_host_lock(self._host)
        try:
            yield self.tmem
        finally:
            lib.mc_host_unlock(self._host)

    def capacity_pages(self, host: Any) -> int:
        """Pages that tmem may grow to by the counters of ``host``, a copy of ``struct mc_host``."""
        room = max(host.free_frames - host.slack_frames - host.promised_frames, 0)
        room -= room % AREA_FRAMES
        return int(min(host.tmem_frames + room, host.tmem_areas_max * AREA_FRAMES))

    def counters(self, domid: DomId) -> dict[str, int]:
        """The values of ``COUNTERS`` for a domain."""
        client = self.tmem.clients[domid]
        return {name: sum(int(client[c]) for c in of) for name, of in COUNTERS.items()}

    def miss_ratios(self, domid: DomId, capacity_pages: int) -> tuple[float, ...] | None:
        """A domain's miss ratio with i / (n - 1) of the capacity, for i below n, or None."""
        if self._mrc_points < 2:
            return None
        last = self._mrc_points - 1
        sizes = [point * capacity_pages / last for point in range(self._mrc_points)]
        return tuple(self.tmem.miss_ratios(domid, sizes).tolist())
