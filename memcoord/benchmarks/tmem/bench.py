"""``memcoord bench tmem``: the cost of a page in tmem, beside the stores a user would pick instead.

Owns: the rows, their order within a round, the CPU of each process, and the targets.
Three kinds of rows are measured in one process: compiled loops on a pool embedded there, beside
memcpy of the same pages; Python loops on that pool, beside a dict, LMDB, Redis and memcached; and a
domain's puts and gets on the ring of a real hypervisor, beside a futex. The guest's side of every
put and get, memcpy and rivals included, is a block of 64 pages in the CPU's cache; the other side
is as large as the set. Every put replaces a stored page by one of other, random content.
A rival that is not installed is left out and named. A rival's server runs on whichever of the two
CPUs it answers a put sooner from. The hypervisor spins on its own CPU, except in rows ending in
``_sleep``: there it never spins and shares the domain's CPU, as does the other end of
``futex_rtt``.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable
from statistics import median

from hypervisor.config import DomainConfig, HypervisorConfig
from hypervisor.public.units import AREA_FRAMES
from memcoord.benchmarks import cpus
from memcoord.benchmarks._loops import lib
from memcoord.benchmarks.harness import BenchPlan, Target
from memcoord.benchmarks.runner import Rounds, Setting
from memcoord.benchmarks.tmem import peers, zram

PYTHON_OPS = 16
PLAN = BenchPlan(
    bench="tmem",
    targets={
        "get_hot/memcpy_4k": Target(1.5, 1.15),
        "put_hot/memcpy_4k": Target(1.7, 1.3),
        "python_put/lmdb_put": Target(1.0, 0.5),
        "python_ring_put/redis_put": Target(1.0, 0.5),
        "python_ring_put/memcached_put": Target(1.0, 0.5),
        "ring_put_batch32/put": Target(2.0, 1.3),
        "ring_get_sleep/futex_rtt": Target(1.5, 1.2),
        "put_2m_pages/put_64k_pages": Target(1.5, 1.15),
    },
    also=(
        "put/memcpy_4k_random", "get/memcpy_4k_random", "python_put/dict_put",
        "python_get/lmdb_get", "python_ring_get/redis_get", "python_ring_get/memcached_get",
    ),
    notes={
        "memcpy_4k": "512 KiB, as a get copies it",
        "memcpy_4k_put": "512 KiB, as a put copies it",
        "memcpy_4k_random": "64 MiB, random order, as a put copies it",
        "put_hot": "512 KiB, again and again",
        "put": "64 MiB, random order",
        "dict_get": "a reference, nothing is copied",
        "lmdb_put": f"no sync, {PYTHON_OPS} pages a transaction",
        "python_ring_put": "to a hypervisor that sleeps, as the servers of the rivals do",
        "ring_put": "one record, hypervisor spinning",
        "ring_put_batch32": "per page, 32 records under one doorbell, hypervisor spinning",
        "ring_get_sleep": "hypervisor asleep, same CPU",
        "futex_rtt": "between two processes on one CPU, a page apart from any hypervisor",
        "put_64k_pages": "64 MiB, random order, 65,536 pages of zeroes resident",
        "put_2m_pages": "the same, 2,097,152 pages of zeroes resident",
        "recover_1m_pages": "a pool whose process was killed, per page of 1,048,576",
        "put_compressed": "text that halves: put of a new page and the step that compresses it",
        "zram_out": "the same text, per page: MADV_PAGEOUT, lz4; no ratio, for it unmaps too",
    },
    skippable=("lmdb", *peers.SERVERS, "zram"),
)  # fmt: skip
GUEST = "memcoord.benchmarks.tmem.guest"
SET_PAGES = 16384
HOT_PAGES = 128
TEXT_PAGES = 2048
FEW_PAGES, MANY_PAGES = 1 << 16, 1 << 21
KEPT_PAGES = 1 << 20
TEXT_SAMPLES = TEXT_PAGES // AREA_FRAMES
OPS = 64
HOT_SAMPLES = 1000
SET_SAMPLES = 256
PYTHON_SAMPLES = 256
SOCKET_SAMPLES = 400
TRIAL_SAMPLES = 100
RING_SAMPLES = 2000
BATCH_SAMPLES = 512
BATCH_RECORDS = 32
SLEEP_SAMPLES = 1000
REST_NS = 20_000
DOMAIN_FRAMES = 4 * AREA_FRAMES
SPARE_FRAMES = 8 * AREA_FRAMES  # slack, and frames of a pool that are not full
SPIN_NS = int(lib.MC_SPIN_MAX_NS)


class TmemBench(Rounds):
    """One run of the bench; ``round`` measures every row once more."""

    def __init__(self, setting: Setting) -> None:
        self._lab, self._sheet = setting.lab, setting.sheet
        self._placement = setting.placement
        self._subject = self._lab.remote("subject", GUEST)
        self._peer = self._lab.remote("peer", GUEST)
        self._tmem = self._subject.ask
        self._tmem("make_set", name="hot", pages=HOT_PAGES)
        self._tmem("make_set", name="random", pages=SET_PAGES)
        self._start_hosts()
        self._start_futex()
        self._start_pools()
        self._stores = ["python", "dict"]
        self._start_rivals()

    def _start_hosts(self) -> None:
        self._spinning = self._lab.host("h0", _config(SPIN_NS, "spin"))
        self._sleeping = self._lab.host("h1", _config(0, "sleep"))
        self._slots: dict[str, int] = {}
        spinning, sleeping = (self._spinning, "spin", "random"), (self._sleeping, "sleep", "hot")
        for host, key, pages in (spinning, sleeping):
            self._subject.ask("attach", run_dir=str(host.run_dir), name=key)
            self._slots[key] = self._tmem("join", key=key, name=key, pages=pages)
            fill = {"what": "put", "pages": key, "slot": self._slots[key]}
            count = HOT_PAGES if pages == "hot" else SET_PAGES
            self._tmem("ring", key=key, **fill, count=count // BATCH_RECORDS, ops=BATCH_RECORDS)
        self._subject.ask("spin", key="sleep", spin_ns=0)
        serving, ours = self._placement.serving_cpu, self._placement.domain_cpu
        self._subject.ask("place", cpu=ours)
        for process, cpu in ((self._spinning, serving), (self._sleeping, ours), (self._peer, ours)):
            cpus.place(process.pid, cpu)

    def _start_futex(self) -> None:
        fd = os.memfd_create("bells")
        os.ftruncate(fd, os.sysconf("SC_PAGE_SIZE"))
        self._bells = self._subject.hand("keep_fds", [fd])[0]
        self._peer.ask("serve_futex", fd=self._peer.hand("keep_fds", [fd])[0])
        os.close(fd)
        cpus.place(self._peer.pid, self._placement.domain_cpu)

    def _start_pools(self) -> None:
        for name, pages, zeroes in (
            ("plain", 2 * SET_PAGES, 0),
            ("few", FEW_PAGES + 2 * SET_PAGES, FEW_PAGES),
            ("many", MANY_PAGES + 2 * SET_PAGES, MANY_PAGES),
        ):
            self._tmem("make_pool", name=name, pages=pages)
            self._tmem("fill_zero", pool=name, pages=zeroes)
            for of, count in (("hot", HOT_PAGES), ("random", SET_PAGES)):
                self._tmem("walk", what="put", pool=name, pages=of, count=count // OPS, ops=OPS)
        self._tmem("make_kept", name="kept", pages=KEPT_PAGES)
        self._tmem("make_text", name="text", pages=TEXT_PAGES)
        self._tmem("make_pool", name="cold", pages=2 * TEXT_PAGES, compression=True)

    def _start_rivals(self) -> None:
        self._tmem("open_store", name="python", pages="random", pool="plain")
        self._tmem("open_store", name="dict", pages="random")
        self._tmem("open_store", name="python_ring", pages="random", key="sleep")
        if self._take_part("lmdb", peers.why_missing("lmdb")):
            directory = self._lab.scratch("lmdb")
            self._tmem("open_store", name="lmdb", pages="random", path=str(directory))
            self._stores.append("lmdb")
        for name, (_, command) in peers.SERVERS.items():
            if self._take_part(name, peers.why_missing(name)):
                self._start_server(name, command)
        if self._take_part("zram", zram.why_missing()):
            from memcoord.benchmarks.tmem.pages import text_pages  # here only: it loads tmem

            self._lab.enter(zram.zram_swap())
            self._text = text_pages(TEXT_PAGES)

    def _take_part(self, name: str, why_not: str) -> bool:
        if why_not:
            self._sheet.skipped[name] = why_not
        return not why_not

    def _start_server(self, name: str, command: Callable[..., list[str]]) -> None:
        path = self._lab.socket_path(f"{name}.sock")
        server = self._lab.server(name, command(path))
        self._tmem("open_store", name=name, pages="random", path=str(path))
        sooner: list[tuple[float, int]] = []
        for cpu in {self._placement.serving_cpu, self._placement.domain_cpu}:
            cpus.place(server.pid, cpu)
            samples = array("Q", self._store("put", name, TRIAL_SAMPLES, 1))
            sooner.append((median(samples), cpu))
        cpus.place(server.pid, min(sooner)[1])
        self._sheet.facts[f"{name}_cpu"] = min(sooner)[1]

    def _store(self, op: str, name: str, count: int, ops: int) -> bytes:
        asked = {"what": op, "name": name, "pages": "random", "count": count, "ops": ops}
        return bytes(self._tmem("store", **asked))

    def round(self, index: int, done: Callable[[float], None]) -> None:
        """Measure every row once."""
        self._hot()
        self._random()
        self._python()
        self._large()
        self._ring()
        self._compressed()

    def _walk(self, row: str, op: str, pool: str, pages: str, count: int) -> None:
        samples = self._tmem("walk", what=op, pool=pool, pages=pages, count=count, ops=OPS)
        self._sheet.add(row, samples, OPS)

    def _copy(self, row: str, what: str, pages: str, count: int) -> None:
        samples = self._tmem("copy", what=what, pages=pages, count=count, ops=OPS)
        self._sheet.add(row, samples, OPS)

    def _hot(self) -> None:
        self._copy("memcpy_4k", "get", "hot", HOT_SAMPLES)
        self._walk("get_hot", "get", "plain", "hot", HOT_SAMPLES)
        self._copy("memcpy_4k_put", "put", "hot", HOT_SAMPLES)
        self._walk("put_hot", "put", "plain", "hot", HOT_SAMPLES)

    def _random(self) -> None:
        self._copy("memcpy_4k_random", "put", "random", SET_SAMPLES)
        self._walk("put", "put", "plain", "random", SET_SAMPLES)
        self._walk("get", "get", "plain", "random", SET_SAMPLES)

    def _python(self) -> None:
        for name in self._stores:
            for op in ("put", "get"):
                samples = self._store(op, name, PYTHON_SAMPLES, PYTHON_OPS)
                self._sheet.add(f"{name}_{op}", samples, PYTHON_OPS)
        for name in ("python_ring", *peers.SERVERS):
            if name not in self._sheet.skipped:
                for op in ("put", "get"):
                    self._sheet.add(f"{name}_{op}", self._store(op, name, SOCKET_SAMPLES, 1), 1)

    def _large(self) -> None:
        self._walk("put_64k_pages", "put", "few", "random", SET_SAMPLES)
        self._walk("put_2m_pages", "put", "many", "random", SET_SAMPLES)
        self._sheet.add("recover_1m_pages", self._tmem("recover", pool="kept"), KEPT_PAGES)

    def _ring(self) -> None:
        self._ring_row("ring_put", "put", "spin", RING_SAMPLES, 1)
        self._ring_row("ring_put_batch32", "put", "spin", BATCH_SAMPLES, BATCH_RECORDS)
        self._ring_row("ring_get_sleep", "get", "sleep", SLEEP_SAMPLES, 1, REST_NS)
        call = {"fd": self._bells, "count": SLEEP_SAMPLES, "rest_ns": REST_NS}
        self._sheet.add("futex_rtt", self._subject.ask("call_futex", **call), 1)

    def _ring_row(
        self, row: str, op: str, key: str, count: int, batch: int, rest_ns: int = 0
    ) -> None:
        on = {"key": key, "pages": key, "slot": self._slots[key], "rest_ns": rest_ns}
        samples, slept = self._tmem("ring", **on, what=op, count=count, ops=batch)
        self._sheet.add(row, samples, batch).extra["slept"] = round(slept, 4)

    def _compressed(self) -> None:
        asked = {"pool": "cold", "pages": "text", "count": TEXT_SAMPLES, "ops": AREA_FRAMES}
        samples, extra = self._tmem("put_compressed", **asked)
        self._sheet.add("put_compressed", samples, AREA_FRAMES).extra |= extra
        if "zram" not in self._sheet.skipped:
            self._sheet.add("zram_out", zram.page_out(self._text), AREA_FRAMES)


def _config(spin_ns: int, name: str) -> HypervisorConfig:
    domain = DomainConfig(name, DOMAIN_FRAMES, DOMAIN_FRAMES, DOMAIN_FRAMES, credit_areas=0)
    total_frames = 2 * SET_PAGES + DOMAIN_FRAMES + SPARE_FRAMES
    return HypervisorConfig(total_frames=total_frames, spin_ns=spin_ns, domains=(domain,))
