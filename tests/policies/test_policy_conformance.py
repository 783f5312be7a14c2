"""The kit passes what keeps the contract and names the clause of what does not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies import Plan, Policy, View, load
from policies.conformance import check_policy

EXAMPLES = Path(__file__).parent / "example_policy.py"
GOOD = [
    "greedy",
    "static-alloc",
    "smart-alloc",
    "smart-alloc:P=0.25",
    "smart-alloc:P=100,threshold=0",
    f"{EXAMPLES}:FloorThenDemand",
    f"{EXAMPLES}:FloorThenDemand:floor=128",
    f"{EXAMPLES}:ByWeight",
]


@pytest.mark.parametrize("name", GOOD, ids=lambda name: Path(name).name)
def test_policies_that_keep_the_contract_pass(name: str) -> None:
    assert [str(failure) for failure in check_policy(lambda: load(name))] == []


class Counting:
    """Not pure: remembers how often it was asked."""

    def __init__(self) -> None:
        self.calls = 0

    def plan(self, view: View) -> Plan:
        self.calls += 1
        return Plan(tmem=np.full(len(view), min(self.calls, 2)) * (view.capacity > 0))


def _first_takes_all(view: View) -> Plan:
    return Plan(tmem=[view.capacity if index == 0 else 0 for index in range(len(view))])


def _writes(view: View) -> Plan:
    view.used.setflags(write=True)
    view.used[:] = 7
    return Plan()


def _divides_by_count(view: View) -> Plan:
    return Plan(tmem=np.full(len(view), view.capacity // len(view)))


def _of(plan: Callable[[View], Any]) -> Callable[[], Policy]:
    class Made:
        def plan(self, view: View) -> Plan:
            result: Plan = plan(view)
            return result

    return Made


BAD: list[tuple[str, Callable[[], Policy], str, str]] = [
    ("counts", Counting, "pure", "from a new instance"),
    ("favours", _of(_first_takes_all), "equivariant", "order"),
    ("writes", _of(_writes), "read-only", "used"),
    ("no-domains", _of(_divides_by_count), "valid", "ZeroDivisionError"),
    ("nan", _of(lambda view: Plan(tmem=view.used * np.nan)), "valid", "nan"),
    ("negative", _of(lambda view: Plan(tmem=view.used - 1e9)), "valid", "negative"),
    ("all-to-all", _of(lambda view: Plan(tmem=view.used * 0 + view.capacity)), "valid", "capacity"),
    ("short", _of(lambda view: Plan(tmem=[1])), "valid", "length"),
    ("none", _of(lambda view: None), "valid", "NoneType"),
    ("ram", _of(lambda view: Plan(ram=view.ram_used - view.ram_capacity - 1)), "valid", "ram"),
]


@pytest.mark.parametrize(
    ("factory", "clause", "word"), [bad[1:] for bad in BAD], ids=[b[0] for b in BAD]
)
def test_a_broken_clause_is_named_with_its_input(
    factory: Callable[[], Policy], clause: str, word: str
) -> None:
    failures = {failure.clause: failure for failure in check_policy(factory)}
    assert list(failures) == [clause]
    assert word in failures[clause].what
    assert f"{len(failures[clause].view)} domains" in str(failures[clause])


def test_the_smallest_view_that_fails_is_shown() -> None:
    class FailsFromTwo:
        def plan(self, view: View) -> Plan:
            if len(view) >= 2:
                raise RuntimeError("too many")
            return Plan()

    (failure,) = check_policy(FailsFromTwo)
    assert len(failure.view) == 2
    assert "raised RuntimeError: too many" in str(failure)
    assert "used [" in str(failure)


def test_the_kit_is_the_same_each_time() -> None:
    one, two = ([str(f) for f in check_policy(_of(_first_takes_all))] for _ in range(2))
    assert one == two != [str(f) for f in check_policy(_of(_first_takes_all), seed=1)]
