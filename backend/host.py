"""A host: one ledger of memory, its domains, and the threads that serve them.

Owns: one ``struct mc_host`` (``backend/abi/host.h``), the tmem pool behind it, and the threads that
serve it. Implements ``hypervisor.public.backend.Backend``. Each domain is resized by its mechanism,
behind one table in C (``backend/abi/mechanism.h``).
Rules: made, driven and stopped by the hypervisor's main thread only. The compiled loops run without
the GIL on threads of their own, from the constructor until ``stop``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from backend import snapshots
from backend._service import ffi, lib
from backend.banks import Banks
from backend.books import (
    Books,
    KeptDomain,
    Recovery,
    open_host,
    recover_host,
    recover_tmem,
)
from backend.ghosts import Ghosts, Leaver
from backend.options import mechanism_of, option_values
from backend.tmem_pool import TmemFiles, TmemPool
from backend.tmem_verbs import TmemVerbs
from hypervisor.public.backend import (
    EXCESS,
    STUCK,
    BankSpec,
    DomainHandles,
    DomainSpec,
    HostSnapshot,
    Settled,
)
from hypervisor.public.constants import BackingKind
from hypervisor.public.errors import (
    ConfigError,
    DomainBusy,
    InternalError,
    MemcoordError,
    NoMemory,
    Status,
    error_of,
)
from hypervisor.public.feed import LatencyRow
from hypervisor.public.units import AREA_BYTES, AREA_FRAMES, DomId, areas_of

THREAD_STOP_S = 10.0
#: A host that stops waits no longer for the files of its domains.
CLOSE_S = 2.0
SETTLE_POLL_S = 0.001
#: The main thread looks at the pool for so long before it serves others again.
RECOUNT_S = 0.1

#: What ram may be made of: whatever the machine gives, pages of 4 KiB, of 2 MiB.
BACKINGS = {"": BackingKind.BACKING_ANY, "4k": BackingKind.BACKING_4K, "2m": BackingKind.BACKING_2M}
_BROKEN = {
    Status.EPERM: "error budget spent",
    Status.EFOREIGN: EXCESS,
    Status.EGONE: "it was being closed when the hypervisor was killed",
    Status.ETIMEOUT: STUCK,
    Status.EBROKEN: "its state in the hypervisor is broken; stderr has the report",
}


class HostBackend(TmemVerbs):
    """Serve domains out of ``total_frames`` of host memory, ``slack_frames`` of it kept free.

    ``backing`` is one of ``BACKINGS``; "2m" raises ConfigError where the machine gives no pages of
    2 MiB. ``huge_dir`` is a tmpfs mounted with huge=always to take them from: its files cannot be
    sealed, so a host with one serves guests that are trusted, and no tmem. ``banks`` divide host
    memory; without them host memory is one bank, bound to no node.

    ``tmem_max_frames`` bounds the memory of tmem; below 0 all of the host may be tmem's, 0 is none.
    ``tmem_entries``, ``tmem_dedup``, ``tmem_compression`` and ``mrc_points`` are passed on to
    ``TmemPool``. ``error_budget`` is the number of bad requests a domain may send before ``broken``
    reports it. With ``stop_excess``, ``broken`` also reports a domain whose resident memory exceeds
    its grant, within milliseconds. ``spin_ns``: how long the service thread spins before it sleeps;
    below 0 it is measured.

    With ``books`` another process can go on with all of it when this one is killed. It makes a
    ``HostBackend`` with the same options, the ``Books`` of the kept memfds, and ``kept``: all
    domains whose fds were kept, which become the host's. ``recovery`` then says what was found. A
    domain that was being closed is ``broken``; of one that was not open any more the fds are
    closed, and the books' ``on_gone`` is called. ConfigError when the books are of a program with
    another layout, InternalError when they contradict themselves: the books are as good as before
    then, and this process is to end.
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
        books: Books | None = None,
        kept: Mapping[DomId, KeptDomain] | None = None,
    ) -> None:
        self.spin_ns = int(lib.mc_spin_calibrate_ns()) if spin_ns < 0 else spin_ns
        total_areas = total_frames // AREA_FRAMES
        tmem_areas = total_areas if tmem_max_frames < 0 else tmem_max_frames // AREA_FRAMES
        self._names: dict[DomId, str] = {}
        self._tmem_targets: dict[DomId, int] = {}
        self._beats = 0
        self._threads: list[threading.Thread] = []
        self._books = books
        self._pool: TmemPool | None = None
        self._ghosts = Ghosts() if books is None else books.ghosts()
        self._leaving: dict[DomId, Leaver] = {}
        self._is_stuck = False  # keepers were left behind, in calls that do not return
        self.recovery: Recovery | None = None
        with contextlib.ExitStack() as undo:
            self._open_host(total_areas, areas_of(slack_frames), kept, undo)
            if kept is None:
                self._set_memory(backing, huge_dir, banks)
            self._host.error_budget = error_budget
            if tmem_areas > 0:
                options = {"dedup": tmem_dedup, "compression": tmem_compression}
                areas = min(tmem_areas, total_areas)
                self._pool = TmemPool(
                    self._host,
                    areas,
                    tmem_entries,
                    mrc_points,
                    files=self._tmem_files(areas, options),
                    recover=kept is not None,
                    **options,
                )
                undo.callback(self._pool.close)
                if self.recovery is not None:
                    self._recover_tmem(self._pool, self.recovery)
            self.banks = Banks(self._host, self._names, self.settle)
            self.event_fd, self.relay_fd = int(self._host.event_fd), int(self._host.relay_fd)
            self._start_threads(stop_excess, undo)
            self._reboot_again()
            self._undo = undo.pop_all()

    def _open_host(
        self,
        areas: int,
        slack_areas: int,
        kept: Mapping[DomId, KeptDomain] | None,
        undo: contextlib.ExitStack,
    ) -> None:
        if kept is None:
            self._host = open_host(self._books, areas, slack_areas, self.spin_ns)
            undo.callback(lib.mc_host_close, self._host)
            return
        assert self._books is not None, "domains were kept without books"
        self._host, self.recovery = recover_host(self._books, kept, self._ghosts)
        self._host.spin_ns = self.spin_ns
        self._beats = time.monotonic_ns() // 1_000_000  # more than any before
        undo.callback(self._close_recovered)
        for domid in self.recovery.domains:
            name, domain = kept[domid].name, self._host.domains[domid]
            if domain.leaving:
                self._leaving[domid] = Leaver.of(name, domain.ram_fd, domain.areas * AREA_BYTES)
            else:
                self._names[domid], self._tmem_targets[domid] = name, domain.tmem_target_pages

    def _close_recovered(self) -> None:
        if not self._host.attached:  # else this process ends, and the next one recovers
            lib.mc_host_close(self._host)

    def _tmem_files(self, areas: int, options: Mapping[str, bool]) -> TmemFiles | None:
        if self._books is None:
            return None
        slab_fd = self._books.file("slab", areas * AREA_BYTES)
        return TmemFiles(self._books.file("tmem", TmemFiles.state_bytes(areas, **options)), slab_fd)

    def _recover_tmem(self, pool: TmemPool, found: Recovery) -> None:
        kept, dropped = recover_tmem(self._host, pool, found.domains)
        self.recovery = dataclasses.replace(found, tmem_pages=kept, dropped_pages=dropped)
        for domid in self._names:
            if not self._host.domains[domid].is_rebooting:  # of which tmem may know nothing
                self._tmem_targets[domid] = int(pool.tmem.clients["mm_target"][domid])

    def _reboot_again(self) -> None:
        """Carry out the reboots that another process had begun; ``broken`` tells of those that
        fail."""
        for domid in list(self._names):
            if self._host.domains[domid].is_rebooting:
                with contextlib.suppress(MemcoordError):
                    self.reboot(domid)

    def _set_memory(self, backing: str, huge_dir: str, banks: Sequence[BankSpec]) -> None:
        if backing not in BACKINGS:
            raise ConfigError("backing", f"{backing!r} is none of {', '.join(BACKINGS)}")
        if lib.mc_host_set_backing(self._host, BACKINGS[backing], huge_dir.encode()):
            if huge_dir:
                raise ConfigError("huge_dir", f"no file of huge pages can be made in {huge_dir!r}")
            raise ConfigError("backing", f"this machine gives no pages of {backing}")
        if banks:
            made = ffi.new("struct mc_bank[]", [(b.node, b.remote, b.frames) for b in banks])
            if lib.mc_host_set_banks(self._host, made, len(banks)):
                most = lib.MC_BANKS_MAX
                raise ConfigError("banks", f"at most {most}, and their sum is all host memory")

    def _start_threads(self, stop_excess: bool, undo: contextlib.ExitStack) -> None:
        loops = {"service": lib.mc_service_run, "worker": lib.mc_worker_run}
        if stop_excess:
            loops["excess"] = lib.mc_excess_run
        undo.callback(self._stop_threads)
        for name, run in loops.items():
            thread = threading.Thread(target=self._run, args=(run,), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)
        while not (self._host.service_running and self._host.worker_running):
            time.sleep(SETTLE_POLL_S)

    def _run(self, loop: Callable[[Any], int]) -> None:
        if loop(self._host):
            self._is_stuck = True

    def _stop_threads(self) -> None:
        lib.mc_host_stop(self._host)
        while self._threads:
            self._threads[-1].join(THREAD_STOP_S)
            if self._threads[-1].is_alive():
                raise InternalError(f"the {self._threads[-1].name} thread does not stop")
            self._threads.pop()

    @property
    def tmem(self) -> Any:
        """The ``tmem.Tmem`` of this host, or None. The service thread works on it meanwhile."""
        return None if self._pool is None else self._pool.tmem

    def open(self, domid: DomId, spec: DomainSpec) -> DomainHandles:
        """Create the domain's memory and grant ``boot_frames``.

        Raises NoMemory when the host has not so many free frames, ConfigError for an unknown
        mechanism or option, InternalError when a system call fails.
        """
        if domid in self.leaving():
            raise DomainBusy(domid, self._leaving[domid].name)
        areas = areas_of(spec.maxmem_frames)
        wanted = ffi.new("struct mc_domain_spec *")
        wanted.areas, wanted.boot_areas = areas, areas_of(spec.boot_frames)
        wanted.target_frames = max(spec.target_frames, wanted.boot_areas * AREA_FRAMES)
        wanted.credit_areas, wanted.relayed = spec.credit_areas, spec.doorbell == "zmq"
        wanted.booked_only = spec.booked_only
        wanted.mechanism = mechanism_of(spec.mechanism).id
        wanted.options = option_values(spec.mechanism, spec.options)
        status = lib.mc_domain_open(self._host, domid, wanted)
        if status == Status.ENOMEM:
            raise NoMemory(
                f"{spec.name}: the host has no {spec.boot_frames} frames to boot it with"
            )
        _check(status, f"open {spec.name}")
        self._names[domid] = spec.name
        self.set_tmem_target(domid, spec.tmem_target_pages)
        handles = self.handles(domid)
        if self._books is not None:
            fds = {"ram": handles.ram_fd, "meta": handles.meta_fd, "bell": handles.bell_fd}
            self._books.tell_domain(domid, fds)
        return handles

    def handles(self, domid: DomId) -> DomainHandles:
        """What ``open`` answered for a domain that is open."""
        domain = self._host.domains[domid]
        return DomainHandles(
            ram_fd=domain.ram_fd,
            meta_fd=domain.meta_fd,
            bell_fd=domain.bell_fd,
            ram_bytes=domain.areas * AREA_BYTES,
            meta_bytes=domain.meta_bytes,
            spin_ns=self.spin_ns,
        )

    def attached(self) -> list[DomId]:
        """The domains that are open."""
        return list(self._names)

    def close(self, domid: DomId, grace_s: float = 0.0) -> None:
        """Have every frame and tmem page of a domain taken back, dead or alive. Returns at once.

        The guest is told first; nothing is taken from it within ``grace_s``. Until its file is
        punched the domain's frames stay charged, and its domid is among ``leaving``.
        """
        if domid not in self._names:
            return
        domain = self._host.domains[domid]
        leaver = Leaver.of(self._names.pop(domid), domain.ram_fd, domain.areas * AREA_BYTES)
        self._leaving[domid] = leaver
        _check(lib.mc_domain_close(self._host, domid, round(grace_s * 1e9)), f"close {leaver.name}")

    def leaving(self) -> dict[DomId, str]:
        """Names of domains that were closed and whose memory is not all back yet."""
        for domid in list(self._leaving):
            if lib.mc_domain_is_gone(self._host, domid):
                self._ghosts.adopt(self._leaving.pop(domid))
                if self._books is not None:
                    self._books.tell_gone(domid)
        return {domid: leaver.name for domid, leaver in self._leaving.items()}

    def wait_closed(self, timeout_s: float) -> bool:
        """Wait until no domain is ``leaving``; False after ``timeout_s``."""
        until = time.monotonic() + timeout_s
        while self.leaving():
            if time.monotonic() > until:
                return False
            time.sleep(SETTLE_POLL_S)
        return True

    def reboot(self, domid: DomId) -> None:
        """The guest starts anew: meta is formatted, it holds what it boots with; pins stay.

        Raises NoMemory when the host has no memory for it to boot with, DomainBusy as ``close``.
        """
        status = lib.mc_domain_reboot(self._host, domid)
        if status == Status.ENOMEM:
            raise NoMemory(f"{self._names[domid]}: the host has no frames to boot it with again")
        self._check_quiet(status, domid, "reboot")
        self.set_tmem_target(domid, self._tmem_targets[domid])

    def _check_quiet(self, status: int, domid: DomId, what: str) -> None:
        if status == Status.ETIMEOUT:
            raise DomainBusy(domid, self._names[domid])
        _check(status, f"{what} domain {domid}")

    def promise(self, frames: int) -> None:
        """Keep ``frames`` of host memory for domains that have not come yet."""
        lib.mc_host_promise(self._host, areas_of(frames) * AREA_FRAMES)

    @property
    def address(self) -> int:
        """Of its ``struct mc_host``, for another compiled module."""
        return int(ffi.cast("uintptr_t", self._host))

    def set_target(self, domid: DomId, frames: int) -> None:
        """Set the RAM target in frames, rounded up to the mechanism's granule; InternalError."""
        _check(lib.mc_domain_set_target(self._host, domid, frames), "set target")

    def settle(self, domid: DomId, timeout_s: float) -> Settled:
        """Wait until a domain has reached its target, or cannot; "moving" after ``timeout_s``."""
        until = time.monotonic() + timeout_s
        state, why = snapshots.reach_of(self._host, domid)
        while state == "moving" and time.monotonic() <= until:
            time.sleep(SETTLE_POLL_S)
            state, why = snapshots.reach_of(self._host, domid)
        domain = self._host.domains[domid]
        return Settled(
            state=state,
            why=why,
            plugged_frames=int(lib.mc_domain_size(self._host, domid)),
            target_frames=domain.target_frames,
            driver_status=domain.control.driver_status,
        )

    def pin_dma(self, domid: DomId, frame: int, count: int) -> None:
        """Make ``count`` frames targets of DMA, and populate them.

        Raises BadFrame for frames beyond maxmem, InternalError when one is not the guest's,
        DomainBusy when the domain's file does not take pages in time.
        """
        status = lib.mc_domain_pin(self._host, domid, frame, count, 1)
        if status == Status.ETIMEOUT:
            raise DomainBusy(domid, self._names[domid])
        _check(status, "pin", frame)

    def unpin_dma(self, domid: DomId, frame: int, count: int) -> None:
        """Let go of frames that were pinned. Raises as ``pin_dma``."""
        _check(lib.mc_domain_pin(self._host, domid, frame, count, 0), "unpin", frame)

    def huge_bytes(self, domid: DomId) -> int:
        """Bytes of a domain's ram that the hypervisor has mapped by pages of 2 MiB; measured."""
        domain = self._host.domains[domid]
        return max(int(lib.mc_huge_bytes(domain.ram, domain.areas * AREA_BYTES)), 0)

    def set_tmem_target(self, domid: DomId, pages: int) -> None:
        """Set mm_target in pages; -1 is no limit. Enforced on every put from now on."""
        if self._pool is not None:
            self._pool.tmem.clients["mm_target"][domid] = pages
        self._tmem_targets[domid] = pages
        self._host.domains[domid].tmem_target_pages = pages
        control = self._host.domains[domid].control
        control.tmem_target_pages = pages & 0xFFFFFFFFFFFFFFFF

    def beat(self) -> None:
        """Raise every domain's heartbeat: the coordinator lives."""
        self._beats += 1
        for domid in self._names:  # stored, never read back: a guest can write there
            self._host.domains[domid].control.heartbeat = self._beats

    def haunted(self) -> list[str]:
        """Names of domains that are gone and whose memory was used; it is being taken back."""
        self.leaving()
        return self._ghosts.look()

    def kick(self) -> None:
        """Wake the service thread: a doorbell arrived through the relay."""
        lib.mc_eventfd_ring(self._host.kick_fd)

    def relayed(self) -> list[DomId]:
        """Domains whose doorbell must be sent through the relay since the last call."""
        mask = int(lib.mc_relay_take(self._host))
        return [DomId(bit) for bit in range(lib.MC_MAX_DOMAINS) if mask >> bit & 1]

    def broken(self) -> list[tuple[DomId, str]]:
        """Domains that are served no more and wait to be closed, each with the reason."""
        found = []
        for domid in self._names:
            domain = self._host.domains[domid]
            if domain.phase == lib.MC_BROKEN:
                reason = Status(-domain.broken_status)
                found.append((domid, _BROKEN.get(reason, f"ring: {reason.name}")))
        return found

    def snapshot(self) -> HostSnapshot:
        """A consistent copy of the ledger and every domain's counters."""
        return snapshots.take(self._host, self._names, self._pool)

    def latencies(self) -> list[LatencyRow]:
        """How long grants took so far, by domain, path and whose word it is."""
        return snapshots.latencies(self._host, self._names)

    def recount(self) -> dict[str, int]:
        """Validate the ledger, then the pool of tmem for RECOUNT_S at most; what was counted.

        Requests wait for one step at most. ``is_whole`` is 0 when the pool is larger than that: the
        next call goes on. ``is_exact``: nobody used the pool meanwhile, so counters were compared
        with counts too. InternalError when something is broken.
        """
        from tmem import TmemBroken

        self.validate()
        counted = {"domains": len(self._names), "frames": int(self._host.total_frames)}
        if self._pool is None:
            return counted | {"is_whole": 1, "is_exact": 1}
        try:
            found, is_whole = self._pool.recount(RECOUNT_S)
        except TmemBroken as error:
            raise InternalError(f"tmem is broken: {error}; please report it") from None
        pages = {f"tmem_{name}": getattr(found, name) for name in ("pages", "objects", "frames")}
        return counted | pages | {"is_whole": int(is_whole), "is_exact": int(found.is_exact)}

    def validate(self) -> None:
        """InternalError if the ledger does not add up."""
        where = ffi.new("uint32_t *")
        status = lib.mc_host_validate(self._host, where)
        if status:
            raise InternalError(f"host ledger broken at domain {where[0]}: {Status(status).name}")

    def stop(self) -> list[str]:
        """Close every domain that is left and stop the threads; idempotent.

        Returns the names of domains whose file did not let go within CLOSE_S. They, and the host,
        stay mapped until the process ends. InternalError when another thread does not stop.
        """
        if not self._host:
            return []
        for domid in list(self._names):
            self.close(domid)
        self.wait_closed(CLOSE_S)
        self._stop_threads()
        stuck = list(self.leaving().values())
        self._ghosts.close()
        if stuck or self._is_stuck:
            self._undo.pop_all()  # a keeper still uses the host
        self._undo.close()
        self._host = None
        return stuck


def _check(status: int, what: str, frame: int = -1) -> None:
    if status < 0:
        raise error_of(status, what, frame)
