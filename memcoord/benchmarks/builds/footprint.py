"""What a build occupied: integrals over its looks, figures over rounds, comparisons. Pure.

Owns: the arithmetic. GiB x min of the build only, and of all: with the delay after it, and with
what is left when its files are gone. Variants are compared within a round, so that a slow round
falls on both; the interval is over the rounds. A footprint by time is larger where the build took
longer: beside it stands what it is over the memory that the build itself had in the same time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from hypervisor.public.units import FRAME_BYTES
from memcoord.benchmarks.builds.mirror import COLUMNS
from memcoord.benchmarks.builds.variants import FIXED, REPORTING
from memcoord.testbed.report.intervals import interval

GIB = 1 << 30
SERIES_STEP_S = 1.0
Floats = NDArray[np.float64]
#: Figures of a cell that are compared with those of another variant of the same round.
COMPARED = {
    "build_gib_min": REPORTING,
    "over_use": REPORTING,
    "total_gib_min": REPORTING,
    "wall_s": FIXED,
    "cpu_s": FIXED,
    "bystander_cpu_us": FIXED,
    "bystander_wall_us": FIXED,
    "bystander_p99_us": FIXED,
}


def figures(looks: bytes, delay_s: float, clean_s: float) -> dict[str, float]:
    """Of one build. ``guest``: what the build had; ``charged``: what nobody else could have."""
    found = np.frombuffer(looks, np.float64).reshape(-1, COLUMNS)
    times, guest, held, resident, charged = found.T
    gib = FRAME_BYTES / GIB
    used = _integral(times, guest, 0.0, delay_s)
    return {
        "build_gib_min": _integral(times, resident, 0.0, delay_s) * gib,
        "over_use": _integral(times, resident, 0.0, delay_s) / max(used, 1 / GIB),
        "mean_gib": _integral(times, resident, 0.0, delay_s) * gib * 60 / delay_s,
        "total_gib_min": _integral(times, resident, 0.0, times[-1]) * gib,
        "guest_gib_min": used * gib,
        "guest_mean_gib": used * gib * 60 / delay_s,
        "charged_mean_gib": _integral(times, charged, 0.0, delay_s) * gib * 60 / delay_s,
        "late_gib_min": _integral(times, np.maximum(guest - held, 0.0), 0.0, delay_s) * gib,
        "peak_gib": float(resident.max()) * gib,
        "guest_peak_gib": float(guest.max()) * gib,
        "after_delay_gib": _at(times, resident, clean_s) * gib,
        "after_clean_gib": float(resident[-1]) * gib,
    }


def series(looks: bytes) -> dict[str, list[float]]:
    """One point a second, for a figure: what the build had, and what was held for it, in GiB."""
    found = np.frombuffer(looks, np.float64).reshape(-1, COLUMNS)
    at = np.arange(0.0, found[-1, 0], SERIES_STEP_S)
    gib = FRAME_BYTES / GIB
    kept = {name: np.interp(at, found[:, 0], found[:, column]) * gib
            for name, column in (("guest", 1), ("resident", 3))}  # fmt: skip
    return {"s": at.tolist(), **{name: np.round(row, 4).tolist() for name, row in kept.items()}}


def rows(cells: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Per variant each figure's mean over the rounds with its interval."""
    found: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(cell["variant"] for cell in cells):
        own = [cell["figures"] for cell in cells if cell["variant"] == name]
        found[name] = {key: _over([one[key] for one in own]) for key in own[0]}
    return found


def comparisons(cells: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Per variant, by how many percent each figure of COMPARED is below the other variant's."""
    by_round: dict[tuple[int, str], Mapping[str, float]] = {
        (cell["round"], cell["variant"]): cell["figures"] for cell in cells
    }
    found: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(cell["variant"] for cell in cells):
        found[name] = {}
        for key, other in COMPARED.items():
            pairs = [
                (own[key], by_round[number, other][key])
                for (number, variant), own in by_round.items()
                if variant == name and (number, other) in by_round
            ]
            below = [100.0 * (1.0 - ours / theirs) for ours, theirs in pairs if theirs]
            found[name][f"{key} below {other}"] = _over(below)
    return found


def _over(values: Sequence[float]) -> dict[str, Any]:
    """Mean and interval; a bound is None where one round gives none."""
    got = msgspec.to_builtins(interval(values))
    named = {"value": got["mean"], "low": got["low"], "high": got["high"]}
    kept = {key: None if math.isnan(value) else value for key, value in named.items()}
    return {**kept, "n": got["count"]}


def _integral(times: Floats, values: Floats, begin_s: float, end_s: float) -> float:
    """Of values by minutes, each held until the next look."""
    held_s = np.diff(np.clip(np.append(times, end_s), begin_s, end_s))
    return float((values * held_s).sum()) / 60.0


def _at(times: Floats, values: Floats, when_s: float) -> float:
    return float(values[max(int(np.searchsorted(times, when_s)) - 1, 0)])
