"""The speed of the simulator: the ratios of ``bench policies``.

Owns: their names and targets. ``replay_speed`` and ``tick_speed`` measure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from memcoord.benchmarks.harness import DIGITS

#: By name, the limit: at least (+1) or at most (-1) the number.
TARGETS = {
    "sim_refs_per_s": (1, 15e6),
    "sim/libcachesim": (1, 1.0),
    "tick_10000_ms": (-1, 5.0),
    "tick_10000_apart_ms": (-1, 5.0),
    "tick_10000_per_domain/tick_100_per_domain": (-1, 1.0),
}


def measure_ratios() -> dict[str, float]:
    """The figures of TARGETS that could be measured here, on one core."""
    from memcoord.benchmarks.policies.replay_speed import measure_speed
    from memcoord.benchmarks.policies.tick_speed import measure_ticks

    speed, ticks = measure_speed(), measure_ticks()
    found = {
        "sim_refs_per_s": round(speed.sim_refs_per_s),
        "sim/libcachesim": speed.ratio,
        **{name: value for name, value in ticks.items() if name in TARGETS},
    }
    return {name: round(value, DIGITS) for name, value in found.items() if value is not None}


def verdicts(ratios: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """Each target beside the measurement: reached "must", "missed" or "unmeasured"."""
    found = {}
    for name, (sign, must) in TARGETS.items():
        measured = ratios.get(name, math.nan)
        reached = "unmeasured" if math.isnan(measured) else "missed"
        if sign * measured >= sign * must:
            reached = "must"
        found[name] = {
            "must": must,
            "better": "higher" if sign > 0 else "lower",
            "measured": measured,
            "reached": reached,
        }
    return found
