"""``memcoord bench policies``: every policy on every scenario, simulated and real.

Owns: which runs the bench is made of, and the object ``--json`` prints. The runs are cells of a
sweep, with a store of their own: given the same ``--out``, a bench that was stopped goes on.
How the tables look is ``policies_text``'s.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from hypervisor.public.errors import ConfigError
from memcoord.benchmarks.sweep.cell import WORLDS, Cell, Result
from memcoord.benchmarks.sweep.grid import cross, scenario_text, seeds_of, split_policy
from memcoord.benchmarks.sweep.misreport import FACTORS
from memcoord.benchmarks.sweep.run import Run, run_cells, runner
from memcoord.benchmarks.sweep.store import Store
from memcoord.benchmarks.sweep.table import Row, number, rows_of, run_times, situation, write_tables
from memcoord.testbed.report.intervals import interval, paired, spearman
from memcoord.testbed.report.metrics import gain_from_lying, isolation
from memcoord.testbed.report.progress import CellProgress
from memcoord.testbed.runs import facts

BASELINE = "greedy"
SIM, TESTBED = WORLDS
SEEDS, SEEDS_QUICK, SEEDS_FULL = 2, 1, 5
#: What is run in the testbed, where a run takes seconds, unless --full or named.
TESTBED_POLICIES = ("greedy", "static-alloc", "smart-alloc", "fallow")
TESTBED_SCENARIOS = ("graph", "loop", "usemem")
QUICK_SCENARIOS = ("graph", "loop", "usemem")
#: Where gains from lying are looked for, and where a neighbour's aggression is.
LIE_SCENARIO = "mixed"
AGGRESSION = ("liar", "liar")  # scenario, domain
#: The order of policies is that of this figure.
RANKED = "mean_slowdown"
SLOWDOWNS = ("mean_slowdown", "worst_slowdown")


@dataclass(frozen=True)
class PolicyBenchOptions:
    """What the command line says; empty means the default."""

    world: str = "both"
    policies: tuple[str, ...] = ()
    scenarios: tuple[str, ...] = ()
    seeds: int | None = None
    quick: bool = False
    full: bool = False


@dataclass(frozen=True)
class PolicyBenchPlan:
    """The cells of a bench, by world, and the names in the order asked for."""

    policies: tuple[str, ...]
    scenarios: tuple[str, ...]
    seeds: tuple[int, ...]
    cells: dict[str, list[Cell]]

    @classmethod
    def of(cls, options: PolicyBenchOptions) -> PolicyBenchPlan:
        """The plan ``options`` ask for; ConfigError or PolicyError when they are wrong."""
        from memcoord.testbed.scenarios.schema import shipped
        from policies.loader import available

        if options.world not in (*WORLDS, "both"):
            raise ConfigError("--world", f"{options.world!r}: write sim, testbed or both")
        if options.quick and options.full:
            raise ConfigError("--quick", "either --quick or --full")
        names = options.policies or tuple(available())
        policies = tuple(dict.fromkeys((BASELINE, *names)))
        scenarios = options.scenarios or (QUICK_SCENARIOS if options.quick else tuple(shipped()))
        texts = {name: scenario_text(name) for name in scenarios}
        default = SEEDS_QUICK if options.quick else SEEDS_FULL if options.full else SEEDS
        seeds = seeds_of(options.seeds or default)
        split = [split_policy(policy) for policy in policies]
        cells: dict[str, list[Cell]] = {}
        if options.world in (SIM, "both"):
            cells[SIM] = _with_optimal(cross(split, texts, [()], seeds, (SIM,)))
            if not options.quick:
                factors = FACTORS if options.full else FACTORS[-1:]
                cells[SIM] += _lies(cells[SIM], factors) + _isolated(cells[SIM])
        if options.world in (TESTBED, "both"):
            some, few = split, texts
            if not (options.full or options.policies or options.world == TESTBED):
                some = [split_policy(name) for name in policies if name in TESTBED_POLICIES]
            if not (options.full or options.scenarios or options.world == TESTBED):
                few = {name: text for name, text in texts.items() if name in TESTBED_SCENARIOS}
            real = seeds if options.seeds else seeds[:1]
            cells[TESTBED] = _with_optimal(cross(some, few, [()], real, (TESTBED,)))
        return cls(policies, tuple(scenarios), seeds, cells)


def _with_optimal(cells: list[Cell]) -> list[Cell]:
    """And the optimum of each situation, to tell the regret."""
    made = {
        situation(cell): msgspec.structs.replace(
            cell, kind="optimal", policy=BASELINE, params=(), policy_file="", domain=""
        )
        for cell in cells
    }
    return [*cells, *made.values()]


def _lies(cells: Sequence[Cell], factors: Sequence[float]) -> list[Cell]:
    runs = [cell for cell in cells if cell.scenario == LIE_SCENARIO and cell.kind == "run"]
    first = min((cell.seed for cell in runs), default=0)
    names = {c.domain for c in cells if c.scenario == LIE_SCENARIO and c.kind == "alone"}
    return [
        msgspec.structs.replace(cell, kind="lie", domain=name, factor=factor)
        for cell, name, factor in itertools.product(runs, sorted(names), factors)
        if cell.seed == first
    ]


def _isolated(cells: Sequence[Cell]) -> list[Cell]:
    scenario, aggressor = AGGRESSION
    return [
        msgspec.structs.replace(cell, kind="without", domain=aggressor)
        for cell in cells
        if cell.scenario == scenario and cell.kind == "run"
    ]


def measure_policies(
    plan: PolicyBenchPlan, directory: Path, *, speeds: bool = True, run: Run | None = None
) -> dict[str, Any]:
    """Run ``plan`` with its results below ``directory``; the object ``--json`` prints.

    ``run`` stands in for the processes of this machine.
    """
    from memcoord.benchmarks.policies.speeds import measure_ratios, verdicts

    machine = facts.describe()
    ratios = measure_ratios() if speeds else {}
    store, results, errors = Store(directory), [], []
    for world, cells in plan.cells.items():
        workers = facts.cores() if world == SIM else 1
        with CellProgress(f"bench policies, {world}") as progress:
            sweep = run_cells(cells, store, run or runner(None, workers), progress)
        results += sweep.results
        errors += [f"{cell.label}: {error}" for cell, error in sweep.errors]
    rows = rows_of(results)
    write_tables(directory, rows)
    summaries = summarise(rows)
    found = {
        "bench": "policies",
        "machine": {**machine, "versions": facts.versions()},
        "seeds": list(plan.seeds),
        "policies": list(plan.policies),
        "scenarios": list(plan.scenarios),
        "rows": summaries,
        "overall": overall(summaries),
        "rank_correlation": rank_correlation(summaries),
        "gain_from_lying": lying(results),
        "isolation": isolations(results),
        "ratios": ratios,
        "targets": verdicts(ratios),
        "errors": errors,
    }
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(found))
    text = msgspec.json.format(msgspec.json.encode(plain), indent=2)
    (directory / "policies.json").write_bytes(text + b"\n")
    return plain


def summarise(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Per "world/scenario/policy", each figure over the seeds: mean, low, high, count.

    ``against_greedy`` is the difference of the slowdowns to greedy's, paired on the seed.
    """
    groups: dict[tuple[str, str, str], dict[str, Row]] = {}
    for row in rows:
        key = str(row["world"]), str(row["scenario"]), _policy(row)
        groups.setdefault(key, {})[str(row["seed"])] = row
    found = {}
    for (world, scenario, policy), by_seed in groups.items():
        names = dict.fromkeys(
            name for row in by_seed.values() for name in row if not isinstance(row[name], str)
        )
        figures = {
            name: _interval([float(row.get(name, math.nan)) for row in by_seed.values()])
            for name in names
        }
        base = groups.get((world, scenario, BASELINE), {})
        both = [seed for seed in by_seed if seed in base]
        against = {
            name: msgspec.to_builtins(
                paired(
                    [float(by_seed[seed][name]) for seed in both],
                    [float(base[seed][name]) for seed in both],
                )
            )
            for name in SLOWDOWNS
        }
        found[f"{world}/{scenario}/{policy}"] = {
            "world": world,
            "scenario": scenario,
            "policy": policy,
            "figures": figures,
            "against_greedy": against,
        }
    return found


