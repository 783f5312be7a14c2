"""new-policy keeps the contract of a policy, and does what it is for."""

from pathlib import Path

from policies import View, check_plan, load
from policies.conformance import check_policy

POLICY = f"{Path(__file__).parent / 'new_policy.py'}:NewPolicy"


def test_it_keeps_the_contract() -> None:
    assert [str(failure) for failure in check_policy(lambda: load(POLICY))] == []


def test_who_uses_more_gets_more() -> None:
    view = View.of(capacity=1000, used=[300, 100], failed_puts=[0, 0])
    targets = check_plan(load(POLICY).plan(view), view).tmem
    assert targets is not None
    assert targets.tolist() == [718, 282]  # 64 each, then 3 to 1
