"""The host of a simulated world: a ``Backend`` without processes or real memory.

Owns: the records that the compiled guests work on, the pool, and the arrays of each domain, which
reads its stream part by part.
``SimHost`` takes the place of ``backend.host.HostBackend``, so the real coordinator ticks it. RAM
moves in areas of 2 MiB. tmem grows into free memory beyond slack and promises, and shrinks when RAM
needs an area. Single thread. Called by ``memcoord.simulation.world``.
"""

from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from frontend.paging.manager import AHEAD_PAGES, CLUSTER_PAGES
from hypervisor.public.backend import DomainHandles, DomainSnapshot, DomainSpec, HostSnapshot
from hypervisor.public.errors import InternalError, NoMemory
from hypervisor.public.units import AREA_FRAMES, FRAME_BYTES, DomId, areas_of
from memcoord.simulation import guest
from memcoord.simulation import layout as L
from memcoord.simulation.costs import CostSet
from memcoord.testbed.guests.replaying import FAULTS_UNDER_WAY
from memcoord.testbed.streams import Stream
from memcoord.testbed.streams.references import PART_REFERENCES, Cursor
from policies.base import AGE_EDGES_S
from tmem import PoolFlag, Tmem
from tmem.serve import entry_points

Words = NDArray[np.int64]

NEVER = 1 << 62  # a reference, and an age in ticks
NO_SLOT = -2  # beside no slot
#: A resident page not referenced for so long is idle. The real guest samples idle pages as often.
IDLE_TICKS = 100_000_000 >> L.SEEN_SHIFT
#: Counters of a client of tmem that together are the ``puts_failed`` of a snapshot.
FAILURES = tuple(f"puts_failed_{why}" for why in ("target", "nomem", "nospc", "frozen", "fault"))
NO_HANDLES = DomainHandles(-1, -1, -1, 0, 0, 0)


@dataclass(frozen=True)
class Paging:
    """How a guest pages: options of ``frontend.paging.manager.GuestMemory`` of the same names."""

    cluster_pages: int = CLUSTER_PAGES
    ahead_pages: int = AHEAD_PAGES
    depth: int = FAULTS_UNDER_WAY

    def __post_init__(self) -> None:
        for name, most in (("cluster_pages", L.CLUSTER_MAX), ("ahead_pages", L.CLUSTER_MAX)):
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"{name}: 1 to {most}")
        if not 1 <= self.depth <= L.DEPTH_MAX:
            raise ValueError(f"depth: 1 to {L.DEPTH_MAX}")


class GuestArrays:
    """The arrays of one domain that its record points to. Of its references it has a part."""

    def __init__(self, stream: Stream) -> None:
        pages = stream.page_count
        self._cursor = Cursor(stream.references)
        self.part: NDArray[Any] = np.empty(0, np.uint32)
        self.nodes = np.zeros(pages + 1, L.NODE)
        self.nodes["flags"][:pages] = np.where(stream.program, L.FILE, 0)
        self.nodes["next"][pages] = self.nodes["prev"][pages] = pages
        pauses = [(place, round(pause_s * 1e9)) for place, pause_s in stream.pauses]
        self.pauses = np.array([*pauses, (NEVER, 0)], L.PAUSE)
        self.promotions = np.zeros(len(AGE_EDGES_S), np.int64)
        self.slots = np.zeros(pages, np.uint32)
        self.slot_pages = np.full(pages, L.NO_PAGE, np.uint32)

    def read_on(self, domain: np.void) -> None:
        """Take the next part of the references in place of the last one."""
        pages, writes = self._cursor.take(PART_REFERENCES)
        self.part = pages.view(np.uint32) | writes.astype(np.uint32) << L.WRITTEN_SHIFT
        domain["part"] = self.part.ctypes.data
        domain["part_begin"] = domain["part_end"]
        domain["part_end"] += len(self.part)


