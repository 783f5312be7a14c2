"""The model of a paging guest (``paging_model``), beside the pool that a simulated domain has."""

from __future__ import annotations

from collections.abc import Sequence

from paging_model import FILE_POOL, Model

AREA_FRAMES = 512
BALANCE = 1024


class ModelGuest(Model):
    """A guest that follows its target, over a tmem whose oldest ephemeral page makes room.

    ``target`` is its RAM in frames, ``tmem_target`` its tmem in pages, -1 for no limit.
    """

    def __init__(
        self, pages: int, resident: int, program: set[int], *, boot_frames: int, tmem_pages: int,
        tmem_target: int, cluster: int, ahead: int, depth: int,
    ) -> None:  # fmt: skip
        self.resident_max, self.boot_frames, self.target = resident, boot_frames, boot_frames
        limit = self.wanted()
        super().__init__(pages, limit, cluster, ahead, program, tmem_pages > 0, depth)
        self.capacity, self.tmem_target = tmem_pages, tmem_target
        self.ephemeral: list[tuple[int, int]] = []  # in the order in which they were put

    def wanted(self) -> int:
        more = max(self.target - self.boot_frames, 0)
        return max(min(self.resident_max + more, self.target - 1), 1)

    def run(self, pages: Sequence[int], writes: Sequence[bool]) -> None:
        """References, with a look at the target as often as a guest takes one."""
        part: list[tuple[int, bool]] = []
        for page, write in zip(pages, writes, strict=True):
            if (self.counted["references"] + len(part) + 1) % BALANCE == 0:
                self.refer(part)
                part = []
                self.resize(self.wanted())
            part.append((page, bool(write)))
        self.refer(part)

    def _put(self, page: int) -> bool | None:
        kept = [name for name in self.ephemeral if name in self.stored]
        self.ephemeral = kept
        capacity = self.capacity
        if 0 <= self.tmem_target <= len(self.stored):
            self.capacity = 0  # whatever there is room for
        elif len(self.stored) >= capacity and kept:
            self.stored.discard(kept.pop(0))
        taken = super()._put(page)
        self.capacity = capacity
        if taken and page in self.file:
            kept.append((FILE_POOL, page))
        return taken
