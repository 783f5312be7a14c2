"""What an operator asks of a host's tmem, from statistics to quotas.

Owns: ``TmemVerbs``, the part of ``backend.host.HostBackend`` that hands such a request to the pool
under the host lock. Called by the hypervisor's main thread only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from backend.tmem_pool import TmemPool
from hypervisor.public.errors import ConfigError, InternalError, NoMemory
from hypervisor.public.units import DomId
from tmem.codes import Code


class TmemVerbs:
    """The requests; ``HostBackend`` brings the pool, None without tmem, and the names of domains.

    Each raises ConfigError on a host without tmem.
    """

    _pool: TmemPool | None
    _names: Mapping[DomId, str]

    def _on_tmem(self, verb: str, *arguments: Any) -> Any:
        """Call a method of the pool while the service thread keeps out; ConfigError without one."""
        if self._pool is None:
            raise ConfigError("tmem", "this host has none")
        with self._pool.locked() as tmem:
            return getattr(tmem, verb)(*arguments)

    def tmem_statistics(self) -> dict[str, Any]:
        """``tmem.statistics.Statistics`` as plain values; clients are domids."""
        plain: dict[str, Any] = msgspec.to_builtins(self._on_tmem("statistics"))
        return plain

    def tmem_freeze(self, domid: DomId | None) -> None:
        """No growth of tmem for a domain, or for all that are attached now."""
        _done(self._on_tmem("freeze", domid), f"freeze {domid}")

    def tmem_thaw(self, domid: DomId | None) -> None:
        """Undo ``tmem_freeze``."""
        _done(self._on_tmem("thaw", domid), f"thaw {domid}")

    def tmem_set_weight(self, domid: DomId, weight: int) -> None:
        """Set the share of a domain in ephemeral memory; 0 is none of its own."""
        _done(self._on_tmem("set_weight", domid, weight), f"weigh {domid}")

    def tmem_set_quota(self, domid: DomId, pages: int) -> None:
        """Set the most persistent pages a domain may have; -1 is no limit."""
        _done(self._on_tmem("set_quota", domid, pages), f"limit {domid}")

    def tmem_authorise(self, domid: DomId, uuid: int, allow: bool) -> None:
        """Let a domain share pools of a uuid of 128 bits, or no longer; NoMemory beyond 16."""
        code = self._on_tmem("authorise", domid, (uuid & 0xFFFFFFFFFFFFFFFF, uuid >> 64), allow)
        if code == Code.ENOMEM:
            raise NoMemory(f"{self._names[domid]} may share 16 pools at most; revoke one")
        _done(code, f"authorise {domid}")

    def tmem_compress(self, pages: int) -> int:
        """Compress up to ``pages`` of the coldest raw pages; requests wait. Returns how many."""
        return 0 if self._pool is None else int(self._on_tmem("compress_step", pages))

    def tmem_freeable_mb(self) -> int:
        """MiB that tmem could give to the host now: free slab memory and ephemeral pages."""
        return int(self._on_tmem("freeable_mb"))


def _done(code: int, what: str) -> None:
    if code < 0:  # a client that is open cannot be refused this
        raise InternalError(f"tmem: {what}: code {code}")
