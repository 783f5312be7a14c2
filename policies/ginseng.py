"""ginseng: every interval an auction of the pool, in which no domain gains by a false bid.

Source: Agmon Ben-Yehuda et al., Ginseng: Market-Driven Memory Allocation, VEE 2014; its bid of a
unit price and allowed ranges is here the whole hull of a valuation, for which one sealed round
suffices. Law: a domain values x pages at weight * requests per interval that x saves; the split
maximises the sum of the values, less ``penalty`` for every page that would change hands; each
domain pays the loss its presence causes the others (exclusion compensation), and the penalty for
its own pages. Pages that no domain values are shared by weight, for nothing; under a penalty each
domain gets them only up to what it holds, or a bid below the true value would save the penalty.
Signals: miss-ratio curve; a domain without one is given a value that rises with falling gain up to
the demand. Requests as in ``utility``, puts too where there is no curve. Time constant: 1 /
``step`` intervals for the rates; the original bids every 12 s. Bad at: domains have no money that
could run out, so a payment is only reported (``why``) and summed up (carry); a false bid is useless
only if the hull is the true value and for one round at a time; a domain that values little gets
nothing but its minimum.
"""

from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from policies.average import Step, moving_average
from policies.base import MRC_POINTS, Column, Plan, PolicyParams, View
from policies.hull import fill_by_gain, lower_hull, piece_lengths
from policies.utility import curves_of
from policies.water import fit_floors, water_fill


class Ginseng:
    """An auction with exclusion compensation."""

    name = "ginseng"
    needs = ("mrc",)
    settles = 64

    class Params(PolicyParams):
        """``penalty``: value that moving a page costs; ``step``: of the average of the rates."""

        penalty: Annotated[float, msgspec.Meta(ge=0)] = 0.0
        step: Step = 0.25

    def __init__(self, params: Params) -> None:
        self.params = params

    def plan(self, view: View) -> Plan:
        """The law of the module's docstring."""
        before = view.carried(2, np.nan)
        curves, known = curves_of(view)
        requests = view.gets + view.came_back + np.where(known, 0, view.puts)
        rate = moving_average(before[:, 0], requests, self.params.step)
        edges, gain = _bids(view, curves, known, view.weight * rate)
        edges, gain = _penalised(edges, gain, view.used, self.params.penalty)
        floor = fit_floors(view.capacity, view.minimum)
        length = piece_lengths(edges, floor, np.maximum(view.maximum, floor))
        taken = fill_by_gain(max(view.capacity - floor.sum(), 0.0), gain, length)
        won = floor + taken.sum(axis=1)
        moved = np.maximum(won - np.maximum(view.used, floor), 0)
        paid = exclusion_costs(gain, length, taken) + self.params.penalty * moved
        total = np.nan_to_num(before[:, 1]) + paid
        most = np.minimum(view.used, view.maximum) if self.params.penalty else view.maximum
        return Plan(
            tmem=water_fill(view.capacity, view.weight, won, most),
            why=[f"won {x:.0f}, pays {y:.6g}" for x, y in zip(won, paid, strict=True)],
            carry=np.column_stack((rate, total)),
        )


def _bids(
    view: View, curves: Column, known: NDArray[np.bool_], rate: Column
) -> tuple[Column, Column]:
    """Edges in pages and falling gain per page between them, a row per domain."""
    part = np.linspace(0, 1, MRC_POINTS)
    reach = np.where(known, view.capacity, view.demand)
    slope = np.tile(np.diff((1 - part) ** 2), (len(view), 1))
    slope[known] = lower_hull(curves[known])
    unit = np.maximum(reach, 1) / (MRC_POINTS - 1)
    return reach[:, None] * part, -slope * (rate / unit)[:, None]


def _penalised(edges: Column, gain: Column, held: Column, penalty: float) -> tuple[Column, Column]:
    """The same bids cut at what each holds, less ``penalty`` beyond: still falling in each row."""
    if not penalty:
        return edges, gain
    cut = np.sort(np.column_stack((edges, np.minimum(held, edges[:, -1]))), axis=1)
    beyond = cut[:, :-1] >= held[:, None]
    unit = np.clip(np.arange(gain.shape[1] + 1) - beyond, 0, gain.shape[1] - 1)
    return cut, np.take_along_axis(gain, unit, axis=1) - penalty * beyond


def exclusion_costs(gain: Column, length: Column, taken: Column) -> Column:
    """The worth of each row's pages to the other rows, which would go on down their own bids.

    Gains fall in a row, so without row i the other rows keep their pages and take the best of those
    that no row was given. Per row a bisection over those pieces, best first, leaving out its own.
    """
    left = np.where(gain > 0, length - taken, 0.0)
    order = np.argsort(-gain, axis=None, kind="stable")
    place = np.empty(gain.shape, dtype=np.intp)
    place.reshape(-1)[order] = np.arange(order.size)
    pages = np.concatenate(([0.0], np.cumsum(left.ravel()[order])))
    worth = np.concatenate(([0.0], np.cumsum((left * gain).ravel()[order])))
    freed = taken.sum(axis=1)
    low, high = np.zeros(len(gain), dtype=np.intp), np.full(len(gain), order.size)
    for _ in range(int(order.size).bit_length()):
        middle = (low + high + 1) // 2
        own = np.where(place < middle[:, None], left, 0).sum(axis=1)
        fits = pages[middle] - own <= freed
        low, high = np.where(fits, middle, low), np.where(fits, high, middle - 1)
    before = place < low[:, None]
    own_pages = np.where(before, left, 0).sum(axis=1)
    own_worth = np.where(before, left * gain, 0).sum(axis=1)
    price = np.append(np.maximum(gain.ravel()[order], 0), 0.0)[low]
    rest = np.maximum(freed - (pages[low] - own_pages), 0)
    cost: Column = worth[low] - own_worth + rest * price
    return cost
