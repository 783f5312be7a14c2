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
from memcoord.benchmarks.harness import BenchPlan, Formula, Samples, Sheet, Target, quantile_ratio
from memcoord.benchmarks.lab import Lab
from memcoord.benchmarks.mechanisms.huge_mount import HugeMount
from memcoord.benchmarks.mechanisms.rows import Pages, Rows, Scene
from memcoord.benchmarks.mechanisms.stage import Variant
from memcoord.benchmarks.neighbours import Neighbours
from memcoord.benchmarks.runner import Rounds, Setting

GUEST = "memcoord.benchmarks.mechanisms.guest"
ROUNDS = 5
BACKINGS = ("4k", "2m")
NEIGHBOURS = 4
MALLOC_SAMPLES = 16
DIRECT_BATCHES = 4  # as many transfers as a 99.9th percentile needs
SPARSE_ROUNDS = 2  # interference and the job take long and vary little: in every second round

#: Mechanisms that are measured in more than one way, or need more than their name to be set up.
SETUPS = {
    "direct": [Variant("direct", "direct", asks=True)],
    "balloon": [
        Variant("balloon", "balloon", by_itself={"report_ms": 20}),
        Variant("balloon merged", "balloon", {"merge": 1}, by_itself={"report_ms": 20}),
    ],
    "virtio-mem": [Variant("virtio-mem", "virtio-mem", step_areas=2)],
    "sections": [Variant("sections", "sections", {"section_areas": 4}, step_areas=4)],
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
RESIZES = ("shrink touched", "shrink untouched", "grow", "grow and touch")
LOOPS = ("stream", "churn")


def _faster(ours: str, theirs: str) -> Formula:
    """How many times the rate of ``theirs`` that of ``ours`` is; higher is better."""
    return harness.of_rows(theirs, ours, lambda a, b: a.median_ns() / b.median_ns())


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
    transfer, malloc = f"direct transfer {pages}", "malloc_fresh_2m"
    wanted: dict[str, Target] = {
        "direct/balloon shrink touched": Target(50, 362, True) if huge else Target(3, 362, True),
        "direct/virtio-mem shrink touched": Target(2, 10, True) if huge else Target(1, 10, True),
        "direct/balloon shrink untouched": Target(300, 3000, True),
        "direct/hyperalloc shrink touched": Target(1.0, 1.2, True),
        "direct/hyperalloc shrink untouched": Target(1.0, 1.2, True),
        "direct transfer p50/malloc_fresh_2m": Target(1.5, 0.5),
        "direct transfer p999/p50": Target(10, 3),
        "bystander resizing/undisturbed": Target(0.9, 0.98, True),
        "cmm dom0/cmm hypervisor transfer p99 4 neighbours": Target(2, 10, True),
    }
    found: dict[str, Formula] = {}
    for name, what in itertools.product(NAMES[1:], RESIZES):
        rows = f"direct {what} {pages}", f"{name} {what} {pages}"
        found[f"direct/{name} {what}"] = _faster(*rows)
    found["direct transfer p50/malloc_fresh_2m"] = quantile_ratio(transfer, 0.5, malloc, 0.5)
    found["direct transfer p999/p50"] = quantile_ratio(transfer, 0.999, transfer, 0.5)
    found["bystander resizing/undisturbed"] = _throughput("direct", "bystander", pages, _mean)
    dom0, other = (f"cmm {where} transfer 4 neighbours {pages}" for where in ("dom0", "hypervisor"))
    key = "cmm dom0/cmm hypervisor transfer p99 4 neighbours"
    found[key] = quantile_ratio(dom0, 0.99, other, 0.99)
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
    notes = {"malloc_fresh_2m": "glibc, in the asker's process; touched, held, then trimmed"}
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
        blocks = {"count": MALLOC_SAMPLES, "ops": 1, "size": AREA_BYTES}
        samples, faults, _ = self._asker.ask("malloc_fresh", **blocks)
        row = self._sheet.add("malloc_fresh_2m", samples, 1)
        row.extra["page_faults_per_page"] = round(faults, 3)
        steps = list(itertools.product(self._pages, VARIANTS))
        for step, (pages, variant) in enumerate(steps, start=1):
            if variant.name not in self._sheet.skipped:
                self._measure(variant, pages, index)
            done(step / len(steps))

    def _measure(self, variant: Variant, pages: Pages, index: int) -> None:
        rows = Rows(self._scene, variant, pages)
        try:
            rows.resize()
            rows.transfer(DIRECT_BATCHES if variant.name == "direct" else 1)
            if variant.mechanism == "cmm":
                rows.transfer_among_neighbours()
            if index % SPARSE_ROUNDS == 0:
                rows.interference()
                rows.job()
        except MemcoordError as error:
            if variant.name == "direct":
                raise
            self._sheet.skip(variant.name, error)
