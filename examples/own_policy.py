"""A policy of one's own: memory goes to whoever reads most from disk."""

import numpy as np

import memcoord
from policies.base import Pages, Plan, PolicyParams, View


class MostMisses:
    """Every domain keeps ``floor`` pages of tmem; the rest goes by refused puts."""

    class Params(PolicyParams):
        """Its parameters, as ``FILE.py:MostMisses:floor=128`` sets them."""

        floor: Pages = 64

    def __init__(self, params: Params) -> None:
        self.floor = params.floor

    def plan(self, view: View) -> Plan:
        """Targets of tmem in pages, one per domain of the view."""
        wanted = view.used + view.failed_puts
        spare = max(view.capacity - self.floor * len(view), 0)
        return Plan(tmem=self.floor + spare * wanted / np.maximum(wanted.sum(), 1))


if __name__ == "__main__":
    mine = f"{__file__}:MostMisses:floor=128"
    run = memcoord.simulate("main", ["greedy", mine], scale=0.2, seeds=1)
    print(*run.verdict, sep="\n")
