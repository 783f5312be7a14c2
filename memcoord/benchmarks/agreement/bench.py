"""``memcoord bench agreement``: every policy in both worlds, and whether these tell the same.

Owns: the runs that the bench is made of. They are those of ``memcoord run`` and ``memcoord sim``
with ``--seeds``: the scenario at its size, varied by the seed, under every policy and with every
domain alone, as cells of a sweep. A *round* is one seed: all scenarios, and in each every policy
once, the first of them another one in every round. The testbed's rounds are run one after the
other and nothing beside them. Given the same ``--out``, a bench that was stopped goes on. The
arithmetic is in ``summary`` beside this file, the tables in ``views``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from hypervisor.public.errors import ConfigError
from memcoord.benchmarks.agreement import summary, views
from memcoord.benchmarks.harness import rotated
from memcoord.benchmarks.runner import LOAD_BEFORE_MAX, Bench, Result, fresh_directory
from memcoord.benchmarks.sweep.cell import Cell
from memcoord.benchmarks.sweep.grid import cross, seeds_of, split_policy
from memcoord.benchmarks.sweep.run import Run, expected_s, run_cells, runner
from memcoord.benchmarks.sweep.store import Store
from memcoord.benchmarks.sweep.worlds import as_toml
from memcoord.benchmarks.tables import Table
from memcoord.simulation.costs import CostSet, costs_of, named
from memcoord.testbed.live.hypervisor_main import MEASURED
from memcoord.testbed.report.progress import Progress, duration
from memcoord.testbed.runs import facts
from memcoord.testbed.runs.rundir import RunDir
from memcoord.testbed.scenarios.scale import at_scale
from memcoord.testbed.scenarios.schema import Scenario, load
from memcoord.testbed.streams.seeds import varied

SCENARIOS = ("analytics", "graph", "liar", "loop", "main", "mixed", "usemem")
SCENARIOS_QUICK = ("main", "usemem")
POLICIES_QUICK = ("greedy", "static-alloc", "smart-alloc:P=2", "idle-tax", "fallow")
SEEDS, SEEDS_QUICK = 5, 2
#: Of a scenario's full size; never less than its file says. At a quarter programs run for seconds
#: and policies decide often; the whole bench ends in a night. Smaller ones end before a policy has
#: decided anything, and compare nothing.
SCALE = 0.25
COSTS = "testbed"


@dataclass(frozen=True)
class AgreementOptions:
    """The options of the command line; an empty one means the default."""

    scenarios: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()
    seeds: int | None = None
    scale: float | None = None
    costs: str = ""
    quick: bool = False


@dataclass(frozen=True)
class AgreementPlan:
    """The cells by world, the names in the order asked for, and who is left out and why."""

    policies: tuple[str, ...]
    scenarios: tuple[str, ...]
    seeds: tuple[int, ...]
    scale: float
    costs: CostSet
    cells: dict[str, list[Cell]]
    left_out: dict[str, str]

    @classmethod
    def of(cls, options: AgreementOptions) -> AgreementPlan:
        """The plan ``options`` ask for; ConfigError or PolicyError when they are wrong."""
        policies, left_out = _policies(options)
        scenarios = options.scenarios or (SCENARIOS_QUICK if options.quick else SCENARIOS)
        seeds = seeds_of(options.seeds or (SEEDS_QUICK if options.quick else SEEDS))
        scale = options.scale or SCALE
        costs = named(options.costs or COSTS)
        sized = {name: _sized(name, scale, costs) for name in scenarios}
        found = costs_of(next(iter(sized.values())))
        cells: dict[str, list[Cell]] = {}
        for world in (summary.SIM, summary.TESTBED):
            cells[world] = [
                cell
                for number, seed in enumerate(seeds)
                for name, what in sized.items()
                for cell in cross(
                    [split_policy(policy) for policy in rotated(policies, number)],
                    {name: as_toml(varied(what, seed))},
                    [()],
                    (seed,),
                    (world,),
                )
            ]
        return cls(policies, tuple(scenarios), seeds, scale, found, cells, left_out)

    def expected_s(self) -> float:
        """About how long all of it takes on quiet cores."""
        return sum(expected_s(cells, _workers(world)) for world, cells in self.cells.items())


def _workers(world: str) -> int:
    """Real runs have the machine to themselves."""
    return facts.cores() if world == summary.SIM else 1


def _policies(options: AgreementOptions) -> tuple[tuple[str, ...], dict[str, str]]:
    """Those asked for, or all that both worlds can run."""
    from policies import PolicyError, loader

    if options.policies:
        return options.policies, {}
    left_out = {}
    names = POLICIES_QUICK if options.quick else tuple(loader.available())
    for name in names:
        try:
            loader.load(name, measured=MEASURED)
        except PolicyError as error:
            left_out[name] = str(error)
    return tuple(name for name in names if name not in left_out), left_out


def _sized(name: str, scale: float, costs: str) -> Scenario:
    """A scenario at its size in this bench, simulated with these costs."""
    what = load(name)
    if not 0 < scale <= 1:
        raise ConfigError("--scale", "must be above 0, at most 1: a part of the full size")
    sized, _ = at_scale(what, max(scale, min(1 / what.scale, 1.0)))
    return replace(sized, cost_set=costs)


class AgreementBench(Bench):
    """Both worlds under the policies of ``options``; ``run`` stands in for this machine."""

    name = "agreement"

    def __init__(self, options: AgreementOptions, *, run: Run | None = None) -> None:
        self.plan, self._options, self._run = AgreementPlan.of(options), options, run

    def directory(self, out: str | None) -> contextlib.AbstractContextManager[RunDir | Path]:
        """A fresh run directory, or ``out``, whose results are used again."""
        if out is None:
            return fresh_directory(f"bench-{self.name}", None)
        Path(out).mkdir(parents=True, exist_ok=True)
        return contextlib.nullcontext(Path(out))

    def measure(self, where: RunDir | Path, progress: Progress) -> dict[str, Any]:
        """Run the cells that have no result yet; results are kept below ``where``."""
        directory = where if isinstance(where, Path) else where.path
        plan, machine = self.plan, facts.describe()
        machine["load_before_1m"] = machine.pop("load_1m")
        progress.say(self._first_line())
        store, results, errors = Store(directory), [], []
        for world, cells in plan.cells.items():
            run = self._run or runner(None, _workers(world))
            progress.begin(f"bench agreement, {world}", len(cells))
            sweep = run_cells(cells, store, run, progress.advance)
            results += sweep.results
            errors += [f"{cell.label}: {error}" for cell, error in sweep.errors]
        return {
            "bench": self.name,
            "quick": self._options.quick,
            "costs": self._options.costs or COSTS,
            "scale": plan.scale,
            "machine": {
                **machine,
                "load_after_1m": facts.load(),
                "load_before_max": LOAD_BEFORE_MAX,
                "versions": facts.versions(),
            },
            "seeds": list(plan.seeds),
            "policies": list(plan.policies),
            "scenarios": list(plan.scenarios),
            "left_out": plan.left_out,
            **summary.summarise(summary.runs_of(results, plan.costs.costs)),
            "differences": _differences(results),
            "ratios": {},
            "errors": errors,
        }

    def _first_line(self) -> str:
        counts = {world: len(cells) for world, cells in self.plan.cells.items()}
        runs = f"{counts[summary.SIM]} simulations and {counts[summary.TESTBED]} real runs"
        return f"bench agreement: {runs}, {duration(self.plan.expected_s())} on two quiet cores"

    def tables(self, result: Result) -> Iterator[Table]:
        """The ranks, the ratios, the slowdowns, the targets."""
        return views.tables_of(result)

    def lines(self, result: Result) -> list[str]:
        """What the tables say, and what they do not."""
        return views.closing_lines(result)

    def parts(self, result: Result) -> dict[str, str]:
        """The tables for the page."""
        return {self.name: views.markdown(result) if result else ""}

    def status(self, result: Result) -> int:
        """1 when a run failed."""
        return int(bool(result["errors"]))


def _differences(results: Sequence[tuple[Cell, dict[str, Any]]]) -> list[str]:
    """Real runs in which domains ran at other times than the scenario says."""
    return [
        f"{cell.label}: {text}" for cell, result in results for text in result.get("overlap", ())
    ]
