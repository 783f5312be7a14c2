"""What of a long curve can be seen: few points that draw the same line.

Owns: the choice of points. Pure. Of each slice of time, as wide as the narrowest thing a picture
shows, the first, least, greatest and last point stay (M4: Jugel, Jerzak, Hackenbroich, Markl, VLDB
2014): a line through them is the line through all, to the pixel, and no spike is lost.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def thinned(xs: Floats, ys: Floats, slices: int) -> tuple[Floats, Floats]:
    """At most ``4 * slices`` of the points, in order, with the first and the last.

    ``xs`` ascend. Points without a finite value are left out.
    """
    known = np.isfinite(ys)
    xs, ys = xs[known], ys[known]
    if len(xs) <= 4 * slices:
        return xs, ys
    span = xs[-1] - xs[0]
    part = (xs - xs[0]) / span if span > 0 else np.zeros(len(xs))
    slot = np.minimum((part * slices).astype(np.int64), slices - 1)
    order = np.lexsort((ys, slot))  # by slice, then by value
    begin = np.flatnonzero(np.diff(slot, prepend=-1))
    end = np.append(begin[1:], len(slot)) - 1  # of the slices, which are in the order of time
    kept = np.unique(np.concatenate([begin, end, order[begin], order[end]]))
    return xs[kept], ys[kept]


def last_of_each(time_s: Floats, values: Floats, edges_s: Floats) -> Floats:
    """The value that was last seen at each of ``edges_s``; NaN before the first, after the last."""
    if not len(time_s):
        return np.full(len(edges_s), np.nan)
    at = np.searchsorted(time_s, edges_s, side="right") - 1
    step = edges_s[1] - edges_s[0] if len(edges_s) > 1 else np.inf
    seen = (at >= 0) & (edges_s <= time_s[-1] + step)
    return np.where(seen, values[np.maximum(at, 0)], np.nan)
