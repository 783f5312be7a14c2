"""What the runs of both worlds say of each other: ranks, ratios, and which targets are met. Pure.

Owns: the arithmetic between the rows of a sweep and the object that ``--json`` prints. Of each
policy in each scenario both worlds have

* *time*: the mean slowdown of the domains against running alone, the geometric mean over seeds;
* *traffic*: the seconds that its pages cost, reckoned from their counts at the prices of the cost
  set, the same for both worlds; the mean over seeds. It compares what was paged, and not how long
  the machine took for it;
* *disk reads*: pages read from swap and files.

Load beside a run changes its times and hardly its counts. A run is *marked* when others used more
than ``load.OTHERS_CPUS_MAX`` CPUs. Times are taken of runs without a mark where these cover every
policy in every scenario; else of all, and they are then not comparable.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, geometric_mean
from typing import Any

import msgspec

from memcoord.benchmarks.agreement.correlation import Correlation, Point, correlation
from memcoord.benchmarks.harness import Target, verdict
from memcoord.benchmarks.policies.summary import policy_of
from memcoord.benchmarks.sweep.cell import WORLDS, Cell, Result
from memcoord.benchmarks.sweep.table import RunRow, rows_of
from memcoord.simulation.costs import Costs
from memcoord.testbed.report.comparison import estimate
from memcoord.testbed.report.results import Estimate
from memcoord.testbed.runs.load import OTHERS_CPUS_MAX

SIM, TESTBED = WORLDS
TIME, TRAFFIC, READS = "time", "traffic", "disk reads"
POOLED, WITHIN = "pooled", "pooled, ranks within scenarios"
NOT_COMPARABLE = "not comparable"
#: Of the last: the factor by which a policy's slowdown differs between the worlds, either way.
TARGETS = {
    "rank traffic, pooled": Target(0.95, 0.98, higher=True),
    "rank time, pooled": Target(0.9, 0.95, higher=True),
    "rank time, worst scenario": Target(0.7, 0.9, higher=True),
    "slowdown ratio, worst policy": Target(1.3, 1.1),
}
#: These are of times.
OF_TIMES = tuple(TARGETS)[1:]


@dataclass(frozen=True)
class Run:
    """The figures of one run."""

    world: str
    scenario: str
    policy: str
    seed: str
    slowdown: float
    traffic_s: float
    disk_reads: float
    is_marked: bool


Pairs = Mapping[tuple[str, str], tuple[list[Run], list[Run]]]


def runs_of(results: Sequence[tuple[Cell, Result]], costs: Costs) -> list[Run]:
    """Every run under a policy whose domains all finished; marked when it, or one of the runs alone
    that it is compared with, was loaded."""
    marked = {_marks(cell) for cell, result in results if is_loaded(result)}
    made = []
    for row in rows_of(results):
        key = str(row["world"]), str(row["scenario"]), policy_of(row), str(row["seed"])
        slowdown = float(row["mean_slowdown"])
        if row["finished"] == row["domains"] and math.isfinite(slowdown):
            reads = float(row["swap_ins"]) + float(row["file_reads"])
            is_marked = key in marked or (key[0], key[1], "", key[3]) in marked
            made.append(Run(*key, slowdown, traffic_s(row, costs), reads, is_marked))
    return made


def _marks(cell: Cell) -> tuple[str, str, str, str]:
    """The run that a loaded cell marks; without a policy, all of its scenario and seed."""
    policy = cell.policy_text if cell.kind == "run" else ""
    return cell.world, cell.scenario, policy, str(cell.seed)


def is_loaded(result: Result) -> bool:
    """Whether others used so much of the machine that the run's times mean little."""
    load = result.get("load")
    return load is not None and load["others_cpus"] > OTHERS_CPUS_MAX


def traffic_s(row: RunRow, costs: Costs) -> float:
    """The seconds that a run's pages cost."""
    reads = float(row["swap_ins"]) + float(row["file_reads"])
    ns = reads * (costs.fault_ns + costs.disk_read_ns)
    ns += float(row["swap_outs"]) * costs.disk_write_ns
    ns += float(row["tmem_hits"]) * (costs.fault_ns + costs.tmem_get_ns + costs.tmem_put_ns)
    return ns / 1e9


def pairs_of(runs: Sequence[Run]) -> Pairs:
    """By scenario and policy, the runs of the same seeds in both worlds, as simulated and real."""
    by_world: dict[str, dict[tuple[str, str, str], Run]] = {SIM: {}, TESTBED: {}}
    for run in runs:
        by_world[run.world][run.scenario, run.policy, run.seed] = run
    found: dict[tuple[str, str], tuple[list[Run], list[Run]]] = {}
    for key, run in by_world[SIM].items():
        other = by_world[TESTBED].get(key)
        if other is not None:
            both = found.setdefault(key[:2], ([], []))
            both[0].append(run)
            both[1].append(other)
    return found


def timed(pairs: Pairs) -> tuple[Pairs, bool]:
    """The pairs whose times count, and whether those are comparable."""
    quiet = {
        key: (
            [one for one, real in zip(*both, strict=True) if not real.is_marked],
            [real for real in both[1] if not real.is_marked],
        )
        for key, both in pairs.items()
    }
    covers = bool(quiet) and all(both[0] for both in quiet.values())
    return (quiet, True) if covers else (pairs, False)


