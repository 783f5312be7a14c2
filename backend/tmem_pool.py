"""The tmem of a host: the pool of pages that domains put into memory which nobody else uses.

Owns: ``tmem.Tmem``, the slab it lies in, and the C hooks by which the service thread calls it; with
``TmemFiles`` also the memfds of both, so that the pool outlives the process.
Rules: made and driven by the hypervisor's main thread, as a part of ``HostBackend``. The service
thread runs the pool's compiled code under the host lock; ``locked`` keeps it out meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backend._service import ffi, lib
from hypervisor.public.errors import Status, error_of
from hypervisor.public.units import AREA_BYTES, AREA_FRAMES, DomId

if TYPE_CHECKING:
    from tmem.recovery import Recovered

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


@dataclass(frozen=True)
class TmemFiles:
    """Two memfds in which a pool lies: its state, and its slab of pages.

    They are the hypervisor's own: no domain ever gets them.
    """

    state_fd: int
    slab_fd: int

    @staticmethod
    def state_bytes(areas: int, **options: bool) -> int:
        """The size of the state's file, for a ``TmemPool`` of these."""
        from tmem import Tmem

        size = Tmem.state_bytes(max_areas=areas, **options)
        return -(-size // AREA_BYTES) * AREA_BYTES

    @classmethod
    def make(cls, areas: int, **options: bool) -> TmemFiles:
        """Empty files for a ``TmemPool`` of as many areas and the same options."""
        from tmem import Tmem

        slab_fd = _memfd("memcoord-tmem-slab", areas * AREA_BYTES)
        try:
            size = Tmem.state_bytes(max_areas=areas, **options)
            return cls(_memfd("memcoord-tmem-state", size), slab_fd)
        except BaseException:
            os.close(slab_fd)
            raise


def _memfd(name: str, size: int) -> int:
    fd = int(lib.mc_memfd(name.encode(), -(-size // AREA_BYTES) * AREA_BYTES))
    if fd < 0:
        raise error_of(Status.EKERNEL, f"make {name} of {size} bytes")
    return fd


class TmemPool:
    """A pool of at most ``areas`` areas of ``host``; ``options`` are those of ``tmem.Tmem``.

    ``entries_of`` makes the C entry points of a pool: ``tmem.serve.entry_points``, or a stand-in of
    it that sees the operations. With ``mrc_points`` above 1 the pool measures each domain's miss
    ratios at so many sizes.

    With ``files`` the pool lies in them, and with ``recover`` it is there already: ``recovered``
    then says which slab areas it holds, and which clients are open. The caller charges those areas
    and frees the memory of all others (``free_unheld``). Without ``files`` it is memory of this
    process. InternalError when a part of it cannot be mapped, TmemError and TmemBroken as of
    ``tmem.Tmem``.
    """

    def __init__(
        self,
        host: Any,
        areas: int,
        entries_of: Callable[[Any], Any] | None,
        mrc_points: int,
        *,
        files: TmemFiles | None = None,
        recover: bool = False,
        **options: bool,
    ) -> None:
        from tmem import Tmem, serve  # compiles its kernels: a host without tmem does not wait

        self._host, self._mrc_points, self._files = host, mrc_points, files
        self._maps: list[tuple[int, int]] = []
        self._recount: Any = None  # one that is not done yet
        try:
            self._slab = self._map("slab", files.slab_fd if files else None, areas * AREA_BYTES)
            state_memory = None
            if files is not None:
                size = os.fstat(files.state_fd).st_size
                state_memory = self._map("state", files.state_fd, size), size
            self.tmem: Any = Tmem(
                max_areas=areas,
                slab=self._slab,
                mrc=mrc_points > 1,
                state_memory=state_memory,
                recover=recover,
                **options,
            )
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
        hooks.is_slab_shared = self._files is not None
        if not self._host.slab_used:  # a host with books has it there
            self._host.slab_used = self._slab_used
        self._host.tmem_areas_max = areas

    def _map(self, what: str, fd: int | None, size: int) -> int:
        address = int(lib.mc_map_anonymous(size) if fd is None else lib.mc_map(fd, size))
        if address < 0:
            raise error_of(Status.EKERNEL, f"map the {what} of tmem")
        self._maps.append((address, size))
        return address

    @property
    def recovered(self) -> Recovered | None:
        """What was there, of a pool made with ``recover``."""
        found: Recovered | None = self.tmem.recovered
        return found

    def free_unheld(self) -> None:
        """Free the memory of every slab area that the recovered pool does not hold: the last
        process may have been killed before it did. InternalError when the kernel refuses."""
        if self._files is None or self.recovered is None:
            return
        start = 0
        for area in (*self.recovered.areas, self._host.tmem.slab_areas):
            failed = (
                lib.mc_punch(self._files.slab_fd, start * AREA_BYTES, (area - start) * AREA_BYTES)
                if area > start
                else 0
            )
            if failed:
                raise error_of(Status.EKERNEL, "punch the slab of tmem")
            start = area + 1

    def close(self) -> None:
        """Unmap slab and state. No thread serves the host any more."""
        while self._maps:
            lib.mc_unmap(*self._maps.pop())

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
