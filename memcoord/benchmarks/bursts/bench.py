"""``memcoord bench bursts``: bursty demand against every way to resize a domain.

Owns: the hosts, whoever resizes by hand, and the rows: MECHANISM SERIES, the waits of one series'
requests, with what was held idle for it. ``direct`` is measured with several depths of credit.
A host has free memory for all a domain may want. A real guest follows the series: a request for
some areas waits until the last of them is granted and a frame of each was touched (until all frames
were: ``touched_p99_ns``); later it frees them. A mechanism whose guest cannot ask is resized by
hand the moment the guest wants more, which no policy could do better. What guests leave unused is
taken back every HAND_S, from all of them, but for the credit they are to have.
Held idle is what the host has spent on the domain beyond what it uses: granted, or populated ahead.
Missed: not granted within MISSED_NS; such a request is given up.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from hypervisor.public.backend import DomainSpec
from hypervisor.public.errors import MemcoordError
from hypervisor.public.units import AREA_FRAMES, FRAME_BYTES
from memcoord.benchmarks import cpus
from memcoord.benchmarks.bursts.demand import EXCERPT, PEAK_AREAS, SERIES, Step, demand, excerpt
from memcoord.benchmarks.harness import BenchPlan, Row, Sheet
from memcoord.benchmarks.lab import Lab, Remote
from memcoord.benchmarks.mechanisms.bench import VARIANTS
from memcoord.benchmarks.mechanisms.stage import Guest, Stage, Variant

ROUNDS = 2
MISSED_NS = 100_000_000
LIMITS_NS = {"under_10us": 10_000, "under_1ms": 1_000_000, "under_100ms": MISSED_NS}
CREDITS = (0, 1, 2, 4, 8)
SLACK_AREAS, SPARE_AREAS = 2, 8
BASE_AREAS = 4
HAND_S = 0.02
LOOK_MS = 2
LOWER_S, LOWER_POLL_S = 0.005, 0.0002
SETTLE_S = 5.0
CREDIT_S = 0.05
GIB = float(1 << 30)


@dataclass(frozen=True)
class Subject:
    """A row's mechanism, and the credit its domain gets."""

    name: str
    variant: Variant
    credit_areas: int = 0

    @property
    def patience_s(self) -> float:
        """How long the guest needs to give memory up, where it has to be asked."""
        return LOWER_S if self.variant.name == "cmm dom0" else 0.0


def _subjects() -> tuple[Subject, ...]:
    direct, *others = VARIANTS
    return (
        *(Subject(f"direct credit {depth}", direct, depth) for depth in CREDITS),
        *(Subject(variant.name, variant) for variant in others),
    )


SUBJECTS = _subjects()
#: What the rivals are compared with: what a domain gets that asks for nothing special.
OURS = "direct credit 1"


def _of_extra(over: str, under: str, key: str, sheet: Sheet) -> float | None:
    values = [sheet.rows[name].extra.get(key) for name in (over, under) if name in sheet.rows]
    return values[0] / values[1] if len(values) == 2 and values[0] and values[1] else None


def _plan() -> BenchPlan:
    formulas: dict[str, Callable[[Sheet], float | None]] = {}
    for series in SERIES:
        for subject in SUBJECTS:
            if subject.name != OURS:
                rows = f"{subject.name} {series}", f"{OURS} {series}"
                key = f"{subject.name}/{OURS} {series}"
                formulas[f"{key} p99"] = partial(_of_extra, *rows, "granted_p99_ns")
                formulas[f"{key} held idle"] = partial(_of_extra, *rows, "held_idle_gib_s")
    return BenchPlan(
        bench="bursts",
        targets={},
        also=tuple(formulas),
        notes={},
        skippable=tuple(subject.name for subject in SUBJECTS),
        formulas=formulas,
        rounds=ROUNDS,
    )


PLAN = _plan()


