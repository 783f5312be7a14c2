"""The rows of ``memcoord bench tmem`` in the measured process: our pool, a domain's, the rivals.

Owns: the sets of pages that every row walks, the pools embedded here, and the clients of the
rivals. A set is a number of names in one random order, which every row walks; the guest's side of
it is a block of 64 pages, in the cache as a page just used is. Before the clock of a sample starts,
every page about to be put gets a first word it never had: no two pages put are alike, so each is
stored. Compiled rows run loops in C that call the addresses the hypervisor's service thread calls
(``tmem.serve.entry_points``); Python rows are loops in Python over names and keys made before.
Used by ``memcoord.benchmarks.subject`` only.
"""

from __future__ import annotations

import contextlib
import mmap
import random
from array import array
from pathlib import Path
from time import perf_counter_ns
from types import TracebackType
from typing import Any, Self

from hypervisor.public.errors import error_of
from hypervisor.public.units import FRAME_BYTES
from memcoord.benchmarks._loops import ffi, lib
from memcoord.benchmarks.tmem import peers
from memcoord.benchmarks.tmem.text import text_pages
from tmem import PoolFlag, Tmem, serve

CLIENT = 0
DONE = 1
SEED = 20260
PERSISTENT = PoolFlag.VERSION | PoolFlag.PERSISTENT
OPS = {"put": lib.MC_OP_PUT, "get": lib.MC_OP_GET, "flush": lib.MC_OP_FLUSH_PAGE}
BLOCK_PAGES = 64
FILL_PAGES = 4096
LOOKS = 4
STEP_PAGES, STEPS_MAX = 64, 64
LATER_OBJECTS = 1 << 20  # below are the sets'


