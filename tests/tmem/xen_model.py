"""The whole of tmem as plain dicts: what every row of ``tmem-replay`` must answer.

Written from Xen's semantics alone and sharing nothing with the pool: no storage, no hash, no page
bytes, a page is its seed. Host memory is two numbers, the heap and tmem's own list of freed pages,
because flush and freeable tell them apart. ``XenModel.answer`` takes the rows of
``tmem.replay``; only rows in the proper form. Neither same-content pages nor compression.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

Oid = tuple[int, int, int]

DONE, ABSENT = 1, 0
EPERM, ENOENT, ENOMEM, EFAULT, ENODEV, EINVAL, ENOSPC = -1, -2, -12, -14, -19, -22, -28
EFROZEN, EEMPTY = -1000, -1001
ALL = 65535
SLOTS = SHARED_POOLS = AUTHORISATIONS = 16
EVICTIONS_FAILED_MAX = 10
ONES = 2**64 - 1
PAGES_PER_MIB, PAGE_KIB = 256, 4


@dataclass(eq=False)
class Page:
    """One page; equal to itself only, so that lists can be keyed by it."""

    pool: Pool
    oid: Oid
    index: int
    seed: int


@dataclass(eq=False)
class Pool:
    """One pool. ``members`` are the (client, slot) of those who joined it, in order."""

    owner: Client
    slot: int
    persistent: bool
    shared: bool
    uuid: tuple[int, int]
    members: list[tuple[Client, int]] = field(default_factory=list)
    objects: dict[Oid, dict[int, Page]] = field(default_factory=dict)
    last_client: dict[Oid, Client] = field(default_factory=dict)

    @property
    def pages(self) -> int:
        return sum(len(pages) for pages in self.objects.values())


@dataclass(eq=False)
class Client:
    """One domain that has called."""

    number: int
    weight: int = 0
    frozen: bool = False
    pools: list[Pool | None] = field(default_factory=lambda: [None] * SLOTS)
    authorised: list[tuple[int, int]] = field(
        default_factory=lambda: [(ONES, ONES)] * AUTHORISATIONS
    )
    ephemeral: OrderedDict[Page, None] = field(default_factory=OrderedDict)
    persistent_pages: int = 0


class XenModel:
    """A host of ``total_pages`` pages, all of them free."""

    def __init__(self, total_pages: int, reserve_pages: int = 256) -> None:
        self.heap, self.freed, self.taken = total_pages, 0, 0
        self.reserve = reserve_pages
        self.clients: dict[int, Client] = {}
        self.quotas: dict[int, int] = {}  # of the domain, so it outlives the client
        self.shared: list[Pool] = []
        self.order: OrderedDict[Page, None] = OrderedDict()  # next victim first

    def answer(self, row: list[Any]) -> list[Any]:
        """What the row answers."""
        if row[0] == "get":
            code, seed = self.get(row[1], row[2], tuple(row[3]), row[4], fault=False)
            return [code, seed] if code == DONE else [code]
        if row[0] == "lru":
            return [
                [p.pool.owner.number, p.pool.slot, [*p.oid], p.index, p.seed] for p in self.order
            ]
        return [self._operations[row[0]](self, *row[1:])]

    # The guest's operations.

    def _client(self, number: int) -> Client:
        return self.clients.setdefault(number, Client(number))

    def _pool(self, number: int, slot: int) -> Pool | None:
        client = self._client(number)
        return client.pools[slot] if 0 <= slot < SLOTS else None

    def new_pool(self, number: int, flags: int, low: int, high: int) -> int:
        client, uuid = self._client(number), (low % 2**64, high % 2**64)
        persistent, shared = bool(flags & 1), bool(flags & 2)
        if flags >> 24 != 1 or flags & 0xFFFFF4 or (persistent and shared):
            return EPERM
        if None not in client.pools:
            return EPERM
        slot = client.pools.index(None)
        if uuid == (ONES, ONES) or uuid not in client.authorised:
            shared = False
        pool = Pool(client, slot, persistent, shared, uuid)
        if shared:
            known = [other for other in self.shared if other.uuid == uuid]
            if not known and len(self.shared) == SHARED_POOLS:
                return EPERM
            if known:
                pool = known[0]
            else:
                self.shared.append(pool)
            pool.members.append((client, slot))
        client.pools[slot] = pool
        return slot

    def destroy_pool(self, number: int, slot: int) -> int:
        pool = self._pool(number, slot)
        if pool is None:
            return ABSENT
        client = self.clients[number]
        client.pools[slot] = None
        if pool.shared:
            self._leave(pool, client, slot)
        else:
            self._drop_objects(pool)
        return DONE

    def _leave(self, pool: Pool, client: Client, slot: int) -> None:
        pool.members.remove((client, slot))
        if not pool.members:
            self.shared.remove(pool)
            self._drop_objects(pool)
            return
        if (pool.owner, pool.slot) == (client, slot):
            pool.owner, pool.slot = pool.members[0]
            if pool.owner is not client:
                moved = [page for page in client.ephemeral if page.pool is pool]
                for page in reversed(moved):
                    del client.ephemeral[page]
                    pool.owner.ephemeral[page] = None
                    pool.owner.ephemeral.move_to_end(page, last=False)
        self._drop_objects(pool, client)

    def _drop_objects(self, pool: Pool, last_client: Client | None = None) -> None:
        """Every object, or those last touched by one client."""
        for oid in list(pool.objects):
            if last_client is None or pool.last_client[oid] is last_client:
                for page in list(pool.objects[oid].values()):
                    self._drop(page)

    def put(
        self, number: int, slot: int, oid: Oid, index: int, seed: int, fault: bool = False
    ) -> int:
        pool, oid = self._pool(number, slot), tuple(oid)
        if pool is None:
            return ENODEV
        if not self._reserve(self.clients[number]):
            return ENOMEM
        page = pool.objects.get(oid, {}).get(index)
        if page is not None:
            self._release(pool)
            if not self._allocate(pool, self.clients[number]):
                code = ENOSPC
            elif fault:
                code = EFAULT
                self._release(pool)
            else:
                page.seed = seed
                pool.last_client[oid] = self.clients[number]
                return DONE
            self._drop(page, holds_memory=False)
            return code
        if pool.owner.frozen:
            return EFROZEN
        if not self._allocate(pool, self.clients[number]):
            return ENOMEM
        if fault:
            self._release(pool)
            return EFAULT
        page = Page(pool, oid, index, seed)
        pool.objects.setdefault(oid, {})[index] = page
        pool.last_client[oid] = self.clients[number]
        if not pool.persistent:
            self.order[page] = pool.owner.ephemeral[page] = None
        return DONE

    def put_fault(self, number: int, slot: int, oid: Oid, index: int, seed: int = 0) -> int:
        return self.put(number, slot, oid, index, seed, fault=True)

    def get(self, number: int, slot: int, oid: Oid, index: int, fault: bool) -> tuple[int, int]:
        """The code and, when it is 1, the seed."""
        pool = self._pool(number, slot)
        if pool is None:
            return ENODEV, 0
        if not pool.objects:
            return EEMPTY, 0
        page = pool.objects.get(oid, {}).get(index)
        if page is None:
            return ABSENT, 0
        if fault:
            return EFAULT, 0
        if pool.shared:
            self.order.move_to_end(page)
            pool.owner.ephemeral.move_to_end(page)
            pool.last_client[oid] = self.clients[number]
        elif not pool.persistent:
            self._drop(page)
        return DONE, page.seed

    def get_fault(self, number: int, slot: int, oid: Oid, index: int) -> int:
        return self.get(number, slot, tuple(oid), index, fault=True)[0]

    def flush_page(self, number: int, slot: int, oid: Oid, index: int) -> int:
        return self._flush(number, slot, oid, lambda page: page.index == index)

    def flush_object(self, number: int, slot: int, oid: Oid) -> int:
        return self._flush(number, slot, oid, lambda page: True)

    def _flush(self, number: int, slot: int, oid: Oid, which: Callable[[Page], bool]) -> int:
        pool = self._pool(number, slot)
        if pool is None:
            return ENODEV
        for page in list(pool.objects.get(tuple(oid), {}).values()):
            if which(page):
                self._drop(page)
        return EFROZEN if pool.owner.frozen else DONE

    # Memory.

    def _allocate(self, pool: Pool, caller: Client) -> bool:
        owner = pool.owner
        quota = self.quotas.get(owner.number, -1)
        if pool.persistent and 0 <= quota <= owner.persistent_pages:
            return False
        if not self.freed and not self.heap and not self._evict(caller):
            return False  # never with a reserve of a page or more
        if self.freed:
            self.freed -= 1
        else:
            self.heap -= 1
        owner.persistent_pages += pool.persistent
        return True

    def _release(self, pool: Pool) -> None:
        """The memory of one page of this pool."""
        self.freed += 1
        pool.owner.persistent_pages -= pool.persistent

    def _drop(self, page: Page, holds_memory: bool = True) -> None:
        pool = page.pool
        if holds_memory:
            self._release(pool)
        del pool.objects[page.oid][page.index]
        if not pool.objects[page.oid]:
            del pool.objects[page.oid], pool.last_client[page.oid]
        if not pool.persistent:
            del self.order[page], pool.owner.ephemeral[page]

    def _reserve(self, caller: Client) -> bool:
        while self.freed + self.heap < self.reserve:
            if not self._evict(caller):
                return False
        return True

    def _evict(self, caller: Client | None) -> bool:
        own = caller is not None and self._is_above_share(caller)
        victims = caller.ephemeral if caller is not None and own else self.order
        if not victims:
            return False
        self._drop(next(iter(victims)))
        return True

    def _is_above_share(self, client: Client) -> bool:
        total = sum(other.weight for other in self.clients.values())
        if not (client.weight and client.ephemeral):
            return False
        part = len(self.order) * 100 // len(client.ephemeral)
        return part < total * 100 // client.weight

    # The host's operations.

    def set_quota(self, number: int, pages: int) -> int:
        self.quotas[number] = pages
        return 0

    def auth(self, number: int, on: int, low: int, high: int) -> int:
        if number == ALL:
            return ENOMEM
        slots, uuid = self._client(number).authorised, (low % 2**64, high % 2**64)
        wanted, becomes = ((ONES, ONES), uuid) if on else (uuid, (ONES, ONES))
        if wanted in slots:
            slots[slots.index(wanted)] = becomes
        elif on:
            return ENOMEM
        return DONE

    def _named(self, number: int) -> list[Client]:
        if number == ALL:
            return [*self.clients.values()]
        return [self.clients[number]] if number in self.clients else []

    def freeze(self, number: int, frozen: bool = True) -> int:
        for client in self._named(number):
            client.frozen = frozen
        return 0 if number == ALL or number in self.clients else EPERM

    def thaw(self, number: int) -> int:
        return self.freeze(number, False)

    def set_weight(self, number: int, weight: int) -> int:
        for client in self._named(number):
            client.weight = weight
        return 0 if self._named(number) else ENOENT

    def flush_kb(self, number: int, kib: int) -> int:
        if number != ALL:
            return EPERM
        while self.freed < -(-kib // PAGE_KIB) and self._evict(None):
            pass
        flushed, self.freed = self.freed, 0
        self.heap += flushed
        return flushed * PAGE_KIB

    def freeable_mb(self, _: int) -> int:
        return (self.freed + len(self.order)) // PAGES_PER_MIB

    def relinquish(self, _: int, order: int) -> int:
        if order or not (self.freed or self._evict(None)):
            return 0
        self.freed -= 1
        self.heap += 1
        return 1

    def host_take(self, _: int, pages: int) -> int:
        got = min(pages, self.heap)
        self.heap, self.taken = self.heap - got, self.taken + got
        return got

    def host_give(self, _: int, pages: int) -> int:
        given = min(pages, self.taken)
        self.heap, self.taken = self.heap + given, self.taken - given
        return given

    def kill_client(self, number: int) -> int:
        if number in self.clients:
            for slot in range(SLOTS):
                self.destroy_pool(number, slot)
            del self.clients[number]
        return 0

    def get_pools(self, number: int) -> int:
        if number not in self.clients:
            return EINVAL
        return sum(pool is not None for pool in self.clients[number].pools)

    _operations: ClassVar[dict[str, Callable[..., int]]] = {
        "new_pool": new_pool,
        "destroy_pool": destroy_pool,
        "put": put,
        "put_fault": put_fault,
        "get_fault": get_fault,
        "flush_page": flush_page,
        "flush_object": flush_object,
        "set_quota": set_quota,
        "auth": auth,
        "freeze": freeze,
        "thaw": thaw,
        "set_weight": set_weight,
        "flush_kb": flush_kb,
        "freeable_mb": freeable_mb,
        "relinquish": relinquish,
        "host_take": host_take,
        "host_give": host_give,
        "kill_client": kill_client,
        "get_pools": get_pools,
    }
