"""``memcoord bench grant``: the cost of memory from the hypervisor beside malloc.

Owns: the hosts, the processes, and the order of the rows within a round, which rotates from round
to round. What the rows are called and what is compared stands in ``grant.plan``.
Four hypervisors run, two of pages of 4 KiB and two of 2 MiB. The roomy ones serve ``local``, which
keeps what it has, and ``credit``, whose memory is granted ahead of need. The full ones have a
``donor`` that holds all memory but the slack, and a ``taker`` that grows at the donor's expense.
One process is attached to all domains but the donors; each malloc has processes of its own.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from functools import partial
from typing import Any

from hypervisor.config import DomainConfig, HypervisorConfig
from hypervisor.public.errors import ConfigError
from hypervisor.public.units import AREA_BYTES, AREA_FRAMES, FRAME_BYTES
from memcoord.benchmarks import cpus
from memcoord.benchmarks._loops import lib
from memcoord.benchmarks.grant.malloc_guest import ALLOCATORS
from memcoord.benchmarks.grant.plan import (
    BUSY_SHARES,
    CELLS,
    FRESH,
    HUGE,
    PAUSES_MS,
    PLAN,
    SMALL,
    malloc,
    recycled,
    transfer,
)  # fmt: skip
from memcoord.benchmarks.grant.rivals import Rival, start_rivals
from memcoord.benchmarks.harness import Row, rotated
from memcoord.benchmarks.lab import BenchError, Lab
from memcoord.benchmarks.mechanisms.huge_mount import HugeMount
from memcoord.benchmarks.runner import Rounds, Setting
from memcoord.testbed.runs.facts import read_text
from memcoord.testbed.runs.launcher import start_python

__all__ = ["PLAN", "GrantBench"]

GUEST = "memcoord.benchmarks.grant.guest"
WARM_OPS = 64
WARM_SAMPLES = 400
SINGLE_SAMPLES = 4000
PYTHON_SAMPLES = 300
FRESH_SAMPLES = 6
CREDIT_SAMPLES = 16  # areas; as many are faulted in before on the side of malloc
KERNEL_SAMPLES = 4
AREA_SAMPLES = 12
HURRIED_SAMPLES = 24
SLOW_SAMPLES = 4
FRAME_AREAS = 4
IMPORT_SAMPLES = 2
DONOR_AREAS = 48
LOCAL_AREAS = 40
CREDIT_AREAS = 80
CREDIT_AHEAD_AREAS = 16  # granted ahead of need; its use is told once for half of it
SLACK_AREAS = 2
DONOR_REST_NS = 5_000_000  # between two passes of a donor's program over its memory
WARM_BYTES = FRESH_SAMPLES * AREA_BYTES
SETTLE_S = 5.0
POLL_S = 0.01
PATH_NAMES = ("local", "credit", "ring", "transfer")
IMPORTS = {
    "import_nothing": "pass", "import_frontend": "import frontend",
    "import_zmq_msgpack": "import zmq, msgpack",
}  # fmt: skip
PYTHON = ("nothing", "free_list", "bytearray", "numpy", "grant")

Step = Callable[[], None]


class Pages:
    """The two hosts of one size of pages: the full one's donor and taker, the roomy one's local."""

    def __init__(self, bench: GrantBench, lab: Lab, pages: str, huge_dir: str) -> None:
        self.pages, self._bench = pages, bench
        self.host = lab.host(f"full{pages}", _full(pages, huge_dir))
        self._donor = lab.remote(f"donor{pages}", GUEST)
        self._donor.ask("attach", run_dir=str(self.host.run_dir), name="donor")
        self.local, self.taker = f"local{pages}", f"taker{pages}"
        self.roomy = lab.host(f"roomy{pages}", _roomy(pages, huge_dir))
        bench.subject.ask("attach", run_dir=str(self.host.run_dir), name=self.taker)
        bench.subject.ask("attach", run_dir=str(self.roomy.run_dir), name=self.local)

    def steps(self) -> list[Step]:
        """The rows of this host, each a step of the round."""
        found: list[Step] = [self._of_host, self._frames]
        found += [partial(self._transfers, pause_ms=pause_ms) for pause_ms in PAUSES_MS]
        found += [partial(self._transfers, share=share) for share in BUSY_SHARES]
        return found

    def _empty(self) -> None:
        """Take all memory from donor and taker."""
        deadline = time.monotonic() + SETTLE_S
        while True:
            left = self._bench.subject.ask("give_back", key=self.taker)
            left += self._donor.ask("give_back", key="donor")
            if not left or time.monotonic() > deadline:
                return
            time.sleep(POLL_S)

    def _fill(self) -> int:
        """All memory is the donor's, used once and free in its allocator: frames with pages."""
        self._empty()
        held = self._donor.ask("fill", key="donor", areas=DONOR_AREAS)
        if held < DONOR_AREAS:
            raise BenchError(f"the donor got {held} of {DONOR_AREAS} areas")
        return self._resident()

    def _resident(self) -> int:
        return int(self._donor.ask("resident", key="donor"))

    def _of_host(self) -> None:
        self._empty()
        self._bench.subject.ask("warm", size=HURRIED_SAMPLES * AREA_BYTES)
        name = f"host_2m {self.pages}"
        self._bench.area(name, self.taker, HURRIED_SAMPLES, 0.0)

    def _frames(self) -> None:
        """Single frames, all first touches, of which one in 512 waits for a transfer."""
        if self.pages == SMALL:
            self._fill()
            samples = self._bench.subject.ask("grant_frames", key=self.taker, areas=FRAME_AREAS)
            self._bench.sheet.add("transfer_4k", samples, 1)

    def _transfers(self, pause_ms: float = 0.0, share: float = 0.0) -> None:
        before, name = self._fill(), transfer(self.pages, pause_ms, share)
        busy = round(share * DONOR_AREAS)
        if busy:
            self._donor.ask("be_busy", key="donor", areas=busy, rest_ns=DONOR_REST_NS)
        # What the donor does not use, or, when it uses all, a few more than the host has spare.
        count = min(_samples_of(pause_ms), DONOR_AREAS - busy) or 2 * SLACK_AREAS
        moved = self._bench.area(name, self.taker, count, pause_ms)
        self._check_loss(name, before, moved)
        self._donor.ask("be_idle")

    def _check_loss(self, name: str, before: int, moved: int) -> None:
        """BenchError when the donor has not really lost the memory."""
        least = max(moved - SLACK_AREAS - 2, 0) * AREA_FRAMES
        deadline = time.monotonic() + SETTLE_S
        while (gone := before - self._resident()) < least:
            if time.monotonic() > deadline:
                raise BenchError(f"{name}: of {moved} areas the donor lost {gone} frames")
            time.sleep(POLL_S)


