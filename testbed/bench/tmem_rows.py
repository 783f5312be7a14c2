"""The rows of ``memcoord bench tmem`` in the measured process: our pool, a domain's, the rivals.

Owns: the sets of pages that every row walks, the pools embedded here, and the clients of the
rivals. A set is 16,384 pages (or 128 for the hot one) in one block of memory, walked in one random
order by every row: what is compared has copied the same pages. Compiled rows run loops in C that
call the addresses the hypervisor's service thread calls (``tmem.serve.entry_points``); Python rows
are loops in Python. Names and keys are made before the clock runs.
Used by ``testbed.bench.subject`` only.
"""

from __future__ import annotations

import contextlib
import mmap
import random
from array import array
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter_ns
from types import TracebackType
from typing import Any, Self

from hypervisor.public.errors import error_of
from hypervisor.public.units import FRAME_BYTES
from testbed._loops import ffi, lib
from testbed.bench import peers
from testbed.bench.text import text_pages
from tmem import PoolFlag, Tmem, serve

CLIENT = 0
DONE = 1
SEED = 20260
PERSISTENT = PoolFlag.VERSION | PoolFlag.PERSISTENT
OPS = {"put": lib.MC_OP_PUT, "get": lib.MC_OP_GET, "flush": lib.MC_OP_FLUSH_PAGE}
FILL_OPS = 4096
LATER_PAGES = 1 << 20  # object numbers below are the measured pages'