class PageSet:
    """Names of pages in their random order, how far the walk has got, and the guest's block."""

    def __init__(self, pages: int, number: int, content: bytes) -> None:
        self.pages = pages
        self.order = list(range(pages))
        random.Random(SEED + number).shuffle(self.order)
        self._order = ffi.new("uint32_t[]", self.order)
        self._memory = memory_of(content)
        whole = memoryview(self._memory)
        starts = range(0, len(content), FRAME_BYTES)
        #: the pages of the block; position p of the walk has page p % len(block)
        self.block = [whole[start : start + FRAME_BYTES] for start in starts]
        self.walk: Any = ffi.new("struct mcb_set *")
        self.walk.order, self.walk.pages, self.walk.object = self._order, pages, number
        self.walk.memory, self.walk.block = address_of(self._memory), len(self.block)
        self.walk.stamp = 1
        self._first_words = whole.cast("Q")[:: FRAME_BYTES // 8]

    def advance(self, pages: int) -> int:
        """Move the walk on by ``pages``, which divides its length; where it was."""
        at = int(self.walk.next)
        self.walk.next = (at + pages) % self.pages
        return at

    def stamp(self, start: int, stop: int) -> None:
        """Give the pages at these positions a content they never had."""
        for position in range(start, stop):
            self.walk.stamp += 1
            self._first_words[position % len(self.block)] = self.walk.stamp


def memory_of(content: bytes) -> mmap.mmap:
    """Private memory that holds ``content``, aligned to pages."""
    memory = mmap.mmap(-1, len(content), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[:] = content
    return memory


def address_of(memory: mmap.mmap) -> int:
    """Where it lies, as long as the object lives."""
    return int(ffi.cast("uintptr_t", ffi.from_buffer(memory)))


class TmemStore:
    """Our pool as Python sees it, beside the rivals."""

    def __init__(self, pages: PageSet, tmem: Tmem, slot: int) -> None:
        self._tmem, self._slot = tmem, slot
        per, number = lib.MCB_OBJECT_PAGES, int(pages.walk.object)
        oids = [(n + 1, number, 0) for n in range(-(-pages.pages // per))]
        indices = list(range(per))
        named = [(oids[n // per], indices[n % per]) for n in pages.order]
        self._work = [(*name, pages.block[p % BLOCK_PAGES]) for p, name in enumerate(named)]
        self._page = bytearray(FRAME_BYTES)

    def put(self, start: int, stop: int) -> None:
        """One call a page."""
        put, slot = self._tmem.put, self._slot
        for oid, index, page in self._work[start:stop]:
            if put(CLIENT, slot, oid, index, page) != DONE:
                raise KeyError(index)

    def get(self, start: int, stop: int) -> None:
        """One call a page, into one buffer."""
        get, slot, page = self._tmem.get, self._slot, self._page
        for oid, index, _ in self._work[start:stop]:
            if get(CLIENT, slot, oid, index, page) != DONE:
                raise KeyError(index)

    def fetch(self, position: int) -> bytes:
        """One page."""
        self.get(position, position + 1)
        return bytes(self._page)

    def close(self) -> None:
        """The pool goes with the process."""


class TmemRows:
    """Every public method is an operation the bench may call by name."""

    def __init__(self) -> None:
        self._sets: dict[str, PageSet] = {}
        self._pools: dict[str, tuple[Tmem, Any]] = {}
        self._stores: dict[str, peers.Store] = {}
        self._copies: dict[str, mmap.mmap] = {}
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

    def make_set(self, name: str, pages: int) -> None:
        """A set of random pages."""
        number = len(self._sets) + 1
        content = random.Random(SEED - number).randbytes(BLOCK_PAGES * FRAME_BYTES)
        self._sets[name] = PageSet(pages, number, content)

    def make_text(self, name: str, pages: int) -> None:
        """A set of text, all of it in the guest's memory, put as it is."""
        made = PageSet(pages, len(self._sets) + 1, text_pages(pages))
        made.walk.stamp = 0
        self._sets[name] = made

    def make_pool(self, name: str, pages: int, **options: Any) -> None:
        """An embedded pool with one persistent pool of one client in it."""
        tmem = Tmem(pages=pages, **options)
        _check(tmem.open_client(CLIENT), "open client")
        slot = _check(tmem.new_pool(CLIENT, PERSISTENT), "new pool")
        entries = serve.entry_points(tmem.state_address)
        pool = ffi.new("struct mcb_pool *")
        pool.execute, pool.state = entries.execute, entries.state_address
        pool.client, pool.slot = CLIENT, slot
        self._pools[name] = (tmem, pool)

    def fill_zero(self, pool: str, pages: int) -> None:
        """Make ``pages`` pages of zeroes resident, under names no set has."""
        zero = PageSet(FILL_PAGES, 0, bytes(BLOCK_PAGES * FRAME_BYTES))
        zero.walk.stamp = 0
        sample = _samples(1)
        for number in range(pages // FILL_PAGES):
            zero.walk.object = LATER_OBJECTS + number
            status = lib.mcb_tmem(
                self._pools[pool][1], OPS["put"], zero.walk, sample, 1, FILL_PAGES
            )
            _ok(status, "fill")

    def copy(self, what: str, pages: str, count: int, ops: int) -> bytes:
        """memcpy of what a put or a get of the set copies."""
        page_set, samples = self._sets[pages], _samples(count)
        if pages not in self._copies:
            self._copies[pages] = memory_of(bytes(page_set.pages * FRAME_BYTES))
        store = address_of(self._copies[pages])
        lib.mcb_memcpy(page_set.walk, OPS[what], store, samples, count, ops)
        return _bytes(samples)

    def walk(self, what: str, pool: str, pages: str, count: int, ops: int) -> bytes:
        """put, get or flush of a set, compiled."""
        samples = _samples(count)
        page_set = self._sets[pages]
        _ok(lib.mcb_tmem(self._pools[pool][1], OPS[what], page_set.walk, samples, count, ops), what)
        return _bytes(samples)

    def put_compressed(
        self, pool: str, pages: str, count: int, ops: int
    ) -> tuple[bytes, dict[str, float]]:
        """Puts of new pages, each sample followed by all the background steps it gives rise to.

        Also the share of the pages that were compressed.
        """
        tmem, at = self._pools[pool]
        samples, one, walk, packed = array("Q"), _samples(1), self._sets[pages].walk, 0
        for _ in range(count):
            start = int(walk.next)
            _ok(lib.mcb_tmem(at, OPS["flush"], walk, one, 1, ops), "flush")
            walk.next = start
            begun = perf_counter_ns()
            _ok(lib.mcb_tmem(at, OPS["put"], walk, one, 1, ops), "put")
            for _ in range(STEPS_MAX):
                done = tmem.compress_step(STEP_PAGES)
                packed += done
                if done == 0:
                    break
            samples.append(perf_counter_ns() - begun)
        return samples.tobytes(), {"compressed": round(packed / (count * ops), 4)}

    def open_store(self, name: str, pages: str, pool: str = "", path: str = "") -> None:
        """Connect to a rival, or to the embedded ``pool``; put every page once and look at some."""
        page_set = self._sets[pages]
        views = [page_set.block[p % BLOCK_PAGES] for p in range(page_set.pages)]
        store: peers.Store
        if name == "python":
            tmem, at = self._pools[pool]
            store = TmemStore(page_set, tmem, int(at.slot))
        elif name == "dict":
            store = peers.DictStore(views)
        elif name == "lmdb":
            store = peers.LmdbStore(views, Path(path))
        else:
            store = peers.SERVERS[name][0](views, Path(path))
        self._stack.callback(store.close)
        self._stores[name] = store
        for position in range(page_set.pages):
            page_set.stamp(position, position + 1)
            store.put(position, position + 1)
        for position in range(page_set.pages - LOOKS, page_set.pages):
            if store.fetch(position) != page_set.block[position % BLOCK_PAGES]:
                raise ValueError(f"{name}: what it gave back is not what was put")

    def store(self, what: str, name: str, pages: str, count: int, ops: int) -> bytes:
        """put or get of a set, page by page in Python."""
        samples, page_set = array("Q"), self._sets[pages]
        call = getattr(self._stores[name], what)
        for _ in range(count):
            at = page_set.advance(ops)
            page_set.stamp(at, at + ops)
            start = perf_counter_ns()
            call(at, at + ops)
            samples.append(perf_counter_ns() - start)
        return samples.tobytes()

    def join(self, domain: Any, guest: Any, name: str, pages: str) -> int:
        """As a domain: a set of its own, named as ``pages``, and a pool; returns its slot."""
        like = self._sets[pages]
        content = b"".join(like.block)
        joined = PageSet(like.pages, int(like.walk.object), content)
        joined.walk.first_frame = domain.alloc_areas(1)
        at = joined.walk.first_frame * FRAME_BYTES
        joined.walk.memory = domain.address + at
        domain.memory[at : at + len(content)] = content
        self._sets[name] = joined
        slot: int = domain.tmem.new_pool(persistent=True)
        return slot

    def ring(
        self,
        domain: Any,
        guest: Any,
        what: str,
        pages: str,
        slot: int,
        count: int,
        ops: int,
        rest_ns: int = 0,
    ) -> tuple[bytes, float]:
        """put or get of a set through the domain's tmem ring; also the share that slept."""
        samples, sleeps = _samples(count), int(guest.sleeps)
        walk = self._sets[pages].walk
        status = lib.mcb_ring_tmem(guest, OPS[what], slot, walk, samples, count, ops, rest_ns)
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
