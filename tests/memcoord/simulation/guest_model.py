"""A slow, plain model of the simulator's guest: a collection per place where a page can be."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

AREA_FRAMES = 512
BALANCE = 1024


@dataclass
class ModelTmem:
    """Pages of one domain. Persistent pages stay; the oldest ephemeral page makes room."""

    capacity: int
    target: int = -1
    persistent: set[int] = field(default_factory=set)
    ephemeral: OrderedDict[int, None] = field(default_factory=OrderedDict)

    def put(self, page: int, *, persistent: bool) -> bool:
        used = len(self.persistent) + len(self.ephemeral)
        if 0 <= self.target <= used:
            return False
        if used >= self.capacity:
            if not self.ephemeral:
                return False
            self.ephemeral.popitem(last=False)
        if persistent:
            self.persistent.add(page)
        else:
            self.ephemeral[page] = None
        return True


class ModelGuest:
    """Replays references one by one; ``counts`` has names of fields of ``layout.DOMAIN``."""

    def __init__(self, program: set[int], resident: int, boot_frames: int, tmem: ModelTmem) -> None:
        self.file, self.tmem = set(program), tmem
        self.resident_max, self.boot_frames, self.target = resident, boot_frames, boot_frames
        self.resident: OrderedDict[int, None] = OrderedDict()
        self.disk: set[int] = set()
        self.touched: set[int] = set()
        self.limit = self.wanted()
        names = ("next", "faults", "first_touches", "tmem_hits", "swap_ins", "swap_outs")
        self.counts = dict.fromkeys((*names, "file_reads", "puts", "failed_puts"), 0)

    def wanted(self) -> int:
        more = max(self.target - self.boot_frames, 0)
        return max(min(self.resident_max + more, self.target - 1), 1)

    def access(self, page: int, write: bool) -> None:
        self.counts["next"] += 1
        if self.counts["next"] % BALANCE == 0:
            self.limit = self.wanted()
            while len(self.resident) > self.limit:
                self.evict()
        if page in self.resident:
            self.resident.move_to_end(page)
        else:
            self.fault(page)
        if write:
            self.disk.discard(page)
            self.file.discard(page)

    def fault(self, page: int) -> None:
        counts = self.counts
        counts["faults"] += 1
        full = len(self.resident) >= self.limit
        if page in self.file:
            cached = page in self.tmem.ephemeral
            self.tmem.ephemeral.pop(page, None)
            counts["tmem_hits" if cached else "file_reads"] += 1
        elif page in self.tmem.persistent:
            self.tmem.persistent.discard(page)
            counts["tmem_hits"] += 1
        elif page in self.disk:
            counts["swap_ins"] += 1
        else:
            counts["first_touches"] += 1
        self.touched.add(page)
        if full:
            self.evict()
        self.resident[page] = None

    def evict(self) -> None:
        page, _ = self.resident.popitem(last=False)
        counts = self.counts
        counts["puts"] += 1
        stored = self.tmem.put(page, persistent=page not in self.file)
        if page in self.file:
            return
        counts["failed_puts"] += not stored
        if stored:
            self.disk.discard(page)
        elif page not in self.disk:
            self.disk.add(page)
            counts["swap_outs"] += 1
