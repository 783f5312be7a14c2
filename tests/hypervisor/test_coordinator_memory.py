"""The journal of decisions and the thread a policy runs in."""

import threading
from collections.abc import Iterator

import pytest

from hypervisor.coordination.decisions import (
    DECISIONS_PER_DOMAIN,
    RECALLED_DOMAINS_MAX,
    Decision,
    Journal,
)
from hypervisor.coordination.policy_runner import Stalled, ThreadRunner

LONG_S = 60.0


def decision(tick: int, domain: str = "vm1") -> Decision:
    return Decision(tick, 0, domain, "tmem", -1, 5, "equal share", "cut", {"used": 3})


def test_the_last_decisions_are_kept_oldest_first() -> None:
    journal = Journal()
    for tick in range(DECISIONS_PER_DOMAIN + 3):
        journal.add(decision(tick))
    ticks = [kept.tick for kept in journal.of("vm1")]
    assert ticks == list(range(3, DECISIONS_PER_DOMAIN + 3))
    assert journal.of("vm2") == []


def test_domains_remembered_are_bounded() -> None:
    journal = Journal()
    for index in range(RECALLED_DOMAINS_MAX + 1):
        journal.add(decision(0, f"vm{index}"))
    assert journal.of("vm0") == []
    assert len(journal.of("vm1")) == 1


def test_a_decision_reads_as_a_line() -> None:
    assert str(decision(7)) == "tick 7; tmem unlimited -> 5; equal share; cut; used 3"


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Opens at the end, so that no thread outlives its test for long."""
    event = threading.Event()
    yield event
    event.set()


def test_a_runner_hands_back_results_and_exceptions() -> None:
    runner = ThreadRunner()
    assert runner(lambda: 7, LONG_S) == 7
    with pytest.raises(ZeroDivisionError):
        runner(lambda: 1 // 0, LONG_S)
    assert runner(lambda: None, LONG_S) is None


def test_exit_in_a_policy_does_not_end_the_hypervisor() -> None:
    def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(RuntimeError, match="SystemExit"):
        ThreadRunner()(leave, LONG_S)


def test_a_call_past_its_deadline_is_left_alone_and_no_other_started(gate: threading.Event) -> None:
    runner = ThreadRunner()
    with pytest.raises(Stalled, match="no plan within 1 ms"):
        runner(gate.wait, 0.001)
    started: list[int] = []
    with pytest.raises(Stalled, match="an earlier call"):
        runner(lambda: started.append(1), LONG_S)
    assert started == []


def test_when_the_late_call_is_done_the_next_is_served(gate: threading.Event) -> None:
    runner = ThreadRunner()

    def late() -> str:
        gate.wait()
        return "late"

    with pytest.raises(Stalled):
        runner(late, 0.001)
    gate.set()
    for started in [other for other in threading.enumerate() if other.name == "policy"]:
        started.join(LONG_S)
    assert runner(lambda: "now", LONG_S) == "now"
