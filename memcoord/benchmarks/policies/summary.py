"""The summary of ``bench policies``: means over seeds, orders, correlations, lies, isolation. Pure.

Owns: the arithmetic between the rows of a sweep and the object that ``--json`` prints.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from statistics import geometric_mean
from typing import Any

import msgspec

from memcoord.benchmarks.sweep.cell import BEST_STATIC, WORLDS, Cell, Result
from memcoord.benchmarks.sweep.table import RunRow, number, run_times, situation
from memcoord.testbed.report.intervals import interval, paired, spearman
from memcoord.testbed.report.metrics import gain_from_lying, isolation

Found = Mapping[str, Any]  # the object that ``--json`` prints

BASELINE = "greedy"
SIM, TESTBED = WORLDS
#: The scenario and domain by which a neighbour's aggression is measured.
AGGRESSION = ("liar", "liar")
#: The order of policies is that of this figure.
RANKED = "mean_slowdown"
SLOWDOWNS = ("mean_slowdown", "worst_slowdown")


def summarise(rows: Sequence[RunRow]) -> dict[str, dict[str, Any]]:
    """Per "world/scenario/policy", each figure over the seeds: mean, low, high, count.

    ``against_greedy`` is the difference of the slowdowns to greedy's, paired on the seed.
    """
    groups: dict[tuple[str, str, str], dict[str, RunRow]] = {}
    for row in rows:
        key = str(row["world"]), str(row["scenario"]), policy_of(row)
        groups.setdefault(key, {})[str(row["seed"])] = row
    found = {}
    for (world, scenario, policy), by_seed in groups.items():
        names = dict.fromkeys(
            name for row in by_seed.values() for name in row if not isinstance(row[name], str)
        )
        figures = {}
        for name in names:
            values = [float(row.get(name, math.nan)) for row in by_seed.values()]
            figures[name] = msgspec.to_builtins(interval(values))
        base = groups.get((world, scenario, BASELINE), {})
        both = [seed for seed in by_seed if seed in base]
        against = {}
        for name in SLOWDOWNS:
            own, greedy = ([float(of[seed][name]) for seed in both] for of in (by_seed, base))
            against[name] = msgspec.to_builtins(paired(own, greedy))
        found[f"{world}/{scenario}/{policy}"] = {
            "world": world, "scenario": scenario, "policy": policy, "figures": figures,
            "against_greedy": against,
        }  # fmt: skip
    return found


def policy_of(row: RunRow) -> str:
    """The policy of a row with its parameters, as ``--policy`` takes it."""
    name = str(row["policy"])
    given = [f"{key[len(name) + 1 :]}={row[key]}" for key in row if key.startswith(f"{name}.")]
    return f"{name}:{','.join(given)}" if given else name


def mean_of(summaries: dict[str, dict[str, Any]], key: str, name: str) -> float:
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
                not math.isnan(mean_of(summaries, f"{world}/{name}/{policy}", RANKED))
                for policy in policies
            )
        ]
        if scenarios:
            means: dict[str, dict[str, float]] = {policy: {} for policy in policies}
            for policy, name in itertools.product(policies, SLOWDOWNS):
                values = [mean_of(summaries, f"{world}/{one}/{policy}", name) for one in scenarios]
                means[policy][name] = geometric_mean(values)
            order = sorted(means, key=lambda policy: (means[policy][RANKED], policy))
            found[world] = {policy: means[policy] for policy in order}
    return found


def only(summaries: dict[str, dict[str, Any]], scenarios: Sequence[str]) -> dict[str, Any]:
    """Those of some scenarios."""
    return {key: entry for key, entry in summaries.items() if entry["scenario"] in scenarios}


def rank_correlation(summaries: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Spearman's between the two worlds' orders, per scenario, and "overall" of their means."""
    pairs: dict[str, list[tuple[float, float]]] = {}
    for entry in summaries.values():
        there = f"{TESTBED}/{entry['scenario']}/{entry['policy']}"
        if entry["world"] == SIM and there in summaries:
            here = f"{SIM}/{entry['scenario']}/{entry['policy']}"
            pair = mean_of(summaries, here, RANKED), mean_of(summaries, there, RANKED)
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
        found["overall"] = spearman(*([means[w][name][RANKED] for name in names] for w in WORLDS))
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


def points(found: Found) -> dict[str, tuple[float, float]]:
    """Per policy, mean and worst slowdown over all scenarios; simulated, if there are such.

    Without best-static, which nobody can be.
    """
    means = found["overall"].get(SIM) or found["overall"].get(TESTBED) or {}
    pairs = {
        policy: (number(of[RANKED]), number(of["worst_slowdown"]))
        for policy, of in means.items()
        if policy != BEST_STATIC
    }
    return {p: pair for p, pair in pairs.items() if all(map(math.isfinite, pair))}


def frontier(known: Mapping[str, tuple[float, float]]) -> list[str]:
    """Policies that no other beats in both, the least mean slowdown first."""

    def is_beaten(mean: float, worst: float) -> bool:
        others = (one for one in known.values() if one != (mean, worst))
        return any(one <= mean and other <= worst for one, other in others)

    return sorted((name for name in known if not is_beaten(*known[name])), key=lambda n: known[n])