def summarise(runs: Sequence[Run]) -> dict[str, Any]:
    """The parts of the result that are reckoned from the runs."""
    pairs = pairs_of(runs)
    counted, (times, comparable) = pairs, timed(pairs)
    correlations = {
        TRAFFIC: _correlations(counted, lambda run: run.traffic_s, fmean),
        TIME: _correlations(times, lambda run: run.slowdown, geometric_mean),
        READS: _correlations(counted, lambda run: run.disk_reads, fmean),
    }
    policies = {policy: _of_policy(policy, times, counted) for policy in _second(pairs)}
    real = [run for run in runs if run.world == TESTBED]
    marked = sum(run.is_marked for run in real)
    return {
        "rows": {f"{s}/{p}": _row(both) for (s, p), both in pairs.items()},
        "correlations": msgspec.to_builtins(correlations),
        "repeats": {scenario: _repeat(scenario, times) for scenario in _first(pairs)},
        "policies": msgspec.to_builtins(policies),
        "times_comparable": comparable,
        "real_runs": len(real),
        "marked_runs": marked,
        "targets": _verdicts(correlations, policies, comparable),
    }


def _first(pairs: Pairs) -> list[str]:
    return list(dict.fromkeys(scenario for scenario, _ in pairs))


def _second(pairs: Pairs) -> list[str]:
    return list(dict.fromkeys(policy for _, policy in pairs))


def _row(both: tuple[list[Run], list[Run]]) -> dict[str, Any]:
    """The figures of one policy in one scenario."""
    sides = {}
    for world, runs in zip(WORLDS, both, strict=True):
        sides[world] = {
            "slowdown": geometric_mean([run.slowdown for run in runs]),
            "traffic_s": fmean(run.traffic_s for run in runs),
            "disk_reads": fmean(run.disk_reads for run in runs),
        }
    marked = sum(run.is_marked for run in both[1])
    return {**sides, "n": len(both[0]), "marked": marked}


def _correlations(
    pairs: Pairs, figure: Callable[[Run], float], mean: Callable[[list[float]], float]
) -> dict[str, Correlation]:
    """By scenario, and of all."""
    points = [
        Point(scenario, *(mean([figure(run) for run in runs]) for runs in both))
        for (scenario, _), both in pairs.items()
    ]
    found = {
        scenario: correlation([one for one in points if one.group == scenario])
        for scenario in _first(pairs)
    }
    return {**found, POOLED: correlation(points), WITHIN: correlation(points, within=True)}


def _repeat(scenario: str, pairs: Pairs) -> float | None:
    """How well the testbed agrees with itself: rho of the slowdowns of one half of its seeds with
    the other half's. No model can be expected to do better."""
    points = []
    for (name, _), (_, real) in pairs.items():
        halves = real[::2], real[1::2]
        if name == scenario and all(halves):
            means = (geometric_mean([run.slowdown for run in half]) for half in halves)
            points.append(Point(name, *means))
    return correlation(points).rho


def _of_policy(policy: str, times: Pairs, counted: Pairs) -> dict[str, Any]:
    """By how much the testbed's slowdown and disk reads differ from the simulator's."""
    by_scenario = {}
    for (scenario, name), (simulated, real) in times.items():
        if name == policy:
            logs = [
                math.log(two.slowdown / one.slowdown)
                for one, two in zip(simulated, real, strict=True)
            ]
            by_scenario[scenario] = math.exp(fmean(logs))
    reads = [
        (fmean(run.disk_reads for run in both[1]) + 1) / (fmean(r.disk_reads for r in both[0]) + 1)
        for (_, name), both in counted.items()
        if name == policy
    ]
    ratios = list(by_scenario.values())
    return {
        "ratio": estimate(ratios),
        "least": min(ratios),
        "most": max(ratios),
        "by_scenario": by_scenario,
        "reads_ratio": geometric_mean(reads),
        "reads_least": min(reads),
        "reads_most": max(reads),
    }


def _verdicts(
    correlations: Mapping[str, Mapping[str, Correlation]], policies: Mapping[str, Any],
    comparable: bool,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Each target beside what was measured."""
    of_time = correlations[TIME]
    known = [one.rho for name, one in of_time.items() if name not in (POOLED, WITHIN)]
    rhos = [rho for rho in known if rho is not None]
    factors = [_factor(one["ratio"]) for one in policies.values()]
    measured = (
        correlations[TRAFFIC][POOLED].rho,
        of_time[POOLED].rho,
        min(rhos, default=None),
        max((factor for factor in factors if factor is not None), default=None),
    )
    return {
        name: {
            "must": target.must,
            "aim": target.aim,
            "measured": value,
            "reached": NOT_COMPARABLE
            if name in OF_TIMES and not comparable and value is not None
            else verdict(value, target),
        }
        for (name, target), value in zip(TARGETS.items(), measured, strict=True)
    }


def _factor(ratio: Estimate) -> float | None:
    """How far a ratio is from 1, either way."""
    return None if ratio.value is None else max(ratio.value, 1 / ratio.value)
