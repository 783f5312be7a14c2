"""What ``memcoord policy new`` writes: a policy that works, and a test that passes.

Owns: the two texts. @NAME@, @MODULE@ and @KIND@ are filled in by ``memcoord.commands.policy``.
"""

POLICY = '''"""@NAME@: a floor for every domain, and the rest in proportion to demand and weight.

Law: target = floor + rest * demand * weight / sum. Signals: pages used, puts that failed.
Bad at: who puts pages it never reads again is believed like everybody else.
"""

from policies import Pages, Plan, PolicyParams, View


class @KIND@:
    """A floor for every domain, and the rest in proportion to demand and weight."""

    name = "@NAME@"  # what reports call it
    monotone = True  # a promise "memcoord policy check" tries: who demands more is not given less

    class Params(PolicyParams):
        floor: Pages = 64  # set by --policy @MODULE@.py:@KIND@:floor=128 or in a scenario; checked

    def __init__(self, params: Params) -> None:
        self.params = params

    def plan(self, view: View) -> Plan:
        """Every column of view is a numpy array with one entry per domain, in pages of 4 KiB.

        The same view must give the same plan: no clock, no random numbers. To remember something
        about the domains, return it as Plan(carry=...); the next view has it as view.carry.
        """
        floor = min(self.params.floor, view.capacity // max(len(view), 1))
        demand = (view.used + view.failed_puts) * view.weight
        rest = view.capacity - floor * len(view)
        return Plan(tmem=floor + rest * demand / max(demand.sum(), 1))
'''

TEST = '''"""@NAME@ keeps the contract of a policy, and does what it is for."""

from pathlib import Path

from policies import View, check_plan, load
from policies.conformance import check_policy

POLICY = f"{Path(__file__).parent / '@MODULE@.py'}:@KIND@"


def test_it_keeps_the_contract():
    assert [str(failure) for failure in check_policy(lambda: load(POLICY))] == []


def test_who_uses_more_gets_more():
    view = View.of(capacity=1000, used=[300, 100], failed_puts=[0, 0])
    plan = check_plan(load(POLICY).plan(view), view)
    assert plan.tmem.tolist() == [718, 282]  # 64 each, then 3 to 1
'''
