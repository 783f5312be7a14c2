"""The rows of ``memcoord bench mechanisms`` for one mechanism on one kind of pages.

Owns: the steps taken with real domains, their order, and the row each sample goes to. Every group
of rows has a host of its own, made and ended here, so that no group leaves anything to the next.
Rules: the processes ``vm1``, ``vm2`` and ``vm3`` stay for the whole bench. A guest that is timed
runs on the domain's CPU, all of it, as a machine of one CPU would; the backend on the serving one.
"""

from __future__ import annotations

import itertools
import mmap
import os
import time
from array import array
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from hypervisor.public.backend import DomainSpec
from hypervisor.public.units import AREA_BYTES, AREA_FRAMES, FRAME_BYTES
from memcoord.benchmarks import cpus
from memcoord.benchmarks._loops import lib
from memcoord.benchmarks.harness import Sheet
from memcoord.benchmarks.mechanisms.stage import Stage, StagedGuest, Variant
from memcoord.benchmarks.mechanisms.transfer import BASE_AREAS, SLACK_AREAS, Full
from memcoord.benchmarks.neighbours import Neighbours
from memcoord.testbed.runs.remote import Remote

SIZE_AREAS = 128
SPARE_AREAS = 16
FIRST_AREAS = 8
FIRST_SAMPLES = 3
FIRST_S = 10.0
REST_S = 0.004
CALM_S = 0.06
LOOP_S = 0.16
BUSY_S = 0.12
POLICY_S = 0.02
SAMPLE_S = 0.002
SAMPLES_MIN = 10
MADV_POPULATE_WRITE = 23
GIB_MIN = float(1 << 30) * 60
CHUNK_FRAMES = int(lib.MCB_CHUNK_FRAMES)
CHURN_FRAMES = int(lib.MCB_CHURN_FRAMES * lib.MCB_CHURN_TIMES)


class Pages(NamedTuple):
    """The pages of the domains' memory, "4k" or "2m", and the tmpfs they come from or ""."""

    backing: str
    directory: str


@dataclass(frozen=True)
class Scene:
    """The sheet, processes and CPUs shared by the rows of all mechanisms."""

    sheet: Sheet
    vms: tuple[Remote, Remote, Remote]
    placement: cpus.Placement
    neighbours: Neighbours


