"""``memcoord bench interference``: the cost of a grant while others want the CPUs.

Owns: the ways to get 2 MiB that are measured, their protections, and the rows PATH PROTECTION N
neighbours. Every row is the same request by the same loop, after the same rests: 2 MiB in single
frames, all of them touched. The memory is held by the domain already (local), granted ahead of need
(credit), free in the host (ring), or with an idle donor (transfer, and cmm in both its designs).
Without protection nothing spins, nobody is pinned or preferred, and credit is one area. A
preference is given to all threads of the hypervisor, because the service thread waits for locks
that the worker thread holds. Neighbours are guests too: pinned, they share the guests' CPU and
leave the hypervisor's CPU alone.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from hypervisor.public.backend import DomainSpec
from hypervisor.public.errors import MemcoordError
from hypervisor.public.units import AREA_FRAMES
from memcoord.benchmarks import cpus
from memcoord.benchmarks.bursts.bench import waits
from memcoord.benchmarks.bursts.demand import Step
from memcoord.benchmarks.harness import BenchPlan, Formula, Target, quantile_ratio, rotated
from memcoord.benchmarks.mechanisms.bench import VARIANTS
from memcoord.benchmarks.mechanisms.stage import Stage, StagedGuest, Variant
from memcoord.benchmarks.mechanisms.transfer import BASE_AREAS, SLACK_AREAS, Full
from memcoord.benchmarks.neighbours import Neighbours, how_to_prefer, place_hypervisor, prefer
from memcoord.benchmarks.runner import Rounds, Setting

GUEST = "memcoord.benchmarks.bursts.guest"
#: 1,040 samples of the designs of cmm: a p99 has ten beyond it. Of the others, which are there to
#: compare, fewer: the first LOOKS rounds, then one in OTHERS_EVERY.
ROUNDS, LOOKS, OTHERS_EVERY = 26, 3, 4
COUNTS = (0, 1, 2, 4, 8)
COMPARED = 4  # neighbours with which protections are compared
SAMPLES = 40  # of one row in one round; a full host's asker has room for 50
WARM_UP = 3  # requests before the samples: they find nothing prepared
REST_S = 0.004  # on average, between requests: nothing queues
BOUND_NS = 100_000_000
SPIN_NS = 200_000
DEPTH_AREAS = 8
CREDIT_S = 0.05
SETTLE_S = 10.0
SPARE_AREAS = 8


@dataclass(frozen=True)
class GrantPath:
    """A way to get 2 MiB. ``kind`` is the state of the host: "local", "roomy" or "full"."""

    name: str
    kind: str
    variant: Variant
    credit: bool = False


@dataclass(frozen=True)
class Protection:
    """A help for the hypervisor; ``helps``: the paths it could matter to, none: all of them."""

    name: str
    spin_ns: int = 0
    is_pinned: bool = False
    is_preferred: bool = False
    credit_areas: int = 1
    helps: tuple[str, ...] = ()


_VARIANTS = {variant.name: variant for variant in VARIANTS}
_DIRECT = _VARIANTS["direct"]
PATHS = (
    GrantPath("local", "local", _DIRECT),
    GrantPath("credit", "roomy", _DIRECT, credit=True),
    GrantPath("ring", "roomy", _DIRECT),
    GrantPath("transfer", "full", _DIRECT),
    GrantPath("cmm dom0", "full", _VARIANTS["cmm dom0"]),
    GrantPath("cmm hypervisor", "full", _VARIANTS["cmm hypervisor"]),
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
ALWAYS = ("plain", "priority", "together")


def row_name(path: str, protection: str, neighbours: int) -> str:
    """As rows are called."""
    return f"{path} {protection} {neighbours} neighbours"


def designs_key(protection: str, neighbours: int) -> str:
    """The ratio of cmm's designs; without help it is called as in ``bench mechanisms``."""
    helped = "" if protection == PLAIN.name else f" {protection}"
    return f"cmm dom0/cmm hypervisor transfer p99{helped} {neighbours} neighbours"


def helped_key(path: str, protection: str, neighbours: int) -> str:
    """The ratio of a path without help to the same with ``protection``."""
    return f"{path} without/with {protection} p99 {neighbours} neighbours"


def _of_p99(over: str, under: str) -> Formula:
    return quantile_ratio(over, 0.99, under, 0.99)


def _plan() -> BenchPlan:
    formulas: dict[str, Formula] = {}
    for protection, count in itertools.product(ALWAYS, COUNTS):
        rows = [row_name(name, protection, count) for name in ("cmm dom0", "cmm hypervisor")]
        formulas[designs_key(protection, count)] = _of_p99(*rows)
    for protection, path in itertools.product(PROTECTIONS[1:], PATHS):
        if protection.helps and path.name not in protection.helps:
            continue
        for count in COUNTS if protection.name in ALWAYS else (COMPARED,):
            plain = row_name(path.name, PLAIN.name, count)
            helped = row_name(path.name, protection.name, count)
            formulas[helped_key(path.name, protection.name, count)] = _of_p99(plain, helped)
    names = (*(path.name for path in PATHS), *(kind.name for kind in PROTECTIONS))
    targets = {designs_key(PLAIN.name, COMPARED): Target(2, 10, True)}
    return BenchPlan(
        "interference", targets, skippable=names, formulas=formulas, rounds=ROUNDS, resampled=True
    )