def _policy(row: Row) -> str:
    name = str(row["policy"])
    given = [f"{key[len(name) + 1 :]}={row[key]}" for key in row if key.startswith(f"{name}.")]
    return f"{name}:{','.join(given)}" if given else name


def _interval(values: Sequence[float]) -> dict[str, Any]:
    return dict(msgspec.to_builtins(interval(values)))


def figure(summaries: dict[str, dict[str, Any]], key: str, name: str) -> float:
    """The mean of a figure over the seeds; NaN where there is none."""
    entry = summaries.get(key)
    return math.nan if entry is None else number(entry["figures"].get(name, {}).get("mean"))


def overall(summaries: dict[str, dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Per world and policy, geometric means over scenarios of its slowdowns, best first.

    Only over scenarios that every policy of that world has run, so that all are compared alike.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    for world in WORLDS:
        own = [entry for entry in summaries.values() if entry["world"] == world]
        policies = dict.fromkeys(entry["policy"] for entry in own)
        scenarios = [
            name
            for name in dict.fromkeys(entry["scenario"] for entry in own)
            if all(
                not math.isnan(figure(summaries, f"{world}/{name}/{policy}", RANKED))
                for policy in policies
            )
        ]
        means = {
            policy: {
                name: _geometric(
                    [figure(summaries, f"{world}/{one}/{policy}", name) for one in scenarios]
                )
                for name in SLOWDOWNS
            }
            for policy in policies
        }
        if scenarios:
            order = sorted(means, key=lambda policy: (means[policy][RANKED], policy))
            found[world] = {policy: means[policy] for policy in order}
    return found


def _geometric(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values)) if values else math.nan


def rank_correlation(summaries: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Spearman's between the two worlds' orders, per scenario, and "overall" of their means."""
    pairs: dict[str, list[tuple[float, float]]] = {}
    for entry in summaries.values():
        there = f"{TESTBED}/{entry['scenario']}/{entry['policy']}"
        if entry["world"] == SIM and there in summaries:
            here = f"{SIM}/{entry['scenario']}/{entry['policy']}"
            pair = figure(summaries, here, RANKED), figure(summaries, there, RANKED)
            pairs.setdefault(entry["scenario"], []).append(pair)
    found = {scenario: spearman(*zip(*both, strict=True)) for scenario, both in pairs.items()}
    shared = {
        key: entry
        for key, entry in summaries.items()
        if all(f"{w}/{entry['scenario']}/{entry['policy']}" in summaries for w in WORLDS)
    }
    means = overall(shared)
    if set(means) == set(WORLDS):
        names = list(means[SIM])
        found["overall"] = spearman(
            [means[SIM][name][RANKED] for name in names],
            [means[TESTBED][name][RANKED] for name in names],
        )
    return found


def lying(results: Sequence[tuple[Cell, Result]]) -> dict[str, float]:
    """Per policy, the most any domain gains by any misreport tried."""
    truth = {
        (cell.policy_text, situation(cell)): run_times(result)
        for cell, result in results
        if cell.kind == "run"
    }
    lies: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for cell, result in results:
        honest = truth.get((cell.policy_text, situation(cell)))
        if cell.kind == "lie" and honest is not None:
            pair = honest.get(cell.domain, math.nan), run_times(result).get(cell.domain, math.nan)
            lies.setdefault((cell.policy_text, cell.domain), []).append(pair)
    gains: dict[str, float] = {}
    for (policy, _), pairs in lies.items():
        gain = gain_from_lying(pairs[0][0], [lie for _, lie in pairs])
        if not math.isnan(gain):
            gains[policy] = max(gains.get(policy, 0.0), gain)
    return gains


def isolations(results: Sequence[tuple[Cell, Result]]) -> dict[str, float]:
    """Per policy, how much longer the worst victim runs when the aggressor is there."""
    scenario, aggressor = AGGRESSION
    found: dict[str, float] = {}
    quiet = {
        (cell.policy_text, cell.seed): run_times(result)
        for cell, result in results
        if cell.kind == "without" and cell.domain == aggressor
    }
    for cell, result in results:
        before = quiet.get((cell.policy_text, cell.seed))
        if cell.kind != "run" or cell.world != SIM or cell.scenario != scenario or before is None:
            continue
        times = run_times(result)
        ratios = [isolation(times.get(name, math.nan), before[name]) for name in before]
        known = [ratio for ratio in ratios if not math.isnan(ratio)]
        if known:
            found[cell.policy_text] = max(found.get(cell.policy_text, 0.0), *known)
    return found
