"""One policy for simulator, processes and virtual machines: RAM to those who need it.

docs/vms.md shows this file in all three.
"""

import numpy as np

import memcoord
from policies.base import Plan, PolicyParams, View


class NeedFirst:
    """Every domain keeps its minimum; the rest goes by what its programs committed beyond that."""

    class Params(PolicyParams):
        """``margin``: how much more than committed a domain may have."""

        margin: float = 0.05

    def __init__(self, params: Params) -> None:
        self.margin = params.margin

    def plan(self, view: View) -> Plan:
        """Targets of RAM in frames, one per domain; what a guest does not report is its size."""
        known = ~np.isnan(view.committed)
        need = np.where(known, view.committed, view.in_use) * (1 + self.margin)
        most = np.maximum(view.ram_maximum, view.ram_minimum)
        more = np.clip(need, view.ram_minimum, most) - view.ram_minimum
        spare = max(view.ram_capacity - view.ram_minimum.sum(), 0)
        share = min(spare / max(more.sum(), 1), 1)
        return Plan(ram=view.ram_minimum + more * share)


if __name__ == "__main__":
    mine = f"{__file__}:NeedFirst"
    run = memcoord.simulate("bursts", ["greedy", mine], scale=0.2, seeds=1)
    print(*run.verdict, sep="\n")
