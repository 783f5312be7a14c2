"""``memcoord bench build``: what a real build occupies under each way to give memory back.

Owns: the hypervisor, a domain per variant, the order of the builds, and the result. Each round
builds once per variant, beginning with another one; a bystander copies memory beside every build.
A build that was measured is kept below ``cells`` at once; Ctrl-C keeps what there is, and the
result says that it was cut short.
The paper is Wrenger et al., HyperAlloc, EuroSys 2025: 17 % less than free page reporting over a
build of clang in a virtual machine, at no measurable cost.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from hypervisor.config import DomainConfig, HypervisorConfig
from hypervisor.public.errors import ConfigError, MemcoordError
from hypervisor.public.units import AREA_BYTES, AREA_FRAMES
from memcoord.benchmarks import cpus
from memcoord.benchmarks.builds import bystander, footprint, guest, project, views
from memcoord.benchmarks.builds.guest import Built, domain_name
from memcoord.benchmarks.builds.variants import BY_NAME, QUICK, RESIZES, VARIANTS, Variant
from memcoord.benchmarks.harness import ROUNDS_MAX, rotated
from memcoord.benchmarks.lab import BenchError, Lab
from memcoord.benchmarks.runner import Bench, Result
from memcoord.benchmarks.tables import Table
from memcoord.testbed.report.figures import Figure
from memcoord.testbed.report.progress import Progress
from memcoord.testbed.runs import facts, rundir, userfaults

ROUNDS = 5
FULL_SCALE, QUICK_SCALE = 1.0, 0.08
MEMORY_BYTES = 1536 << 20
#: The domain is looked at so long after the build, and again after ``clean``: HyperAlloc's period
#: and a half at least.
HOLD_S, HOLD_QUICK_S = 12.0, 7.5
#: A build may take so long, at full scale; a small one a quarter of it: machines are busy.
BUILD_S, SMALLEST = 3600.0, 0.25
BOOT_BYTES = 64 << 20
SPARE_BYTES = 64 << 20
#: What a build's process may take beside the build: it attaches, cleans and holds.
AFTER_S = 120.0


@dataclass(frozen=True)
class BuildOptions:
    """The options of the command line; an empty one means the default."""

    rounds: int | None = None
    scale: float | None = None
    quick: bool = False


class BuildBench(Bench):
    """One run; ``options`` say how much is built, and how often."""

    name = "build"
    figure_file = "build.svg"

    def __init__(self, options: BuildOptions) -> None:
        usual = (QUICK_SCALE, 1) if options.quick else (FULL_SCALE, ROUNDS)
        self._scale = usual[0] if options.scale is None else options.scale
        if not 0 < self._scale <= FULL_SCALE:
            raise ConfigError("--scale", f"{options.scale}: write a number above 0, at most 1")
        self._rounds = usual[1] if options.rounds is None else options.rounds
        if not 1 <= self._rounds <= ROUNDS_MAX:
            raise ConfigError("--rounds", f"must be 1 to {ROUNDS_MAX}")
        self._names = QUICK if options.quick else tuple(variant.name for variant in VARIANTS)
        self._hold_s = HOLD_S if self._scale == FULL_SCALE else HOLD_QUICK_S
        self._command = " ".join([
            "memcoord bench build", f"--scale {self._scale:g}", f"--rounds {self._rounds}",
            *(["--quick"] if options.quick else []),
        ])  # fmt: skip

    def measure(self, where: rundir.RunDir | Path, progress: Progress) -> dict[str, Any]:
        """Build round by round; BenchError or NoProject where nothing can be built."""
        assert isinstance(where, rundir.RunDir)
        obstacle = userfaults.probe().obstacle()
        if obstacle:
            raise BenchError(f"programs cannot be paged here: {obstacle}")
        machine = cpus.describe(cpus.pair())
        order = [
            (index, name) for index in range(self._rounds) for name in rotated(self._names, index)
        ]
        cells: list[dict[str, Any]] = []
        errors: list[str] = []
        cut = ""
        (where.path / "cells").mkdir()
        progress.begin("bench build", len(order))
        with Lab(where) as lab, _ended_by_signals():
            made = project.ready(lab.scratch("project"), self._scale)
            try:
                for done, (index, name) in enumerate(order):
                    self._measure_one(where, made, index, name, cells, errors)
                    progress.advance(done + 1, len(order))
            except KeyboardInterrupt:
                if not cells:
                    raise
                cut = f"cut short after {len(cells)} of {len(order)} builds"
        return {**self._result(cells, cut, cpus.finish(machine)), "errors": errors}

    def _measure_one(
        self, where: rundir.RunDir, made: project.Project, index: int, name: str,
        cells: list[dict[str, Any]], errors: list[str],
    ) -> None:  # fmt: skip
        """Add a cell and keep it, or the reason why there is none."""
        try:
            made.clean()
            cells.append(self._cell(where, made, index, name))
        except MemcoordError as error:
            errors.append(f"round {index}, {name}: {error}")
            return
        path = where.path / "cells" / f"{index}-{domain_name(name)}.json"
        path.write_bytes(msgspec.json.encode(cells[-1]))

    def _cell(
        self, where: rundir.RunDir, made: project.Project, index: int, name: str
    ) -> dict[str, Any]:
        """One build under one variant, on a host of its own."""
        load, limit_s = facts.load(), BUILD_S * max(self._scale, SMALLEST)
        with Lab(where) as lab:
            host = lab.host(f"h{index}_{domain_name(name)}", _config(BY_NAME[name]))
            builder = lab.remote("guest", guest.MODULE)
            beside = lab.remote("bystander", bystander.MODULE)
            beside.ask("begin")
            begin_s = time.monotonic()
            builder.tell(
                "build", run_dir=str(host.run_dir), variant=name, build=str(made.build),
                names=list(made.names), hold_s=self._hold_s, limit_s=limit_s,
            )  # fmt: skip
            built = Built(*builder.answer(limit_s + AFTER_S))
            took_s = time.monotonic() - begin_s
            wall, cpu = (np.frombuffer(one, np.uint64) for one in beside.ask("end"))
        # Bursts come as regularly as they can: those of the build are the first of them.
        bursts = max(int(wall.size * built.delay_s / took_s), 1)
        found = footprint.figures(built.looks, built.delay_s, built.clean_s) | {
            "wall_s": built.wall_s,
            "cpu_s": built.cpu_s,
            "mirror_cpu_s": built.mirror_cpu_s,
            "bystander_cpu_us": float(np.median(cpu[:bursts])) / 1000,
            "bystander_wall_us": float(np.median(wall[:bursts])) / 1000,
            "bystander_p99_us": float(np.quantile(wall[:bursts], 0.99)) / 1000,
        }
        return {
            "round": index, "variant": name, "load_before_1m": load, "figures": found,
            "pager": built.figures, "series": footprint.series(built.looks),
        }  # fmt: skip

    def _result(
        self, cells: list[dict[str, Any]], cut: str, machine: dict[str, Any]
    ) -> dict[str, Any]:
        shown = {cell["variant"]: cell["series"] for cell in reversed(cells)}  # the first of each
        return {
            "bench": self.name,
            "command": self._command,
            "cut_short": cut,
            "machine": machine,
            "project": project.facts(),
            "scale": self._scale,
            "memory_bytes": MEMORY_BYTES,
            "hold_s": self._hold_s,
            "variants": {name: msgspec.to_builtins(BY_NAME[name]) for name in self._names},
            "rows": footprint.rows(cells),
            "below_percent": footprint.comparisons(cells),
            "series": {name: shown[name] for name in self._names if name in shown},
            "cells": [{key: cell[key] for key in cell if key != "series"} for cell in cells],
            "ratios": {},
        }

    def tables(self, result: Result) -> Iterator[Table]:
        """Footprint, and what it cost."""
        return views.tables(result)

    def lines(self, result: Result) -> list[str]:
        """The claim beside the figure, and what a reader must know."""
        return views.lines(result)

    def parts(self, result: Result) -> dict[str, str]:
        """The tables for the page."""
        return {"build": views.markdown(result) if result else ""}

    def figure(self, result: Result) -> Figure | None:
        """Footprint over time, the first round of each variant."""
        return views.figure(result)

    def status(self, result: Result) -> int:
        """1 when a build failed."""
        return int(bool(result["errors"]))


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, and both do in a job of a shell's background."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _config(variant: Variant) -> HypervisorConfig:
    """A host of that one domain. Its target is all it may have, unless an agent has it follow."""
    most, boot = _areas(MEMORY_BYTES), _areas(BOOT_BYTES)
    domain = DomainConfig(
        name=domain_name(variant.name), maxmem_frames=most, boot_frames=boot, target_frames=most,
        ram_min_frames=boot if variant.agent == RESIZES else most, mechanism=variant.mechanism,
        options=dict(variant.options), credit_areas=variant.credit_areas,
    )  # fmt: skip
    return HypervisorConfig(total_frames=most + _areas(SPARE_BYTES), domains=(domain,))


def _areas(size_bytes: int) -> int:
    """Frames of whole areas."""
    return -(-size_bytes // AREA_BYTES) * AREA_FRAMES
