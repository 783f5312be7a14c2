"""``memcoord bench smartmem``: each situation of SmarTmem, who gains by management and who pays.

Owns: the runs and their summary. The claim is of Garrido, Nishtala and Carpenter (IPDPSW 2019): up
to 35 % shorter running time than with tmem that nobody manages. Every situation is run under
greedy, the paper's two static policies, and smart-alloc over the P the paper sweeps. A seed moves
the moments at which domains start, by up to START_S_MAX and DONE_MAX of a share, besides the data
of programs that have some; all policies see the same. Two situations are not the paper's: in them
programs have cold memory, which is where management can pay. Results are kept as those of a sweep.
In the world ``programs`` the situations are of real programs (``situations``), policies that move
RAM are among those compared, and a look at each situation says how much work makes a run of
INTERVALS of its policy.
"""

from __future__ import annotations

import contextlib
import random
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypervisor.public.errors import ConfigError, MemcoordError
from memcoord.benchmarks.harness import rotated
from memcoord.benchmarks.runner import Bench, Result, fresh_directory
from memcoord.benchmarks.smartmem import curves, programs, situations, verdict, views
from memcoord.benchmarks.smartmem.summary import summarise
from memcoord.benchmarks.sweep.cell import WORLDS, Cell
from memcoord.benchmarks.sweep.grid import scenario_text, seeds_of, split_policy
from memcoord.benchmarks.sweep.local import run_local
from memcoord.benchmarks.sweep.run import Run, run_cells, runner
from memcoord.benchmarks.sweep.store import Store
from memcoord.benchmarks.sweep.worlds import text_of
from memcoord.benchmarks.tables import Table
from memcoord.testbed.report.progress import Progress
from memcoord.testbed.runs import facts
from memcoord.testbed.runs.rundir import RunDir

if TYPE_CHECKING:
    from memcoord.testbed.scenarios.schema import Scenario

BASELINE = verdict.BASELINE
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
WHERE_OF_BOTH, PROGRAMS = "both", "programs"
#: Policies that move RAM, of which the second is ours; beside those of tmem, in ``programs``.
RAM_POLICIES = ("ram-max-min", verdict.OURS)
#: --quick with real programs: the direction, at the small scale.
SEEDS_PROGRAMS_QUICK, INTERVALS_QUICK = 1, 30
POLICIES_QUICK = (BASELINE, "static-alloc", "smart-alloc:P=2", verdict.OURS)


@dataclass(frozen=True)
class SmartmemOptions:
    """The options of the command line; an empty one means the default."""

    world: str = "sim"
    scenarios: tuple[str, ...] = ()
    seeds: int | None = None
    quick: bool = False
    policies: tuple[str, ...] = ()  # of real programs: these and greedy
    scale: float | None = None  # of real programs; the full size has the paper's gibibytes
    data: str = ""  # of real programs: a file of edges for PageRank


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
        if options.world == PROGRAMS:
            return cls._of_programs(options)
        if options.world not in (*WORLDS, WHERE_OF_BOTH):
            raise ConfigError("--world", f"{options.world!r}: write sim, testbed, both or programs")
        for key in ("policies", "scale", "data"):
            if getattr(options, key):
                raise ConfigError(f"--{key}", f"only with --world {PROGRAMS}")
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

    @classmethod
    def _of_programs(cls, options: SmartmemOptions) -> SmartmemPlan:
        """The plan of real programs, without cells: how much work they have is not known yet."""
        from policies import loader

        for name in options.scenarios:
            if name not in situations.MADE:
                known = ", ".join(situations.MADE)
                raise ConfigError("--scenario", f"{name!r} has no real programs: {known} have")
            if name not in situations.found():
                needed = situations.NEEDS[name]
                raise ConfigError("--scenario", f"{name!r} needs {needed}, which is not here")
        if options.data and not Path(options.data).is_file():
            raise ConfigError("--data", f"no file {options.data!r}")
        if options.scale and not situations.SMALLEST <= options.scale <= situations.FULL:
            raise ConfigError("--scale", f"must be {situations.SMALLEST:g} to 1: a part of it all")
        for policy in options.policies:
            loader.load(policy)  # PolicyError before hours are spent
        seeds = seeds_of(options.seeds or (SEEDS_PROGRAMS_QUICK if options.quick else SEEDS))
        smart = (f"smart-alloc:P={percent:g}" for percent in SWEPT)
        policies = (BASELINE, *STATIC, *smart, *RAM_POLICIES)
        if options.policies:
            policies = tuple(dict.fromkeys((BASELINE, *options.policies)))
        elif options.quick:
            policies = POLICIES_QUICK
        return cls(
            seeds,
            policies,
            options.scenarios or tuple(verdict.PAPERS if options.quick else situations.found()),
            {PROGRAMS: []},
        )

    def of_programs(self, text: Mapping[str, str]) -> list[Cell]:
        """The cells of real programs, from the text of each situation.

        A seed after the other, so that a run that is cut short has as many of each.
        """
        return [
            _program_cell(situation, text[situation], policy, seed)
            for seed in self.seeds
            for situation in self.situations
            for policy in rotated(self.policies, seed)
        ]


