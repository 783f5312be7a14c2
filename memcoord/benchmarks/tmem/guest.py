"""The measured processes of ``memcoord bench tmem``: our pool, a domain's, the rivals.

Owns: the pools embedded in this process, the clients of the rivals, and the rows. Compiled rows run
loops in C that call the same addresses as the hypervisor's service thread
(``tmem.serve.entry_points``); Python rows are loops in Python over names and keys made before.
Called by: ``memcoord.benchmarks.tmem.bench``.
"""

from __future__ import annotations

import contextlib
import mmap
import random
from array import array
from pathlib import Path
from time import perf_counter_ns
from typing import Any

from hypervisor.public.units import AREA_BYTES, FRAME_BYTES
from memcoord.benchmarks._loops import ffi, lib
from memcoord.benchmarks.measured import Measured, on_thread, run, timed
from memcoord.benchmarks.tmem import pages as page_sets
from memcoord.benchmarks.tmem import peers
from memcoord.benchmarks.tmem.pages import BLOCK_PAGES, CLIENT, SEED, PageSet, RingStore, TmemStore
from memcoord.testbed.runs.remote import operation
from tmem import PoolFlag, Tmem, serve

PERSISTENT = PoolFlag.VERSION | PoolFlag.PERSISTENT
OPS = {"put": lib.MC_OP_PUT, "get": lib.MC_OP_GET, "flush": lib.MC_OP_FLUSH_PAGE}
FILL_PAGES = 4096
LOOKS = 4
STEP_PAGES, STEPS_MAX = 64, 64
LATER_OBJECTS = 1 << 20  # the sets have lower objects


