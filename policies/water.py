"""Water filling: one level for everybody, between a floor and a ceiling of each.

Owns the arithmetic of weighted max-min fairness. Pure, on numpy columns of one entry per domain.
Called by policies. Source: progressive filling, Bertsekas and Gallager, Data Networks, 6.5.2.
"""

import numpy as np

from policies.base import Column


def fit_floors(capacity: float, floor: Column) -> Column:
    """``floor``, or so much of each in proportion that together they fit ``capacity``."""
    total = floor.sum()
    return floor if total <= capacity else floor * (capacity / total)


def water_fill(capacity: float, weight: Column, floor: Column, ceiling: Column) -> Column:
    """``clip(weight * level, floor, ceiling)`` with the level that makes the sum ``capacity``.

    All in pages, weights above 0. Less than ``capacity`` only if all ceilings are reached; a
    ceiling below its floor counts as the floor; floors that do not fit shrink in proportion.
    """
    floor = fit_floors(capacity, floor)
    ceiling = np.maximum(floor, ceiling)
    if ceiling.sum() <= capacity:
        return ceiling
    level = _level(capacity, weight, floor, ceiling)
    return np.clip(weight * level, floor, ceiling)


def _level(capacity: float, weight: Column, floor: Column, ceiling: Column) -> float:
    """The sum is a rising line in the level, broken where a domain leaves floor or ceiling."""
    late, able = floor > 0, ceiling > floor
    points = np.concatenate((floor[late] / weight[late], ceiling[able] / weight[able]))
    bends = np.concatenate((np.where(able, weight, 0)[late], -weight[able]))
    order = np.argsort(points)
    points = np.concatenate(([0.0], points[order]))
    slopes = np.cumsum(np.concatenate(([weight[able & ~late].sum()], bends[order])))
    sums = floor.sum() + np.cumsum(np.concatenate(([0.0], slopes[:-1] * np.diff(points))))
    right = min(max(int(np.searchsorted(sums, capacity)), 1), len(points) - 1)
    left = right - 1
    if sums[right] <= sums[left]:
        return float(points[right])
    part = (capacity - sums[left]) / (sums[right] - sums[left])
    return float(points[left] + min(max(part, 0.0), 1.0) * (points[right] - points[left]))
