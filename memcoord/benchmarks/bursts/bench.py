"""``memcoord bench bursts``: bursty demand against every way to resize a domain.

Owns: the hosts, the resizing by hand, and the rows. A row MECHANISM SERIES holds the waits of the
requests of one series, and the memory held idle for them. ``direct`` is measured with several
depths of credit.
The series are drawn from laws (``demand``), or are what real programs wanted (``recorded``): then
time is as it was, and the row MECHANISM bursts of PROGRAM has the stall of every burst, the row
MECHANISM bursts of programs that of all of them. *held* is a domain that boots with all of it.
Every host has free memory for all that a domain may want. A real guest follows the series: a
request for some areas waits until the last of them is granted and a frame of each was touched
(until all frames were: ``touched_p99_ns``); later the guest frees them. A mechanism whose guest
cannot ask is resized by hand the moment the guest wants more, which no policy could do better. The
bench takes unused memory back every HAND_S, from all candidates, but for the credit of the domain.
Held idle is the memory the host has spent on the domain beyond the memory the domain uses: granted,
or populated ahead. Missed is a request not granted within MISSED_NS; the guest gives it up.
"""

from __future__ import annotations

import itertools
import os
import select
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from hypervisor.public.errors import MemcoordError
from hypervisor.public.units import AREA_FRAMES, FRAME_BYTES
from memcoord.benchmarks import cpus
from memcoord.benchmarks.bursts import recorded
from memcoord.benchmarks.bursts.demand import EXCERPT, PEAK_AREAS, SERIES, demand, excerpt
from memcoord.benchmarks.bursts.recorded import PROGRAMS, Replay
from memcoord.benchmarks.harness import (
    BenchPlan,
    Formula,
    Row,
    Sheet,
    of_rows,
    quantile_ratio,
    rotated,
)
from memcoord.benchmarks.mechanisms.bench import VARIANTS
from memcoord.benchmarks.mechanisms.stage import Stage, StagedGuest, Variant
from memcoord.benchmarks.runner import Rounds, Setting
from memcoord.testbed.report.intervals import median_interval

GUEST = "memcoord.benchmarks.bursts.guest"
ROUNDS = 6
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
class Candidate:
    """The mechanism of a row, and the credit of its domain."""

    name: str
    variant: Variant
    credit_areas: int = 0
    is_held: bool = False  # boots with all that it will want, and is never resized

    @property
    def patience_s(self) -> float:
        """Seconds a guest that has to be asked for memory may take to give it up."""
        return LOWER_S if self.variant.name == "cmm dom0" else 0.0


def _candidates() -> tuple[Candidate, ...]:
    direct, *others = VARIANTS
    return (
        Candidate("held", direct, is_held=True),
        *(Candidate(f"direct credit {depth}", direct, depth) for depth in CREDITS),
        *(Candidate(variant.name, variant) for variant in others),
    )


CANDIDATES = _candidates()
#: The others are compared with this one: the default settings of a domain.
OURS = "direct credit 1"
ALL = "programs"


@dataclass(frozen=True)
class Sizes:
    """What a round has: series, programs and the seconds of each that are replayed, candidates."""

    series: tuple[str, ...] = SERIES
    programs: tuple[str, ...] = PROGRAMS
    window_s: float = 2.0
    candidates: tuple[str, ...] = tuple(candidate.name for candidate in CANDIDATES)


FULL = Sizes()
QUICK = Sizes(
    series=(), window_s=1.0,
    candidates=("held", OURS, "balloon", "virtio-mem", "cmm hypervisor"),
)  # fmt: skip


def burst_row(candidate: str, program: str = ALL) -> str:
    """The row of stalls; without a program, of all of them."""
    return f"{candidate} bursts of {program}"


def _of_extra(over: str, under: str, key: str, sheet: Sheet) -> float | None:
    values = [sheet.rows[name].extra.get(key) for name in (over, under) if name in sheet.rows]
    return values[0] / values[1] if len(values) == 2 and values[0] and values[1] else None


def _mean_stall(over: str, under: str) -> Formula:
    return of_rows(over, under, lambda a, b: float(a.samples().mean() / b.samples().mean()))


