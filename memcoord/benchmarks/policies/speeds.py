"""The speed of the simulator: the ratios of ``bench policies``.

Owns: their names and targets, and the time of a tick of many domains: view, plan, check and apply
of the series world, a median over rounds, of the worst policy. ``replay_speed`` measures the rest.
"""

from __future__ import annotations

import math
import timeit
from collections.abc import Mapping
from statistics import median
from typing import Any

from memcoord.benchmarks.harness import DIGITS
from policies.base import Policy

#: By name, the limit: at least (+1) or at most (-1) the number.
TARGETS = {
    "sim_refs_per_s": (1, 15e6),
    "sim/libcachesim": (1, 1.0),
    "tick_10000_ms": (-1, 5.0),
    "tick_10000_apart_ms": (-1, 5.0),
    "tick_10000_per_domain/tick_100_per_domain": (-1, 1.0),
}
TICK_POLICIES = ("smart-alloc", "max-min")
MANY, FEW = 10_000, 100
ROUNDS, WARM_ROUNDS = 25, 3
PEAK_PAGES = 1000.0
CAPACITY_PAGES_EACH = 300
SEED = 1
DEADLINE_S = 60.0


def measure_ratios() -> dict[str, float]:
    """The figures of TARGETS that could be measured here, on one core."""
    from memcoord.benchmarks.policies.replay_speed import measure_speed

    speed = measure_speed()
    found = {
        "sim_refs_per_s": round(speed.sim_refs_per_s),
        "sim/libcachesim": speed.ratio,
        **measure_ticks(),
    }
    return {name: round(value, DIGITS) for name, value in found.items() if value is not None}


def measure_ticks(policies: tuple[str, ...] = TICK_POLICIES) -> dict[str, float]:
    """Of the worst of ``policies``: ``tick_10000_ms``; the same with the policy in a process of its
    own, ``tick_10000_apart_ms``; and the cost per domain at 10,000 over that at 100,
    ``tick_10000_per_domain/tick_100_per_domain``."""
    from policies import loader

    loaded = [loader.load(policy) for policy in policies]
    times = [{count: _tick_s(policy, count) for count in (FEW, MANY)} for policy in loaded]
    per_domain = max((of[MANY] / MANY) / (of[FEW] / FEW) for of in times)
    return {
        f"tick_{MANY}_ms": max(of[MANY] for of in times) * 1000,
        f"tick_{MANY}_apart_ms": max(map(_tick_apart_s, policies)) * 1000,
        f"tick_{MANY}_per_domain/tick_{FEW}_per_domain": per_domain,
    }


def _tick_apart_s(name: str) -> float:
    """The median time of one tick of MANY, the views and plans crossing to another process."""
    from hypervisor.coordination.policy_process import PolicyProcess

    policy = PolicyProcess(name, deadline_s=DEADLINE_S, domains=MANY)
    try:
        policy.wait()
        return _tick_s(policy, MANY)
    finally:
        policy.close()


def _tick_s(policy: Policy, domains: int) -> float:
    """The median time of one tick; no garbage is collected meanwhile."""
    from memcoord.simulation.series_world import SeriesWorld, synthetic_demand

    demand = synthetic_demand(domains, ROUNDS + WARM_ROUNDS, PEAK_PAGES, SEED)
    world = SeriesWorld(demand, CAPACITY_PAGES_EACH * domains, policy)
    taken_s = timeit.repeat(world.tick, repeat=ROUNDS + WARM_ROUNDS, number=1)
    return median(taken_s[WARM_ROUNDS:])


def verdicts(ratios: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """Each target beside the measurement: reached "must", "missed" or "unmeasured"."""
    found = {}
    for name, (sign, must) in TARGETS.items():
        measured = ratios.get(name, math.nan)
        reached = "must" if sign * measured >= sign * must else "missed"
        found[name] = {
            "must": must, "better": "higher" if sign > 0 else "lower", "measured": measured,
            "reached": "unmeasured" if math.isnan(measured) else reached,
        }  # fmt: skip
    return found
