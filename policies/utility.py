"""utility: the split with the fewest misses, from miss-ratio curves.

Sources: marginal gain over lower convex hulls as in Talus (Beckmann and Sanchez, HPCA 2015) and
Cliffhanger (Cidon et al., NSDI 2016); curves by SHARDS (Waldspurger et al., FAST 2015). Law:
minimise the sum of weight * rate * miss(x) over splits of the capacity, going down each curve's
lower convex hull by the best gain per page; pages that gain nothing are shared by weight. A domain
without a curve gets its max-min share by demand, and the others divide the rest. Signals:
miss-ratio curve, requests (gets, and swap-ins of pages that tmem had refused). Time constant: that
of the curve, and 1 / ``step`` intervals for the rate. Bad at: fairness, since a domain that gains
little gets nothing but its minimum, and one that starves asks more slowly and then seems to gain
less; the last edge of a hull is often served in part, and half of a cliff earns nothing; old curves
after a change of phase; the swap-ins are the guest's own word.
"""

import numpy as np
from numpy.typing import NDArray

from policies.average import Step, moving_average
from policies.base import MRC_POINTS, Column, Plan, PolicyParams, View
from policies.hull import fill_by_gain, lower_hull, piece_lengths
from policies.water import fit_floors, water_fill


class Utility:
    """Fewest misses over lower convex hulls."""

    name = "utility"
    needs = ("mrc",)
    settles = 64

    class Params(PolicyParams):
        """``step``: of the moving average of the request rates, 1 takes the last interval's."""

        step: Step = 0.25

    def __init__(self, params: Params) -> None:
        self.params = params

    def plan(self, view: View) -> Plan:
        """The law of the module's docstring."""
        rate = moving_average(
            view.carried(1, np.nan)[:, 0], view.gets + view.came_back, self.params.step
        )
        curves, known = curves_of(view)
        floor = fit_floors(view.capacity, view.minimum)
        demand = np.minimum(view.demand, view.maximum)
        target = water_fill(view.capacity, view.weight, floor, demand)
        target[known] = floor[known]
        target[known] += _best(view, curves, view.weight * rate, known, target)
        target = water_fill(view.capacity, view.weight, target, view.maximum)
        return Plan(tmem=target, why=_RULES[known.astype(np.intp)], carry=rate[:, None])


def curves_of(view: View) -> tuple[Column, NDArray[np.bool_]]:
    """The view's miss-ratio curves, and whose are known; the row of another is not all numbers."""
    curves = np.full((len(view), MRC_POINTS), np.nan) if view.mrc is None else view.mrc
    known: NDArray[np.bool_] = np.isfinite(curves.sum(axis=1))
    return curves, known


def _best(
    view: View, curves: Column, rate: Column, known: NDArray[np.bool_], floor: Column
) -> Column:
    """Pages above ``floor`` for each known domain, out of those the floors leave."""
    unit = max(view.capacity, 1) / (MRC_POINTS - 1)
    gain = -lower_hull(curves[known]) * (rate[known, None] / unit)
    edges = np.broadcast_to(unit * np.arange(MRC_POINTS), (len(gain), MRC_POINTS))
    length = piece_lengths(edges, floor[known], view.maximum[known])
    spare = max(view.capacity - floor.sum(), 0.0)
    pages: Column = fill_by_gain(spare, gain, length).sum(axis=1)
    return pages


_RULES = np.array(["no curve: max-min by demand", "best gain on the hull of its curve"])
