"""The main thread's work on tmem: list; freeze, thaw, weigh, limit, authorise; compress.

Owns: the number of pages compressed at a tick, the operations whose names begin with ``tmem-``
(except ``tmem-set``, which sets a target). Called by ``hypervisor.loop`` on the main thread.
"""

import uuid
from typing import Any

from hypervisor.domains import DomainTable
from hypervisor.public.backend import Backend
from hypervisor.public.errors import ConfigError
from hypervisor.public.messages import OPS
from hypervisor.public.units import DomId

#: The operations ``serve`` knows.
TMEM_OPS = frozenset(op for op in OPS if op.startswith("tmem-")) - {"tmem-set"}
WEIGHT_MAX = (1 << 32) - 1
#: Most pages compressed at a tick, in steps: a request of a domain waits for one step at most.
COMPRESS_PAGES_MAX = 256
COMPRESS_STEP_PAGES = 16


def compress(backend: Backend) -> None:
    """The background step of the cold tier."""
    for _ in range(COMPRESS_PAGES_MAX // COMPRESS_STEP_PAGES):
        if backend.tmem_compress(COMPRESS_STEP_PAGES) < COMPRESS_STEP_PAGES:
            return


def serve(backend: Backend, domains: DomainTable, op: str, args: dict[str, Any]) -> Any:
    """Carry out one of ``TMEM_OPS``; a ``domain`` of "" means every domain."""
    if op == "tmem-freeable":
        return {"freeable_mb": backend.tmem_freeable_mb()}
    domid = _domid(domains, args["domain"])
    if op == "tmem-list":
        return _list(backend.tmem_statistics(), domains, domid)
    if op == "tmem-freeze":
        return backend.tmem_freeze(domid)
    if op == "tmem-thaw":
        return backend.tmem_thaw(domid)
    if domid is None:
        raise ConfigError("domain", "name one")
    if op == "tmem-shared-auth":
        return backend.tmem_authorise(domid, _uuid(args["uuid"]), args["allow"])
    if op == "tmem-quota":
        return backend.tmem_set_quota(domid, max(args["pages"], -1))
    if not 0 <= args["weight"] <= WEIGHT_MAX:
        raise ConfigError("weight", f"must be 0 to {WEIGHT_MAX}")
    return backend.tmem_set_weight(domid, args["weight"])


def _uuid(text: str) -> int:
    try:
        return uuid.UUID(text).int
    except ValueError:
        raise ConfigError("uuid", f"{text!r} is no uuid of 32 hexadecimal digits") from None


def _domid(domains: DomainTable, name: str) -> DomId | None:
    if not name:
        return None
    return domains.attached(name).domid


def _list(statistics: dict[str, Any], domains: DomainTable, only: DomId | None) -> dict[str, Any]:
    """``host``, ``clients`` and, for one domain, its ``pools``; all pools would exceed a message.

    A pool is a client's when one of the client's slots leads to it.
    """
    pools = statistics.pop("pools")
    clients = statistics.pop("clients")
    for client in clients:
        entry = domains.get(DomId(client["client"]))
        client["name"] = "" if entry is None else entry.name
        client["pool_count"] = sum(_has(client["client"], pool) for pool in pools)
    if only is None:
        return {"host": statistics, "clients": clients}
    return {
        "host": statistics,
        "clients": [client for client in clients if client["client"] == only],
        "pools": [pool for pool in pools if _has(only, pool)],
    }


def _has(client: int, pool: dict[str, Any]) -> bool:
    return any(sharer == client for sharer, _ in pool["sharers"])
