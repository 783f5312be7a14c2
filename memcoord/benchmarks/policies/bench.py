"""``memcoord bench policies``: every policy on every scenario, simulated and real.

Owns: the runs that the bench is made of. The runs are cells of a sweep, with a store of their own:
given the same ``--out``, a bench that was stopped goes on. The summary of the runs is in
``summary`` beside this file, their tables in ``views``.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from hypervisor.public.errors import ConfigError
from memcoord.benchmarks.policies import split, summary, views
from memcoord.benchmarks.policies.speeds import measure_ratios, verdicts
from memcoord.benchmarks.runner import Bench, Result, fresh_directory
from memcoord.benchmarks.sweep.cell import BEST_STATIC, WORLDS, Cell
from memcoord.benchmarks.sweep.cell import Result as CellResult
from memcoord.benchmarks.sweep.grid import cross, scenario_text, seeds_of, split_policy
from memcoord.benchmarks.sweep.misreport import FACTORS
from memcoord.benchmarks.sweep.run import Run, run_cells, runner
from memcoord.benchmarks.sweep.store import Store
from memcoord.benchmarks.sweep.table import rows_of, situation, write_tables
from memcoord.benchmarks.tables import Table
from memcoord.simulation.costs import named
from memcoord.testbed.report.figures import Figure
from memcoord.testbed.report.progress import Progress
from memcoord.testbed.runs import facts
from memcoord.testbed.runs.rundir import RunDir

SEEDS, SEEDS_QUICK, SEEDS_FULL = 2, 1, 5
#: Run in the testbed, where a run takes seconds, unless --full or other names are given.
TESTBED_POLICIES = ("greedy", "static-alloc", "smart-alloc", "fallow")
TESTBED_SCENARIOS = ("graph", "loop", "usemem")
QUICK_SCENARIOS = ("graph", "loop", "usemem")
#: Shipped cost sets, each of which has tables of its own, and the key of a scenario that names one.
COST_SETS, COST_SET = ("testbed", "kernel-like"), "cost_set"
#: The scenario in which gains from lying are looked for.
LIE_SCENARIO = "mixed"


@dataclass(frozen=True)
class PolicyBenchOptions:
    """The options of the command line; an empty one means the default."""

    world: str = "both"
    policies: tuple[str, ...] = ()
    scenarios: tuple[str, ...] = ()
    seeds: int | None = None
    costs: str = ""
    quick: bool = False
    full: bool = False


@dataclass(frozen=True)
class PolicyBenchPlan:
    """The cells of a bench, by world, and the names in the order asked for. The simulator runs all
    of its cells with each of ``costs``."""

    policies: tuple[str, ...]
    scenarios: tuple[str, ...]
    seeds: tuple[int, ...]
    costs: tuple[str, ...]
    cells: dict[str, list[Cell]]

    @classmethod
    def of(cls, options: PolicyBenchOptions) -> PolicyBenchPlan:
        """The plan ``options`` ask for; ConfigError or PolicyError when they are wrong."""
        from policies.loader import available

        if options.world not in (*WORLDS, "both"):
            raise ConfigError("--world", f"{options.world!r}: write sim, testbed or both")
        if options.quick and options.full:
            raise ConfigError("--quick", "either --quick or --full")
        names = options.policies or tuple(available())
        policies = tuple(dict.fromkeys((summary.BASELINE, *names)))
        every = QUICK_SCENARIOS if options.quick else split.default_scenarios()
        scenarios = options.scenarios or every
        texts = {name: scenario_text(name) for name in scenarios}
        default = SEEDS_QUICK if options.quick else SEEDS_FULL if options.full else SEEDS
        seeds = seeds_of(options.seeds or default)
        apart = [split_policy(policy) for policy in policies]
        few_costs = COST_SETS[:1] if options.quick else COST_SETS
        costs = (named(options.costs),) if options.costs else few_costs
        settings = [((COST_SET, name),) for name in costs]
        cells: dict[str, list[Cell]] = {}
        if options.world in (summary.SIM, "both"):
            sim = _with_optimal(cross(apart, texts, settings, seeds, (summary.SIM,)))
            if not options.quick:
                factors = FACTORS if options.full else FACTORS[-1:]
                sim += _lies(sim, factors) + _isolated(sim)
            cells[summary.SIM] = sim + _best_static(sim)
        if options.world in (summary.TESTBED, "both"):
            some, few = apart, texts
            if not (options.full or options.policies or options.world == summary.TESTBED):
                some = [split_policy(name) for name in policies if name in TESTBED_POLICIES]
            if not (options.full or options.scenarios or options.world == summary.TESTBED):
                few = {name: text for name, text in texts.items() if name in TESTBED_SCENARIOS}
            real = seeds if options.seeds else seeds[:1]
            cells[summary.TESTBED] = _with_optimal(cross(some, few, [()], real, (summary.TESTBED,)))
            cells[summary.TESTBED] += _best_static(cells[summary.TESTBED])
        return cls((*policies, BEST_STATIC), tuple(scenarios), seeds, costs, cells)


def command_of(options: PolicyBenchOptions) -> str:
    """The command line that means ``options``."""
    words = ["memcoord bench policies", f"--world {options.world}"]
    words += [f"--policy {policy}" for policy in options.policies]
    words += [f"--scenario {scenario}" for scenario in options.scenarios]
    words += [f"--seeds {options.seeds}"] if options.seeds else []
    words += [f"--costs {options.costs}"] if options.costs else []
    words += [f"--{name}" for name in ("quick", "full") if getattr(options, name)]
    return " ".join(words)


def _with_optimal(cells: list[Cell]) -> list[Cell]:
    """And the optimum of each situation, to tell the regret."""
    as_optimal = {"kind": "optimal", "policy": summary.BASELINE, "params": (), "policy_file": ""}
    made = {situation(cell): replace(cell, **as_optimal, domain="") for cell in cells}
    return [*cells, *made.values()]


def _best_static(cells: Sequence[Cell]) -> list[Cell]:
    """And each situation under the best split of RAM that never changes."""
    runs = [cell for cell in cells if cell.kind == "run" and cell.policy == summary.BASELINE]
    return [replace(cell, policy=BEST_STATIC) for cell in runs]


def _lies(cells: Sequence[Cell], factors: Sequence[float]) -> list[Cell]:
    runs = [cell for cell in cells if cell.scenario == LIE_SCENARIO and cell.kind == "run"]
    first = min((cell.seed for cell in runs), default=0)
    names = {c.domain for c in cells if c.scenario == LIE_SCENARIO and c.kind == "alone"}
    lies = itertools.product([c for c in runs if c.seed == first], sorted(names), factors)
    return [replace(cell, kind="lie", domain=name, factor=f) for cell, name, f in lies]


def _isolated(cells: Sequence[Cell]) -> list[Cell]:
    scenario, aggressor = summary.AGGRESSION
    runs = [cell for cell in cells if cell.scenario == scenario and cell.kind == "run"]
    return [replace(cell, kind="without", domain=aggressor) for cell in runs]


class PolicyBench(Bench):
    """Every policy of ``options`` on every scenario. ``speeds``: time the simulator too.

    ``run`` stands in for the processes of this machine. ConfigError or PolicyError for wrong
    options.
    """

    name = "policies"
    figure_file = "policies_frontier.svg"

    def __init__(
        self, options: PolicyBenchOptions, *, speeds: bool = True, run: Run | None = None
    ) -> None:
        self.plan, self._command = PolicyBenchPlan.of(options), command_of(options)
        self._speeds, self._run = speeds, run

    def directory(self, out: str | None) -> contextlib.AbstractContextManager[RunDir | Path]:
        """A fresh run directory, or ``out``, whose results are used again."""
        if out is None:
            return fresh_directory("bench-policies", None)
        Path(out).mkdir(parents=True, exist_ok=True)
        return contextlib.nullcontext(Path(out))

    def measure(self, where: RunDir | Path, progress: Progress) -> dict[str, Any]:
        """Run the cells that have no result yet; results are kept below ``where``."""
        directory = where if isinstance(where, Path) else where.path
        plan, machine = self.plan, facts.describe()
        ratios = measure_ratios() if self._speeds else {}
        store, results, errors = Store(directory), [], []
        for world, cells in plan.cells.items():
            workers = facts.cores() if world == summary.SIM else 1
            progress.begin(f"bench policies, {world}", len(cells))
            run = self._run or runner(None, workers)
            sweep = run_cells(cells, store, run, progress.advance)
            results += sweep.results
            errors += [f"{cell.label}: {error}" for cell, error in sweep.errors]
        write_tables(directory, rows_of(results))
        splits = split.by_split(plan.scenarios)
        by_costs = {name: _summary(results, name, splits) for name in plan.costs}
        return {
            "bench": "policies",
            "command": self._command,
            "machine": {**machine, "versions": facts.versions()},
            "seeds": list(plan.seeds),
            "policies": list(plan.policies),
            "scenarios": list(plan.scenarios),
            "splits": splits,
            **by_costs[plan.costs[0]],
            "by_costs": by_costs,
            "ratios": ratios,
            "targets": verdicts(ratios),
            "errors": errors,
        }

    def tables(self, result: Result) -> Iterator[Table]:
        """Policies x scenarios, a table per slowdown and cost set."""
        for found in views.by_costs(result):
            yield from views.slowdown_tables(found)

    def lines(self, result: Result) -> list[str]:
        """The orders, the frontier, the speeds, the failures."""
        return views.closing_lines(result)

    def parts(self, result: Result) -> dict[str, str]:
        """Both lists, and the tables."""
        lists = {"policies": views.policy_list(), "scenarios": views.scenario_list()}
        return {**lists, "table": views.markdown(result) if result else ""}

    def figure(self, result: Result) -> Figure:
        """Mean against worst slowdown."""
        return views.figure(result)

    def status(self, result: Result) -> int:
        """1 when a run failed."""
        return int(bool(result["errors"]))


def _summary(
    results: Sequence[tuple[Cell, CellResult]], costs: str, splits: dict[str, list[str]]
) -> dict[str, Any]:
    """The summary of the real runs and of those simulated with ``costs``."""
    mine = [
        (cell, result)
        for cell, result in results
        if cell.world == summary.TESTBED or (COST_SET, costs) in cell.overrides
    ]
    rows = summary.summarise(rows_of(mine))
    return {
        "rows": rows,
        "overall": summary.overall(rows),
        "overall_by_split": {
            part: summary.overall(summary.only(rows, names)) for part, names in splits.items()
        },
        "rank_correlation": summary.rank_correlation(rows),
        "gain_from_lying": summary.lying(mine),
        "isolation": summary.isolations(mine),
    }
