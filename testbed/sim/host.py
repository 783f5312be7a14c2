"""The host of a simulated world: a ``Backend`` whose memory is a ledger and whose guests are
compiled loops.

Owns: the words the kernels work on, the pool, and the arrays of each domain. It is what
``backend.direct`` is to the testbed, so the coordinator that ticks it is the real one. RAM moves in
areas of 2 MiB, tmem grows into free memory beyond slack and promises and is shrunk for RAM.
Single thread. Called by ``testbed.sim.world``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypervisor.public.backend import DomainHandles, DomainSnapshot, DomainSpec, HostSnapshot
from hypervisor.public.errors import InternalError, NoMemory
from hypervisor.public.units import AREA_FRAMES, FRAME_BYTES, DomId, areas_of
from policies.base import AGE_EDGES_S
from testbed.sim import guest
from testbed.sim import layout as L
from testbed.sim.costs import Costs
from testbed.streams import Stream
from tmem import PoolFlag, Tmem
from tmem.serve import entry_points

Words = NDArray[np.int64]

RECORD_WORDS = 8
NEVER = 1 << 62
PAUSES_END = (NEVER, 0)
#: A resident page not referenced for so long is idle; the guest's sampling has that period too.
IDLE_TICKS = 100_000_000 >> L.SEEN_SHIFT
#: Sums of a pool's counters that make a field of a snapshot, as ``backend.direct`` has them.
FAILURES = tuple(f"puts_failed_{why}" for why in ("target", "nomem", "nospc", "frozen", "fault"))
NO_HANDLES = DomainHandles(-1, -1, -1, 0, 0, 0)


class Guest:
    """The arrays of one domain; they live as long as its slot is in use."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        pages = stream.page_count
        self.references = stream.pages.astype(np.uint32)
        self.references |= (stream.writes != 0).astype(np.uint32) << np.uint32(31)
        self.nodes = np.zeros((pages + 1, L.NODE_WORDS), np.uint32)
        self.nodes[:pages, L.NODE_FLAGS] = np.where(stream.program, L.FILE, 0)
        self.nodes[pages, [L.NODE_NEXT, L.NODE_PREV]] = pages
        pauses = [(place, round(pause_s * 1e9)) for place, pause_s in stream.pauses]
        self.pauses = np.array([*pauses, PAUSES_END], np.int64)
        self.promotions = np.zeros(len(AGE_EDGES_S), np.int64)


