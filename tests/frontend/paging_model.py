"""What ``frontend/abi/paging*.c`` should do, in plain Python: one page after the other, sets and a
dict in the order of use. It holds no bytes; it says which requests tmem gets, and counts."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable

from frontend._guest import lib

GET, FLUSH, PUT = lib.MC_OP_GET, lib.MC_OP_FLUSH_PAGE, lib.MC_OP_PUT
SWAP_POOL, FILE_POOL = 0, 1
Name = tuple[int, int]  # pool, page


class Model:
    """A guest whose limit is what ``resize`` says, over a tmem of ``capacity`` pages.

    ``requests`` are (op, first argument) as the ring carries them.
    """

    def __init__(
        self,
        pages: int,
        resident: int,
        cluster: int,
        ahead: int,
        program: Iterable[int],
        tmem: bool,
        depth: int,
    ) -> None:
        self.pages, self.tmem_is_on, self.depth_max = pages, tmem, depth
        self.cluster_max, self.ahead_max = cluster, ahead
        self.capacity = 0
        self.counted: Counter[str] = Counter()
        self.requests: list[tuple[int, int]] = []
        self.lru: OrderedDict[int, None] = OrderedDict()
        self.stored: set[Name] = set()
        self.file, self.unread = set(program), set(program)
        self.slots: dict[int, int] = {}  # slot of the swap file -> page
        self.slot_of: dict[int, int] = {}
        self.came_ahead: set[int] = set()
        self.spares = self.slot_next = self.ahead_hits = self.ahead_last = 0
        self.ahead_slot = -2
        self.flight: dict[int, tuple[bool, bool]] = {}  # page -> tmem had it, it is written to
        self.leaving: dict[int, bool | None] = {}  # victims of those -> tmem took them
        self._limit(resident)

    def refer(self, references: Iterable[tuple[int, bool]]) -> None:
        """A run over references, with faults that tmem serves under way at once."""
        for page, write in references:
            if page in self.flight or page in self.leaving:
                self._land()
            if page in self.lru or not self._take_off(page, write):
                if page not in self.lru:
                    self._land()
                self.reference(page, write)
        self._land()

    def reference(self, page: int, write: bool) -> None:
        """One reference."""
        self.counted["references"] += 1
        if page in self.lru:
            self.lru.move_to_end(page)
        else:
            self._fault(page)
        if page in self.came_ahead:
            self.came_ahead.discard(page)
            self.counted["ahead_hits"] += 1
            self.ahead_hits += 1
        if write:
            self._forget_slot(page)
            self.file.discard(page)

    def resize(self, resident: int) -> None:
        """Hold at most so many pages."""
        self._limit(resident)
        while len(self.lru) > self.limit:
            self._evict(min(len(self.lru) - self.limit, 64))
            self.spares = min(self.spares, 1)
        if len(self.lru) < self.limit:
            self.spares = min(self.spares, 1)

    def shrink_tmem(self, target: int) -> int:
        """Pull pages back, in the order of their numbers."""
        held = sorted(page for pool, page in self.stored if pool == SWAP_POOL)
        wanted = min(len(held) - target, len(held))
        if wanted <= 0 or len(self.lru) + wanted > self.limit:
            return 0
        for page in held[:wanted]:
            self._get(page)
            self.spares = max(self.spares - 1, 0)
            self.lru[page] = None
            self.lru.move_to_end(page, last=False)
        return wanted

    def _limit(self, resident: int) -> None:
        self.depth = max(min(self.depth_max, resident // lib.MC_PAGING_SHARE), 1)
        self.limit = resident - (self.depth - 1)

    # Faults under way

    def _may_fly(self, page: int) -> bool:
        """Whether a fault may wait with others: tmem serves it, or it is a read of one page."""
        if self._may_have(page):
            return True
        return page in self.slot_of and self._window(self.slot_of[page]) == 1

    def _take_off(self, page: int, write: bool) -> bool:
        if self.depth < 2:
            return False
        if len(self.flight) == self.depth or not self._may_fly(page):
            self._land()
        if not self._may_fly(page):
            return False
        if len(self.lru) < 4 * lib.MC_PAGING_DEPTH_MAX:
            return False
        self.counted["references"] += 1
        self.counted["faults"] += 1
        self.spares = max(self.spares - 1, 0)
        found = self._may_have(page) and self._get(page)
        if not found and page in self.slot_of:
            self._note_read(self.slot_of[page], 1)
        if len(self.lru) >= self.limit:
            (victim,) = self._oldest(1, but=self.leaving)
            self.leaving[victim] = self._put(victim)
        self.lru[page] = None
        self.flight[page] = found, write
        return True

    def _land(self) -> None:
        flight, leaving = self.flight, self.leaving
        self.flight, self.leaving = {}, {}
        for page, (found, _) in flight.items():
            if not found and page in self.slot_of:
                self.counted["swap_ins"] += 1
            else:
                self._load(page, found)
        for page in [page for page, (_, write) in flight.items() if write]:
            self._forget_slot(page)
            self.file.discard(page)
        self._leave(list(leaving.items()))

    # tmem

    def _may_have(self, page: int) -> bool:
        return self.tmem_is_on and (page in self.file or (SWAP_POOL, page) in self.stored)

    def _name(self, page: int) -> Name:
        return FILE_POOL if page in self.file else SWAP_POOL, page

    def _ask(self, op: int, page: int) -> None:
        index = page if page in self.file else page >> 4
        self.requests.append((op, self._name(page)[0] | index << 32))

    def _get(self, page: int) -> bool:
        self._ask(GET, page)
        if page not in self.file:
            self._ask(FLUSH, page)
        found = self._name(page) in self.stored
        self.stored.discard(self._name(page))
        return found

    def _put(self, page: int) -> bool | None:
        if not self.tmem_is_on:
            return None
        self._ask(PUT, page)
        self.counted["puts"] += 1
        if len(self.stored) >= self.capacity:
            return False
        self.stored.add(self._name(page))
        return True

    # Leaving memory

    def _share(self, most: int) -> int:
        return max(min(most, self.limit // lib.MC_PAGING_SHARE), 1)

    def _oldest(self, count: int, but: Iterable[int] = ()) -> list[int]:
        return [page for page in self.lru if page not in but][:count]

    def _evict(self, count: int) -> None:
        self._leave([(page, self._put(page)) for page in self._oldest(count)])

    def _leave(self, offered: list[tuple[int, bool | None]]) -> None:
        writes = self._settle(offered)
        cluster = self._share(self.cluster_max)
        if writes and len(writes) < cluster < len(self.lru):
            more = self._oldest(cluster - len(writes), but=writes)
            writes += self._settle([(page, self._put(page)) for page in more])
        last = -2
        for page in writes:
            slot = next(
                at % self.pages
                for at in range(self.slot_next, self.slot_next + self.pages)
                if at % self.pages not in self.slots
            )
            self.slots[slot], self.slot_of[page], self.slot_next = page, slot, slot + 1
            self.counted["swap_outs"] += 1
            self.counted["disk_writes"] += slot != last + 1
            last = slot
            self._go(page)

    def _settle(self, offered: list[tuple[int, bool | None]]) -> list[int]:
        """The pages that must be written."""
        writes = []
        for page, taken in offered:
            if page not in self.file:
                if taken:
                    self._forget_slot(page)
                else:
                    self.counted["failed_puts"] += taken is False
                    if page not in self.slot_of:
                        writes.append(page)
                        continue
            self._go(page)
        return writes

    def _go(self, page: int) -> None:
        del self.lru[page]
        self.came_ahead.discard(page)
        self.spares += 1

    def _forget_slot(self, page: int) -> None:
        if page in self.slot_of:
            del self.slots[self.slot_of.pop(page)]

    # Coming

    def _fault(self, page: int) -> None:
        self.counted["faults"] += 1
        if page in self.slot_of and self.ahead_max > 1:
            wanted = self._window(self.slot_of[page])
            if wanted > 1 and len(self.lru) + wanted > self.limit:
                self._evict(len(self.lru) + wanted - self.limit)
        self.spares = max(self.spares - 1, 0)
        found = self._may_have(page) and self._get(page)
        victims = self._oldest(1) if len(self.lru) >= self.limit else []
        offered = [(victim, self._put(victim)) for victim in victims]
        self._load(page, found)
        self.lru[page] = None
        self._leave(offered)

    def _load(self, page: int, found: bool) -> None:
        if found:
            self.counted["tmem_hits"] += 1
        elif page in self.file:
            self.counted["file_reads"] += 1
            self.counted["committed_frames"] += page in self.unread
            self.unread.discard(page)
        elif page in self.slot_of:
            self.counted["swap_ins"] += 1
            self._read_ahead(self.slot_of[page])
        else:
            self.counted["first_touches"] += 1
            self.counted["committed_frames"] += 1

    def _window(self, slot: int) -> int:
        pages = 2
        if self.ahead_hits:
            pages = 4
            while pages < self.ahead_hits + 2:
                pages *= 2
        elif abs(slot - self.ahead_slot) != 1:
            pages = 1
        return min(max(pages, self.ahead_last // 2), self._share(self.ahead_max))

    def _note_read(self, slot: int, window: int) -> None:
        self.ahead_last, self.ahead_hits, self.ahead_slot = window, 0, slot
        self.counted["disk_reads"] += 1

    def _read_ahead(self, slot: int) -> None:
        window = self._window(slot)
        self._note_read(slot, window)
        room = self.limit - len(self.lru) - 1
        if window < 2:
            return
        first = slot - slot % window
        for at in range(first, min(first + window, self.pages)):
            page = self.slots.get(at)
            if at == slot or page is None or page in self.lru or room <= 0:
                continue
            room -= 1
            self.spares = max(self.spares - 1, 0)
            self.lru[page] = None
            self.came_ahead.add(page)
            self.counted["ahead"] += 1
