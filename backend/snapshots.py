"""What a copy of the host's counters says, as the values that the hypervisor reads.

Owns: the way from ``struct mc_host`` to ``HostSnapshot``. Called by ``HostBackend`` on the main
thread. A copy is of one instant; what is read from the kernel (``resident_frames``) and from a
guest's control page (``guest_*``) is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backend._service import ffi, lib
from backend.tmem_pool import COUNTERS, TmemPool
from hypervisor.public.backend import DomainSnapshot, HostSnapshot
from hypervisor.public.settings import MECHANISMS
from hypervisor.public.units import AREA_FRAMES, FRAME_BYTES, DomId

_NOT_OUTSIDE = (lib.MC_A_HARD, lib.MC_A_SOFT, lib.MC_A_INSTALLED)


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


def _domain(
    host: Any, domain: Any, name: str, pool: TmemPool | None, capacity: int
) -> DomainSnapshot:
    domid = DomId(domain.domid)
    control, counters = domain.control, domain.counters
    tmem = dict.fromkeys(COUNTERS, 0) if pool is None else pool.counters(domid)
    backed = domain.areas - sum(domain.counts[state] for state in _NOT_OUTSIDE)
    return DomainSnapshot(
        domid=domid,
        name=name,
        maxmem_frames=domain.areas * AREA_FRAMES,
        current_frames=domain.installed_frames,
        target_frames=domain.target_frames,
        resident_frames=max(int(lib.mc_resident_bytes(domain.ram_fd)), 0) // FRAME_BYTES,
        installed_frames=backed * AREA_FRAMES + domain.installed_frames + domain.flight_frames,
        grants_credit=counters.grants[lib.MC_PATH_CREDIT],
        grants_ring=counters.grants[lib.MC_PATH_RING],
        grants_transfer=counters.grants[lib.MC_PATH_TRANSFER],
        reclaimed_areas=counters.reclaimed_areas,
        **tmem,
        ring_requests=counters.requests,
        bad_requests=counters.bad_requests,
        broken=domain.phase == lib.MC_BROKEN,
        guest_used_frames=control.used_frames,
        guest_faults=control.faults,
        guest_swap_ins=control.swap_ins,
        guest_swap_outs=control.swap_outs,
        guest_references=control.references,
        guest_credit_dry=control.credit_dry,
        mrc=None if pool is None else pool.miss_ratios(domid, capacity),
        guest_committed_frames=control.committed_frames,
        guest_stall_ns=control.stall_ns,
        guest_idle_permille=control.idle_permille,
        mechanism=MECHANISMS[lib.mc_domain_mechanism(host, domid)],
        granule_frames=domain.granule_frames,
        plugged_frames=int(lib.mc_domain_size(host, domid)),
        pinned_frames=domain.pinned_frames,
        shrunk_frames=counters.shrunk_frames,
        grown_frames=counters.grown_frames,
        refused=counters.refused,
        refused_dma=counters.refused_dma,
        violations=counters.violations,
        set_ns=counters.set_ns,
        reached_ns=counters.reached_ns,
        guest_migrated_frames=control.migrated_frames,
        guest_file_frames=control.file_frames,
    )