class TmemGuest(Measured):
    """``pages`` names a set, ``pool`` a pool of this process, ``key`` a domain."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        super().__init__(stack)
        self._sets: dict[str, PageSet] = {}
        self._pools: dict[str, tuple[Tmem, Any]] = {}
        self._stores: dict[str, peers.Store] = {}
        self._copies: dict[str, mmap.mmap] = {}
        self._kept: dict[str, dict[str, Any]] = {}  # what makes a pool again
        self._shared: dict[int, Any] = {}  # pages shared with another process, by fd

    @operation
    def make_set(self, name: str, pages: int) -> None:
        """A set of random pages."""
        number = len(self._sets) + 1
        content = random.Random(SEED - number).randbytes(BLOCK_PAGES * FRAME_BYTES)
        self._sets[name] = PageSet(pages, number, content)

    @operation
    def make_text(self, name: str, pages: int) -> None:
        """A set of text, all of it in the guest's memory, put as it is."""
        made = PageSet(pages, len(self._sets) + 1, page_sets.text_pages(pages))
        made.walk.stamp = 0
        self._sets[name] = made

    @operation
    def make_pool(self, name: str, pages: int, **options: Any) -> None:
        """An embedded pool with one persistent pool of one client in it."""
        tmem = Tmem(pages=pages, **options)
        _check(tmem.open_client(CLIENT), "open client")
        slot = _check(tmem.new_pool(CLIENT, PERSISTENT), "new pool")
        entries = serve.entry_points(tmem.state_address)
        pool = (entries.execute, entries.state_address, CLIENT, slot)
        self._pools[name] = (tmem, ffi.new("struct mcb_pool *", pool))

    @operation
    def make_kept(self, name: str, pages: int) -> None:
        """A pool in memory that could outlive this process, of ``pages`` pages of zeroes."""
        room: dict[str, Any] = {"max_areas": 1, "max_pages": pages}
        state = mmap.mmap(-1, Tmem.state_bytes(**room))
        slab = mmap.mmap(-1, AREA_BYTES)
        self._copies |= {f"{name} state": state, f"{name} slab": slab}  # alive as long as this
        at = page_sets.address_of(state), len(state)
        self._kept[name] = {**room, "slab": page_sets.address_of(slab), "state_memory": at}
        self.make_pool(name, pages=0, **self._kept[name])
        self.fill_zero(name, pages)

    @operation
    def recover(self, pool: str) -> bytes:
        """Take such a pool over, as the next process does."""
        begun = perf_counter_ns()
        Tmem(**self._kept[pool], recover=True)
        return array("Q", [perf_counter_ns() - begun]).tobytes()

    @operation
    def fill_zero(self, pool: str, pages: int) -> None:
        """Make ``pages`` pages of zeroes resident, under names no set has."""
        zero = PageSet(FILL_PAGES, 0, bytes(BLOCK_PAGES * FRAME_BYTES))
        zero.walk.stamp = 0
        for number in range(pages // FILL_PAGES):
            zero.walk.object = LATER_OBJECTS + number
            self._walk("put", pool, zero, 1, FILL_PAGES)

    @operation
    def copy(self, what: str, pages: str, count: int, ops: int) -> bytes:
        """Only the memcpy of the puts or gets of a set."""
        page_set = self._sets[pages]
        if pages not in self._copies:
            self._copies[pages] = page_sets.memory_of(bytes(page_set.pages * FRAME_BYTES))
        store = page_sets.address_of(self._copies[pages])
        return timed("memcpy", lib.mcb_memcpy, (page_set.walk, OPS[what], store), count, ops)

    @operation
    def walk(self, what: str, pool: str, pages: str, count: int, ops: int) -> bytes:
        """put, get or flush of a set, compiled."""
        return self._walk(what, pool, self._sets[pages], count, ops)

    def _walk(self, what: str, pool: str, pages: PageSet, count: int, ops: int) -> bytes:
        _, at = self._pools[pool]
        return timed(what, lib.mcb_tmem, (at, OPS[what], pages.walk), count, ops)

    @operation
    def put_compressed(
        self, pool: str, pages: str, count: int, ops: int
    ) -> tuple[bytes, dict[str, float]]:
        """Puts of new pages, each sample followed by all the background steps it gives rise to.

        Also the share of the pages that were compressed.
        """
        tmem, _ = self._pools[pool]
        samples, page_set, packed = array("Q"), self._sets[pages], 0
        for _ in range(count):
            start = int(page_set.walk.next)
            self._walk("flush", pool, page_set, 1, ops)
            page_set.walk.next = start
            begun = perf_counter_ns()
            self._walk("put", pool, page_set, 1, ops)
            for _ in range(STEPS_MAX):
                done = tmem.compress_step(STEP_PAGES)
                packed += done
                if done == 0:
                    break
            samples.append(perf_counter_ns() - begun)
        return samples.tobytes(), {"compressed": round(packed / (count * ops), 4)}

    @operation
    def open_store(
        self, name: str, pages: str, pool: str = "", path: str = "", key: str = ""
    ) -> None:
        """Connect to a rival, the embedded ``pool``, or that of domain ``key``'s hypervisor; put
        every page once and look at some."""
        page_set = self._sets[pages]
        views = [page_set.block[p % BLOCK_PAGES] for p in range(page_set.pages)]
        store: peers.Store
        if pool:
            tmem, at = self._pools[pool]
            store = TmemStore(page_set, tmem, int(at.slot))
        elif key:
            domain = self._attached[key].domain
            store = RingStore(page_set, domain, int(domain.tmem.new_pool(persistent=True)))
        else:
            store = peers.STORES[name](views, Path(path))
        self._stack.callback(store.close)
        self._stores[name] = store
        for position in range(page_set.pages):
            page_set.stamp(position, position + 1)
            store.put(position, position + 1)
        for position in range(page_set.pages - LOOKS, page_set.pages):
            if store.fetch(position) != page_set.block[position % BLOCK_PAGES]:
                raise ValueError(f"{name}: a page came back changed")

    @operation
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

    @operation
    def join(self, key: str, name: str, pages: str) -> int:
        """As a domain: a set of its own, named as ``pages``, and a pool; returns its slot."""
        domain, like = self._attached[key].domain, self._sets[pages]
        content, first = b"".join(like.block), domain.alloc_areas(1)
        joined, at = PageSet(like.pages, int(like.walk.object), content), first * FRAME_BYTES
        joined.walk.first_frame, joined.walk.memory = first, domain.address + at
        domain.memory[at : at + len(content)] = content
        self._sets[name] = joined
        slot: int = domain.tmem.new_pool(persistent=True)
        return slot

    @operation
    def ring(
        self, key: str, what: str, pages: str, slot: int, count: int, ops: int, rest_ns: int = 0
    ) -> tuple[bytes, float]:
        """put or get of a set through the domain's tmem ring; also the share that slept."""
        guest, walk = self._attached[key].guest, self._sets[pages].walk
        sleeps, on = int(guest.sleeps), (guest, OPS[what], slot, walk)
        samples = timed(f"ring {what}", lib.mcb_ring_tmem, on, count, ops, rest_ns)
        return samples, (int(guest.sleeps) - sleeps) / count

    @operation
    def call_futex(self, fd: int, count: int, rest_ns: int) -> bytes:
        """Round trips over two futex words in a shared page."""
        return timed("futex round trip", lib.mcb_futex_call, (self._bells(fd),), count, rest_ns)

    @operation
    def serve_futex(self, fd: int) -> None:
        """Answer them on a thread."""
        on_thread(lib.mcb_futex_echo, self._bells(fd))

    def _bells(self, fd: int) -> Any:
        if fd not in self._shared:
            self._shared[fd] = ffi.from_buffer(mmap.mmap(fd, mmap.PAGESIZE))
        return ffi.cast("struct mcb_bells *", self._shared[fd])


def _check(code: int, what: str) -> int:
    if code < 0:
        raise ValueError(f"{what}: tmem answered {code}")
    return code


if __name__ == "__main__":
    run(TmemGuest)