class PageSet:
    """Pages in memory of our own, their random order, and where the walk has got to."""

    def __init__(self, pages: int, content: bytes, number: int) -> None:
        self.pages = pages
        self.memory = mmap.mmap(-1, len(content), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.memory[:] = content
        order = list(range(pages))
        random.Random(SEED + number).shuffle(order)
        self._order = ffi.new("uint32_t[]", order)
        self.order = order
        self.walk: Any = ffi.new("struct mcb_set *")
        self.walk.order, self.walk.pages, self.walk.object = self._order, pages, number
        self._block: Any = ffi.from_buffer(self.memory)
        self.address = int(ffi.cast("uintptr_t", self._block))
        self.walk.memory = self.address
        whole = memoryview(self.memory)
        starts = range(0, pages * FRAME_BYTES, FRAME_BYTES)
        self.views = [whole[start : start + FRAME_BYTES] for start in starts]

    def chunk(self, ops: int) -> Sequence[int]:
        """The numbers of the next ``ops`` pages; the walk moves on."""
        at = int(self.walk.next)
        self.walk.next = (at + ops) % self.pages
        return (self.order[at : at + ops] + self.order[:ops])[:ops]


class TmemStore:
    """Our pool as Python sees it, beside the rivals."""

    def __init__(self, pages: PageSet, tmem: Tmem, slot: int) -> None:
        self._tmem, self._slot, self._pages = tmem, slot, pages.views
        per, number = lib.MCB_OBJECT_PAGES, int(pages.walk.object)
        self._names = [((n // per + 1, number, 0), n % per) for n in range(pages.pages)]
        self._page = bytearray(FRAME_BYTES)

    def put(self, numbers: Sequence[int]) -> None:
        """One call a page."""
        put, slot, names, pages = self._tmem.put, self._slot, self._names, self._pages
        for number in numbers:
            oid, index = names[number]
            if put(CLIENT, slot, oid, index, pages[number]) != DONE:
                raise KeyError(number)

    def get(self, numbers: Sequence[int]) -> None:
        """One call a page, into one buffer."""
        get, slot, names, page = self._tmem.get, self._slot, self._names, self._page
        for number in numbers:
            oid, index = names[number]
            if get(CLIENT, slot, oid, index, page) != DONE:
                raise KeyError(number)

    def fetch(self, number: int) -> bytes:
        """One page."""
        self.get((number,))
        return bytes(self._page)

    def close(self) -> None:
        """The pool goes with the process."""


class TmemRows:
    """Every public method is an operation the bench may call by name."""

    def __init__(self) -> None:
        self._sets: dict[str, PageSet] = {}
        self._pools: dict[str, tuple[Tmem, Any]] = {}
        self._stores: dict[str, peers.Store] = {}
        self._frames: dict[str, Any] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def make_set(self, name: str, pages: int, text: bool = False) -> None:
        """A set of random pages, or of compressible text."""
        number = len(self._sets) + 1
        source = random.Random(SEED - number)
        content = text_pages(pages) if text else source.randbytes(pages * FRAME_BYTES)
        self._sets[name] = PageSet(pages, content, number)

    def make_pool(self, name: str, pages: int, **options: Any) -> None:
        """An embedded pool with one persistent pool of one client in it."""
        tmem = Tmem(pages=pages, **options)
        _check(tmem.open_client(CLIENT), "open client")
        slot = _check(tmem.new_pool(CLIENT, PERSISTENT), "new pool")
        entries = serve.entry_points(tmem)
        pool = ffi.new("struct mcb_pool *")
        pool.execute, pool.state = entries.execute, entries.state_address
        pool.client, pool.slot = CLIENT, slot
        self._pools[name] = (tmem, pool)

    def fill_zero(self, pool: str, pages: int) -> None:
        """Make ``pages`` pages of zeroes resident, under names no set has."""
        walk = ffi.new("struct mcb_set *")
        order = ffi.new("uint32_t[]", list(range(FILL_OPS)))
        zeroes = mmap.mmap(-1, FILL_OPS * FRAME_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        block = ffi.from_buffer(zeroes)
        walk.order, walk.pages = order, FILL_OPS
        walk.memory = int(ffi.cast("uintptr_t", block))
        sample = ffi.new("uint64_t[1]")
        for number in range(pages // FILL_OPS):
            walk.object, walk.next = LATER_PAGES + number, 0
            _ok(lib.mcb_tmem(self._pools[pool][1], OPS["put"], walk, sample, 1, FILL_OPS), "fill")

    def copy(self, pages: str, other: str, count: int, ops: int) -> bytes:
        """memcpy from one set's memory to another's."""
        source, target, samples = self._sets[pages], self._sets[other], _samples(count)
        lib.mcb_memcpy(source.walk, target.address, source.address, samples, count, ops)
        return _bytes(samples)

    def walk(self, what: str, pool: str, pages: str, count: int, ops: int) -> bytes:
        """put, get or flush of a set, compiled."""
        samples = _samples(count)
        page_set = self._sets[pages]
        _ok(lib.mcb_tmem(self._pools[pool][1], OPS[what], page_set.walk, samples, count, ops), what)
        return _bytes(samples)

    def open_store(self, name: str, pages: str, pool: str = "", path: str = "") -> None:
        """Connect to a rival, or to the embedded ``pool``; put every page once and look at some."""
        page_set = self._sets[pages]
        store: peers.Store
        if name == "python":
            tmem, at = self._pools[pool]
            store = TmemStore(page_set, tmem, int(at.slot))
        elif name == "dict":
            store = peers.DictStore(page_set.views)
        elif name == "lmdb":
            store = peers.LmdbStore(page_set.views, Path(path))
        else:
            store = peers.SERVERS[name][0](page_set.views, Path(path))
        self._stack.callback(store.close)
        self._stores[name] = store
        store.put(page_set.order)
        for number in page_set.order[:4]:
            if store.fetch(number) != page_set.views[number]:
                raise ValueError(f"{name}: what it gave back is not what was put")

    def store(self, what: str, name: str, pages: str, count: int, ops: int) -> bytes:
        """put or get of a set, page by page in Python."""
        samples, page_set = array("Q"), self._sets[pages]
        call = getattr(self._stores[name], what)
        for _ in range(count):
            numbers = page_set.chunk(ops)
            start = perf_counter_ns()
            call(numbers)
            samples.append(perf_counter_ns() - start)
        return samples.tobytes()

    def join(self, domain: Any, guest: Any, name: str, pages: str) -> int:
        """As a domain: frames with the pages of a set in them, and a pool; returns its slot."""
        page_set = self._sets[pages]
        frames = domain.alloc_many(page_set.pages)
        for frame, view in zip(frames, page_set.views, strict=True):
            domain.view(frame)[:] = view
        self._frames[name] = ffi.new("uint32_t[]", list(frames))
        slot: int = domain.tmem.new_pool(persistent=True)
        return slot

    def ring(
        self,
        domain: Any,
        guest: Any,
        what: str,
        name: str,
        pages: str,
        slot: int,
        count: int,
        batch: int,
        rest_ns: int = 0,
    ) -> tuple[bytes, float]:
        """put or get of a set through the domain's tmem ring; also the share that slept."""
        samples, sleeps = _samples(count), int(guest.sleeps)
        walk, frames = self._sets[pages].walk, self._frames[name]
        status = lib.mcb_ring_tmem(
            guest, OPS[what], slot, frames, walk, samples, count, batch, rest_ns
        )
        _ok(status, f"ring {what}")
        return _bytes(samples), (int(guest.sleeps) - sleeps) / count


def _samples(count: int) -> Any:
    return ffi.new("uint64_t[]", count)


def _bytes(samples: Any) -> bytes:
    return bytes(ffi.buffer(samples))


def _check(code: int, what: str) -> int:
    if code < 0:
        raise ValueError(f"{what}: tmem answered {code}")
    return code


def _ok(status: int, what: str) -> None:
    if status < 0:
        raise error_of(status, what)
