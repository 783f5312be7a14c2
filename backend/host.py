"""A host: one ledger of memory, its domains, and the threads that serve them.

Owns: one ``struct mc_host`` (``backend/abi/host.h``), the tmem pool behind it, and the two threads
that serve it. Implements ``hypervisor.public.backend.Backend``. How each domain is resized is its
mechanism's, behind one table in C (``backend/abi/mechanism.h``).
Rules: made, driven and stopped by the hypervisor's main thread only. The compiled loops run without
the GIL on threads of their own, from the constructor until ``stop``.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from backend._service import ffi, lib
from backend.banks import Banks
from backend.ghosts import Ghosts
from hypervisor.public.backend import (
    EXCESS,
    MECHANISMS,
    BankSpec,
    DomainHandles,
    DomainSnapshot,
    DomainSpec,
    HostSnapshot,
    Settled,
)
from hypervisor.public.constants import BackingKind
from hypervisor.public.errors import (
    ConfigError,
    InternalError,
    NoMemory,
    Status,
    TimedOut,
    error_of,
)
from hypervisor.public.units import AREA_BYTES, AREA_FRAMES, FRAME_BYTES, DomId, areas_of
from tmem.codes import Code

THREAD_STOP_S = 10.0
SETTLE_POLL_S = 0.001

#: What ram may be made of: whatever the machine gives, pages of 4 KiB, of 2 MiB.
BACKINGS = {"": BackingKind.BACKING_ANY, "4k": BackingKind.BACKING_4K, "2m": BackingKind.BACKING_2M}
_NOT_OUTSIDE = (lib.MC_A_HARD, lib.MC_A_SOFT, lib.MC_A_INSTALLED)
_BROKEN = {Status.EPERM: "error budget spent", Status.EFOREIGN: EXCESS}

#: Fields of a snapshot, and the counters of a tmem client each is the sum of.
_TMEM_FIELDS = {
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


class HostBackend(Banks):
    """Serve domains out of ``total_frames`` of host memory, ``slack_frames`` of it kept free.

    ``backing`` is one of ``BACKINGS``; "2m" raises ConfigError where the machine gives no pages of
    2 MiB. ``huge_dir`` is a tmpfs mounted with huge=always to take them from: its files cannot be
    sealed, so a host with one serves guests that are trusted, and no tmem. ``banks`` divide host
    memory; without them it is one, bound to no node.

    ``tmem_max_frames`` bounds what tmem may hold; ``error_budget`` is the number of bad requests a
    domain may send before it is reported by ``broken``. ``stop_excess``: so is one that really uses
    more than it was granted, within milliseconds. ``tmem_entries`` makes, from
    the ``Tmem``, what the service calls instead of ``tmem.serve.entry_points``, so that a recorder
    sees the operations. With ``mrc_points`` above 1 every snapshot has each domain's miss ratios at
    so many sizes, as ``tmem.shards`` counts them.
    """

    def __init__(
        self,
        *,
        total_frames: int,
        slack_frames: int,
        tmem_max_frames: int = -1,
        spin_ns: int = -1,
        error_budget: int = 64,
        tmem_entries: Callable[[Any], Any] | None = None,
        tmem_dedup: bool = False,
        tmem_compression: bool = False,
        mrc_points: int = 0,
        backing: str = "",
        huge_dir: str = "",
        banks: Sequence[BankSpec] = (),
        stop_excess: bool = False,
    ) -> None:
        out = ffi.new("struct mc_host **")
        self.spin_ns = int(lib.mc_spin_calibrate_ns()) if spin_ns < 0 else spin_ns
        total_areas, slack_areas = total_frames // AREA_FRAMES, areas_of(slack_frames)
        _check(lib.mc_host_open(out, total_areas, slack_areas, self.spin_ns), "open host")
        self._host: Any = out[0]
        self._host.error_budget = error_budget
        self._names: dict[DomId, str] = {}
        self._tmem_targets: dict[DomId, int] = {}
        try:
            self._set_memory(backing, huge_dir, banks)
        except BaseException:
            lib.mc_host_close(self._host)
            raise
        self._copy = ffi.new("struct mc_host *")
        self._keep: list[Any] = []
        self._beats = 0
        self.tmem: Any = None
        tmem_areas = total_areas if tmem_max_frames < 0 else tmem_max_frames // AREA_FRAMES
        self._mrc_points = mrc_points
        mrc = mrc_points > 1
        options = {"dedup": tmem_dedup, "compression": tmem_compression, "mrc": mrc}
        self._open_tmem(min(tmem_areas, total_areas), tmem_entries, options)
        self.event_fd = int(self._host.event_fd)
        self.relay_fd = int(self._host.relay_fd)
        self._threads = [
            threading.Thread(target=lib.mc_service_run, args=(self._host,), name="service"),
            threading.Thread(target=lib.mc_worker_run, args=(self._host,), name="worker"),
        ]
        self._ghosts = Ghosts() if stop_excess else None
        if stop_excess:
            run = lib.mc_excess_run
            self._threads.append(threading.Thread(target=run, args=(self._host,), name="excess"))
        for thread in self._threads:
            thread.daemon = True
            thread.start()

    def _set_memory(self, backing: str, huge_dir: str, banks: Sequence[BankSpec]) -> None:
        if backing not in BACKINGS:
            raise ConfigError("backing", f"{backing!r} is none of {', '.join(BACKINGS)}")
        if lib.mc_host_set_backing(self._host, BACKINGS[backing], huge_dir.encode()):
            raise ConfigError("backing", f"this machine gives no {backing} pages {huge_dir}")
        if banks:
            made = ffi.new("struct mc_bank[]", [(b.node, b.remote, b.frames, 0) for b in banks])
            if lib.mc_host_set_banks(self._host, made, len(banks)):
                raise ConfigError("banks", "at most 16, and their sum is all host memory")

    def _open_tmem(
        self, areas: int, entries_of: Callable[[Any], Any] | None, options: dict[str, bool]
    ) -> None:
        if areas <= 0:
            return
        from tmem import Tmem, serve

        slab = int(lib.mc_map_anonymous(areas * AREA_BYTES))
        if slab < 0:
            raise InternalError(f"tmem slab: {os.strerror(-slab)}")
        self._slab, self._slab_bytes = slab, areas * AREA_BYTES
        self.tmem = Tmem(max_areas=areas, slab=slab, **options)
        own = serve.entry_points(self.tmem.state_address)
        entries = entries_of(self.tmem) if entries_of else own
        self._slab_used = ffi.new("uint8_t[]", areas)
        hooks = self._host.tmem
        hooks.state, hooks.slab, hooks.slab_areas = entries.state_address, slab, areas
        kinds = dict(ffi.typeof("struct mc_tmem_hooks").fields)
        for name in ("execute", "grow", "shrink", "open_client", "close_client"):
            setattr(hooks, name, ffi.cast(kinds[name].type, getattr(entries, name)))
        self._host.slab_used = self._slab_used
        self._host.tmem_areas_max = areas
        self._keep.append(entries)

    def open(self, domid: DomId, spec: DomainSpec) -> DomainHandles:
        """Create the domain's memory and grant ``boot_frames``; NoMemory if they are not there."""
        areas = areas_of(spec.maxmem_frames)
        wanted = ffi.new("struct mc_domain_spec *")
        wanted.areas, wanted.boot_areas = areas, areas_of(spec.boot_frames)
        wanted.target_frames = max(spec.target_frames, wanted.boot_areas * AREA_FRAMES)
        wanted.credit_areas, wanted.relayed = spec.credit_areas, spec.doorbell == "zmq"
        wanted.mechanism = mechanism_id(spec.mechanism)
        _set_options(wanted, spec)
        status = lib.mc_domain_open(self._host, domid, wanted)
        if status == Status.ENOMEM:
            raise NoMemory(
                f"{spec.name}: the host has no {spec.boot_frames} frames to boot it with"
            )
        _check(status, f"open {spec.name}")
        self._names[domid] = spec.name
        self.set_tmem_target(domid, spec.tmem_target_pages)
        domain = self._host.domains[domid]
        return DomainHandles(
            ram_fd=domain.ram_fd,
            meta_fd=domain.meta_fd,
            bell_fd=domain.bell_fd,
            ram_bytes=areas * AREA_BYTES,
            meta_bytes=domain.meta_bytes,
            spin_ns=self.spin_ns,
        )

    def close(self, domid: DomId) -> None:
        """Take back every frame and tmem page of a domain, dead or alive.

        TimedOut when a thread still uses the domain: it stays closed, and charged.
        """
        domain = self._host.domains[domid]
        if self._ghosts is not None and domid in self._names:
            self._ghosts.adopt(self._names[domid], domain.ram_fd, domain.areas * AREA_BYTES)
        _check(lib.mc_domain_close(self._host, domid), f"close domain {domid}")
        self._names.pop(domid, None)

    def reboot(self, domid: DomId) -> None:
        """The guest starts anew: meta is formatted, it holds what it boots with; pins stay."""
        status = lib.mc_domain_reboot(self._host, domid)
        if status == Status.ENOMEM:
            raise NoMemory(f"{self._names[domid]}: the host has no frames to boot it with again")
        _check(status, f"reboot domain {domid}")
        self.set_tmem_target(domid, self._tmem_targets[domid])

    def promise(self, frames: int) -> None:
        """Keep ``frames`` of host memory for domains that have not come yet."""
        lib.mc_host_promise(self._host, areas_of(frames) * AREA_FRAMES)

    def set_target(self, domid: DomId, frames: int) -> None:
        """Set the RAM target in frames, rounded up to the mechanism's granule."""
        _check(lib.mc_domain_set_target(self._host, domid, frames), "set target")

    def settle(self, domid: DomId, timeout_s: float) -> Settled:
        """Wait until a domain has reached its target, or cannot; "moving" when time was up."""
        reach, why = ffi.new("enum mc_reach *"), ffi.new("enum mc_why *")
        until = time.monotonic() + timeout_s
        while True:
            _check(lib.mc_domain_reach(self._host, domid, reach, why), f"settle domain {domid}")
            if reach[0] != lib.MC_MOVING or time.monotonic() > until:
                break
            time.sleep(SETTLE_POLL_S)
        domain = self._host.domains[domid]
        return Settled(
            state=_word("mc_reach", "MC_", reach[0]),
            why=_word("mc_why", "MC_WHY_", why[0]) if why[0] != lib.MC_WHY_NONE else "",
            plugged_frames=int(lib.mc_domain_size(self._host, domid)),
            target_frames=domain.target_frames,
            driver_status=domain.control.driver_status,
        )

    def pin_dma(self, domid: DomId, frame: int, count: int) -> None:
        """Make frames targets of DMA; they must be the guest's, and are populated."""
        _check(lib.mc_domain_pin(self._host, domid, frame, count, 1), "pin", frame)

    def unpin_dma(self, domid: DomId, frame: int, count: int) -> None:
        """Let go of frames that were pinned."""
        _check(lib.mc_domain_pin(self._host, domid, frame, count, 0), "unpin", frame)

    def huge_bytes(self, domid: DomId) -> int:
        """Bytes of a domain's ram that the hypervisor has mapped by pages of 2 MiB; measured."""
        domain = self._host.domains[domid]
        return max(int(lib.mc_huge_bytes(domain.ram, domain.areas * AREA_BYTES)), 0)

    def set_tmem_target(self, domid: DomId, pages: int) -> None:
        """Set mm_target in pages; -1 is no limit. Enforced on every put from now on."""
        if self.tmem is not None:
            self.tmem.clients["mm_target"][domid] = pages
        self._tmem_targets[domid] = pages
        control = self._host.domains[domid].control
        control.tmem_target_pages = pages & 0xFFFFFFFFFFFFFFFF

    def beat(self) -> None:
        """Raise every domain's heartbeat: the coordinator lives."""
        self._beats += 1
        for domid in self._names:  # stored, never read back: a guest can write there
            self._host.domains[domid].control.heartbeat = self._beats

    def haunted(self) -> list[str]:
        """Domains that are gone and whose memory is used, which ``stop_excess`` takes back."""
        return [] if self._ghosts is None else self._ghosts.look()

    def kick(self) -> None:
        """Wake the service thread: a doorbell arrived through the relay."""
        lib.mc_eventfd_ring(self._host.kick_fd)

    def relayed(self) -> list[DomId]:
        """Domains whose doorbell must be sent through the relay since the last call."""
        mask = int(lib.mc_relay_take(self._host))
        return [DomId(bit) for bit in range(lib.MC_MAX_DOMAINS) if mask >> bit & 1]

    def broken(self) -> list[tuple[DomId, str]]:
        """Domains whose ring is broken or whose error budget is spent, with the reason."""
        found = []
        for domid in self._names:
            domain = self._host.domains[domid]
            if domain.phase == lib.MC_BROKEN:
                reason = Status(-domain.broken_status)
                found.append((domid, _BROKEN.get(reason, f"ring: {reason.name}")))
        return found

    def snapshot(self) -> HostSnapshot:
        """A consistent copy of the ledger and every domain's counters."""
        host = self._copy
        lib.mc_host_copy(self._host, host)
        capacity = 0
        if self.tmem is not None:
            room = max(host.free_frames - host.slack_frames - host.promised_frames, 0)
            room -= room % AREA_FRAMES
            capacity = min(host.tmem_frames + room, host.tmem_areas_max * AREA_FRAMES)
        domains = tuple(
            self._domain_snapshot(host.domains[domid], capacity) for domid in sorted(self._names)
        )
        return HostSnapshot(
            total_frames=host.total_frames,
            slack_frames=host.slack_frames + host.promised_frames,
            free_frames=host.free_frames,
            installed_frames=host.installed_frames,
            ready_frames=host.ready_frames + host.transit_frames,
            tmem_frames=host.tmem_frames,
            tmem_used_pages=sum(domain.tmem_used_pages for domain in domains),
            tmem_capacity_pages=capacity,
            domains=domains,
        )

    def _domain_snapshot(self, domain: Any, capacity_pages: int) -> DomainSnapshot:
        domid = DomId(domain.domid)
        control, counters = domain.control, domain.counters
        tmem = self._tmem_counters(domid)
        backed = domain.areas - sum(domain.counts[state] for state in _NOT_OUTSIDE)
        backed_frames = backed * AREA_FRAMES + domain.installed_frames + domain.flight_frames
        return DomainSnapshot(
            domid=domid,
            name=self._names[domid],
            maxmem_frames=domain.areas * AREA_FRAMES,
            current_frames=domain.installed_frames,
            target_frames=domain.target_frames,
            resident_frames=max(int(lib.mc_resident_bytes(domain.ram_fd)), 0) // FRAME_BYTES,
            installed_frames=backed_frames,
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
            mrc=self._miss_ratios(domid, capacity_pages),
            guest_committed_frames=control.committed_frames,
            guest_stall_ns=control.stall_ns,
            guest_idle_permille=control.idle_permille,
            mechanism=MECHANISMS[lib.mc_domain_mechanism(self._host, domid)],
            granule_frames=domain.granule_frames,
            plugged_frames=int(lib.mc_domain_size(self._host, domid)),
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

    def _tmem_counters(self, domid: DomId) -> dict[str, int]:
        if self.tmem is None:
            return dict.fromkeys(_TMEM_FIELDS, 0)
        client = self.tmem.clients[domid]
        return {name: sum(int(client[c]) for c in of) for name, of in _TMEM_FIELDS.items()}

    def _miss_ratios(self, domid: DomId, capacity_pages: int) -> tuple[float, ...] | None:
        if self.tmem is None or self._mrc_points < 2:
            return None
        last = self._mrc_points - 1
        sizes = [point * capacity_pages / last for point in range(self._mrc_points)]
        return tuple(self.tmem.miss_ratios(domid, sizes).tolist())

    @contextlib.contextmanager
    def _locked_tmem(self) -> Iterator[Any]:
        """The pool, while the service thread keeps out of it."""
        if self.tmem is None:
            raise ConfigError("tmem", "this host has none")
        lib.mc_host_lock(self._host)
        try:
            yield self.tmem
        finally:
            lib.mc_host_unlock(self._host)

    def tmem_statistics(self) -> dict[str, Any]:
        """``tmem.statistics.Statistics`` as plain values; clients are domids."""
        with self._locked_tmem() as tmem:
            counted = tmem.statistics()
        plain: dict[str, Any] = msgspec.to_builtins(counted)
        return plain

    def tmem_freeze(self, domid: DomId | None) -> None:
        """No growth of tmem for a domain, or for all that are attached now."""
        with self._locked_tmem() as tmem:
            _done(tmem.freeze(domid), f"freeze {domid}")

    def tmem_thaw(self, domid: DomId | None) -> None:
        """Undo ``tmem_freeze``."""
        with self._locked_tmem() as tmem:
            _done(tmem.thaw(domid), f"thaw {domid}")

    def tmem_set_weight(self, domid: DomId, weight: int) -> None:
        """Set the share of a domain in ephemeral memory; 0 is none of its own."""
        with self._locked_tmem() as tmem:
            _done(tmem.set_weight(domid, weight), f"weigh {domid}")

    def tmem_set_quota(self, domid: DomId, pages: int) -> None:
        """Set the most persistent pages a domain may have; -1 is no limit."""
        with self._locked_tmem() as tmem:
            _done(tmem.set_quota(domid, pages), f"limit {domid}")

    def tmem_authorise(self, domid: DomId, uuid: int, allow: bool) -> None:
        """Let a domain share pools of a uuid of 128 bits, or no longer; NoMemory beyond 16."""
        words = uuid & 0xFFFFFFFFFFFFFFFF, uuid >> 64
        with self._locked_tmem() as tmem:
            code = tmem.authorise(domid, words, allow)
        if code == Code.ENOMEM:
            raise NoMemory(f"{self._names[domid]} may share 16 pools at most; revoke one")
        _done(code, f"authorise {domid}")

    def tmem_compress(self, pages: int) -> int:
        """Compress up to ``pages`` of the coldest raw pages; how many. Requests wait meanwhile."""
        if self.tmem is None:
            return 0
        with self._locked_tmem() as tmem:
            packed: int = tmem.compress_step(pages)
        return packed

    def tmem_freeable_mb(self) -> int:
        """MiB that tmem could give to the host now: free slab memory and ephemeral pages."""
        with self._locked_tmem() as tmem:
            freeable: int = tmem.freeable_mb()
        return freeable

    def validate(self) -> None:
        """InternalError if the ledger does not add up."""
        where = ffi.new("uint32_t *")
        status = lib.mc_host_validate(self._host, where)
        if status:
            raise InternalError(f"host ledger broken at domain {where[0]}: {Status(status).name}")

    def stop(self) -> None:
        """Stop both threads and close what is left; idempotent."""
        if not self._host:
            return
        lib.mc_host_stop(self._host)
        for thread in self._threads:
            thread.join(THREAD_STOP_S)
            if thread.is_alive():
                raise InternalError(f"the {thread.name} thread does not stop")
        for domid in list(self._names):
            self.close(domid)
        if self._ghosts is not None:
            self._ghosts.close()
        lib.mc_host_close(self._host)
        self._host = None
        if self.tmem is not None:
            lib.mc_unmap(self._slab, self._slab_bytes)


def _word(enum: str, prefix: str, value: int) -> str:
    """The name of a C enum's member, in words."""
    name: str = ffi.typeof(f"enum {enum}").elements[value]
    return name.removeprefix(prefix).lower().replace("_", " ")


def _done(code: int, what: str) -> None:
    if code < 0:  # a client that is open cannot be refused this
        raise InternalError(f"tmem: {what}: code {code}")


def _check(status: int, what: str, frame: int = -1) -> None:
    if status == Status.ETIMEOUT:
        raise TimedOut(f"{what}: a thread of the hypervisor still uses the domain")
    if status < 0:
        raise error_of(status, what, frame)


def mechanism_id(name: str) -> int:
    """``enum mc_mechanism_id`` of a mechanism; ConfigError for an unknown one."""
    found = int(lib.mc_mechanism_find(name.encode()))
    if found < 0:
        raise ConfigError("mechanism", f"{name!r} is none of {', '.join(MECHANISMS)}")
    return found


def _set_options(wanted: Any, spec: DomainSpec) -> None:
    lib.mc_option_defaults(wanted.mechanism, wanted.options)
    least, most = ffi.new("uint64_t *"), ffi.new("uint64_t *")
    for name, value in spec.options.items():
        index = lib.mc_option_find(wanted.mechanism, name.encode(), least, most)
        if index < 0:
            raise ConfigError("options", f"{spec.mechanism} has no option {name!r}")
        if not least[0] <= value <= most[0]:
            raise ConfigError(f"options.{name}", f"must be {least[0]} to {most[0]}")
        wanted.options[index] = value