def _cell(world: str, situation: str, policy: str, seed: int) -> Cell:
    from memcoord.testbed.scenarios.schema import load

    name, params = split_policy(policy)
    scenario = SITUATIONS[situation]
    return Cell(
        policy=name, params=params, scenario=situation, text=scenario_text(scenario), seed=seed,
        world=world, overrides=_moved(load(scenario), seed),
    )  # fmt: skip


def _program_cell(situation: str, text: str, policy: str, seed: int) -> Cell:
    from memcoord.testbed.scenarios.schema import parse

    name, params = split_policy(policy)
    return Cell(
        policy=name, params=params, scenario=situation, text=text, seed=seed, world=PROGRAMS,
        overrides=_moved(parse(tomllib.loads(text)), seed),
    )  # fmt: skip


def _moved(scenario: Scenario, seed: int) -> tuple[tuple[str, str], ...]:
    """Settings that move the starts of the domains, the same for each policy."""
    drawn, moved = random.Random(seed), []
    for index, domain in enumerate(scenario.domain):
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
    words += [f"--policy {policy}" for policy in options.policies]
    words += [f"--seeds {options.seeds}"] if options.seeds else []
    words += [f"--scale {options.scale:g}"] if options.scale else []
    words += [f"--data {options.data}"] if options.data else []
    return " ".join([*words, "--quick"] if options.quick else words)


class SmartmemBench(Bench):
    """Every situation of ``options``; ``run`` stands in for the processes of this machine."""

    name = "smartmem"

    def __init__(self, options: SmartmemOptions, *, run: Run | None = None) -> None:
        self.plan, self._is_quick = SmartmemPlan.of(options), options.quick
        self._options = options
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
        own: dict[str, Any] = {}
        for world, cells in self.plan.cells.items():
            run = self._run or self._runner(world)
            if world == PROGRAMS:
                text = self._derived(store, run, progress)
                cells, own = self.plan.of_programs(text), {"scenarios": text}
            progress.begin(f"bench smartmem, {world}", len(cells))
            sweep = run_cells(cells, store, run, progress.advance)
            errors += [f"{cell.label}: {error}" for cell, error in sweep.errors]
            errors += programs.wrong_bytes(sweep.results)
            rows |= summarise(sweep.results)
            if world == PROGRAMS:
                own |= programs.kept(sweep.results)
                curves.draw(own["over_time"], directory)
        return {
            **own,
            "bench": self.name,
            "quick": self._is_quick,
            "command": self._command,
            "machine": {**machine, "versions": facts.versions()},
            "seeds": list(self.plan.seeds),
            "policies": list(self.plan.policies),
            "situations": list(self.plan.situations),
            "worlds": list(self.plan.cells),
            "rows": rows,
            "ratios": {},
            "errors": errors,
        }

    def _runner(self, world: str) -> Run:
        if world != PROGRAMS:
            return runner(None, facts.cores() if world == WORLDS[0] else 1)
        limit_s = programs.RUN_S_MAX
        return lambda cells: run_local(cells, 1, programs.RUNNER, limit_s)

    def _derived(self, store: Store, run: Run, progress: Progress) -> dict[str, str]:
        """The scenario of each situation of real programs, as long as it must be.

        From a look at each under greedy, which is kept: who goes on has the same scenarios.
        MemcoordError when a look fails.
        """
        scale, data = self._options.scale or situations.FULL, self._options.data
        if self._is_quick and self._options.scale is None:
            scale = situations.SMALL
        data = str(Path(data).absolute()) if data else ""
        made = {
            name: partial(situations.scenario, name, scale, data=data)
            for name in self.plan.situations
        }
        looks = [
            _program_cell(name, text_of(make(situations.LOOK_ROUNDS)), BASELINE, 0)
            for name, make in made.items()
        ]
        progress.begin("bench smartmem, how long its programs take", len(looks))
        sweep = run_cells(looks, store, run, progress.advance)
        for cell, error in sweep.errors:
            raise MemcoordError(f"{cell.label}: {error}")
        intervals = INTERVALS_QUICK if self._is_quick else situations.INTERVALS
        return {
            cell.scenario: text_of(
                made[cell.scenario](situations.rounds_for(int(result["ticks"]), intervals))
            )
            for cell, result in sweep.results
        }

    def tables(self, result: Result) -> Iterator[Table]:
        """A table per world and situation."""
        return views.tables_of(result)

    def lines(self, result: Result) -> list[str]:
        """What the tables say, and what they do not."""
        return views.closing_lines(result)

    def parts(self, result: Result) -> dict[str, str]:
        """The tables for the page."""
        worlds = result["worlds"] if result else self.plan.cells
        part = PROGRAMS if PROGRAMS in worlds else self.name
        return {part: views.markdown(result) if result else ""}

    def status(self, result: Result) -> int:
        """1 when a run failed."""
        return int(bool(result["errors"]))
