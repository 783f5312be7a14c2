"""The example of the documentation, as a user's file: not a test, loaded by tests."""

from policies import Pages, Plan, PolicyParams, View


class FloorThenDemand:
    """Give every domain a floor, then share what is left in proportion to demand."""

    class Params(PolicyParams):  # checked from TOML or from `--policy name:floor=128`
        floor: Pages = 64

    def __init__(self, params: Params) -> None:
        self.params = params

    def plan(self, view: View) -> Plan:  # pure: same view, same plan
        demand = view.used + view.failed_puts
        spare = max(view.capacity - self.params.floor * len(view), 0)
        return Plan(tmem=self.params.floor + spare * demand / max(demand.sum(), 1))


class ByWeight:
    """Ten lines, no parameters."""

    def plan(self, view: View) -> Plan:
        return Plan(tmem=view.capacity * view.weight / max(view.weight.sum(), 1))
