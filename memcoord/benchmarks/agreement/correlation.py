"""Rank correlation with its p, over points of one or several groups. Pure.

Owns: Spearman's rho of two figures of the same points, and how likely one at least as high is by
chance: the share of PERMUTATIONS random orders in which it is (Ernst, Statistical Science, 2004),
the observed one counted among them, so that p is never 0. Orders change within a group only: that
scenarios differ from each other is no agreement about policies. No t distribution is assumed,
which few points would not follow, and scipy is not needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from memcoord.testbed.report.intervals import SEED, ranks, spearman

PERMUTATIONS = 9999
POINTS_MIN = 3
CLOSE = 1e-12  # two correlations are the same


class Point(NamedTuple):
    """One policy in one scenario (``group``): a figure of each world."""

    group: str
    first: float
    second: float


class Correlation(msgspec.Struct, frozen=True):
    """``rho`` and ``p`` are None for too few points, or where one side is all equal."""

    rho: float | None
    p: float | None
    n: int


def correlation(points: Sequence[Point], *, within: bool = False) -> Correlation:
    """Over all points; ``within``: of the ranks that they have in their own groups."""
    known = [one for one in points if math.isfinite(one.first) and math.isfinite(one.second)]
    if len(known) < POINTS_MIN:
        return Correlation(None, None, len(known))
    groups = [np.array(at) for at in _places(known)]
    first, second = (np.array([one[side] for one in known]) for side in (1, 2))
    if within:
        first, second = _ranked_within(first, groups), _ranked_within(second, groups)
    rho = spearman(first, second)
    if math.isnan(rho):
        return Correlation(None, None, len(known))
    return Correlation(rho, _p(ranks(first), ranks(second), groups, rho), len(known))


def _places(points: Sequence[Point]) -> list[list[int]]:
    """The indices of each group's points."""
    found: dict[str, list[int]] = {}
    for index, point in enumerate(points):
        found.setdefault(point.group, []).append(index)
    return list(found.values())


def _ranked_within(
    values: NDArray[np.float64], groups: Sequence[NDArray[np.intp]]
) -> NDArray[np.float64]:
    """Each value as its rank in its group, 0 to 1, so that groups of any size count alike."""
    made = np.zeros(len(values))
    for places in groups:
        made[places] = (ranks(values[places]) - 0.5) / len(places)
    return made


def _p(
    first: NDArray[np.float64], second: NDArray[np.float64],
    groups: Sequence[NDArray[np.intp]], rho: float,
) -> float:  # fmt: skip
    rng = np.random.default_rng(SEED)
    left, right = first - first.mean(), second - second.mean()
    sums = np.zeros(PERMUTATIONS)
    for places in groups:
        mixed = rng.permuted(np.tile(right[places], (PERMUTATIONS, 1)), axis=1)
        sums += mixed @ left[places]
    found = sums / math.sqrt(float((left**2).sum() * (right**2).sum()))
    as_high = int((found >= rho - CLOSE).sum())
    return (as_high + 1) / (PERMUTATIONS + 1)
