"""``memcoord bench unplug``: how much of the memory asked back of a working guest comes, and when.

Owns: the mechanisms and block sizes that are compared, the course of one try, and the summary.
A domain of FULL_AREAS is filled, every other frame is given back, and the guest goes on working
(``memcoord/benchmarks/abi/bench_load.h``): it refers to its movable frames, and takes and gives
back frames that cannot be moved. Half of the domain is asked back at once, which leaves a quarter
more than the guest uses. The target is set anew every ASK_S, as a policy does: some mechanisms try
only when they are asked. A row holds, per round, the percentage of what was asked that had come
back after each of AFTER_S, the references per second meanwhile over those before, and why the rest
did not come. A try ends early when all has come.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hypervisor.public.units import AREA_FRAMES
from memcoord.benchmarks import cpus, tables
from memcoord.benchmarks.harness import rotated
from memcoord.benchmarks.lab import Lab
from memcoord.benchmarks.mechanisms.stage import Stage, StagedGuest, Variant
from memcoord.benchmarks.runner import Bench, Result
from memcoord.benchmarks.tables import MISSING, Table
from memcoord.testbed.report.intervals import median_interval
from memcoord.testbed.report.progress import Progress
from memcoord.testbed.runs.remote import Remote
from memcoord.testbed.runs.rundir import RunDir

GUEST = "memcoord.benchmarks.unplug.guest"
ROUNDS, QUICK_ROUNDS = 3, 1
AFTER_S, QUICK_AFTER_S = (1.0, 10.0, 100.0), (1.0, 10.0)
#: Sizes in areas of 2 MiB: 512 MiB of 1 GiB are asked back.
FULL_AREAS, LOW_AREAS, SPARE_AREAS = 512, 256, 8
#: Of the domain's frames: filled at first; every KEEP_EVERY-th of those is kept: 0.4 of the domain.
FILLED, KEEP_EVERY = 0.8, 2
#: Frames that stay where they are: 0.4 % of the domain.
CLUSTERS, CLUSTER_FRAMES = 16, 64
ASK_S, LOOK_S, CALM_S = 1.0, 0.02, 1.0


def _variants() -> tuple[Variant, ...]:
    blocks = {"2": 1, "4": 2, "128": 64}
    return (
        Variant("balloon", "balloon"),
        Variant("balloon 2 MiB", "balloon", {"huge": 1}),
        *(Variant(f"virtio-mem {mib} MiB", "virtio-mem", {"block_areas": areas},
                  step_areas=areas) for mib, areas in blocks.items()),
        *(Variant(f"sections {mib} MiB", "sections", {"section_areas": areas},
                  step_areas=areas) for mib, areas in blocks.items()),
        Variant("hyperalloc", "hyperalloc"),
        Variant("direct", "direct"),
    )  # fmt: skip


VARIANTS = _variants()
#: Hotplug of DIMMs: a memory block of Linux, whole or not at all.
HOTPLUG = "sections 128 MiB"
QUICK = ("balloon", "virtio-mem 4 MiB", "virtio-mem 128 MiB", HOTPLUG)


@dataclass(frozen=True)
class UnplugOptions:
    """``quick``: one round of QUICK, and at most ten seconds a try."""

    quick: bool = False
    rounds: int | None = None


class UnplugBench(Bench):
    """Every mechanism, block size by block size."""

    name = "unplug"

    def __init__(self, options: UnplugOptions | None = None) -> None:
        options = options or UnplugOptions()
        self._after_s = QUICK_AFTER_S if options.quick else AFTER_S
        self._rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
        self._variants = [one for one in VARIANTS if not options.quick or one.name in QUICK]

    def measure(self, where: RunDir | Path, progress: Progress) -> dict[str, Any]:
        """Every row, round by round; the first is another one each time."""
        assert isinstance(where, RunDir)
        total = self._rounds * len(self._variants)
        progress.begin("bench unplug", total)
        placement = cpus.pair()
        machine = cpus.describe(placement)
        tries: dict[str, list[dict[str, Any]]] = {one.name: [] for one in self._variants}
        with Lab(where) as lab:
            for number in range(self._rounds):
                for variant in rotated(self._variants, number):
                    done = sum(map(len, tries.values()))
                    progress.advance(done, total, variant.name)
                    remote = lab.remote(f"vm{done}", GUEST)
                    found = _try(remote, variant, number + 1, self._after_s)
                    tries[variant.name].append(found)
        progress.advance(total, total, "done")
        return {
            "bench": self.name,
            "machine": cpus.finish(machine),
            "after_s": list(self._after_s),
            "rows": {name: _summary(found, self._after_s) for name, found in tries.items()},
            "ratios": {},
        }

    def tables(self, result: Result) -> Iterator[Table]:
        """A line per mechanism and block size."""
        yield table(result)

    def parts(self, result: Result) -> dict[str, str]:
        """The table for docs/mechanisms.md."""
        if not result:
            return {"unplug": ""}
        machine = result["machine"]
        loads = machine.get("load_before_1m"), machine.get("load_after_1m")
        said = f"Measured on: {machine.get('cpu')}, {machine.get('cores')} cores; "
        said += f"load {loads[0]} before the run, {loads[1]} after it."
        return {"unplug": "\n".join([said, "", *tables.markdown(table(result))[2:]])}


def _try(remote: Remote, variant: Variant, seed: int, after_s: tuple[float, ...]) -> dict[str, Any]:
    """One domain, asked once: its percentages, the references it managed, and why no more."""
    with Stage(FULL_AREAS + SPARE_AREAS, 0, "", "") as stage:
        vm = stage.guest(remote, variant.spec("vm1", FULL_AREAS, FULL_AREAS, FULL_AREAS))
        frames = FULL_AREAS * AREA_FRAMES
        vm.ask("load", fill=int(frames * FILLED) - CLUSTERS * CLUSTER_FRAMES,
               keep_every=KEEP_EVERY, clusters=CLUSTERS, cluster_frames=CLUSTER_FRAMES,
               seed=seed)  # fmt: skip
        before = vm.ask("counts")["references"]
        time.sleep(CALM_S)
        calm = (vm.ask("counts")["references"] - before) / CALM_S
        found = _asked_back(stage, vm, after_s)
        counts = vm.ask("counts")
        vm.ask("end_load")
    busy = (counts["references"] - before - calm * CALM_S) / max(found["watched_s"], LOOK_S)
    return found | {"speed": busy / calm, "counts": counts}


def _asked_back(stage: Stage, vm: StagedGuest, after_s: tuple[float, ...]) -> dict[str, Any]:
    full, low = FULL_AREAS * AREA_FRAMES, LOW_AREAS * AREA_FRAMES
    begin_s, asked_s = time.monotonic(), -ASK_S
    percent: dict[str, float] = {}
    all_ms: float | None = None
    while len(percent) < len(after_s) and all_ms is None:
        now_s = time.monotonic() - begin_s
        if now_s - asked_s >= ASK_S:
            stage.backend.set_target(vm.domid, low)
            asked_s = now_s
        settled = stage.backend.settle(vm.domid, 0)
        gone = 100.0 * (full - settled.plugged_frames) / (full - low)
        if now_s >= after_s[len(percent)]:
            percent[f"{after_s[len(percent)]:g}"] = gone
        if settled.plugged_frames <= low:
            all_ms = now_s * 1000
        time.sleep(LOOK_S)
    watched_s = time.monotonic() - begin_s
    percent |= {f"{at:g}": 100.0 for at in after_s[len(percent) :]}
    return {"percent": percent, "all_ms": all_ms, "why": settled.why, "watched_s": watched_s}


def _summary(tries: list[dict[str, Any]], after_s: tuple[float, ...]) -> dict[str, Any]:
    """Medians over the rounds with their bounds."""
    percent = {}
    for at in after_s:
        values = [one["percent"][f"{at:g}"] for one in tries]
        low, high = median_interval(values)
        percent[f"{at:g}"] = {"value": float(np.median(values)), "low": low, "high": high}
    times = [one["all_ms"] for one in tries if one["all_ms"] is not None]
    return {
        "percent": percent,
        "all_ms": float(np.median(times)) if len(times) == len(tries) else None,
        "speed": float(np.median([one["speed"] for one in tries])),
        "why": next((one["why"] for one in tries if one["all_ms"] is None), ""),
        "rounds": len(tries),
        "tries": tries,
    }


def table(result: Result) -> Table:
    """Percent that came back after so many seconds."""
    after = [f"{at:g}" for at in result["after_s"]]
    lines = []
    for name, row in result["rows"].items():
        shown = [_shown(row["percent"][at]) for at in after]
        took = MISSING if row["all_ms"] is None else f"{row['all_ms']:,.0f}"
        lines.append([name, *shown, took, f"{row['speed']:.2f}", row["why"] or MISSING])
    head = ["", *(f"after {at} s, %" for at in after), "all, ms", "speed", "the rest"]
    return Table("memory asked back of a working guest", head, lines)


def _shown(figure: dict[str, float]) -> str:
    value, low, high = figure["value"], figure["low"], figure["high"]
    return f"{value:.1f} [{low:.1f}, {high:.1f}]" if low < high else f"{value:.1f}"