class SimHost:
    """``total_frames`` of memory, ``slack_frames`` of it kept free, and a pool.

    ``tmem_max_frames`` bounds what the pool may hold; 0 is none. With ``mrc_points`` above 1 every
    snapshot has each domain's miss ratios at so many sizes, as the pool itself estimates them.
    """

    def __init__(
        self,
        *,
        total_frames: int,
        slack_frames: int,
        tmem_max_frames: int = -1,
        costs: Costs | None = None,
        mrc_points: int = 0,
        seed: int = 0,
        tmem_options: dict[str, bool] | None = None,
    ) -> None:
        self._total = total_frames // AREA_FRAMES
        self._mrc_points = mrc_points
        self._words = np.zeros(L.WORDS, np.int64)
        self._address = int(self._words.ctypes.data)
        self._slots = self._words[L.DOMAINS :].reshape(L.SLOTS, L.DOMAIN_WORDS)
        self._record = np.zeros(RECORD_WORDS, np.uint64)
        self._pages = _two_pages(seed)
        self._names: dict[DomId, str] = {}
        self._guests: dict[DomId, Guest] = {}
        self._maxmem: dict[DomId, int] = {}
        self._boot: dict[DomId, int] = {}
        areas = self._total if tmem_max_frames < 0 else tmem_max_frames // AREA_FRAMES
        areas = min(areas, self._total)
        self._slab_used = np.zeros(max(areas, 1), np.int64)
        self.tmem: Tmem | None = None
        self._fill(areas, slack_frames, costs or Costs())
        if areas > 0:
            self.tmem = Tmem(
                max_areas=areas,
                seed=seed,
                reserve_pages=0,
                mrc=mrc_points > 1,
                **(tmem_options or {}),
            )
            entries = entry_points(self.tmem.state_address)
            self._words[L.W_TMEM_STATE] = entries.state_address
            self._words[L.W_EXECUTE] = entries.execute
            self._words[L.W_GROW], self._words[L.W_SHRINK] = entries.grow, entries.shrink

    def _fill(self, areas: int, slack_frames: int, costs: Costs) -> None:
        w = self._words
        w[L.W_FREE_AREAS] = self._total
        w[L.W_SLACK_AREAS] = areas_of(slack_frames)
        w[L.W_TMEM_AREAS_MAX] = areas
        w[L.W_SLAB_USED] = self._slab_used.ctypes.data
        w[L.W_RECORD] = self._record.ctypes.data
        w[L.W_PAGE_OUT], w[L.W_PAGE_IN] = (int(page.ctypes.data) for page in self._pages)
        w[L.W_EDGES] = _EDGES.ctypes.data
        w[L.W_DISK_SHARED] = costs.disk_shared
        for name in L.COSTS:
            w[L.WORLD_FIELDS.index(name)] = getattr(costs, name)

    # The Backend protocol

    def open(self, domid: DomId, spec: DomainSpec) -> DomainHandles:
        """Grant ``boot_frames``; NoMemory if they are not there. ``load`` gives it work."""
        w, slot = self._words, self._slots[domid]
        boot = areas_of(spec.boot_frames)
        if boot + w[L.W_SLACK_AREAS] > w[L.W_FREE_AREAS]:
            raise NoMemory(f"{spec.name}: the host has no {spec.boot_frames} frames to boot with")
        slot[:] = 0
        slot[L.D_CURRENT_AREAS] = boot
        slot[L.D_TARGET_AREAS] = areas_of(spec.target_frames)
        w[L.W_FREE_AREAS] -= boot
        self._names[domid] = spec.name
        self._maxmem[domid] = spec.maxmem_frames
        self._boot[domid] = spec.target_frames
        if self.tmem is not None:
            self.tmem.open_client(domid)
        self.set_tmem_target(domid, spec.tmem_target_pages)
        return NO_HANDLES

    def close(self, domid: DomId) -> None:
        """Take back every frame and tmem page of a domain."""
        if self.tmem is not None:
            self.tmem.close_client(domid)
        self._words[L.W_FREE_AREAS] += self._slots[domid, L.D_CURRENT_AREAS]
        self._slots[domid] = 0
        for table in (self._names, self._guests, self._maxmem, self._boot):
            table.pop(domid, None)

    def promise(self, frames: int) -> None:
        """Keep ``frames`` free for domains that have not come yet."""
        self._words[L.W_PROMISED_AREAS] = areas_of(frames)

    def set_target(self, domid: DomId, frames: int) -> None:
        """Set the RAM target; spare areas above it are taken at once."""
        slot, areas = self._slots[domid], areas_of(frames)
        slot[L.D_TARGET_AREAS] = areas
        if slot[L.D_CURRENT_AREAS] > areas:
            guest.release_now(self._address, domid, int(slot[L.D_CURRENT_AREAS]) - areas)

    def set_tmem_target(self, domid: DomId, pages: int) -> None:
        """Set mm_target in pages; -1 is no limit."""
        if self.tmem is not None:
            self.tmem.clients["mm_target"][domid] = pages

    def broken(self) -> list[tuple[DomId, str]]:
        """Nobody: these guests keep to the rules."""
        return []

    def stop(self) -> None:
        """Close what is left."""
        for domid in list(self._names):
            self.close(domid)

    def snapshot(self) -> HostSnapshot:
        """A copy of the ledger and every domain's counters."""
        w = self._words
        kept = int(w[L.W_SLACK_AREAS] + w[L.W_PROMISED_AREAS])
        free, tmem = int(w[L.W_FREE_AREAS]), int(w[L.W_TMEM_AREAS])
        capacity = min(tmem + max(free - kept, 0), int(w[L.W_TMEM_AREAS_MAX]))
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
        slot = self._slots[domid].tolist()
        current = slot[L.D_CURRENT_AREAS] * AREA_FRAMES
        values = _ZEROES | self._tmem_counters(domid)
        values |= {
            "domid": domid,
            "name": self._names[domid],
            "maxmem_frames": self._maxmem[domid],
            "current_frames": current,
            "resident_frames": current,
            "installed_frames": current,
            "target_frames": slot[L.D_TARGET_AREAS] * AREA_FRAMES,
            "grants_ring": slot[L.D_GRANTS],
            "grants_transfer": slot[L.D_TRANSFERS],
            "reclaimed_areas": slot[L.D_RECLAIMED],
            "guest_used_frames": slot[L.D_RESIDENT] + slot[L.D_SPARES],
            "guest_faults": slot[L.D_FAULTS],
            "guest_swap_ins": slot[L.D_SWAP_INS],
            "guest_swap_outs": slot[L.D_SWAP_OUTS],
            "guest_references": slot[L.D_NEXT],
        }
        values["mrc"] = self._miss_ratios(domid, capacity_pages)
        values["guest_committed_frames"] = slot[L.D_TOUCHED]
        values["guest_idle_permille"] = self._idle_permille(domid, slot)
        values["guest_stall_ns"] = slot[L.D_STALLED_NS]
        return DomainSnapshot(**values)

    def _idle_permille(self, domid: DomId, slot: list[int]) -> int:
        """Of its resident pages, those not referenced for IDLE_TICKS; -1 when there are none."""
        if slot[L.D_RESIDENT] == 0:
            return -1
        counts = np.zeros(len(AGE_EDGES_S), np.int64)
        now = slot[L.D_CLOCK_NS] >> L.SEEN_SHIFT
        idle: int = guest.cold(self._address, domid, now, IDLE_TICKS, int(counts.ctypes.data))
        return 1000 * idle // slot[L.D_RESIDENT]

    def _miss_ratios(self, domid: DomId, capacity_pages: int) -> tuple[float, ...] | None:
        if self.tmem is None or self._mrc_points < 2:
            return None
        sizes = np.linspace(0.0, capacity_pages, self._mrc_points)
        return tuple(self.tmem.miss_ratios(domid, sizes).tolist())

    def _tmem_counters(self, domid: DomId) -> dict[str, Any]:
        if self.tmem is None:
            return {}
        client = self.tmem.clients[domid]
        return {
            "tmem_used_pages": int(client["used_pages"]),
            "tmem_target_pages": int(client["mm_target"]),
            "puts": int(client["puts"]),
            "puts_failed": sum(int(client[why]) for why in FAILURES),
            "gets": int(client["gets"]),
            "gets_hit": int(client["gets_hit"]),
            "flushes": int(client["flushes"]),
        }

    def validate(self) -> None:
        """InternalError if the ledger does not add up, or the pool is broken."""
        w, slots = self._words, self._slots
        held = int(slots[:, L.D_CURRENT_AREAS].sum())
        if held + int(w[L.W_FREE_AREAS] + w[L.W_TMEM_AREAS]) != self._total:
            raise InternalError(f"host ledger broken: {held} areas held, {w[: L.W_TMEM_AREAS + 1]}")
        if w[L.W_FREE_AREAS] < 0 or int(self._slab_used.sum()) != w[L.W_TMEM_AREAS]:
            raise InternalError("host ledger broken: negative, or slab areas miscounted")
        for domid, guest_ in self._guests.items():
            slot = slots[domid]
            flags = guest_.nodes[:-1, L.NODE_FLAGS]
            used = int(slot[L.D_RESIDENT] + slot[L.D_SPARES])
            resident = int(((flags & L.RESIDENT) != 0).sum())
            places = (flags & L.RESIDENT != 0).astype(int) + (flags & L.SWAPPED != 0)
            if resident != slot[L.D_RESIDENT] or used > slot[L.D_CURRENT_AREAS] * AREA_FRAMES:
                raise InternalError(f"domain {domid} holds {used} frames, {resident} resident")
            if (places > 1).any() or (flags & L.SWAPPED & flags & L.ON_DISK).any():
                raise InternalError(f"domain {domid}: a page is in two places")
        if self.tmem is not None:
            self.tmem.validate()

    # The guests

    def load(self, domid: DomId, stream: Stream, resident_frames: int, start_ns: int) -> None:
        """Give an open domain its work: it runs from ``start_ns`` on, to its end."""
        made = Guest(stream)
        self._guests[domid] = made
        slot = self._slots[domid]
        slot[L.D_STATE] = L.RUNNING
        slot[L.D_CLOCK_NS] = start_ns
        slot[L.D_STOP] = len(stream.pages)
        slot[L.D_HIT_NS] = max(stream.compute_ns, 1)  # or time would stand still
        slot[L.D_PAGES] = stream.page_count
        slot[L.D_RESIDENT_MAX] = resident_frames
        slot[L.D_BOOT_FRAMES] = self._boot[domid]
        guest.begin(self._address, domid)
        slot[L.D_REFERENCES] = made.references.ctypes.data
        slot[L.D_NODES] = made.nodes.ctypes.data
        slot[L.D_PAUSES] = made.pauses.ctypes.data
        slot[L.D_PROMOTIONS] = made.promotions.ctypes.data
        if self.tmem is not None:
            slot[L.D_HAS_FRONTSWAP] = self._new_pool(domid, PoolFlag.PERSISTENT) >= 0
            if stream.program.any():
                slot[L.D_HAS_CLEANCACHE] = self._new_pool(domid, PoolFlag(0)) >= 0

    def _new_pool(self, domid: DomId, kind: PoolFlag) -> int:
        assert self.tmem is not None
        return self.tmem.new_pool(domid, PoolFlag.VERSION | kind)

    def run(self, until_ns: int) -> DomId | None:
        """Run every domain until ``until_ns``; the one that came to its stop before, if any.

        InternalError when the pool brought a wrong page, NoMemory when a domain has no frame.
        """
        domid = guest.run(self._address, until_ns)
        if domid < 0:
            return None
        state = self._slots[domid, L.D_STATE]
        if state == L.WRONG_PAGE:
            raise InternalError(f"tmem lost or mixed up a page of {self._names[domid]}")
        if state == L.OUT_OF_MEMORY:
            raise NoMemory(f"{self._names[domid]} has not one frame")
        return DomId(domid)

    def resume(self, domid: DomId, stop: int) -> None:
        """Let a domain run on, up to before reference number ``stop``."""
        self._slots[domid, L.D_STOP] = stop
        self._slots[domid, L.D_STATE] = L.RUNNING

    def settle(self, now_ns: int) -> None:
        """Let domains that stand still at ``now_ns`` follow their targets, as idle guests do."""
        for domid in self._guests:
            if self._slots[domid, L.D_CLOCK_NS] > now_ns + guest.SLICE_NS:
                guest.balance_now(self._address, domid)

    def counters(self, domid: DomId) -> dict[str, int]:
        """Every word of a domain, by name."""
        return dict(zip(L.DOMAIN_FIELDS, self._slots[domid].tolist(), strict=True))

    # What a policy may ask to see

    def ages(self, domid: DomId, now_ns: int) -> tuple[Words, Words]:
        """Pages not referenced for AGE_EDGES_S or longer, and references so far to such."""
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
        return DomId(int(np.flatnonzero(self._slots[:, L.D_STATE] == L.OUT_OF_MEMORY)[0]))


_EDGES = np.array([int(age * 1e9) >> L.SEEN_SHIFT for age in AGE_EDGES_S] + [NEVER], np.int64)
_ZEROES: dict[str, Any] = dict.fromkeys(DomainSnapshot.__dataclass_fields__, 0) | {
    "tmem_target_pages": -1,
    "broken": False,
}


def _two_pages(seed: int) -> tuple[Words, Words]:
    """A page to put, of bytes that neither compress nor repeat, and one to get into."""
    made = np.random.default_rng(seed).integers(0, 1 << 62, (2, FRAME_BYTES // 8), np.int64)
    return made[0], made[1]
