"""``memcoord bench guest``: what a guest pays for a reference, a hit in tmem and a read from disk.

Owns: the rows, their order within a round, the CPU of each process, and the targets. One process is
a domain of a real hypervisor and pages over several memories, each of its own size and depth; every
stream refers to all pages in one random order again and again, so that under LRU each reference
hits (all pages fit) or each one faults. A hit in tmem takes a page out of tmem and puts another one
in. At depth 16 a sample is 16 faults that may wait together; at depth 1 it is one. Nothing is read
ahead.
Beside them, in the same process and the same order of pages: a loop that touches them, the
kernel's minor fault, the two copies of a hit, and reads of the swap file without a guest.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from hypervisor.config import DomainConfig, HypervisorConfig
from hypervisor.public.units import AREA_FRAMES
from memcoord.benchmarks import cpus
from memcoord.benchmarks._loops import lib
from memcoord.benchmarks.harness import BenchPlan, Sheet, Target, rotated
from memcoord.benchmarks.lab import BenchError
from memcoord.benchmarks.runner import Rounds, Setting

NS_PER_S, NS_PER_US = 1e9, 1e3
GUEST = "memcoord.benchmarks.paging.guest"
DEPTH = int(lib.MC_PAGING_DEPTH_MAX)
RESIDENT, TMEM_1, TMEM_16, DISK_1, DISK_16 = "resident", "tmem_1", "tmem_16", "disk_1", "disk_16"
HIT_PAGES = 4096
TMEM_PAGES, TMEM_RESIDENT = 4096, 2048
DISK_PAGES, DISK_RESIDENT = 8192, 1200
HIT_OPS, HIT_SAMPLES = 4096, 20
SINGLE_SAMPLES, BATCH_SAMPLES = 2000, 400
ASLEEP_SAMPLES = 200
DISK_SAMPLES, DISK_BATCHES = 200, 60
FAULT_OPS, FAULT_SAMPLES = 256, 20
REST_NS = 200_000  # until a hypervisor that spins has fallen asleep
SPIN_NS = int(lib.MC_SPIN_MAX_NS)
SPARE_AREAS = 4
Step = Callable[[], None]


def beyond_copies_us(row: str) -> Callable[[Sheet], float | None]:
    """The formula: microseconds of a hit beside its two copies."""

    def formula(sheet: Sheet) -> float | None:
        rows = sheet.rows_of(row, "copy_twice_4k")
        return None if rows is None else (rows[0].median_ns() - rows[1].median_ns()) / NS_PER_US

    return formula


def per_second(row: str) -> Callable[[Sheet], float | None]:
    """The formula: operations a second."""

    def formula(sheet: Sheet) -> float | None:
        rows = sheet.rows_of(row)
        return None if rows is None else NS_PER_S / rows[0].median_ns()

    return formula


def median_of(row: str) -> Callable[[Sheet], float | None]:
    """The formula: nanoseconds of an operation."""

    def formula(sheet: Sheet) -> float | None:
        rows = sheet.rows_of(row)
        return None if rows is None else rows[0].median_ns()

    return formula


PLAN = BenchPlan(
    bench="guest",
    targets={
        "reference_ns": Target(10.0, 5.0),
        "references_per_s": Target(30e6, 100e6, higher=True),
        "tmem_hit_depth_1_beyond_copies_us": Target(1.5, 1.0),
        "tmem_hit_depth_16_beyond_copies_us": Target(1.5, 0.5),
        "disk_fault_depth_16/disk_fault_depth_1": Target(0.5, 0.2),
    },
    formulas={
        "reference_ns": median_of("reference"),
        "references_per_s": per_second("reference"),
        "tmem_hit_depth_1_beyond_copies_us": beyond_copies_us("tmem_hit_depth_1"),
        "tmem_hit_depth_16_beyond_copies_us": beyond_copies_us("tmem_hit_depth_16"),
    },
    also=(
        "reference/touch",
        "tmem_hit_depth_1/minor_fault_file",
        "tmem_hit_depth_16/minor_fault_file",
        "disk_fault_depth_1/disk_read_depth_1",
        "disk_fault_depth_16/disk_read_depth_16",
    ),
    notes={
        "reference": f"{HIT_PAGES} pages, all resident; the program reads a word of each",
        "reference_alone": "the same, and the program does nothing",
        "touch": "a plain loop that reads a word of as many pages in the same order",
        "tmem_hit_depth_1": "get, flush, put; the hypervisor spins",
        "tmem_hit_depth_1_asleep": f"after {REST_NS // 1000} us of rest: the hypervisor sleeps",
        "tmem_hit_depth_16": "per page, 16 under way",
        "copy_twice_4k": "a page in, another out: what a hit copies",
        "minor_fault_file": "of a page that lies in a file in memory, as a domain's memory does",
        "minor_fault_zeroed": "of a new page, which the kernel zeroes",
        "disk_fault_depth_1": "a page that was not changed is dropped, the other one read",
        "disk_fault_depth_16": "per page, up to 16 under way",
        "disk_read_depth_1": "pread of the swap file, without a guest",
        "disk_read_depth_16": "per page, 16 reads of it at once",
    },
)


class PagingBench(Rounds):
    """One run of the bench; ``round`` measures every row once more."""

    def __init__(self, setting: Setting) -> None:
        lab, self._sheet = setting.lab, setting.sheet
        host = lab.host("h0", _config())
        self._subject = lab.remote("subject", GUEST)
        self._subject.ask("attach", run_dir=str(host.run_dir), name="guest")
        self._subject.ask("place", cpu=setting.placement.domain_cpu)
        cpus.place(host.pid, setting.placement.serving_cpu)
        swap = lab.scratch("swap")
        for name, pages, resident, tmem, depth in (
            (RESIDENT, HIT_PAGES, HIT_PAGES, False, 1),
            (TMEM_1, TMEM_PAGES, TMEM_RESIDENT, True, 1),
            (TMEM_16, TMEM_PAGES, TMEM_RESIDENT, True, DEPTH),
            (DISK_1, DISK_PAGES, DISK_RESIDENT, False, 1),
            (DISK_16, DISK_PAGES, DISK_RESIDENT, False, DEPTH),
        ):
            sizes = {"pages": pages, "resident": resident, "swap": str(swap / name)}
            how = {"tmem": tmem, "depth": depth, "ahead_pages": 1}
            facts = self._subject.ask("make", key="guest", memory=name, **sizes, **how)
        self._sheet.facts["swap_file_direct"] = facts["direct"]

    def round(self, index: int, done: Callable[[float], None]) -> None:
        """Measure every row once; they begin with another one each time."""
        single, batch = (SINGLE_SAMPLES, 1), (BATCH_SAMPLES, DEPTH)
        steps: list[Step] = [
            partial(self._refer, "reference", RESIDENT, "touch", HIT_SAMPLES, HIT_OPS),
            partial(self._refer, "reference_alone", RESIDENT, "nothing", HIT_SAMPLES, HIT_OPS),
            partial(self._floor, "touch", HIT_SAMPLES, HIT_OPS, memory=RESIDENT),
            partial(self._refer, "tmem_hit_depth_1", TMEM_1, "nothing", *single),
            partial(self._refer, "tmem_hit_depth_16", TMEM_16, "nothing", *batch),
            self._asleep,
            partial(self._floor, "copy_twice", *batch, row="copy_twice_4k", memory=TMEM_1),
            partial(self._faults, "minor_fault_file", True),
            partial(self._faults, "minor_fault_zeroed", False),
            partial(self._refer, "disk_fault_depth_1", DISK_1, "nothing", DISK_SAMPLES, 1),
            partial(self._refer, "disk_fault_depth_16", DISK_16, "nothing", DISK_BATCHES, DEPTH),
            partial(self._disk, "disk_read_depth_1", DISK_SAMPLES, 1),
            partial(self._disk, "disk_read_depth_16", DISK_BATCHES, DEPTH),
        ]
        for number, step in enumerate(rotated(steps, index)):
            step()
            done((number + 1) / len(steps))

    def _refer(
        self, row: str, memory: str, program: str, count: int, ops: int, rest_ns: int = 0
    ) -> None:
        asked = {"memory": memory, "program": program, "rest_ns": rest_ns}
        samples, counts = self._subject.ask("refer", **asked, count=count, ops=ops)
        kind = "tmem_hits" if memory in (TMEM_1, TMEM_16) else "swap_ins"
        expected = 0 if memory == RESIDENT else counts["references"]
        if counts["faults"] != expected or counts[kind] != expected or counts["ahead"]:
            raise BenchError(f"{row}: not every reference was what it should be: {counts}")
        self._sheet.add(row, samples, ops)

    def _asleep(self) -> None:
        row = "tmem_hit_depth_1_asleep"
        self._refer(row, TMEM_1, "nothing", ASLEEP_SAMPLES, 1, REST_NS)

    def _floor(self, what: str, count: int, ops: int, memory: str, row: str = "") -> None:
        samples = self._subject.ask(what, memory=memory, count=count, ops=ops)
        self._sheet.add(row or what, samples, ops)

    def _disk(self, row: str, count: int, ops: int) -> None:
        self._floor("disk_reads", count, ops, memory=DISK_1, row=row)

    def _faults(self, row: str, is_file: bool) -> None:
        asked = {"is_file": is_file, "count": FAULT_SAMPLES, "ops": FAULT_OPS}
        self._sheet.add(row, self._subject.ask("minor_faults", **asked), FAULT_OPS)


def _config() -> HypervisorConfig:
    resident = HIT_PAGES + 2 * TMEM_RESIDENT + 2 * DISK_RESIDENT
    frames = (resident // AREA_FRAMES + SPARE_AREAS) * AREA_FRAMES
    domain = DomainConfig("guest", frames, frames, frames, credit_areas=0)
    total = frames + 2 * TMEM_PAGES + SPARE_AREAS * AREA_FRAMES
    return HypervisorConfig(total_frames=total, spin_ns=SPIN_NS, domains=(domain,))
