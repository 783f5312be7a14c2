"""The rows of ``memcoord bench mechanisms`` for one mechanism on one kind of pages.

Owns: the steps taken with real domains, their order, and the row each sample goes to. Every group
of rows has a host of its own, made and ended here, so that no group leaves anything to the next.
Rules: the processes ``vm1``, ``vm2`` and ``vm3`` stay for the whole bench. A guest that is timed
runs on the domain's CPU, all of it, as a machine of one CPU would; the backend on the serving one.
"""

from __future__ import annotations

import mmap
import time
from array import array
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

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
CALM_S = 0.2
LOOP_S = 0.5
BUSY_S = 0.4
BUSY_BATCHES_MAX = 64  # of transfers beside one loop
SAMPLES_MIN = 10
MADV_POPULATE_WRITE = 23
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
        warm_up()
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
                    self._loop(full, f"{role} {what}", guest, what)

    def _loop(self, full: Full, row: str, vm: StagedGuest, what: str) -> None:
        """Undisturbed, and beside transfers. A donor that is measured has one batch to give; beside
        a bystander it is given its memory back between two batches, which does not count."""
        loop, windows = {"what": what, "frames": full.loop_frames}, []
        full.reset()
        _, calm = vm.ask("loop", **loop, run_s=CALM_S)
        running, until = vm.start("loop", **loop, run_s=LOOP_S), time.monotonic() + BUSY_S
        for _ in range(1 if vm is full.donor else BUSY_BATCHES_MAX):
            times = full.transfers(0.0, until - time.monotonic())
            if times:
                windows.append((times[0][0], times[-1][1]))
            if vm is full.donor or time.monotonic() >= until:
                break
            cpus.place(self._donor_vm.pid, self._scene.placement.serving_cpu)
            full.reset()
            cpus.place(self._donor_vm.pid, self._scene.placement.domain_cpu)
        began_ns, samples = running.result()
        ops = CHUNK_FRAMES if what == "stream" else CHURN_FRAMES
        self._add(f"{row} undisturbed", calm, ops)
        self._add(f"{row} resizing", _within(began_ns, samples, windows), ops)

    def beside_zeroing(self, zeroes: Callable[[Pages, float], None]) -> None:
        """What a bystander gets done beside ``zeroes`` alone, on the CPU of the backend."""
        cpus.place(self._bystander_vm.pid, self._scene.placement.domain_cpu)
        with self._full(self._bystander_vm) as full:
            for what in ("stream", "churn"):
                loop = {"what": what, "frames": full.loop_frames}
                _, calm = full.bystander.ask("loop", **loop, run_s=CALM_S)
                running = full.bystander.start("loop", **loop, run_s=BUSY_S)
                zeroes(self._pages, BUSY_S)
                _, samples = running.result()
                ops = CHUNK_FRAMES if what == "stream" else CHURN_FRAMES
                for state, found in (("undisturbed", calm), ("resizing", samples)):
                    row = f"kernel bystander {what} {state} {self._pages.backing}"
                    self._scene.sheet.add(row, found, ops)

    def _full(self, bystander: Remote | None = None) -> Full:
        vms = (self._donor_vm, self._asker_vm, bystander)
        return Full(self._variant, self._spec, self._stage, *vms)


def warm_up() -> None:
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


def _within(began_ns: int, samples: bytes, windows: list[tuple[int, int]]) -> bytes:
    """The samples that began within one of these times; all when that is hardly any."""
    times = np.frombuffer(samples, np.uint64)
    begins = began_ns + np.cumsum(times) - times
    inside = np.zeros(times.size, dtype=bool)
    for first_ns, last_ns in windows:
        inside |= (begins >= first_ns) & (begins < last_ns)
    found = times[inside]
    return (found if found.size >= SAMPLES_MIN else times).tobytes()
