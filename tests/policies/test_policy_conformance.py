"""The kit passes what keeps the contract and names the clause of what does not."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies import Plan, Policy, Vector, View, load
from policies.conformance import CLAUSES, KIT_SPEED_SIZES, check_policy, examine
from policies.smart_alloc import SmartAlloc

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
    ("counts", Counting, "pure", "one asked before"),
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
    assert f"(view: View.of(capacity={failures[clause].view.capacity}" in str(failures[clause])


def test_the_input_shown_is_the_smallest_that_fails() -> None:
    class FailsOnPuts:
        def plan(self, view: View) -> Plan:
            if len(view) >= 2 and view.failed_puts.any():
                raise RuntimeError("too many")
            return Plan()

    (failure,) = check_policy(FailsOnPuts)
    assert len(failure.view) == 2
    assert "raised RuntimeError: too many" in str(failure)
    assert "View.of(capacity=8192, ram_capacity=131072, failed_puts=[" in str(failure)
    shown = failure.view
    changed = {name for name in ("used", "target", "puts", "gets") if getattr(shown, name).any()}
    assert changed == {"target"}  # an equal share, the default


def test_a_view_of_many_domains_is_cut_down() -> None:
    def plan(view: View) -> Plan:
        if "vm500" in view.names:
            raise RuntimeError("not you")
        return Plan()

    (failure,) = check_policy(_of(plan))
    assert failure.view.names == ("vm500",)
    assert failure.clause == "valid"


def test_a_failure_that_needs_many_domains_is_told_in_short() -> None:
    def plan(view: View) -> Plan:
        return Plan(tmem=np.full(len(view), np.nan if len(view) > 30 else 0))

    (failure,) = check_policy(_of(plan))
    assert "(view: 32 domains, capacity 262144)" in str(failure)


def test_the_kit_is_the_same_each_time() -> None:
    def fails(view: View) -> Plan:
        if view.used.max(initial=0) > 2000:
            raise RuntimeError("too much")
        return Plan()

    one, two = ([str(f) for f in check_policy(_of(fails))] for _ in range(2))
    assert one == two != [str(f) for f in check_policy(_of(fails), seed=1)]


# Carry


def _counts_in_carry(view: View) -> Plan:
    return Plan(tmem=np.zeros(len(view)), carry=view.carried(1) + 1)


def _carries_what_it_divides(view: View) -> Plan:
    before = view.carry if view.carry.shape[1] else np.ones((len(view), 1))
    return Plan(carry=before + view.interval_s)  # a newcomer's NaN goes out again


def _carries_positions(view: View) -> Plan:
    return Plan(carry=np.arange(len(view), dtype=float)[:, None] * 10)


def _uses_positions_once_carried(view: View) -> Plan:
    first = np.arange(len(view)) == 0
    known = view.carry.shape[1] > 0
    return Plan(tmem=first * 100.0 * known, carry=np.zeros((len(view), 1)))


@pytest.mark.parametrize(
    ("plan", "clauses"),
    [
        (_counts_in_carry, []),
        (_carries_what_it_divides, ["carry"]),
        (_carries_positions, ["equivariant"]),
        (_uses_positions_once_carried, ["equivariant"]),
    ],
)
def test_what_is_carried_is_tried_too(plan: Callable[[View], Plan], clauses: list[str]) -> None:
    assert [failure.clause for failure in check_policy(_of(plan))] == clauses


def test_what_differs_only_in_what_is_carried_is_not_pure() -> None:
    class Remembers:
        def __init__(self) -> None:
            self.calls = 0

        def plan(self, view: View) -> Plan:
            self.calls += 1
            return Plan(carry=np.full((len(view), 1), float(self.calls)))

    assert [failure.clause for failure in check_policy(Remembers)] == ["pure"]


# Nonsense


@pytest.mark.parametrize(
    ("plan", "name"),
    [
        (lambda view: Plan(carry=view.puts[:, None] / view.interval_s), "no time has passed"),
        (
            lambda view: Plan(tmem=view.used * (1e300 if view.used.max(initial=0) > 1e15 else 0)),
            "2*",
        ),
        (
            lambda view: Plan(ram=view.ram_target * 0 + view.target.sum() * 0 / view.ram_capacity),
            "RAM",
        ),
    ],
    ids=["divides-by-time", "overflows", "divides-by-ram"],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_nonsense_is_named(plan: Callable[[View], Plan], name: str) -> None:
    (failure,) = check_policy(_of(plan))
    assert failure.clause == "nonsense"
    assert name in failure.name
    assert f"(view: {failure.name}: View.of(" in str(failure)


# What a class declares


class Declares:
    """Does what the test says, and says what the test says."""

    def __init__(self, law: Callable[[View], Plan], **declared: object) -> None:
        self.law, self.declared = law, declared

    def __call__(self) -> Policy:
        kind = type("Kind", (), {"plan": lambda _, view: self.law(view)} | self.declared)
        made: Policy = kind()
        return made


def _gives_to_who_does_not_fail(view: View) -> Plan:
    return Plan(tmem=np.where(view.failed_puts > 0, 0, 100))


def _swings(view: View) -> Plan:
    return Plan(tmem=np.where(view.target > 1000, 500.0, 2000.0))


def _creeps(view: View) -> Plan:
    return Plan(tmem=np.minimum(view.target * 0.9, 1000.0))


@pytest.mark.parametrize(
    ("law", "clause", "words"),
    [
        (_gives_to_who_does_not_fail, "monotone", "is given tmem 0, without 100"),
        (_swings, "settles", "still moves by 1500 within"),
    ],
)
def test_a_promise_is_tried_only_when_it_is_made(
    law: Callable[[View], Plan], clause: str, words: str
) -> None:
    assert check_policy(Declares(law)) == []
    (failure,) = check_policy(Declares(law, **{clause: True}))
    assert failure.clause == clause
    assert words in failure.what


def test_who_takes_what_is_not_reported_for_nothing_is_named() -> None:
    def waits_for_nobody(view: View) -> Plan:
        stalls = np.nan_to_num(view.pressure) > 0
        return Plan(ram=np.where(stalls, view.ram_target, view.ram_target * 0.99))

    (failure,) = check_policy(_of(waits_for_nobody))
    assert failure.clause == "unknown"
    assert "shrinks one that reports nothing: RAM of vm1 from 16384 to" in failure.what


@pytest.mark.parametrize(
    "plan",
    [
        lambda view: Plan(ram=np.where(np.isnan(view.pressure), view.ram_target, 0)),
        lambda view: Plan(ram=np.zeros(len(view))),  # not for want of a report
    ],
)
def test_who_does_not_is_not(plan: Callable[[View], Plan]) -> None:
    assert check_policy(_of(plan)) == []


def test_a_plan_that_prints_is_named() -> None:
    def prints(view: View) -> Plan:
        sys.stdout.write(f"hello {len(view)}")
        return Plan()

    (failure,) = check_policy(_of(prints))
    assert (failure.clause, failure.what) == ("quiet", "prints 'hello 0'")


@pytest.mark.parametrize(
    ("rises", "falls", "said"),
    [
        ("puts failed: grow", "puts failed: grow", "fell to"),
        ("idle: shrink", "idle: shrink", "rose to"),
        ("puts failed: grow", "puts failed: grow, then all scaled to fit", ""),
        ("puts failed: grow", "idle: shrink", ""),
        ("a share", "a share", ""),
    ],
)
def test_a_reason_that_says_the_opposite_is_named(rises: str, falls: str, said: str) -> None:
    def moves(view: View) -> Plan:
        share = view.capacity / max(len(view), 1) / 4
        why = [rises if share > target else falls for target in view.target]
        return Plan(tmem=np.full(len(view), share), why=why)

    failures = check_policy(_of(moves))
    assert [failure.clause for failure in failures] == (["honest"] if said else [])
    assert all(said in failure.what for failure in failures)


def test_a_policy_may_say_how_many_ticks_it_takes() -> None:
    assert check_policy(Declares(_creeps, settles=True)) == []
    (failure,) = check_policy(Declares(_creeps, settles=3))
    assert "after 3 ticks" in failure.what


VIEW = View.of(capacity=100, used=[3, 4])


def test_vectors_are_compared_with_parameters_and_a_tolerance() -> None:
    right = Vector(VIEW, tmem=[50, 50.5])
    assert check_policy(Declares(lambda v: Plan(tmem=v.used * 0 + 50), vectors=(right,))) == []
    wrong = Vector(VIEW, tmem=[50, 40])
    (failure,) = check_policy(Declares(lambda v: Plan(tmem=v.used * 0 + 50), vectors=(wrong,)))
    assert str(failure) == (
        "vectors: tmem [50.0, 50.0] where [50.0, 40.0] is expected "
        "(view: View.of(capacity=100, used=[3, 4]))"
    )


@pytest.mark.parametrize(
    ("vector", "words"),
    [
        (Vector(VIEW, ram=[1, 1]), "ram nan where [1.0, 1.0] is expected"),
        (Vector(VIEW, tmem=[1]), "where [1.0] is expected"),
        (Vector(VIEW, tmem=[0, 0], params={"P": 3}), "params {'P': 3}"),
        (Vector(VIEW, tmem=[0, 0], params={"Q": 3}), "raised ValidationError: "),
    ],
)
def test_a_vector_says_what_differs(vector: Vector, words: str) -> None:
    assert words in vector.failure(SmartAlloc)


# Speed


def test_a_plan_past_the_deadline_is_named_and_not_repeated() -> None:
    now_ns = [0]

    def slow(view: View) -> Plan:
        now_ns[0] += len(view) ** 2 * 1000
        return Plan()

    report = examine(_of(slow), clock_ns=lambda: now_ns[0])
    assert report.plan_ns == {100: 10_000_000, 10_000: 100_000_000_000}
    (failure,) = report.failures
    assert str(failure).startswith("speed: a plan takes 100.0 s, at most 2 s (view: 10000 domains")


def test_who_exits_or_fails_only_when_asked_again_is_named_not_passed_through() -> None:
    class Exits:
        name = "exits"

        def plan(self, view: View) -> Plan:
            raise SystemExit(3)

    class Tires:
        name = "tires"

        def plan(self, view: View) -> Plan:
            if len(view) == max(KIT_SPEED_SIZES):
                raise SystemExit(3)
            return Plan(tmem=np.zeros(len(view)))

    assert [one.clause for one in examine(Exits).failures][:1] == ["valid"]
    report = examine(Tires, clock_ns=time.perf_counter_ns)
    assert [one.clause for one in report.failures] == ["speed"]
    assert "raised SystemExit" in report.failures[0].what


def test_without_a_clock_nothing_is_timed() -> None:
    report = examine(lambda: load("greedy"))
    assert "speed" not in report.tried
    assert report.plan_ns == {}
    assert set(report.tried) < CLAUSES.keys()