class Rows:
    """One mechanism on one kind of pages."""

    def __init__(self, scene: Scene, variant: Variant, pages: Pages) -> None:
        self._scene, self._variant, self._pages = scene, variant, pages
        self._donor_vm, self._asker_vm, self._bystander_vm = scene.vms
        self._base = variant.round_up(BASE_AREAS)

    def _row(self, what: str) -> str:
        return f"{self._variant.name} {what} {self._pages.backing}"

    def _add(self, what: str, samples: bytes, ops: int) -> None:
        self._scene.sheet.add(self._row(what), samples, ops)

    def _note(self, what: str, key: str, value: float) -> None:
        """Add to the facts of a row that come once a round."""
        extra = self._scene.sheet.rows[self._row(what)].extra
        extra.setdefault(key, []).append(round(value, 6))

    def _stage(self, areas: int) -> Stage:
        return Stage(areas, SLACK_AREAS, self._pages.backing, self._pages.directory)

    def _spec(self, name: str, most: int, target: int, **options: int) -> DomainSpec:
        # No credit: memory granted ahead of need would be there before the clock starts.
        return self._variant.spec(name, most, self._base, target, **options)

    # Resizing

    def resize(self) -> None:
        """Grow, shrink without having used it, grow and use, shrink after use; first frame."""
        cpus.place(self._donor_vm.pid, self._scene.placement.domain_cpu)
        _warm_up()
        with self._stage(SIZE_AREAS + SPARE_AREAS) as stage:
            vm = stage.guest(self._donor_vm, self._spec("vm1", SIZE_AREAS, self._base))
            base, size = self._base * AREA_FRAMES, SIZE_AREAS * AREA_FRAMES
            self._first(stage, vm)
            self._change("grow", stage, vm, size)
            self._change("shrink untouched", stage, vm, base)
            grown = stage.resize(vm, size)
            cpu_ns = vm.cpu_ns() + time.process_time_ns()
            elapsed_ns = int(vm.ask("fill", frames=size, asks=self._variant.asks))
            cpu_ns = vm.cpu_ns() + time.process_time_ns() - cpu_ns
            self._add("grow and touch", _ns(grown.elapsed_ns + elapsed_ns), SIZE_AREAS)
            self._note("grow and touch", "huge_share", vm.ask("huge_share"))
            self._add("cpu grow and touch", _ns(grown.cpu_ns + cpu_ns), SIZE_AREAS)
            vm.ask("give", count=size)
            self._change("shrink touched", stage, vm, base, cpu=True)
            stage.resize(vm, base + 1)
            granule_kib = (vm.now().target_frames - base) * FRAME_BYTES // 1024
            self._scene.sheet.rows[self._row("shrink touched")].extra["granule_kib"] = granule_kib

    def _change(
        self, what: str, stage: Stage, vm: StagedGuest, frames: int, cpu: bool = False
    ) -> None:
        done = stage.resize(vm, frames)
        areas = done.moved_frames // AREA_FRAMES
        self._add(what, _ns(done.elapsed_ns), areas)
        if cpu:
            self._add(f"cpu {what}", _ns(done.cpu_ns), areas)
        if done.beyond_frames:
            self._note(what, "resident_beyond_frames", done.beyond_frames)

    def _first(self, stage: Stage, vm: StagedGuest) -> None:
        """From a new target to the first frame of it that the guest has touched."""
        base = self._base * AREA_FRAMES
        more = base + self._variant.round_up(FIRST_AREAS) * AREA_FRAMES
        samples, plea = array("Q"), vm.plead()
        held = int(vm.ask("exhaust"))
        for _ in range(FIRST_SAMPLES):
            once = {"frames": 1, "count": 1, "rest_s": 0.0, "run_s": FIRST_S}
            waiting = vm.start("transfers", **once, asks=self._variant.asks, plea_fd=plea)
            grow = partial(stage.backend.set_target, vm.domid, more)
            ((_, ended_ns),) = stage.serve(waiting, grow)
            samples.append(ended_ns - vm.now().set_ns)
            stage.settle(vm)
            vm.ask("give", count=1)
            stage.resize(vm, base)
        self._add("first frame", samples.tobytes(), 1)
        vm.ask("give", count=held)

    # Transfers

    def transfer(self, batches: int) -> None:
        """2 MiB out of an idle donor, again and again, by the asker's clock."""
        cpus.place(self._asker_vm.pid, self._scene.placement.domain_cpu)
        with self._full() as full:
            for _ in range(batches):
                full.reset()
                self._add_times("transfer", full.transfers(REST_S))

    def transfer_among_neighbours(self) -> None:
        """The same while others want the CPUs."""
        cpus.place(self._asker_vm.pid, self._scene.placement.domain_cpu)
        neighbours = self._scene.neighbours
        with self._full() as full:
            full.reset()
            with neighbours.running(len(neighbours)):
                times = full.transfers(REST_S)
        self._add_times(f"transfer {len(neighbours)} neighbours", times)

    def _add_times(self, what: str, times: list[tuple[int, int]]) -> None:
        self._add(what, array("Q", [end - begin for begin, end in times]).tobytes(), 1)

    def interference(self) -> None:
        """The work a donor, and a bystander, get done while memory moves as fast as it goes."""
        cpus.place(self._asker_vm.pid, self._scene.placement.serving_cpu)
        for vm in (self._donor_vm, self._bystander_vm):
            cpus.place(vm.pid, self._scene.placement.domain_cpu)
        with self._full(self._bystander_vm) as full:
            for role, guest in (("bystander", full.bystander), ("donor", full.donor)):
                for what in ("stream", "churn"):
                    full.reset()
                    self._loop(full, f"{role} {what}", guest, what)

    def _loop(self, full: Full, row: str, vm: StagedGuest, what: str) -> None:
        loop = {"what": what, "frames": full.loop_frames}
        _, calm = vm.ask("loop", **loop, run_s=CALM_S)
        running = vm.start("loop", **loop, run_s=LOOP_S)
        times = full.transfers(0.0, BUSY_S)
        began_ns, samples = running.result()
        ops = CHUNK_FRAMES if what == "stream" else CHURN_FRAMES
        self._add(f"{row} undisturbed", calm, ops)
        within = _within(began_ns, samples, times[0][0], times[-1][1])
        self._add(f"{row} resizing", within, ops)

    def _full(self, bystander: Remote | None = None) -> Full:
        vms = (self._donor_vm, self._asker_vm, bystander)
        return Full(self._variant, self._spec, self._stage, *vms)

    # A job

    def job(self) -> None:
        """Footprint of a build-like job under a policy that follows the use the guest reports."""
        cpus.place(self._donor_vm.pid, self._scene.placement.domain_cpu)
        with self._stage(SIZE_AREAS + SPARE_AREAS) as stage:
            spec = self._spec("vm1", SIZE_AREAS, self._base, **self._variant.by_itself)
            vm = stage.guest(self._donor_vm, spec)
            running = vm.start("job", asks=self._variant.asks)
            resident = _follow(stage, vm, running)
            elapsed, used = running.result()
        self._add("job", elapsed, 1)
        wide = SIZE_AREAS * AREA_BYTES * int.from_bytes(elapsed, "little") / 1e9 / GIB_MIN
        used_bytes = [(at, frames * FRAME_BYTES) for at, frames in used]
        self._note("job", "gib_min", _integral(resident))
        self._note("job", "gib_min_used", _integral(used_bytes))
        self._note("job", "gib_min_static", wide)