class GrantBench(Rounds):
    """One run of the bench; ``round`` measures every row once more."""

    def __init__(self, setting: Setting) -> None:
        lab, self.sheet, self._placement = setting.lab, setting.sheet, setting.placement
        _check_memory(setting.rounds)
        self.subject = lab.remote("subject", GUEST)
        self._pages = [Pages(self, lab, SMALL, "")]
        self._roomy = self._pages[0].roomy
        self.subject.ask("attach", run_dir=str(self._roomy.run_dir), name="credit")
        huge_dir = self._huge_dir(lab)
        if huge_dir is not None:
            self._pages.append(Pages(self, lab, HUGE, huge_dir))
        self._rivals = start_rivals(lab, self.sheet)
        for host in (host for pages in self._pages for host in (pages.host, pages.roomy)):
            cpus.place(host.pid, setting.placement.serving_cpu)
        self.subject.ask("python", row="of_numpy", count=1, ops=1)  # loads numpy

    def _huge_dir(self, lab: Lab) -> str | None:
        """Where the host of huge pages gets its files; "": memfds, if the kernel collapses them."""
        try:
            return lab.enter(HugeMount()).directory_for_children
        except OSError as error:
            if lib.mc_shmem_thp() == 1:
                return ""
            self.sheet.skipped[HUGE] = f"no tmpfs with huge=always: {error.strerror}"
        return None

    def round(self, index: int, done: Callable[[float], None]) -> None:
        """Measure every row once, beginning with another one than last time."""
        steps: list[Step] = [partial(self._recycled, index, cell) for cell in CELLS]
        steps += [partial(self._single, index), partial(self._whole, index), self._python]
        steps += [partial(self._fresh, index), self._credit, self._kernel, self._imports]
        steps += [step for pages in self._pages for step in pages.steps()]
        for at, step in enumerate(rotated(steps, index), start=1):
            self._stand_still(1)
            step()
            done(at / len(steps))

    def finish(self) -> None:
        """Nothing is left to do."""

    def _stand_still(self, threads: int) -> None:
        """Put a single measuring thread on its CPU; several may use all."""
        placement = self._placement
        one, other = placement.domain_cpu, placement.serving_cpu
        self.subject.ask("place_all", cpus=[one] if threads == 1 else [one, other])
        for rival in self._rivals:
            rival.of(threads).ask("place_all", cpus=[one] if threads == 1 else [one, other])

    def _recycled(self, index: int, cell: tuple[int, int]) -> None:
        threads, live = cell
        self._stand_still(threads)
        how = {"count": WARM_SAMPLES, "ops": WARM_OPS, "live": live, "threads": threads}
        for rival in rotated([None, *self._rivals], index):
            if rival is None:
                samples = self.subject.ask("recycled", key="local4k", **how, size=FRAME_BYTES)
            else:
                samples = rival.of(threads).ask("recycled", **how, size=FRAME_BYTES)
            who = "grant_local" if rival is None else f"malloc {rival.name}"
            self.sheet.add(recycled(who, threads, live), samples, WARM_OPS)

    def _single(self, index: int) -> None:
        """Single operations of recycled memory: 4 KiB, 2 MiB, and the read of the clock."""
        one = {"ops": 1, "live": 1, "threads": 1}
        self.sheet.add("clock", self.subject.ask("empty", count=SINGLE_SAMPLES, ops=1), 1)
        for rival in rotated([None, *self._rivals], index):
            small = {**one, "count": SINGLE_SAMPLES, "size": FRAME_BYTES}
            large = {**one, "count": AREA_SAMPLES * 10, "size": AREA_BYTES}
            if rival is None:
                add = self.sheet.add
                add(
                    "grant_local_4k single", self.subject.ask("recycled", key="local4k", **small), 1
                )
                for of in self._pages:
                    samples = self.subject.ask("recycled", key=of.local, **large)
                    add(f"grant_local_2m {of.pages}", samples, 1)
            else:
                self._of_malloc(rival, "single_4k", rival.ask("recycled", **small), 1)
                self._of_malloc(rival, "recycled_2m", rival.ask("recycled", **large), 1)

    def _of_malloc(self, rival: Rival, what: str, samples: bytes, ops: int) -> Row:
        return self.sheet.add(malloc(what, rival.name), samples, ops)

    def _whole(self, index: int) -> None:
        """64 pages at a time."""
        for rival in rotated([None, *self._rivals], index):
            if rival is None:
                samples = self.subject.ask("grant_batch", key="local4k", count=WARM_SAMPLES)
                self.sheet.add("grant_batch64_4k", samples, WARM_OPS)
            else:
                self._of_malloc(rival, "256k", rival.ask("batch", count=WARM_SAMPLES), WARM_OPS)

    def _fresh(self, index: int) -> None:
        """Memory that the kernel has to give first, and a heap that it has given already."""
        pages = {"count": FRESH_SAMPLES, "ops": AREA_FRAMES, "size": FRAME_BYTES}
        areas = {"count": FRESH_SAMPLES, "ops": 1, "size": AREA_BYTES}
        for rival in rotated(self._rivals, index):
            keeps = not rival.allocator.gives_back
            before = {**pages, "count": CREDIT_SAMPLES}
            samples, faults = rival.ask("prefaulted", **before)
            row = self._of_malloc(rival, "prefaulted_4k", samples, AREA_FRAMES)
            _keep_lowest(row, "page_faults_per_page", faults)
            for what, how, ops in (("fresh_4k", pages, AREA_FRAMES), ("fresh_2m", areas, 1)):
                rival.ask("warm", size=WARM_BYTES)
                samples, faults, cpu_ns = rival.ask("malloc_fresh", **how, keeps=keeps)
                _keep_lowest(self._of_malloc(rival, what, samples, ops), "page_faults_per_page",
                             faults)  # fmt: skip
                if rival.name == FRESH[SMALL] and what == "fresh_4k":
                    ops = FRESH_SAMPLES * AREA_FRAMES
                    self.sheet.add("malloc_fresh_cpu_4k", _one(cpu_ns), ops)
            if rival.name == FRESH[SMALL]:
                rival.ask("warm", size=WARM_BYTES)
                single = {"count": AREA_FRAMES * 2, "ops": 1, "size": FRAME_BYTES}
                samples, _, _ = rival.ask("malloc_fresh", **single, keeps=False)
                self._of_malloc(rival, "fresh_4k_single", samples, 1)

    def _credit(self) -> None:
        call, add = self.subject.ask, self.sheet.add
        call("warm", size=WARM_BYTES)
        before_ns = int(lib.mcb_cpu_of(self._roomy.pid))
        samples, dry, thrown, cpu_ns, areas = call(
            "grant_credit", key="credit", count=CREDIT_SAMPLES, ops=AREA_FRAMES
        )
        cpu_ns += int(lib.mcb_cpu_of(self._roomy.pid)) - before_ns
        if areas:  # the areas that came are those that were paid for
            add("grant_cpu_4k", _one(cpu_ns // areas), AREA_FRAMES)
        if samples:
            row = add("grant_credit_4k", samples, AREA_FRAMES)
            _count(row, "credit_ran_dry", dry)
            _count(row, "samples_not_fresh", thrown)
        samples, *_ = call("grant_credit", key="credit", count=2, ops=1)
        if samples:
            add("grant_credit_4k single", samples, 1)
        call("give_back", key="credit")

    def _kernel(self) -> None:
        """What the kernel alone needs for a transfer, in one process."""
        self.subject.ask("warm", size=WARM_BYTES)
        names = "kernel_populate_2m", "kernel_map_2m", "kernel_punch_2m"
        found = self.subject.ask("populate", count=KERNEL_SAMPLES)
        for name, samples in zip(names, found, strict=True):
            self.sheet.add(name, samples, 1)

    def area(self, name: str, key: str, count: int, pause_ms: float) -> int:
        """Add a row of areas asked for; how many were granted."""
        how: dict[str, Any] = {"count": count, "pause_ns": round(pause_ms * 1e6)}
        samples, paths, refused = self.subject.ask("grant_areas", key=key, **how)
        if refused:
            row = self.sheet.add(f"{name} refused", _one(refused[0]), 1)
            _count(row, "refused", 1)
        if paths:
            row = self.sheet.add(name, samples, 1)
            for path in paths:
                _count(row, f"path_{PATH_NAMES[path]}", 1)
        return len(paths)

    def _python(self) -> None:
        warm = {"count": PYTHON_SAMPLES, "ops": WARM_OPS}
        for what in PYTHON:
            row = what if what in ("nothing", "grant") else f"of_{what}"
            key = {"key": "local4k"} if what == "grant" else {}
            samples = self.subject.ask("python", row=row, **warm, **key)
            name = "python_empty_loop" if what == "nothing" else f"python_{what}_4k"
            self.sheet.add(name, samples, WARM_OPS)

    def _imports(self) -> None:
        samples = {name: array("Q") for name in IMPORTS}
        for _ in range(IMPORT_SAMPLES):
            for name, code in IMPORTS.items():
                samples[name].append(_run_python(code))
        for name, times_ns in samples.items():
            self.sheet.add(name, times_ns.tobytes(), 1)


def _samples_of(pause_ms: float) -> int:
    if not pause_ms:
        return HURRIED_SAMPLES
    return AREA_SAMPLES if pause_ms < PAUSES_MS[-1] else SLOW_SAMPLES


def _one(value_ns: int) -> bytes:
    return array("Q", [value_ns]).tobytes()


def _roomy(pages: str, huge_dir: str) -> HypervisorConfig:
    frames, local = CREDIT_AREAS * AREA_FRAMES, LOCAL_AREAS * AREA_FRAMES
    domains = [DomainConfig(f"local{pages}", local, local, local, credit_areas=0)]
    if pages == SMALL:
        credit = DomainConfig("credit", frames, 0, frames, credit_areas=CREDIT_AHEAD_AREAS)
        domains.append(credit)
    return _config(LOCAL_AREAS + CREDIT_AREAS + SLACK_AREAS + 2, pages, huge_dir, *domains)


def _full(pages: str, huge_dir: str) -> HypervisorConfig:
    # Two areas more than the donor's and the slack: the taker's first, and the one populated ahead
    # of its next need. From then on the host is full.
    frames = DONOR_AREAS * AREA_FRAMES
    names = "donor", f"taker{pages}"
    domains = (DomainConfig(name, frames, 0, frames, credit_areas=0) for name in names)
    return _config(DONOR_AREAS + SLACK_AREAS + 2, pages, huge_dir, *domains)


def _config(areas: int, pages: str, huge_dir: str, *domains: DomainConfig) -> HypervisorConfig:
    return HypervisorConfig(
        total_frames=areas * AREA_FRAMES, slack_frames=SLACK_AREAS * AREA_FRAMES,
        tmem_max_pages=0, backing="2m" if pages == HUGE else "4k", huge_dir=huge_dir,
        domains=domains,
    )  # fmt: skip


def _check_memory(rounds: int) -> None:
    """ConfigError when the bench and what allocators keep do not fit into free memory."""
    keepers = sum(not allocator.gives_back for allocator in ALLOCATORS)
    areas = 2 * (DONOR_AREAS + LOCAL_AREAS) + CREDIT_AREAS + rounds * keepers * 2 * FRESH_SAMPLES
    wanted_bytes = 2 * areas * AREA_BYTES
    for line in read_text("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:") and int(line.split()[1]) * 1024 < wanted_bytes:
            why = f"needs {wanted_bytes >> 20} MiB of free memory: ask for fewer rounds"
            raise ConfigError("--rounds", why)


def _run_python(code: str) -> int:
    start_ns = time.perf_counter_ns()
    returncode = start_python("-c", code).wait()  # with a limit it would poll, which costs time
    elapsed_ns = time.perf_counter_ns() - start_ns
    if returncode:
        raise BenchError(f"python -c {code!r} ended with {returncode}")
    return elapsed_ns


def _count(row: Row, key: str, more: int) -> None:
    row.extra[key] = row.extra.get(key, 0) + more


def _keep_lowest(row: Row, key: str, value: float) -> None:
    row.extra[key] = round(min(value, row.extra.get(key, value)), 3)
