"""karma: max-min with a memory; a domain that lent yesterday may borrow today.

Source: Vuppalapati et al., Karma: Resource Allocation for Dynamic Demands, OSDI 2023. Law, in whole
slices, for n domains and C slices: each domain is guaranteed g = (1 - alpha) * C / n, the other
slices are shared. x = min(demand, g) at first. A domain that demands less donates the rest; a
domain that demands more borrows for a credit a slice, as many as its credits pay. If donated and
shared slices are enough, every borrower gets all it asks for and the poorest donors lend first, a
credit a slice; shared slices are lent last. Else every donor is credited all it donates and slice
after slice goes to the richest borrower. Each interval every domain gets shared / n credits. The
credits paid for shared slices go into a pot; once the pot holds more than n credits, it is dealt
out in equal whole credits, as in the authors' simulator. A new domain starts with the mean. Ties go
by name. Signals: demand (pages held plus puts failed in the interval). Time constant: one interval
for the split, a life for the credits. Bad at: a domain that always demands much ends at g; under
constant contention borrowers take turns slice by slice, so targets never rest; weights are ignored;
slices round every demand up.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from policies.base import Column, Plan, PolicyParams, View

Slices = NDArray[np.int64]


class Karma:
    """Credits for lent memory."""

    name: ClassVar[str] = "karma"
    monotone: ClassVar[bool] = True
    settles: ClassVar[bool] = False

    class Params(PolicyParams):
        """``alpha``: part of the slices that is shared; ``credits``: those of the first domains."""

        alpha: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5
        credits: Annotated[float, msgspec.Meta(ge=0)] = 1000.0
        slice_pages: Annotated[int, msgspec.Meta(ge=1)] = 64

    def __init__(self, params: Params) -> None:
        self.params = params

    def plan(self, view: View) -> Plan:
        """The law of the module's docstring."""
        count, size = max(len(view), 1), self.params.slice_pages
        slices = view.capacity // size
        guaranteed = (slices - int(self.params.alpha * slices)) // count
        shared = slices - guaranteed * count
        credit, pot = self._start(view)
        credit += shared / count + (pot // count if pot > count else 0)
        pot = pot % count if pot > count else pot
        demand = np.ceil(np.minimum(view.demand, view.maximum) / size).astype(np.int64)
        donated = np.maximum(guaranteed - demand, 0)
        asked = np.maximum(demand - guaranteed, 0)
        payable = np.minimum(asked, np.floor(credit).astype(np.int64))
        supply = int(donated.sum()) + shared
        borrowed = highest_first(credit, payable, supply, view.names)
        lent = highest_first(-credit, donated, int(borrowed.sum()), view.names)
        pot += int(borrowed.sum() - lent.sum())
        return Plan(
            tmem=(np.minimum(demand, guaranteed) + borrowed) * size,
            why=_RULES[np.where(borrowed < asked, 3, np.sign(borrowed) + 2 * np.sign(lent))],
            carry=np.column_stack((credit - borrowed + lent, np.full(len(view), pot))),
        )

    def _start(self, view: View) -> tuple[Column, float]:
        """Credits, for a newcomer the mean, and the pot, which every row carries."""
        credit, pot = view.carried(2, np.nan).T
        new = np.isnan(credit)
        if new.all():
            return np.full(len(view), float(self.params.credits)), 0.0
        return np.where(new, credit[~new].mean(), credit), float(pot[~new][0])


def highest_first(key: Column, most: Slices, units: int, names: tuple[str, ...]) -> Slices:
    """Units each gets when every unit goes to the highest key, which it lowers by 1.

    Nobody gets more than ``most``; equal keys go by name. Found by bisection of the level at which
    the units are used up, so the cost does not grow with their number.
    """
    if most.sum() <= units:
        return most
    if units <= 0:
        return np.zeros_like(most)

    def above(level: int) -> Slices:
        """Units given to keys at or above ``level``."""
        units: Slices = np.clip(np.floor(key - level) + 1, 0, most).astype(np.int64)
        return units

    low, high = int(np.floor((key - most).min())), int(np.floor(key.max())) + 1
    while high - low > 1:  # halves each time: at most 64 rounds for keys within int64
        middle = (low + high) // 2
        low, high = (middle, high) if above(middle).sum() >= units else (low, middle)
    given = above(high)
    able = np.flatnonzero(above(low) > given)  # each has one unit more at this level
    order = sorted(able, key=lambda index: (given[index] - key[index], names[index]))
    given[order[: units - int(given.sum())]] += 1
    return given


_RULES = np.array(
    [
        "no more than guaranteed",
        "borrows all it asks",
        "lends part of its guarantee",
        "richer ones go first, or its credits are spent",
    ]
)