def _warm_up() -> None:
    """Use as much memory as will be measured, and free it, before any clock runs.

    A machine that is virtual itself may have given that memory back to its own host (free page
    reporting), and getting it again takes time that is not the mechanism's.
    """
    with mmap.mmap(-1, (SIZE_AREAS + 1) * AREA_BYTES, mmap.MAP_PRIVATE) as memory:
        with suppress(OSError):  # without huge pages, or before Linux 5.14: the touches do it
            memory.madvise(mmap.MADV_HUGEPAGE)
            memory.madvise(MADV_POPULATE_WRITE)
        for page in range(0, len(memory), FRAME_BYTES):
            memory[page] = 1


def _ns(value: int) -> bytes:
    return array("Q", [value]).tobytes()


def _within(began_ns: int, samples: bytes, first_ns: int, last_ns: int) -> bytes:
    """The samples that began between two times; all of them when that is hardly any."""
    times = np.frombuffer(samples, np.uint64)
    begins = began_ns + np.cumsum(times) - times
    found = times[(begins >= first_ns) & (begins < last_ns)]
    return (found if found.size >= SAMPLES_MIN else times).tobytes()


def _follow(stage: Stage, vm: StagedGuest, running: Future[Any]) -> list[tuple[int, int]]:
    """Have the target follow use, an eighth above it; (when, resident bytes) all the while."""
    base, size = BASE_AREAS * AREA_FRAMES, SIZE_AREAS * AREA_FRAMES
    resident, next_s, target = [], 0.0, base
    while not running.done():
        resident.append((time.monotonic_ns(), os.fstat(vm.ram_fd).st_blocks * 512))
        if time.monotonic() >= next_s:
            next_s = time.monotonic() + POLICY_S
            used = vm.now().guest_used_frames
            wanted = min(max(used + used // 8 + AREA_FRAMES, base), size)
            if wanted != target:
                stage.backend.set_target(vm.domid, wanted)
            target = wanted
        time.sleep(SAMPLE_S)
    return resident


def _integral(series: list[tuple[int, int]]) -> float:
    """GiB times minutes of bytes over nanoseconds, each value until the next."""
    pairs = itertools.pairwise(series)
    return sum(value * (after - at) / 1e9 for (at, value), (after, _) in pairs) / GIB_MIN