def _plan() -> BenchPlan:
    formulas: dict[str, Formula] = {}
    for candidate in CANDIDATES:
        if candidate.name != OURS:
            rows = burst_row(candidate.name), burst_row(OURS)
            key = f"{candidate.name}/{OURS} bursts of programs"
            formulas[f"{key} mean stall"] = _mean_stall(*rows)
            formulas[f"{key} p90 stall"] = quantile_ratio(rows[0], 0.9, rows[1], 0.9)
    for series, candidate in itertools.product(SERIES, CANDIDATES):
        if candidate.name != OURS:
            rows = f"{candidate.name} {series}", f"{OURS} {series}"
            key = f"{candidate.name}/{OURS} {series}"
            formulas[f"{key} p99"] = partial(_of_extra, *rows, "granted_p99_ns")
            formulas[f"{key} held idle"] = partial(_of_extra, *rows, "held_idle_gib_s")
    names = tuple(candidate.name for candidate in CANDIDATES)
    return BenchPlan("bursts", skippable=names, formulas=formulas, rounds=ROUNDS, resampled=True)


PLAN = _plan()


class Hand:
    """Resizes by hand: grows a domain whose guest pleads, and takes unused memory back."""

    def __init__(
        self, stage: Stage, vm: StagedGuest, candidate: Candidate, most_areas: int
    ) -> None:
        self._stage, self._vm, self._candidate = stage, vm, candidate
        self._base = candidate.variant.round_up(BASE_AREAS)
        self._most = most_areas * AREA_FRAMES
        self._target = self._base * AREA_FRAMES
        self._waste: list[tuple[int, int]] = []  # (when, frames held idle)

    def watch(self, running: Future[Any]) -> None:
        """Resize, and note the frames held idle, until ``running`` is done."""
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

    def held_idle_gib_s(self) -> float:
        """GiB times seconds."""
        held = np.array(self._waste, dtype=np.float64)
        if len(held) < 2:
            return 0.0
        return float((np.diff(held[:, 0]) * held[:-1, 1]).sum()) / 1e9 * FRAME_BYTES / GIB

    def _wanted(self) -> int:
        used = self._vm.now().guest_used_frames
        wanted = self._candidate.variant.round_up(-(-used // AREA_FRAMES))
        return min(max(wanted, self._base) * AREA_FRAMES, self._most)

    def _follow(self, frames: int) -> None:
        if frames != self._target:
            self._stage.backend.set_target(self._vm.domid, frames)
        self._target = frames

    def _take_back(self) -> None:
        wanted = self._wanted()
        if self._candidate.is_held:
            return
        if not self._candidate.variant.asks:
            self._follow(wanted)
            return
        wanted += (self._candidate.credit_areas + 1) * AREA_FRAMES
        now = self._vm.now().current_frames
        if now <= wanted:
            return
        # Lower the target, then permit all again: the mechanism takes free memory at once, or asks
        # the guest for it.
        self._stage.backend.set_target(self._vm.domid, min(wanted, self._most))
        until = time.monotonic() + self._candidate.patience_s
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


class BurstsBench(Rounds):
    """One run; ``round`` measures every row once more."""

    def __init__(self, setting: Setting, sizes: Sizes | None = None) -> None:
        self._sheet, self._sizes = setting.sheet, sizes or FULL
        sizes = self._sizes
        self._replays = {name: recorded.replay(name, sizes.window_s) for name in sizes.programs}
        self._sheet.facts["replayed"] = {
            name: {"seconds": sizes.window_s, "bursts": len(replay.bursts),
                   "peak_areas": replay.peak_areas, "scale": replay.scale}
            for name, replay in self._replays.items()
        }  # fmt: skip
        self._vm = setting.lab.remote("vm1", GUEST)
        if not excerpt(0):
            self._sheet.facts["bitbrains"] = f"{EXCERPT} is not there: a random walk stands in"
        cpus.place(self._vm.pid, setting.placement.domain_cpu)
        # The backend's threads inherit it; every process of the bench has been started.
        setting.lab.enter(cpus.running_on(setting.placement.serving_cpu))

    def round(self, index: int, done: Callable[[float], None]) -> None:
        """Every mechanism against the same series; another seed every round."""
        chosen = [one for one in CANDIDATES if one.name in self._sizes.candidates]
        series = (*self._sizes.series, *self._replays)
        steps = rotated(list(itertools.product(series, chosen)), index)
        for step, (name, candidate) in enumerate(steps, start=1):
            if candidate.name not in self._sheet.skipped:
                try:
                    self._run(candidate, name, index)
                except MemcoordError as error:
                    if candidate.name == OURS:
                        raise
                    self._sheet.skip(candidate.name, error)
            done(step / len(steps))
        for candidate in chosen:
            self._all_programs(candidate.name)

    def _all_programs(self, candidate: str) -> None:
        """One row of this round's bursts of all programs, unless some are missing."""
        rows = [self._sheet.rows.get(burst_row(candidate, name)) for name in self._replays]
        found = [row for row in rows if row is not None]
        if candidate in self._sheet.skipped or not found:
            return
        stalls = np.concatenate([row.rounds[-1] for row in found]).astype(np.uint64)
        row = self._sheet.add(burst_row(candidate), stalls.tobytes(), 1)
        counts = [row.rounds[-1].size for row in found]
        shares = [row.extra["in_time"][-1] for row in found]
        share = float(np.average(shares, weights=counts))
        row.extra.setdefault("in_time", []).append(share)

    def finish(self) -> None:
        """Turn the samples of each row into its fractions."""
        for row in self._sheet.rows.values():
            (summarise_bursts if "in_time" in row.extra else summarise)(row)

    def _run(self, candidate: Candidate, series: str, seed: int) -> None:
        replay = self._replays.get(series)
        steps = demand(series, seed) if replay is None else replay.steps
        peak = PEAK_AREAS if replay is None else replay.peak_areas
        variant = candidate.variant
        base = variant.round_up(BASE_AREAS)
        most = base + variant.round_up(peak + candidate.credit_areas)
        boot = most if candidate.is_held else base
        spec = variant.spec("vm1", most, boot, boot, candidate.credit_areas, **variant.by_itself)
        with Stage(most + SLACK_AREAS + SPARE_AREAS, SLACK_AREAS, "", "") as stage:
            vm = stage.guest(self._vm, spec)
            plea = vm.plead()
            vm.ask("fill", frames=base * AREA_FRAMES, asks=False)
            hand = Hand(stage, vm, candidate, most)
            if candidate.is_held:
                vm.ask("refill", limit=most * AREA_FRAMES, asks=False)
            if variant.asks:  # such a guest is permitted all its memory
                stage.backend.set_target(vm.domid, most * AREA_FRAMES)
            stage.settle(vm, SETTLE_S)
            time.sleep(CREDIT_S if candidate.credit_areas else 0)
            running = vm.start(
                "demand", steps=steps, asks=variant.asks, plea_fd=plea, missed_ns=MISSED_NS
            )
            hand.watch(running)
            granted, touched = running.result()
        self._add(f"{candidate.name} {series}", granted, touched, hand.held_idle_gib_s())
        if replay is not None:
            self._add_bursts(burst_row(candidate.name, series), replay, granted, touched)

    def _add(self, name: str, granted: bytes, touched: bytes, held_gib_s: float) -> None:
        row = self._sheet.add(name, waits(granted), 1)
        row.extra.setdefault("touched_ns", []).append(waits(touched))
        row.extra.setdefault("held_gib_s", []).append(held_gib_s)

    def _add_bursts(self, name: str, replay: Replay, granted: bytes, touched: bytes) -> None:
        of_requests = (np.frombuffer(waits(raw), np.uint64) for raw in (granted, touched))
        stalls, until_touched = (replay.stalls(found) for found in of_requests)
        row = self._sheet.add(name, stalls.tobytes(), 1)
        row.extra.setdefault("in_time", []).append(replay.in_time(stalls))
        row.extra.setdefault("touched_in_time", []).append(replay.in_time(until_touched))


def waits(raw: bytes) -> bytes:
    """The waits as measured, but MISSED_NS for each request that was not granted by then."""
    times = np.frombuffer(raw, np.uint64)
    missed = (times == 0) | (times > MISSED_NS)
    return np.where(missed, np.uint64(MISSED_NS), times).astype(np.uint64).tobytes()


def summarise_bursts(row: Row) -> None:
    """Make of each share of bursts, which are one per round, the mean and its interval."""
    for key in ("in_time", "touched_in_time"):
        shares = row.extra.pop(key, None)
        if shares is not None:
            low, high = median_interval(shares)
            row.extra[key] = {"value": round(float(np.mean(shares)), 4), "low": low, "high": high}


def summarise(row: Row) -> None:
    """Put the fractions of a row into ``extra``, from its samples; missed is the remainder."""
    samples = row.samples()
    touched = np.frombuffer(b"".join(row.extra.pop("touched_ns")), np.uint64)
    served = {key: float((samples < limit).mean()) for key, limit in LIMITS_NS.items()}
    row.extra |= {key: round(value, 4) for key, value in served.items()}
    row.extra["missed"] = round(1 - served["under_100ms"], 4)
    row.extra["held_idle_gib_s"] = round(float(np.mean(row.extra.pop("held_gib_s"))), 4)
    for key, of in (("granted_p99_ns", samples), ("touched_p99_ns", touched)):
        row.extra[key] = round(float(np.quantile(of, 0.99, method="inverted_cdf")))
