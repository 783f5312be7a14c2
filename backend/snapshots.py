"""What a copy of the host's counters says, as the values that the hypervisor reads.

Owns: the way from ``struct mc_host`` to ``HostSnapshot``, and to what grants cost. Called by
``HostBackend`` on the main thread. A copy is of one instant, with what the kernel gave
(``resident_frames``); what is read from a guest's control page (``guest_*``) is not. What grants
cost is counted by the host and by the guests: a guest can write its counts, so they are told as its
word, and nothing is decided from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from backend._service import ffi, lib
from backend.tmem_pool import COUNTERS, TmemPool
from hypervisor.public.backend import DomainSnapshot, HostSnapshot
from hypervisor.public.errors import InternalError
from hypervisor.public.feed import LatencyRow
from hypervisor.public.settings import MECHANISMS
from hypervisor.public.units import AREA_FRAMES, FRAME_BYTES, DomId

_FIELDS = set(DomainSnapshot.__struct_fields__)
#: What a snapshot takes over by name, of the counters and of the words that the guest writes.
_COUNTERS = _FIELDS & {name for name, _ in ffi.typeof("struct mc_domain_counters").fields}
_GUEST_WORDS = {name for name in _FIELDS if name.startswith("guest_")}

#: Paths that somebody waits for, in the order of their counts.
PATHS = ("ring", "transfer")
_BUCKETS = int(lib.MC_LATENCY_BUCKETS)
_BYTES = 4 * int(lib.MC_LATENCY_COUNTS)
_NONE = bytes(_BYTES)


def take(host: Any, names: Mapping[DomId, str], pool: TmemPool | None) -> HostSnapshot:
    """A consistent copy of the ledger of ``host`` and the counters of the domains in ``names``."""
    copy = ffi.new("struct mc_host *")
    lib.mc_host_copy(host, copy)
    capacity = 0 if pool is None else pool.capacity_pages(copy)
    domains = tuple(
        _domain(host, copy.domains[domid], names[domid], pool, capacity) for domid in sorted(names)
    )
    return HostSnapshot(
        total_frames=copy.total_frames,
        slack_frames=copy.slack_frames + copy.promised_frames,
        free_frames=copy.free_frames,
        installed_frames=copy.installed_frames,
        ready_frames=copy.ready_frames + copy.transit_frames,
        tmem_frames=copy.tmem_frames,
        tmem_used_pages=sum(domain.tmem_used_pages for domain in domains),
        tmem_capacity_pages=capacity,
        domains=domains,
    )


def reach_of(host: Any, domid: DomId) -> tuple[str, str]:
    """``state`` and ``why`` of ``Settled``, as they are now; InternalError for no domain."""
    reach, why = ffi.new("enum mc_reach *"), ffi.new("enum mc_why *")
    if lib.mc_domain_reach(host, domid, reach, why) != lib.MC_OK:
        raise InternalError(f"no domain {domid} to ask for its reach")
    words = _word("mc_reach", "MC_", reach[0]), _word("mc_why", "MC_WHY_", why[0])
    return words[0], "" if why[0] == lib.MC_WHY_NONE else words[1]


def _word(enum: str, prefix: str, value: int) -> str:
    """The name of a C enum's member, in words."""
    name: str = ffi.typeof(f"enum {enum}").elements[value]
    return name.removeprefix(prefix).lower().replace("_", " ")


def _domain(
    host: Any, domain: Any, name: str, pool: TmemPool | None, capacity: int
) -> DomainSnapshot:
    domid = DomId(domain.domid)
    broken = domain.phase == lib.MC_BROKEN
    reach, why = ("moving", "") if broken else reach_of(host, domid)
    control, counters = domain.control, domain.counters
    tmem = dict.fromkeys(COUNTERS, 0) if pool is None else pool.counters(domid)
    return DomainSnapshot(
        domid=domid,
        name=name,
        maxmem_frames=domain.areas * AREA_FRAMES,
        current_frames=domain.installed_frames,
        target_frames=domain.target_frames,
        resident_frames=max(domain.resident_bytes, 0) // FRAME_BYTES,
        installed_frames=int(lib.mc_backed_frames(ffi.addressof(domain))),
        grants_credit=counters.grants[lib.MC_PATH_CREDIT],
        grants_ring=counters.grants[lib.MC_PATH_RING],
        grants_transfer=counters.grants[lib.MC_PATH_TRANSFER],
        **{name: getattr(counters, name) for name in _COUNTERS},
        **{name: getattr(control, name.removeprefix("guest_")) for name in _GUEST_WORDS},
        **tmem,
        ring_requests=counters.requests,
        broken=broken,
        mrc=None if pool is None else pool.miss_ratios(domid, capacity),
        mechanism=MECHANISMS[domain.mechanism.id],
        granule_frames=domain.granule_frames,
        plugged_frames=int(lib.mc_domain_size(host, domid)),
        pinned_frames=domain.pinned_frames,
        reach=reach,
        reach_why=why,
    )


def latencies(host: Any, names: Mapping[DomId, str]) -> list[LatencyRow]:
    """A row for each domain, path and word of which anything was counted."""
    found: list[LatencyRow] = []
    for domid in sorted(names):
        domain = host.domains[domid]
        for word, counts in (("host", domain.serves), ("guest", domain.control.waits)):
            found += _rows(names[domid], word, bytes(ffi.buffer(counts, _BYTES)))
    return found


def _rows(name: str, word: str, data: bytes) -> Iterator[LatencyRow]:
    if data == _NONE:
        return
    counts = memoryview(data).cast("I")
    for path, begin in zip(PATHS, range(0, len(counts), _BUCKETS), strict=True):
        own = counts[begin : begin + _BUCKETS]
        if counted := {bucket: count for bucket, count in enumerate(own) if count}:
            yield LatencyRow(name, path, word, counted)
