"""``memcoord bench interference``: what a grant costs while others want the CPUs.

Owns: the ways to get 2 MiB that are measured, what may protect them, and the rows: PATH PROTECTION
N neighbours. Every row is the same request by the same loop, after rests that are the same for all:
2 MiB in single frames, all of them touched, out of memory the domain holds (local), granted ahead
of need (credit), free in the host (ring), or with an idle donor (transfer, and cmm in both its
designs). Without protection nothing spins, nobody is pinned or preferred, and credit is one area.
Preferred are all threads of the hypervisor: the service waits for locks its worker holds.
Neighbours are guests too: pinned, they share the guests' CPU, and leave the hypervisor's alone.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from hypervisor.public.backend import DomainSpec
from hypervisor.public.errors import MemcoordError
from hypervisor.public.units import AREA_FRAMES
from memcoord.benchmarks import cpus
from memcoord.benchmarks.bursts.bench import waits
from memcoord.benchmarks.bursts.demand import Step
from memcoord.benchmarks.harness import BenchPlan, Sheet, Target
from memcoord.benchmarks.interference.neighbours import (
    Neighbours,
    how_to_prefer,
    place_guest,
    place_hypervisor,
    prefer,
)
from memcoord.benchmarks.lab import Lab
from memcoord.benchmarks.mechanisms.stage import Guest, Stage, Variant
from memcoord.benchmarks.mechanisms.transfer import BASE_AREAS, SLACK_AREAS, Cast, Full

ROUNDS = 3
COUNTS = (0, 1, 2, 4, 8)
COMPARED = 4  # neighbours with which protections are compared
SAMPLES = 40  # of one row in one round; a full host's asker has room for 50
WARM_UP = 3  # the first asks find nothing prepared
REST_S = 0.004  # on average, between requests: nothing queues
BOUND_NS = 100_000_000
SPIN_NS = 200_000
DEPTH_AREAS = 8
CREDIT_S = 0.05
SETTLE_S = 10.0
SPARE_AREAS = 8


@dataclass(frozen=True)
class Path:
    """A way to get 2 MiB. ``kind``: "local", "roomy" or "full", what the host looks like."""

    name: str
    kind: str
    variant: Variant
    credit: bool = False


@dataclass(frozen=True)
class Protection:
    """What is done for the hypervisor; ``helps``: the paths it could matter to, none: all."""

    name: str
    spin_ns: int = 0
    is_pinned: bool = False
    is_preferred: bool = False
    credit_areas: int = 1
    helps: tuple[str, ...] = ()


_DIRECT = Variant("direct", "direct", asks=True)
PATHS = (
    Path("local", "local", _DIRECT),
    Path("credit", "roomy", _DIRECT, credit=True),
    Path("ring", "roomy", _DIRECT),
    Path("transfer", "full", _DIRECT),
    Path("cmm dom0", "full", Variant("cmm dom0", "cmm", {"design": 0}, asks=True)),
    Path("cmm hypervisor", "full", Variant("cmm hypervisor", "cmm", {"design": 1}, asks=True)),
)
_SERVED = tuple(path.name for path in PATHS[1:])
PLAIN = Protection("plain")
PROTECTIONS = (
    PLAIN,
    Protection("polling", spin_ns=SPIN_NS, helps=_SERVED),
    Protection("pinning", is_pinned=True),
    Protection("priority", is_preferred=True, helps=_SERVED),
    Protection("depth", credit_areas=DEPTH_AREAS, helps=("credit",)),
    Protection("together", SPIN_NS, True, True, DEPTH_AREAS),
)
#: Measured with any number of neighbours.
ALWAYS = ("plain", "together")


def row_name(path: str, protection: str, neighbours: int) -> str:
    """As rows are called."""
    return f"{path} {protection} {neighbours} neighbours"


def _p99(over: str, under: str, sheet: Sheet) -> float | None:
    if not {over, under} <= set(sheet.rows):
        return None
    first, second = (
        float(np.quantile(sheet.rows[name].samples(), 0.99, method="inverted_cdf"))
        for name in (over, under)
    )
    return first / second


def _plan() -> BenchPlan:
    key = f"cmm dom0/cmm hypervisor transfer p99 {COMPARED} neighbours"
    plain = {path.name: row_name(path.name, PLAIN.name, COMPARED) for path in PATHS}
    formulas: dict[str, Callable[[Sheet], float | None]] = {
        key: partial(_p99, plain["cmm dom0"], plain["cmm hypervisor"])
    }
    for protection in PROTECTIONS[1:]:
        for path in PATHS:
            if not protection.helps or path.name in protection.helps:
                protected = row_name(path.name, protection.name, COMPARED)
                name = f"{path.name} without/with {protection.name} p99 {COMPARED} neighbours"
                formulas[name] = partial(_p99, plain[path.name], protected)
    return BenchPlan(
        bench="interference",
        targets={key: Target(2, 10, higher=True)},
        also=tuple(name for name in formulas if name != key),
        notes={},
        skippable=(*(path.name for path in PATHS), *(kind.name for kind in PROTECTIONS)),
        formulas=formulas,
        rounds=ROUNDS,
    )


PLAN = _plan()


def requests(count: int, seed: int, is_kept: bool) -> list[Step]:
    """``count`` requests for an area, each a random rest after the one before.

    Unless it is kept, what came is given back at once.
    """
    source, steps = random.Random(seed), []
    for _ in range(count):
        steps.append((int(source.expovariate(1 / REST_S) * 1e9), 1))
        if not is_kept:
            steps.append((0, -1))
    return steps


class InterferenceBench:
    """One run; ``round`` measures every row once more."""

    def __init__(self, lab: Lab, sheet: Sheet, placement: cpus.Placement) -> None:
        self._sheet, self._placement = sheet, placement
        self._asker, self._donor = lab.remote("vm1"), lab.remote("vm2")
        self._neighbours = lab.enter(Neighbours(lab, max(COUNTS)))
        self._all_cpus = os.sched_getaffinity(0)
        self._how = how_to_prefer()
        sheet.facts["preferred_by"] = self._how or "not permitted"
        sheet.facts["protections"] = [self._permitted(kind).name for kind in PROTECTIONS]
        self._round = 0

    def _permitted(self, kind: Protection) -> Protection:
        """What of it this machine lets us do; what is nothing then is skipped by name."""
        possible = replace(
            kind,
            is_pinned=kind.is_pinned and not self._placement.one_cpu,
            is_preferred=kind.is_preferred and bool(self._how),
        )
        if replace(possible, name=PLAIN.name, helps=()) == PLAIN and kind is not PLAIN:
            why = "there is one CPU" if kind.is_pinned else "neither SCHED_FIFO nor nice permitted"
            self._sheet.skipped[kind.name] = why
        return possible

    def round(self, index: int, done: Callable[[float], None]) -> None:
        """Every path under every protection; ``done`` hears how many rounds are complete."""
        self._round, steps, step = index, len(PATHS) * len(PROTECTIONS), 0
        for protection in PROTECTIONS:
            for path in PATHS:
                is_wanted = not protection.helps or path.name in protection.helps
                if is_wanted and not {protection.name, path.name} & set(self._sheet.skipped):
                    self._measure(path, self._permitted(protection))
                step += 1
                done(index + step / steps)

    def _measure(self, path: Path, protection: Protection) -> None:
        counts = COUNTS if protection.name in ALWAYS else (COMPARED,)
        try:
            with self._ready(path, protection) as (vm, renew):
                self._protect(protection)
                for count in counts:
                    renew()
                    self._row(path, protection, vm, count)
        except MemcoordError as error:
            if path.variant.mechanism == "direct":
                raise
            last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            self._sheet.skipped[path.name] = f"not available: {last}"

    def _row(self, path: Path, protection: Protection, vm: Guest, count: int) -> None:
        steps = requests(WARM_UP + SAMPLES, self._round, path.kind != "local")
        with self._neighbours.running(count):
            _, touched = vm.call(
                "demand",
                steps=steps,
                asks=path.kind != "local",
                plea_fd=-1,
                missed_ns=BOUND_NS,
                is_apart=True,
            )
        samples = waits(touched[8 * WARM_UP :])
        self._sheet.add(row_name(path.name, protection.name, count), samples, 1)

    def _protect(self, protection: Protection) -> None:
        own = {self._placement.serving_cpu} if protection.is_pinned else self._all_cpus
        guests = {self._placement.domain_cpu} if protection.is_pinned else self._all_cpus
        place_hypervisor(own)
        self._neighbours.place(guests)
        for remote in (self._asker, self._donor):
            place_guest(remote.pid, guests)
        if protection.is_preferred:
            prefer(self._how)

    @contextmanager
    def _ready(
        self, path: Path, protection: Protection
    ) -> Iterator[tuple[Guest, Callable[[], None]]]:
        """A host for one path: who asks, and what makes it ready to be asked."""
        credit = protection.credit_areas if path.credit else 0

        stages: list[Stage] = []

        def stage_of(areas: int) -> Stage:
            stages.append(Stage(areas, SLACK_AREAS, "", "", protection.spin_ns))
            return stages[0]

        if path.kind == "full":

            def spec_of(name: str, most: int, target: int) -> DomainSpec:
                return _spec(path, name, most, BASE_AREAS, target)

            with Full(Cast(self._donor, self._asker), path.variant, spec_of, stage_of) as full:

                def renew() -> None:
                    full.reset()
                    full.asker.call("exhaust")
                    most = full.asker.now().maxmem_frames
                    stages[0].backend.set_target(full.asker.domid, most)

                yield full.asker, renew
            return
        most = SAMPLES + WARM_UP + SPARE_AREAS
        with stage_of(most + SLACK_AREAS + SPARE_AREAS) as stage:
            boot = 0 if path.kind == "roomy" else most
            vm = stage.guest(self._asker, _spec(path, "asker", most, boot, most, credit))
            yield vm, partial(_renew, stage, vm, most, path.kind)


def _renew(stage: Stage, vm: Guest, most: int, kind: str) -> None:
    """Everything back to the host, then its credit; or all of it used once."""
    if kind == "local":
        vm.call("refill", limit=most * AREA_FRAMES, asks=False)
        return
    stage.backend.set_target(vm.domid, 0)
    stage.settle(vm, SETTLE_S)
    stage.backend.set_target(vm.domid, most * AREA_FRAMES)
    time.sleep(CREDIT_S)


def _spec(path: Path, name: str, most: int, boot: int, target: int, credit: int = 0) -> DomainSpec:
    return DomainSpec(
        name,
        most * AREA_FRAMES,
        boot * AREA_FRAMES,
        target * AREA_FRAMES,
        credit_areas=credit,
        mechanism=path.variant.mechanism,
        options=dict(path.variant.options),
    )


def run(
    lab: Lab,
    sheet: Sheet,
    rounds: int,
    placement: cpus.Placement,
    done: Callable[[float], None],
) -> None:
    """Measure ``rounds`` rounds into ``sheet``; ``done`` hears how many are complete."""
    bench = InterferenceBench(lab, sheet, placement)
    for index in range(rounds):
        bench.round(index, done)