class SimHost:
    """A host of ``total_frames``, of which ``slack_frames`` are kept free, with a pool of tmem.

    ``tmem_max_frames`` bounds the pool: 0 is a host without tmem, -1 no bound. With ``mrc_points``
    above 1 every snapshot has the pool's estimate of each domain's miss ratios at so many sizes.
    ``tmem_options`` are further arguments of ``Tmem``. Two hosts of the same arguments do the same.
    """

    def __init__(
        self,
        *,
        total_frames: int,
        slack_frames: int,
        tmem_max_frames: int = -1,
        costs: CostSet | None = None,
        mrc_points: int = 0,
        seed: int = 0,
        tmem_options: dict[str, bool] | None = None,
    ) -> None:
        self._total = total_frames // AREA_FRAMES
        self._mrc_points = mrc_points
        worlds = np.zeros(1, L.WORLD)
        self._world: np.void = worlds[0]
        self._address = int(worlds.ctypes.data)
        self._domains: NDArray[np.void] = self._world["domains"]
        # A page to put, of bytes that neither compress nor repeat, and a page for gets to fill.
        words = (2, FRAME_BYTES // 8)
        self._pages = np.random.default_rng(seed).integers(0, 1 << 62, words, np.int64)
        self._names: dict[DomId, str] = {}
        self._guests: dict[DomId, GuestArrays] = {}
        self._maxmem: dict[DomId, int] = {}
        areas = self._total if tmem_max_frames < 0 else tmem_max_frames // AREA_FRAMES
        areas = min(areas, self._total)
        self._slab_used = np.zeros(max(areas, 1), np.int64)
        self.tmem: Tmem | None = None
        self._fill(areas, slack_frames, costs or CostSet(), seed)
        if areas > 0:
            options: dict[str, Any] = {"mrc": mrc_points > 1, **(tmem_options or {})}
            self.tmem = Tmem(max_areas=areas, seed=seed, reserve_pages=0, **options)
            entries = entry_points(self.tmem.state_address)
            self._world["tmem_state"] = entries.state_address
            for name in ("execute", "grow", "shrink"):
                self._world[name] = getattr(entries, name)

    def _fill(self, areas: int, slack_frames: int, costs: CostSet, seed: int) -> None:
        world = self._world
        world["free_areas"] = self._total
        world["slack_areas"] = areas_of(slack_frames)
        world["tmem_areas_max"] = areas
        world["slab_used"] = self._slab_used.ctypes.data
        world["page_out"], world["page_in"] = (page.ctypes.data for page in self._pages)
        world["edges"] = _EDGES.ctypes.data
        world["costs"] = msgspec.structs.astuple(costs.costs)
        world["disk_reads"], world["disk_writes"] = costs.reads_ns, costs.writes_ns
        world["random"] = np.random.default_rng(seed).integers(1, 1 << 62)

    # The Backend protocol

    def open(self, domid: DomId, spec: DomainSpec) -> DomainHandles:
        """Grant ``boot_frames``; NoMemory when they are not free. ``load`` gives it work."""
        world, domain = self._world, self._domains[domid]
        boot = areas_of(spec.boot_frames)
        if boot + world["slack_areas"] > world["free_areas"]:
            raise NoMemory(f"{spec.name}: the host has no {spec.boot_frames} frames to boot with")
        domain["number"] = domid
        domain["boot_frames"] = spec.target_frames
        domain["current_areas"] = boot
        domain["target_areas"] = areas_of(spec.target_frames)
        world["free_areas"] -= boot
        self._names[domid] = spec.name
        self._maxmem[domid] = spec.maxmem_frames
        if self.tmem is not None:
            self.tmem.open_client(domid)
        self.set_tmem_target(domid, spec.tmem_target_pages)
        return NO_HANDLES

    def leaving(self) -> dict[DomId, str]:
        """None: a closed domain is gone at once here."""
        return {}

    def close(self, domid: DomId, grace_s: float = 0.0) -> None:
        """Take back every frame and tmem page of a domain; nobody has to be told."""
        del grace_s
        if self.tmem is not None:
            self.tmem.close_client(domid)
        self._world["free_areas"] += self._domains[domid]["current_areas"]
        self._domains[domid] = np.zeros((), L.DOMAIN)
        for table in (self._names, self._guests, self._maxmem):
            table.pop(domid, None)

    def promise(self, frames: int) -> None:
        """Keep ``frames`` free for domains that are not open yet."""
        self._world["promised_areas"] = areas_of(frames)

    def set_target(self, domid: DomId, frames: int) -> None:
        """Set the RAM target; spare areas above it are taken at once."""
        domain, areas = self._domains[domid], areas_of(frames)
        domain["target_areas"] = areas
        if domain["current_areas"] > areas:
            guest.release_now(self._address, domid, int(domain["current_areas"]) - areas)

    def set_tmem_target(self, domid: DomId, pages: int) -> None:
        """Set mm_target in pages; -1 is no limit."""
        if self.tmem is not None:
            self.tmem.clients["mm_target"][domid] = pages

    def broken(self) -> list[tuple[DomId, str]]:
        """No domain: simulated guests keep to the rules."""
        return []

    def stop(self) -> None:
        """Close every domain."""
        for domid in list(self._names):
            self.close(domid)

    def snapshot(self) -> HostSnapshot:
        """A copy of the ledger and every domain's counters."""
        world = self._world
        kept = int(world["slack_areas"] + world["promised_areas"])
        free, tmem = int(world["free_areas"]), int(world["tmem_areas"])
        capacity = min(tmem + max(free - kept, 0), int(world["tmem_areas_max"]))
        pages = capacity * AREA_FRAMES
        domains = tuple(self._domain_snapshot(domid, pages) for domid in sorted(self._names))
        return HostSnapshot(
            total_frames=self._total * AREA_FRAMES,
            slack_frames=kept * AREA_FRAMES,
            free_frames=free * AREA_FRAMES,
            installed_frames=sum(domain.installed_frames for domain in domains),
            ready_frames=0,
            tmem_frames=tmem * AREA_FRAMES,
            tmem_used_pages=sum(domain.tmem_used_pages for domain in domains),
            tmem_capacity_pages=pages,
            domains=domains,
        )

    def _domain_snapshot(self, domid: DomId, capacity_pages: int) -> DomainSnapshot:
        domain = self.counters(domid)
        held = ("current_frames", "resident_frames", "installed_frames")
        values = _ZEROES | self._tmem_counters(domid)
        values |= dict.fromkeys(held, domain["current_areas"] * AREA_FRAMES) | {
            "domid": domid,
            "name": self._names[domid],
            "maxmem_frames": self._maxmem[domid],
            "target_frames": domain["target_areas"] * AREA_FRAMES,
            "grants_ring": domain["grants"],
            "grants_transfer": domain["transfers"],
            "reclaimed_areas": domain["reclaimed"],
            "guest_used_frames": domain["resident"] + domain["spares"],
            "guest_faults": domain["faults"],
            "guest_swap_ins": domain["swap_ins"],
            "guest_swap_outs": domain["swap_outs"],
            "guest_references": domain["next"],
            "mrc": self._miss_ratios(domid, capacity_pages),
            "guest_committed_frames": domain["touched"],
            "guest_idle_permille": self._idle_permille(domid, domain),
            "guest_stall_ns": domain["stalled_ns"],
        }
        return DomainSnapshot(**values)

    def _idle_permille(self, domid: DomId, domain: dict[str, int]) -> int:
        """Permille of the resident pages not referenced for IDLE_TICKS; -1 without such pages."""
        if domain["resident"] == 0:
            return -1
        counts = np.zeros(len(AGE_EDGES_S), np.int64)
        now = domain["clock_ns"] >> L.SEEN_SHIFT
        idle: int = guest.cold(self._address, domid, now, IDLE_TICKS, int(counts.ctypes.data))
        return 1000 * idle // domain["resident"]

    def _miss_ratios(self, domid: DomId, capacity_pages: int) -> tuple[float, ...] | None:
        if self.tmem is None or self._mrc_points < 2:
            return None
        sizes = np.linspace(0.0, capacity_pages, self._mrc_points)
        return tuple(self.tmem.miss_ratios(domid, sizes).tolist())

    def _tmem_counters(self, domid: DomId) -> dict[str, Any]:
        if self.tmem is None:
            return {}
        client = self.tmem.clients[domid]
        counted = {name: int(client[name]) for name in ("puts", "gets", "gets_hit", "flushes")}
        return counted | {
            "tmem_used_pages": int(client["used_pages"]),
            "tmem_target_pages": int(client["mm_target"]),
            "puts_failed": sum(int(client[why]) for why in FAILURES),
        }

    def validate(self) -> None:
        """InternalError when the ledger, the pages of a domain or the pool are broken."""
        world, domains = self._world, self._domains
        held = int(domains["current_areas"].sum())
        free, tmem = int(world["free_areas"]), int(world["tmem_areas"])
        if held + free + tmem != self._total:
            raise InternalError(f"host ledger: {held} + {free} + {tmem} areas of {self._total}")
        if free < 0 or int(self._slab_used.sum()) != tmem:
            raise InternalError(f"host ledger: {free} areas free, {tmem} of the slab in use")
        for domid, arrays in self._guests.items():
            domain = domains[domid]
            flags = arrays.nodes["flags"][:-1]
            used = int(domain["resident"] + domain["spares"])
            resident = int(((flags & L.RESIDENT) != 0).sum() + domain["gone"])
            if resident != domain["resident"] or used > domain["current_areas"] * AREA_FRAMES:
                raise InternalError(f"domain {domid} holds {used} frames, {resident} resident")
            if (flags[flags & L.SWAPPED != 0] & (L.RESIDENT | L.ON_DISK)).any():
                raise InternalError(f"domain {domid}: a page is in two places")
        if self.tmem is not None:
            self.tmem.validate()

    # The guests

    def load(
        self,
        domid: DomId,
        stream: Stream,
        resident_frames: int,
        start_ns: int,
        paging: Paging = Paging(),
    ) -> None:
        """Give an open domain its stream, which it runs from ``start_ns`` on to the end.

        ``resident_frames``: pages it keeps in RAM at the target it boots with.
        """
        made = GuestArrays(stream)
        self._guests[domid] = made
        domain = self._domains[domid]
        domain["state"] = L.RUNNING
        domain["clock_ns"] = start_ns
        domain["stop"] = len(stream)
        hit_ns = stream.compute_ns + self._world["costs"]["hit_ns"]
        domain["hit_ns"] = max(hit_ns, 1)  # or time would stand still
        domain["pages"] = stream.page_count
        domain["resident_max"] = resident_frames
        domain["cluster_pages"], domain["ahead_pages"] = paging.cluster_pages, paging.ahead_pages
        domain["depth_max"], domain["ahead_slot"] = paging.depth, NO_SLOT
        guest.begin(self._address, domid)
        for name in ("nodes", "pauses", "promotions", "slots", "slot_pages"):
            domain[name] = getattr(made, name).ctypes.data
        made.read_on(domain)
        if self.tmem is not None:
            swap = PoolFlag.VERSION | PoolFlag.PERSISTENT
            domain["has_frontswap"] = self.tmem.new_pool(domid, swap) >= 0
            if stream.program.any():
                domain["has_cleancache"] = self.tmem.new_pool(domid, PoolFlag.VERSION) >= 0

    def run(self, until_ns: int) -> DomId | None:
        """Run every domain until ``until_ns``, or until one comes to its stop; that domain.

        InternalError when the pool brought a wrong page, NoMemory when a domain has no frame.
        """
        domid = guest.run(self._address, until_ns)
        while domid >= 0 and self._domains[domid]["state"] == L.PART_READ:
            self._guests[DomId(domid)].read_on(self._domains[domid])
            self._domains[domid]["state"] = L.RUNNING
            domid = guest.run(self._address, until_ns)
        if domid < 0:
            return None
        state = self._domains[domid]["state"]
        if state == L.WRONG_PAGE:
            raise InternalError(f"tmem lost or mixed up a page of {self._names[domid]}")
        if state == L.OUT_OF_MEMORY:
            raise NoMemory(f"{self._names[domid]} has not one frame")
        return DomId(domid)

    def resume(self, domid: DomId, stop: int) -> None:
        """Let a domain run on until the reference of number ``stop`` is next."""
        self._domains[domid]["stop"] = stop
        self._domains[domid]["state"] = L.RUNNING

    def settle(self, now_ns: int) -> None:
        """Let domains that pause at ``now_ns`` follow their targets, as idle guests do."""
        for domid in self._guests:
            if self._domains[domid]["clock_ns"] > now_ns + guest.SLICE_NS:
                guest.balance_now(self._address, domid, now_ns)

    def counters(self, domid: DomId) -> dict[str, int]:
        """Every number of a domain's record (``layout.DOMAIN``), by name."""
        values = dict(zip(L.DOMAIN.names or (), self._domains[domid].item(), strict=True))
        return {name: values[name] for name in _NUMBERS}

    # Page ages, and the names of domains

    def ages(self, domid: DomId, now_ns: int) -> tuple[Words, Words]:
        """Pages not referenced for AGE_EDGES_S or longer, and references so far to such pages.

        Both have an entry per age.
        """
        cold = np.zeros(len(AGE_EDGES_S), np.int64)
        out = int(cold.ctypes.data)
        guest.cold(self._address, domid, now_ns >> L.SEEN_SHIFT, IDLE_TICKS, out)
        return cold, self._guests[domid].promotions.copy()

    def named(self, name: str) -> DomId:
        """The domain of that name; KeyError when it is not open."""
        for domid, known in self._names.items():
            if known == name:
                return domid
        raise KeyError(name)

    def stuck(self) -> DomId:
        """A domain that has not one frame."""
        return DomId(int(np.flatnonzero(self._domains["state"] == L.OUT_OF_MEMORY)[0]))


_NUMBERS = [name for name in L.DOMAIN.names or () if not L.DOMAIN[name].shape]
_EDGES = np.array([int(age * 1e9) >> L.SEEN_SHIFT for age in AGE_EDGES_S] + [NEVER], np.int64)
_ZEROES: dict[str, Any] = dict.fromkeys(DomainSnapshot.__struct_fields__, 0) | {
    "tmem_target_pages": -1,
    "broken": False,
}
