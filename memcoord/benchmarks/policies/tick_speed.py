"""The time of a tick of many domains: view, plan, check and apply of the series world.

Owns: three figures of ``memcoord bench policies``: medians over rounds, of the worst policy.
"""

from __future__ import annotations

import gc
import time

from hypervisor.coordination.policy_process import PolicyProcess
from memcoord.simulation.series_world import SeriesWorld, synthetic_demand
from policies import Policy, loader

POLICIES = ("smart-alloc", "max-min")
MANY, FEW = 10_000, 100
ROUNDS, WARM_ROUNDS = 25, 3
PEAK_PAGES = 1000.0
CAPACITY_PAGES_EACH = 300
SEED = 1
DEADLINE_S = 60.0


def measure_ticks(policies: tuple[str, ...] = POLICIES) -> dict[str, float]:
    """Of the worst of ``policies``: ``tick_10000_ms``; the same with the policy in a process of its
    own, ``tick_10000_apart_ms``; and the cost per domain at 10,000 over that at 100,
    ``tick_10000_per_domain/tick_100_per_domain``."""
    times = {
        policy: {count: _median_s(loader.load(policy), count) for count in (FEW, MANY)}
        for policy in policies
    }
    return {
        f"tick_{MANY}_ms": max(of[MANY] for of in times.values()) * 1000,
        f"tick_{MANY}_apart_ms": max(map(_apart_s, policies)) * 1000,
        f"tick_{MANY}_per_domain/tick_{FEW}_per_domain": max(
            (of[MANY] / MANY) / (of[FEW] / FEW) for of in times.values()
        ),
    }


def _apart_s(name: str) -> float:
    """The median time of one tick of MANY, the views and plans crossing to another process."""
    policy = PolicyProcess(name, deadline_s=DEADLINE_S, domains=MANY)
    try:
        policy.wait()
        return _median_s(policy, MANY)
    finally:
        policy.close()


def _median_s(policy: Policy, domains: int) -> float:
    """The median time of one tick."""
    demand = synthetic_demand(domains, ROUNDS + WARM_ROUNDS, PEAK_PAGES, SEED)
    world = SeriesWorld(demand, CAPACITY_PAGES_EACH * domains, policy)
    taken = []
    enabled = gc.isenabled()
    gc.disable()
    try:
        for _ in range(ROUNDS + WARM_ROUNDS):
            begin_s = time.perf_counter()
            world.tick()
            taken.append(time.perf_counter() - begin_s)
    finally:
        if enabled:
            gc.enable()
    return sorted(taken[WARM_ROUNDS:])[ROUNDS // 2]
