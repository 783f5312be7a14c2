"""new-policy: a floor for every domain, and the rest in proportion to demand and weight.

Law: target = floor + rest * demand * weight / sum. Signals: pages used, puts that failed.
Bad at: a domain that puts pages it never reads again is believed like every other.
"""

from policies import Pages, Plan, PolicyParams, View


class NewPolicy:
    """A floor for every domain, and the rest in proportion to demand and weight."""

    name = "new-policy"  # what reports call it
    monotone = True  # a promise "memcoord policy check" tries: more demand, no less memory

    class Params(PolicyParams):
        floor: Pages = 64  # --policy new_policy.py:NewPolicy:floor=128 or a scenario sets it

    def __init__(self, params: Params) -> None:
        self.params = params

    def plan(self, view: View) -> Plan:
        """Every column of view is a numpy array with one entry per domain, in pages of 4 KiB.

        The same view must give the same plan: no clock, no random numbers. To remember something
        about the domains, return it as Plan(carry=...); the next view has it as view.carry.
        """
        floor = min(self.params.floor, view.capacity // max(len(view), 1))
        demand = view.demand * view.weight
        rest = view.capacity - floor * len(view)
        return Plan(tmem=floor + rest * demand / max(demand.sum(), 1))
