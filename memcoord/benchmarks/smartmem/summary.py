"""The rows of the bench: what each policy gained over greedy, by domain, from all seeds.

Owns: the pairing of runs by seed, and the figures of a row. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import msgspec

from memcoord.benchmarks.smartmem import verdict
from memcoord.benchmarks.sweep.cell import Cell
from memcoord.benchmarks.sweep.table import run_times
from memcoord.testbed.report.intervals import interval
from memcoord.testbed.report.results import DONE


def summarise(results: Sequence[tuple[Cell, dict[str, Any]]]) -> dict[str, Any]:
    """Per "world/situation/policy" the gain over greedy in percent of its time, by domain and mean.

    ``worst``: of the domain that gains least, or loses most. ``gains`` and ``pays``: domains of
    which the interval says so. ``last``: the domain that comes last. ``intervals``: of policy time
    in the shortest run. ``seconds``: the run time of each domain. ``disk_reads``: its pages that
    came from the disk, a count, which bears the load of a machine better than times do.
    """
    reads: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    times: dict[tuple[str, str, str], dict[int, dict[str, float]]] = {}
    ticks: dict[tuple[str, str, str], list[int]] = {}
    for cell, result in results:
        key = cell.world, cell.scenario, cell.policy_text
        times.setdefault(key, {})[cell.seed] = run_times(result)
        ticks.setdefault(key, []).append(int(result["ticks"]))
        for each in result["domains"]:
            counted = reads.setdefault(key, {}).setdefault(each["domain"], [])
            counted.append(each["swap_ins"] if each["state"] == DONE else math.nan)
    rows: dict[str, Any] = {}
    for (world, situation, policy), by_seed in times.items():
        greedy = times.get((world, situation, verdict.BASELINE), {})
        both = [seed for seed in by_seed if seed in greedy]
        names = list(next(iter(by_seed.values()), {}))
        gained = {n: [_gain(greedy[s].get(n), by_seed[s].get(n)) for s in both] for n in names}
        domains = {name: _figure(values) for name, values in gained.items()}
        by_run = list(zip(*gained.values(), strict=True))
        seconds = {n: _figure([times_of[n] for times_of in by_seed.values()]) for n in names}
        rows[f"{world}/{situation}/{policy}"] = {
            "world": world, "situation": situation, "policy": policy,
            "domains": domains, "mean": _figure([fmean(each) for each in by_run]),
            "worst": _figure([min(each) for each in by_run]), "seconds": seconds,
            "disk_reads": {
                name: _figure(counts) for name, counts in reads[world, situation, policy].items()
            },
            "last": names[-1] if names else "",
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