class Hand:
    """Whoever resizes by hand: grows who pleads, and takes back what is left unused."""

    def __init__(self, stage: Stage, vm: Guest, subject: Subject, most_areas: int) -> None:
        self._stage, self._vm, self._subject = stage, vm, subject
        self._base = subject.variant.round_up(BASE_AREAS)
        self._most = most_areas * AREA_FRAMES
        self._target = self._base * AREA_FRAMES
        self._waste: list[tuple[int, int]] = []  # (when, frames held idle)

    def watch(self, running: Future[Any]) -> None:
        """Do so, and note what is held idle, until ``running`` is done."""
        poll, next_s = select.poll(), time.monotonic() + HAND_S
        poll.register(self._stage.plea_fd, select.POLLIN)
        while not running.done():
            if poll.poll(LOOK_MS):
                os.eventfd_read(self._stage.plea_fd)
                self._follow(self._wanted())
            self._note()
            if time.monotonic() >= next_s:
                self._take_back()
                next_s = time.monotonic() + HAND_S

    def open(self) -> None:
        """Permit a guest that asks all there is."""
        if self._subject.variant.asks:
            self._stage.backend.set_target(self._vm.domid, self._most)

    def held_idle_gib_s(self) -> float:
        """GiB times seconds."""
        held = np.array(self._waste, dtype=np.float64)
        if len(held) < 2:
            return 0.0
        return float((np.diff(held[:, 0]) * held[:-1, 1]).sum()) / 1e9 * FRAME_BYTES / GIB

    def _wanted(self) -> int:
        used = self._vm.now().guest_used_frames
        wanted = self._subject.variant.round_up(-(-used // AREA_FRAMES))
        return min(max(wanted, self._base) * AREA_FRAMES, self._most)

    def _follow(self, frames: int) -> None:
        if frames != self._target:
            self._stage.backend.set_target(self._vm.domid, frames)
        self._target = frames

    def _take_back(self) -> None:
        wanted = self._wanted()
        if not self._subject.variant.asks:
            self._follow(wanted)
            return
        wanted += (self._subject.credit_areas + 1) * AREA_FRAMES
        now = self._vm.now().current_frames
        if now <= wanted:
            return
        # Lower, and permit all again: what is free is taken at once, or the guest is asked for it.
        self._stage.backend.set_target(self._vm.domid, min(wanted, self._most))
        until = time.monotonic() + self._subject.patience_s
        while time.monotonic() < until and self._wanted() < wanted:
            if self._vm.now().current_frames <= wanted:
                break
            time.sleep(LOWER_POLL_S)
        self._stage.backend.set_target(self._vm.domid, self._most)

    def _note(self) -> None:
        host = self._stage.backend.snapshot()
        used = next(d for d in host.domains if d.domid == self._vm.domid).guest_used_frames
        spent = host.total_frames - host.free_frames
        self._waste.append((time.monotonic_ns(), max(spent - used, 0)))


class BurstsBench:
    """One run; ``round`` measures every row once more."""

    def __init__(self, lab: Lab, sheet: Sheet, placement: cpus.Placement) -> None:
        self._sheet = sheet
        self._vm: Remote = lab.remote("vm1")
        self._steps = len(SUBJECTS) * len(SERIES)
        if not excerpt(0):
            sheet.facts["bitbrains"] = f"{EXCERPT} is not there: a random walk stands in"
        cpus.place(self._vm.pid, placement.domain_cpu)

    def round(self, index: int, done: Callable[[float], None]) -> None:
        """Every mechanism against the same series; another seed every round."""
        step = 0
        for series in SERIES:
            steps = demand(series, index)
            for subject in SUBJECTS:
                if subject.name not in self._sheet.skipped:
                    try:
                        self._run(subject, series, steps)
                    except MemcoordError as error:
                        self._skip(subject, error)
                step += 1
                done(index + step / self._steps)

    def _skip(self, subject: Subject, error: MemcoordError) -> None:
        if subject.name == OURS:
            raise error
        last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        self._sheet.skipped[subject.name] = f"not available: {last}"

    def _run(self, subject: Subject, series: str, steps: list[Step]) -> None:
        variant = subject.variant
        base = variant.round_up(BASE_AREAS)
        most = base + variant.round_up(PEAK_AREAS + subject.credit_areas)
        with Stage(most + SLACK_AREAS + SPARE_AREAS, SLACK_AREAS, "", "") as stage:
            spec = DomainSpec(
                "vm1",
                most * AREA_FRAMES,
                base * AREA_FRAMES,
                base * AREA_FRAMES,
                credit_areas=subject.credit_areas,
                mechanism=variant.mechanism,
                options={**variant.options, **variant.by_itself},
            )
            vm = stage.guest(self._vm, spec)
            plea = stage.plead(vm)
            vm.call("fill", frames=base * AREA_FRAMES, asks=False)
            hand = Hand(stage, vm, subject, most)
            hand.open()
            stage.settle(vm, SETTLE_S)
            time.sleep(CREDIT_S if subject.credit_areas else 0)
            running = vm.start(
                "demand", steps=steps, asks=variant.asks, plea_fd=plea, missed_ns=MISSED_NS
            )
            hand.watch(running)
            granted, touched = running.result()
        self._add(f"{subject.name} {series}", granted, touched, hand.held_idle_gib_s())

    def _add(self, name: str, granted: bytes, touched: bytes, held_gib_s: float) -> None:
        row = self._sheet.add(name, waits(granted), 1)
        row.extra.setdefault("touched_ns", []).append(waits(touched))
        row.extra.setdefault("held_gib_s", []).append(held_gib_s)


def waits(raw: bytes) -> bytes:
    """Waits as measured, but MISSED_NS for a request that was not granted by then."""
    times = np.frombuffer(raw, np.uint64)
    missed = (times == 0) | (times > MISSED_NS)
    return np.where(missed, np.uint64(MISSED_NS), times).astype(np.uint64).tobytes()


def summarise(row: Row) -> None:
    """The fractions of a row, from its samples; missed is what is left."""
    samples = row.samples()
    touched = np.frombuffer(b"".join(row.extra.pop("touched_ns")), np.uint64)
    served = {key: float((samples < limit).mean()) for key, limit in LIMITS_NS.items()}
    row.extra |= {key: round(value, 4) for key, value in served.items()}
    row.extra["missed"] = round(1 - served["under_100ms"], 4)
    row.extra["held_idle_gib_s"] = round(float(np.mean(row.extra.pop("held_gib_s"))), 4)
    for key, of in (("granted_p99_ns", samples), ("touched_p99_ns", touched)):
        row.extra[key] = round(float(np.quantile(of, 0.99, method="inverted_cdf")))


def run(
    lab: Lab,
    sheet: Sheet,
    rounds: int,
    placement: cpus.Placement,
    done: Callable[[float], None],
) -> None:
    """Measure ``rounds`` rounds into ``sheet``; ``done`` hears how many are complete."""
    bench = BurstsBench(lab, sheet, placement)
    with cpus.running_on(placement.serving_cpu):  # the backend's threads inherit it
        for index in range(rounds):
            bench.round(index, done)
    for row in sheet.rows.values():
        summarise(row)
