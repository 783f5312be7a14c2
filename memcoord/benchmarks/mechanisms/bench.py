"""``memcoord bench mechanisms``: every way to resize a domain, on one ruler.

Owns: the mechanisms that are measured and their set-up, their order within a round, the ratios
between them and the targets of those. The rows are in ``mechanisms.rows``.
A row is named MECHANISM WHAT PAGES. A resize is timed by the backend's clock, until the host has
the memory back (or the guest may use it), per 2 MiB. A transfer, and the first frame, is timed by
the guest that waits. Untouched memory never had pages: it was plugged, or merely permitted where a
mechanism populates the memory it gives. A mechanism that fails at its task is left out and named,
and so are pages of 2 MiB where the machine gives none.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from hypervisor.public.errors import MemcoordError
from hypervisor.public.settings import MECHANISMS
from hypervisor.public.units import AREA_BYTES
from memcoord.benchmarks import cpus, harness
from memcoord.benchmarks._loops import lib
from memcoord.benchmarks.grant.rivals import start_rivals
from memcoord.benchmarks.harness import (
    BenchPlan,
    Formula,
    Samples,
    Sheet,
    Target,
    quantile_ratio,
    rotated,
)
from memcoord.benchmarks.lab import Lab
from memcoord.benchmarks.mechanisms import kernel
from memcoord.benchmarks.mechanisms.huge_mount import HugeMount
from memcoord.benchmarks.mechanisms.rows import Pages, Rows, Scene
from memcoord.benchmarks.mechanisms.stage import Variant
from memcoord.benchmarks.neighbours import Neighbours
from memcoord.benchmarks.runner import Rounds, Setting

GUEST = "memcoord.benchmarks.mechanisms.guest"
ROUNDS = 10
BACKINGS = ("4k", "2m")
MALLOC = {"4k": "glibc", "2m": "glibc thp"}  # of the same pages
NEIGHBOURS = 4
MALLOC_SAMPLES = 16
DIRECT_BATCHES = 4  # as many transfers as a 99.9th percentile needs

#: Mechanisms that are measured in more than one way, or need more than their name to be set up.
SETUPS = {
    "direct": [Variant("direct", "direct", asks=True)],
    "balloon": [
        Variant("balloon", "balloon", by_itself={"report_ms": 20}),
        Variant("balloon merged", "balloon", {"merge": 1}, by_itself={"report_ms": 20}),
        Variant("balloon 2 MiB", "balloon", {"huge": 1}, by_itself={"report_ms": 20}),
    ],
    "virtio-mem": [Variant("virtio-mem", "virtio-mem", {"block_areas": 1})],
    "sections": [Variant("sections", "sections", {"section_areas": 1})],
    "cmm": [
        Variant("cmm dom0", "cmm", {"design": 0}, asks=True),
        Variant("cmm hypervisor", "cmm", {"design": 1}, asks=True),
    ],
    "hyperalloc": [Variant("hyperalloc", "hyperalloc", asks=True, by_itself={"period_ms": 50})],
}
VARIANTS = tuple(
    variant for name in MECHANISMS for variant in SETUPS.get(name, [Variant(name, name)])
)
NAMES = tuple(variant.name for variant in VARIANTS)
#: What is compared as a rate. Growing and giving back untouched memory is not: with some mechanisms
#: that is one store, which takes as long for 128 GiB.
RATES = ("shrink touched", "grow and touch")
LOOPS = ("stream", "churn")


def _faster(ours: str, theirs: str) -> Formula:
    """How many times the rate of ``theirs`` that of ``ours`` is; higher is better."""
    return harness.of_rows(theirs, ours, lambda a, b: a.median_ns() / b.median_ns())


def _part(ours: str, limit: str) -> Formula:
    """Which part of the rate of ``limit`` ours is."""
    return harness.of_rows(limit, ours, lambda a, b: a.median_ns() / b.median_ns())


def _throughput(name: str, role: str, pages: str, of: Callable[[Samples], float]) -> Formula:
    """Resizing beside undisturbed, the worse of the loops: the median over the rounds."""

    def formula(sheet: Sheet) -> float | None:
        found = []
        for loop in LOOPS:
            row = f"{name} {role} {loop}"
            rows = sheet.rows_of(f"{row} undisturbed {pages}", f"{row} resizing {pages}")
            if rows is None:
                return None
            pairs = zip(rows[0].rounds, rows[1].rounds, strict=True)
            found.append(float(np.median([of(calm) / of(busy) for calm, busy in pairs])))
        return min(found)

    return formula


def _mean(samples: Samples) -> float:
    return float(samples.mean())


def _slowest(samples: Samples) -> float:
    """The time that goes with the 1st percentile of throughput."""
    return float(np.quantile(samples, 0.99))


def _ratios(pages: str) -> tuple[dict[str, Target], dict[str, Formula]]:
    """Targets and formulas for one kind of pages; a formula without a target is shown only."""
    huge = pages == "2m"
    transfer, malloc = f"direct transfer {pages}", f"malloc_fresh_2m {pages}"
    wanted: dict[str, Target] = {
        "direct/balloon shrink touched": Target(50, 362, True) if huge else Target(3, 362, True),
        "direct/virtio-mem shrink touched": Target(2, 10, True) if huge else Target(1, 10, True),
        "direct/balloon 2 MiB shrink touched": Target(1.0, 2.5, True),
        "direct/hyperalloc shrink touched": Target(1.0, 1.2, True),
        "direct transfer p50/malloc_fresh_2m": Target(1.5, 0.5),
        "direct transfer p999/p50": Target(10, 3),
        "bystander resizing/undisturbed": (
            Target(0.85, 0.95, True) if huge else Target(0.9, 0.98, True)
        ),
        "cmm dom0/cmm hypervisor transfer p99 4 neighbours": Target(2, 10, True),
    }
    found: dict[str, Formula] = {}
    for name, what in itertools.product(NAMES[1:], RATES):
        rows = f"direct {what} {pages}", f"{name} {what} {pages}"
        found[f"direct/{name} {what}"] = _faster(*rows)
    found["direct transfer p50/malloc_fresh_2m"] = quantile_ratio(transfer, 0.5, malloc, 0.5)
    found["direct transfer p999/p50"] = quantile_ratio(transfer, 0.999, transfer, 0.5)
    found["bystander resizing/undisturbed"] = _throughput("direct", "bystander", pages, _mean)
    dom0, other = (f"cmm {where} transfer 4 neighbours {pages}" for where in ("dom0", "hypervisor"))
    key = "cmm dom0/cmm hypervisor transfer p99 4 neighbours"
    found[key] = quantile_ratio(dom0, 0.99, other, 0.99)
    for what in RATES:  # the part that is reached of what the kernel alone can do
        found[f"direct/kernel {what}"] = _part(f"direct {what} {pages}", f"kernel {what} {pages}")
    found["kernel bystander resizing/undisturbed"] = _throughput(
        "kernel", "bystander", pages, _mean
    )
    for name, role in itertools.product(NAMES, ("bystander", "donor")):
        key = f"{name} {role} resizing/undisturbed"
        found[key] = _throughput(name, role, pages, _mean)
        found[f"{key} p1"] = _throughput(name, role, pages, _slowest)
    return (
        {f"{key} {pages}": target for key, target in wanted.items()},
        {f"{key} {pages}": formula for key, formula in found.items()},
    )


def _plan() -> BenchPlan:
    (targets, formulas), (targets_2m, formulas_2m) = map(_ratios, BACKINGS)
    targets |= targets_2m
    formulas |= formulas_2m
    notes = {
        f"malloc_fresh_2m {pages}": f"{name}; touched, held, then trimmed; warmed before"
        for pages, name in MALLOC.items()
    }
    skippable = (*NAMES, "2m")
    return BenchPlan("mechanisms", targets, (), notes, skippable, formulas, ROUNDS)


PLAN = _plan()


def touch_gives_huge() -> bool:
    """Whether a memfd gets pages of 2 MiB by a mere touch here."""
    return bool(lib.mc_shmem_thp() == 1)


class MechanismsBench(Rounds):
    """One run of the bench; ``round`` measures every row once more."""

    def __init__(self, setting: Setting) -> None:
        lab, self._sheet = setting.lab, setting.sheet
        self._asker = lab.remote("vm2", GUEST)
        vms = (lab.remote("vm1", GUEST), self._asker, lab.remote("vm3", GUEST))
        self._mallocs = [rival for rival in start_rivals(lab, self._sheet, MALLOC.values())]
        neighbours = lab.enter(Neighbours(lab, NEIGHBOURS))
        self._scene = Scene(self._sheet, vms, setting.placement, neighbours)
        self._pages = [Pages("4k", "")]
        huge = self._huge(lab)
        if huge is not None:
            self._pages.append(huge)
        # The backend's threads inherit it; every process of the bench has been started.
        lab.enter(cpus.running_on(setting.placement.serving_cpu))

    def _huge(self, lab: Lab) -> Pages | None:
        """A tmpfs of our own, or else memfds that get huge pages: at a guest's touch as well."""
        try:
            return Pages("2m", lab.enter(HugeMount()).directory)
        except OSError as error:
            if touch_gives_huge():
                return Pages("2m", "")
            self._sheet.skipped["2m"] = f"no tmpfs with huge=always: {error.strerror}"
        return None

    def round(self, index: int, done: Callable[[float], None]) -> None:
        """Measure every row once."""
        steps = list(itertools.product(self._pages, [None, *VARIANTS]))
        for step, (pages, variant) in enumerate(rotated(steps, index), start=1):
            if variant is None:
                self._malloc(pages)
                kernel.measure(self._scene, pages)
                Rows(self._scene, VARIANTS[0], pages).beside_zeroing(kernel.zeroes)
            elif variant.name not in self._sheet.skipped:
                self._measure(variant, pages)
            done(step / len(steps))

    def _malloc(self, pages: Pages) -> None:
        """Fresh memory, found by the machine before, as it is for the mechanisms."""
        blocks = {"count": MALLOC_SAMPLES, "ops": 1, "size": AREA_BYTES}
        for rival in self._mallocs:
            if rival.name == MALLOC[pages.backing]:
                cpus.place(rival.single.pid, self._scene.placement.domain_cpu)
                rival.ask("warm", size=MALLOC_SAMPLES * AREA_BYTES)
                samples, faults, _ = rival.ask("malloc_fresh", **blocks)
                row = self._sheet.add(f"malloc_fresh_2m {pages.backing}", samples, 1)
                row.extra["page_faults_per_page"] = round(faults, 3)

    def _measure(self, variant: Variant, pages: Pages) -> None:
        rows = Rows(self._scene, variant, pages)
        try:
            rows.resize()
            rows.transfer(DIRECT_BATCHES if variant.name == "direct" else 1)
            if variant.mechanism == "cmm":
                rows.transfer_among_neighbours()
            rows.interference()
        except MemcoordError as error:
            if variant.name == "direct":
                raise
            self._sheet.skip(variant.name, error)
