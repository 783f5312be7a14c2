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

from hypervisor.public.units import FRAME_BYTES
from memcoord.benchmarks._loops import ffi, lib
from memcoord.benchmarks.measured import Measured, bytes_of, ok, on_thread, run, samples_of
from memcoord.benchmarks.tmem import peers
from memcoord.benchmarks.tmem.pages import (
    BLOCK_PAGES,
    CLIENT,
    SEED,
    PageSet,
    TmemStore,
    address_of,
    memory_of,
)
from memcoord.benchmarks.tmem.text import text_pages
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
        made = PageSet(pages, len(self._sets) + 1, text_pages(pages))
        made.walk.stamp = 0
        self._sets[name] = made

    @operation
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

    @operation
    def fill_zero(self, pool: str, pages: int) -> None:
        """Make ``pages`` pages of zeroes resident, under names no set has."""
        zero = PageSet(FILL_PAGES, 0, bytes(BLOCK_PAGES * FRAME_BYTES))
        zero.walk.stamp = 0
        sample = samples_of(1)
        for number in range(pages // FILL_PAGES):
            zero.walk.object = LATER_OBJECTS + number
            status = lib.mcb_tmem(
                self._pools[pool][1], OPS["put"], zero.walk, sample, 1, FILL_PAGES
            )
            ok(status, "fill")

    @operation
    def copy(self, what: str, pages: str, count: int, ops: int) -> bytes:
        """Only the memcpy of the puts or gets of a set."""
        page_set, samples = self._sets[pages], samples_of(count)
        if pages not in self._copies:
            self._copies[pages] = memory_of(bytes(page_set.pages * FRAME_BYTES))
        store = address_of(self._copies[pages])
        lib.mcb_memcpy(page_set.walk, OPS[what], store, samples, count, ops)
        return bytes_of(samples)

    @operation
    def walk(self, what: str, pool: str, pages: str, count: int, ops: int) -> bytes:
        """put, get or flush of a set, compiled."""
        samples = samples_of(count)
        page_set = self._sets[pages]
        ok(lib.mcb_tmem(self._pools[pool][1], OPS[what], page_set.walk, samples, count, ops), what)
        return bytes_of(samples)

    @operation
    def put_compressed(
        self, pool: str, pages: str, count: int, ops: int
    ) -> tuple[bytes, dict[str, float]]:
        """Puts of new pages, each sample followed by all the background steps it gives rise to.

        Also the share of the pages that were compressed.
        """
        tmem, at = self._pools[pool]
        samples, one, walk, packed = array("Q"), samples_of(1), self._sets[pages].walk, 0
        for _ in range(count):
            start = int(walk.next)
            ok(lib.mcb_tmem(at, OPS["flush"], walk, one, 1, ops), "flush")
            walk.next = start
            begun = perf_counter_ns()
            ok(lib.mcb_tmem(at, OPS["put"], walk, one, 1, ops), "put")
            for _ in range(STEPS_MAX):
                done = tmem.compress_step(STEP_PAGES)
                packed += done
                if done == 0:
                    break
            samples.append(perf_counter_ns() - begun)
        return samples.tobytes(), {"compressed": round(packed / (count * ops), 4)}

    @operation
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
                raise ValueError(f"{name}: a page came back changed")

    @operation
    def store(self, what: str, name: str, pages: str, count: int, ops: int) -> bytes:
        """put or get of a set, page by page in Python."""
        samples, page_set = array("Q"), self._sets[pages]
        store = self._stores[name]
        call = store.put if what == "put" else store.get
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
        content = b"".join(like.block)
        joined = PageSet(like.pages, int(like.walk.object), content)
        joined.walk.first_frame = domain.alloc_areas(1)
        at = joined.walk.first_frame * FRAME_BYTES
        joined.walk.memory = domain.address + at
        domain.memory[at : at + len(content)] = content
        self._sets[name] = joined
        slot: int = domain.tmem.new_pool(persistent=True)
        return slot

    @operation
    def ring(
        self,
        key: str,
        what: str,
        pages: str,
        slot: int,
        count: int,
        ops: int,
        rest_ns: int = 0,
    ) -> tuple[bytes, float]:
        """put or get of a set through the domain's tmem ring; also the share that slept."""
        guest = self._attached[key].guest
        samples, sleeps = samples_of(count), int(guest.sleeps)
        walk = self._sets[pages].walk
        status = lib.mcb_ring_tmem(guest, OPS[what], slot, walk, samples, count, ops, rest_ns)
        ok(status, f"ring {what}")
        return bytes_of(samples), (int(guest.sleeps) - sleeps) / count

    @operation
    def call_futex(self, fd: int, count: int, rest_ns: int) -> bytes:
        """Round trips over two futex words in a shared page."""
        samples = samples_of(count)
        ok(lib.mcb_futex_call(self._bells(fd), samples, count, rest_ns), "futex round trip")
        return bytes_of(samples)

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
