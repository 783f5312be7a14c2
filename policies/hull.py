"""Splitting memory when each domain's loss is a curve: hulls, filling by gain, the exact answer.

Pure, on numpy arrays with a row per domain. Called by policies and, for regret, by the benches.
Sources: lower convex hulls of miss-ratio curves, Beckmann and Sanchez, Talus, HPCA 2015; marginal
gain, Fox, Operations Research 14 (1966).

``lower_hull`` and ``fill_by_gain`` together are optimal where the curves are convex and in general
up to the last piece, which may end inside an edge of a hull; ``best_split`` is optimal always.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from policies.base import Column

UNITS_MAX = 1 << 16
_ROWS_AT_ONCE = 256  # so that they stay in the cache


def lower_hull(curves: Column) -> Column:
    """Slope of each row's lower convex hull on each unit, (rows, points - 1); rising in a row.

    Slopes and not values, because all units of one edge have exactly the same slope: of all chords
    over a unit, from each point before it take the lowest, and of these the highest.
    """
    rows, points = curves.shape
    slopes = np.empty((rows, points - 1))
    runs = np.arange(1, points)[:, None]
    for first in range(0, rows, _ROWS_AT_ONCE):
        columns = np.ascontiguousarray(curves[first : first + _ROWS_AT_ONCE].T)
        highest = np.full((points - 1, columns.shape[1]), -np.inf)
        for start in range(points - 1):
            chords = (columns[start + 1 :] - columns[start]) / runs[: points - 1 - start]
            lowest = np.minimum.accumulate(chords[::-1])[::-1]
            np.maximum(highest[start:], lowest, out=highest[start:])
        slopes[first : first + _ROWS_AT_ONCE] = highest.T
    return slopes


def piece_lengths(edges: Column, floor: Column, ceiling: Column) -> Column:
    """Pages of each piece between floor and ceiling; ``edges`` is (rows, pieces + 1) in pages."""
    low = np.maximum(edges[:, :-1], floor[:, None])
    length: Column = np.maximum(np.minimum(edges[:, 1:], ceiling[:, None]) - low, 0)
    return length


def fill_by_gain(capacity: float, gain: Column, length: Column) -> Column:
    """Pages taken of each piece when the best gain per page always goes first; at most its length.

    ``gain`` may not rise along a row; a piece without gain is never taken. Pieces of the one gain
    that is not served in full share the remaining pages in proportion to their lengths.
    """
    taken: Column = np.where(gain > 0, length, 0.0)
    if taken.sum() <= capacity:
        return taken
    some = np.flatnonzero(taken)
    order = some[np.argsort(-gain.ravel()[some])]
    last = int(np.searchsorted(np.cumsum(taken.ravel()[order]), capacity))
    price = gain.ravel()[order[min(last, order.size - 1)]]
    margin = np.where(gain == price, taken, 0.0)
    taken = np.where(gain > price, taken, 0.0)
    part = (capacity - taken.sum()) / margin.sum()
    taken += margin * min(max(part, 0.0), 1.0)
    return taken


def best_split(losses: Column, units: int) -> tuple[NDArray[np.int64], float]:
    """The split of at most ``units`` with the least total loss, and that loss, exactly.

    ``losses[i, j]`` is row i's loss with j units, of any shape; a row's last entry holds for more.
    By dynamic programming in rows * units * points steps. ValueError above UNITS_MAX units.
    """
    if not 0 <= units <= UNITS_MAX:
        raise ValueError(f"{units} units, at most {UNITS_MAX}")
    rows, points = losses.shape
    best = np.zeros(units + 1)
    choice = np.zeros((rows, units + 1), dtype=np.int64)
    for row in range(rows):
        new = best + losses[row, 0]
        for own in range(1, min(points - 1, units) + 1):
            with_own = best[: units + 1 - own] + losses[row, own]
            better = with_own < new[own:]
            new[own:][better] = with_own[better]
            choice[row, own:][better] = own
        best = new
    split = np.zeros(rows, dtype=np.int64)
    left = units
    for row in reversed(range(rows)):
        split[row] = choice[row, left]
        left -= split[row]
    return split, float(best[units])
