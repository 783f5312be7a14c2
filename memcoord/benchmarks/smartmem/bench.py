"""``memcoord bench smartmem``: each situation of SmarTmem, who gains by management and who pays.

Owns: the runs and their summary. The claim is of Garrido, Nishtala and Carpenter (IPDPSW 2019): up
to 35 % shorter running time than with tmem that nobody manages. Every situation is run under
greedy, the paper's two static policies, and smart-alloc over the P the paper sweeps. A seed moves
the moments at which domains start, by up to START_S_MAX and DONE_MAX of a share, besides the data
of programs that have some; all policies see the same. Two situations are not the paper's: in them
programs have cold memory, which is where management can pay. Results are kept as those of a sweep.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec

from hypervisor.public.errors import ConfigError
from memcoord.benchmarks.harness import rotated
from memcoord.benchmarks.runner import Bench, Result, fresh_directory
from memcoord.benchmarks.smartmem import views
from memcoord.benchmarks.sweep.cell import WORLDS, Cell
from memcoord.benchmarks.sweep.grid import scenario_text, seeds_of, split_policy
from memcoord.benchmarks.sweep.run import Run, run_cells, runner
from memcoord.benchmarks.sweep.store import Store
from memcoord.benchmarks.sweep.table import run_times
from memcoord.benchmarks.tables import Table
from memcoord.testbed.report.intervals import interval
from memcoord.testbed.report.progress import Progress
from memcoord.testbed.runs import facts
from memcoord.testbed.runs.rundir import RunDir

BASELINE = "greedy"
#: P in percent, as the paper sweeps it; of --quick the ends and the middle.
SWEPT, SWEPT_QUICK = (0.25, 0.75, 2.0, 4.0, 6.0), (0.75, 2.0, 6.0)
STATIC = ("static-alloc", "reconf-static")
#: Name of a situation -> its shipped scenario; the last two are not the paper's.
SITUATIONS = {
    "S1": "smartmem/s1",
    "S2": "smartmem/s2",
    "S3": "smartmem/s3",
    "usemem": "smartmem/usemem",
    "idle-then-busy": "smartmem/idle-then-busy",
    "cold-early": "smartmem/cold-early",
}
SEEDS, SEEDS_QUICK = 5, 3
START_S_MAX, DONE_MAX = 0.1, 0.05
WHERE_OF_BOTH = "both"


@dataclass(frozen=True)
class SmartmemOptions:
    """The options of the command line; an empty one means the default."""

    world: str = "sim"
    scenarios: tuple[str, ...] = ()
    seeds: int | None = None
    quick: bool = False


@dataclass(frozen=True)
class SmartmemPlan:
    """The cells by world."""

    seeds: tuple[int, ...]
    policies: tuple[str, ...]
    situations: tuple[str, ...]
    cells: dict[str, list[Cell]]

    @classmethod
    def of(cls, options: SmartmemOptions) -> SmartmemPlan:
        """The plan ``options`` ask for; ConfigError when they are wrong."""
        if options.world not in (*WORLDS, WHERE_OF_BOTH):
            raise ConfigError("--world", f"{options.world!r}: write sim, testbed or both")
        for name in options.scenarios:
            if name not in SITUATIONS:
                known = ", ".join(SITUATIONS)
                raise ConfigError("--scenario", f"{name!r} is no situation: there are {known}")
        situations = options.scenarios or tuple(SITUATIONS)
        seeds = seeds_of(options.seeds or (SEEDS_QUICK if options.quick else SEEDS))
        swept = SWEPT_QUICK if options.quick else SWEPT
        policies = (BASELINE, *STATIC, *(f"smart-alloc:P={percent:g}" for percent in swept))
        worlds = WORLDS if options.world == WHERE_OF_BOTH else (options.world,)
        cells = {
            world: [
                _cell(world, situation, policy, seed)
                for situation in situations
                for seed in seeds
                for policy in rotated(policies, seed)
            ]
            for world in worlds
        }
        return cls(seeds, policies, situations, cells)


def _cell(world: str, situation: str, policy: str, seed: int) -> Cell:
    name, params = split_policy(policy)
    scenario = SITUATIONS[situation]
    return Cell(
        policy=name, params=params, scenario=situation, text=scenario_text(scenario), seed=seed,
        world=world, overrides=_moved(scenario, seed),
    )  # fmt: skip


def _moved(scenario: str, seed: int) -> tuple[tuple[str, str], ...]:
    """Settings that move the starts of the domains, the same for each policy."""
    from memcoord.testbed.scenarios.schema import load

    drawn, moved = random.Random(seed), []
    for index, domain in enumerate(load(scenario).domain):
        when = domain.start_when
        if when is None:
            late = drawn.uniform(0, START_S_MAX)
            moved.append((f"domain[{index}].start_after_s", f"{late:.4f}"))
        else:
            done = min(max(when.done + drawn.uniform(-DONE_MAX, DONE_MAX), 0.0), 1.0)
            moved.append((f"domain[{index}].start_when.done", f"{done:.4f}"))
    return tuple(moved)


def command_of(options: SmartmemOptions) -> str:
    """The command line that means ``options``."""
    words = ["memcoord bench smartmem", f"--world {options.world}"]
    words += [f"--scenario {scenario}" for scenario in options.scenarios]
    words += [f"--seeds {options.seeds}"] if options.seeds else []
    return " ".join([*words, "--quick"] if options.quick else words)


class SmartmemBench(Bench):
    """Every situation of ``options``; ``run`` stands in for the processes of this machine."""

    name = "smartmem"

    def __init__(self, options: SmartmemOptions, *, run: Run | None = None) -> None:
        self.plan, self._is_quick = SmartmemPlan.of(options), options.quick
        self._command = command_of(options)
        self._run = run

    def directory(self, out: str | None) -> contextlib.AbstractContextManager[RunDir | Path]:
        """A fresh run directory, or ``out``, whose results are used again."""
        if out is None:
            return fresh_directory("bench-smartmem", None)
        Path(out).mkdir(parents=True, exist_ok=True)
        return contextlib.nullcontext(Path(out))

    def measure(self, where: RunDir | Path, progress: Progress) -> dict[str, Any]:
        """Run the cells that have no result yet; results are kept below ``where``."""
        directory = where if isinstance(where, Path) else where.path
        machine = facts.describe()
        store, errors = Store(directory), []
        rows: dict[str, Any] = {}
        for world, cells in self.plan.cells.items():
            workers = facts.cores() if world == WORLDS[0] else 1
            progress.begin(f"bench smartmem, {world}", len(cells))
            sweep = run_cells(cells, store, self._run or runner(None, workers), progress.advance)
            errors += [f"{cell.label}: {error}" for cell, error in sweep.errors]
            rows |= summarise(sweep.results)
        return {
            "bench": self.name,
            "quick": self._is_quick,
            "command": self._command,
            "machine": {**machine, "versions": facts.versions()},
            "seeds": list(self.plan.seeds),
            "policies": list(self.plan.policies),
            "situations": list(self.plan.situations),
            "rows": rows,
            "ratios": {},
            "errors": errors,
        }

    def tables(self, result: Result) -> Iterator[Table]:
        """A table per world and situation."""
        return views.tables_of(result)

    def lines(self, result: Result) -> list[str]:
        """What the tables say, and what they do not."""
        return views.closing_lines(result)

    def parts(self, result: Result) -> dict[str, str]:
        """The tables for the page."""
        return {"smartmem": views.markdown(result) if result else ""}

    def status(self, result: Result) -> int:
        """1 when a run failed."""
        return int(bool(result["errors"]))


def summarise(results: Sequence[tuple[Cell, dict[str, Any]]]) -> dict[str, Any]:
    """Per "world/situation/policy" the gain over greedy in percent of its time, by domain and mean.

    ``gains`` and ``pays``: domains of which the interval says so. ``last``: the domain that comes
    last. ``intervals``: of policy time in the shortest run.
    """
    times: dict[tuple[str, str, str], dict[int, dict[str, float]]] = {}
    ticks: dict[tuple[str, str, str], list[int]] = {}
    for cell, result in results:
        key = cell.world, cell.scenario, cell.policy_text
        times.setdefault(key, {})[cell.seed] = run_times(result)
        ticks.setdefault(key, []).append(int(result["ticks"]))
    rows: dict[str, Any] = {}
    for (world, situation, policy), by_seed in times.items():
        greedy = times.get((world, situation, BASELINE), {})
        both = [seed for seed in by_seed if seed in greedy]
        names = list(next(iter(by_seed.values()), {}))
        gained = {n: [_gain(greedy[s].get(n), by_seed[s].get(n)) for s in both] for n in names}
        domains = {name: _figure(values) for name, values in gained.items()}
        mean = [fmean(each) for each in zip(*gained.values(), strict=True)]
        rows[f"{world}/{situation}/{policy}"] = {
            "world": world, "situation": situation, "policy": policy,
            "domains": domains, "mean": _figure(mean), "last": names[-1] if names else "",
            "gains": [name for name, figure in domains.items() if _sign(figure) > 0],
            "pays": [name for name, figure in domains.items() if _sign(figure) < 0],
            "intervals": min(ticks[world, situation, policy]),
        }  # fmt: skip
    return rows


def _gain(greedy_s: float | None, own_s: float | None) -> float:
    if not greedy_s or own_s is None:
        return math.nan
    return 100.0 * (1.0 - own_s / greedy_s)


def _figure(values: Sequence[float]) -> dict[str, Any]:
    found = msgspec.to_builtins(interval(values))
    return {"value": found["mean"], "low": found["low"], "high": found["high"], "n": found["count"]}


def _sign(figure: dict[str, Any]) -> int:
    """1 for a gain, -1 for a loss, 0 where the interval does not say."""
    low, high = figure["low"], figure["high"]
    return 1 if low > 0 else -1 if high < 0 else 0