PLAN = _plan()


def _has_others(index: int) -> bool:
    """Whether more than the designs of cmm is measured in a round."""
    return index < LOOKS or index % OTHERS_EVERY == 0


def requests(count: int, seed: int, is_kept: bool) -> list[Step]:
    """``count`` requests for an area, each a random rest after the one before.

    Unless ``is_kept``, the guest gives each area back at once.
    """
    source, steps = random.Random(seed), []
    for _ in range(count):
        steps.append((int(source.expovariate(1 / REST_S) * 1e9), 1))
        if not is_kept:
            steps.append((0, -1))
    return steps


class InterferenceBench(Rounds):
    """One run; ``round`` measures every row once more."""

    def __init__(self, setting: Setting) -> None:
        lab, sheet = setting.lab, setting.sheet
        self._sheet, self._placement = sheet, setting.placement
        self._asker, self._donor = lab.remote("vm1", GUEST), lab.remote("vm2", GUEST)
        self._neighbours = lab.enter(Neighbours(lab, max(COUNTS)))
        self._all_cpus = os.sched_getaffinity(0)
        self._how = how_to_prefer()
        sheet.facts["preferred_by"] = self._how or "not permitted"
        sheet.facts["protections"] = [self._permitted(kind).name for kind in PROTECTIONS]
        self._round = 0

    def _permitted(self, kind: Protection) -> Protection:
        """The part of ``kind`` that this machine permits; without any, the kind is skipped."""
        is_pinned = kind.is_pinned and not self._placement.one_cpu
        is_preferred = kind.is_preferred and bool(self._how)
        possible = replace(kind, is_pinned=is_pinned, is_preferred=is_preferred)
        if replace(possible, name=PLAIN.name, helps=()) == PLAIN and kind is not PLAIN:
            why = "there is one CPU" if kind.is_pinned else "neither SCHED_FIFO nor nice permitted"
            self._sheet.skipped[kind.name] = why
        return possible

    def round(self, index: int, done: Callable[[float], None]) -> None:
        """Measure every path under every protection."""
        self._round, steps = index, list(itertools.product(PROTECTIONS, PATHS))
        steps = rotated(steps, index)
        for step, (protection, path) in enumerate(steps, start=1):
            is_wanted = not protection.helps or path.name in protection.helps
            is_wanted &= path.variant.mechanism == "cmm" or _has_others(index)
            if is_wanted and not {protection.name, path.name} & set(self._sheet.skipped):
                self._measure(path, self._permitted(protection))
            done(step / len(steps))

    def _measure(self, path: GrantPath, protection: Protection) -> None:
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
            self._sheet.skip(path.name, error)

    def _row(self, path: GrantPath, protection: Protection, vm: StagedGuest, count: int) -> None:
        steps = requests(WARM_UP + SAMPLES, self._round, path.kind != "local")
        with self._neighbours.running(count):
            asked = {"asks": path.kind != "local", "plea_fd": -1, "missed_ns": BOUND_NS}
            _, touched = vm.ask("demand", steps=steps, **asked, is_apart=True)
        samples = waits(touched[8 * WARM_UP :])
        self._sheet.add(row_name(path.name, protection.name, count), samples, 1)

    def _protect(self, protection: Protection) -> None:
        own = {self._placement.serving_cpu} if protection.is_pinned else self._all_cpus
        guests = {self._placement.domain_cpu} if protection.is_pinned else self._all_cpus
        place_hypervisor(own)
        self._neighbours.place(guests)
        for remote in (self._asker, self._donor):
            cpus.place(remote.pid, *guests)
        if protection.is_preferred:
            prefer(self._how)

    @contextmanager
    def _ready(
        self, path: GrantPath, protection: Protection
    ) -> Iterator[tuple[StagedGuest, Callable[[], None]]]:
        """A host for one path: the domain that asks, and a function that readies it again."""
        credit = protection.credit_areas if path.credit else 0

        def stage_of(areas: int) -> Stage:
            return Stage(areas, SLACK_AREAS, "", "", protection.spin_ns)

        if path.kind == "full":

            def spec_of(name: str, most: int, target: int) -> DomainSpec:
                return path.variant.spec(name, most, BASE_AREAS, target)

            with Full(path.variant, spec_of, stage_of, self._donor, self._asker) as full:

                def renew() -> None:
                    full.reset()
                    full.asker.ask("exhaust")
                    most = full.asker.now().maxmem_frames
                    full.stage.backend.set_target(full.asker.domid, most)

                yield full.asker, renew
            return
        most = SAMPLES + WARM_UP + SPARE_AREAS
        with stage_of(most + SLACK_AREAS + SPARE_AREAS) as stage:
            boot = 0 if path.kind == "roomy" else most
            vm = stage.guest(self._asker, path.variant.spec("asker", most, boot, most, credit))
            yield vm, partial(_renew, stage, vm, most, path.kind)


def _renew(stage: Stage, vm: StagedGuest, most: int, kind: str) -> None:
    """Give all memory back to the host and await new credit; or use all of it once."""
    if kind == "local":
        vm.ask("refill", limit=most * AREA_FRAMES, asks=False)
        return
    stage.backend.set_target(vm.domid, 0)
    stage.settle(vm, SETTLE_S)
    stage.backend.set_target(vm.domid, most * AREA_FRAMES)
    time.sleep(CREDIT_S)
