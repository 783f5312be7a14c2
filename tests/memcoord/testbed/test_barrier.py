"""The start barrier's words, and what it says of an overlap that is not the scenario's."""

import os
import subprocess
import sys

import pytest

from memcoord.testbed.guests import gates
from memcoord.testbed.live.barrier import differences, done_at
from memcoord.testbed.live.verdicts import RunningDomain
from memcoord.testbed.report.results import DomainResult
from memcoord.testbed.scenarios.schema import Domain, parse

LENGTH = 1000


def domain(name: str, begin_s: float | None, end_s: float | None, **keys: object) -> RunningDomain:
    """A domain that is over and did its references at an even pace."""
    made = RunningDomain(spec(name, **keys), 1, LENGTH)
    made.begin_s, made.end_s = begin_s, end_s
    if end_s is not None:
        made.result = DomainResult(domain=name, workload="loop", references=LENGTH)
    return made


def spec(name: str, **keys: object) -> Domain:
    work = {"kind": "loop", "size": "1 MiB", "resident": "10 pages", "repeat": 1}
    plain = {"name": name, "maxmem": "2 MiB", "ram": "2 MiB", "workload": work}
    first = {**plain, "name": "vm1"}
    rest = [] if name == "vm1" else [{**plain, **keys}]
    whole = {"name": "test", "memory": "16 MiB", "domain": [first, *rest]}
    return parse(whole).domain[-1]


def late(begin_s: float | None) -> RunningDomain:
    return domain("vm2", begin_s, 20.0, start_when={"domain": "vm1", "done": 0.5})


@pytest.mark.parametrize(("begin_s", "is_right"), [(5.0, True), (5.9, True), (6.1, False)])
def test_a_late_start_is_held_against_the_progress_of_the_other(
    begin_s: float, is_right: bool
) -> None:
    assert (differences([domain("vm1", 0.0, 10.0), late(begin_s)]) == []) == is_right


def test_a_start_after_the_others_end_is_named() -> None:
    (text,) = differences([domain("vm1", 0.0, 10.0), late(12.0)])
    assert text == "vm2 was to start with vm1 at 50%, and started with it at 100%"


def test_two_that_start_together_must_do_so() -> None:
    first = domain("vm1", 0.0, 10.0)
    assert differences([first, domain("vm2", 0.9, 12.0)]) == []
    (text,) = differences([first, domain("vm2", 11.0, 12.0)])
    assert "vm2 was to start together with vm1, and began 11.00 s after it" in text


def test_nothing_is_said_of_domains_without_a_result() -> None:
    assert differences([domain("vm1", None, None), late(None)]) == []


def test_progress_is_taken_between_what_was_seen() -> None:
    seen = domain("vm1", 0.0, 10.0)
    seen.seen = [(-1.0, 0), (2.0, 800), (11.0, LENGTH)]
    assert done_at(seen, 1.0) == pytest.approx(0.4)
    assert done_at(seen, 6.0) == pytest.approx(0.9)
    assert done_at(seen, 10.0) == 1.0
    assert done_at(seen, -0.5) == 0.0


def test_a_domain_that_did_not_end_has_done_what_was_seen_last() -> None:
    seen = domain("vm1", None, None)
    seen.seen = [(1.0, 100), (2.0, 300)]
    assert done_at(seen, 9.0) == pytest.approx(0.3)


GUEST = """
from memcoord.testbed.guests.gates import MADE, READY, stand_at
stand_at(MADE)
stand_at(READY)
print("{}")
"""


def test_a_process_waits_at_each_gate_until_it_is_opened() -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", GUEST], stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        out = process.stdout.readline()
        assert gates.reached(out, gates.MADE)
        assert not gates.reached(out, gates.READY)
        gates.open_gates(process.stdin)
        out += process.stdout.readline()
        assert gates.reached(out, gates.READY)
        gates.open_gates(process.stdin)
        out += process.stdout.read()
        assert gates.answer_of(out).strip() == b"{}"


def test_a_gate_that_is_never_opened_ends_the_process() -> None:
    run = subprocess.run(
        [sys.executable, "-c", GUEST], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    assert run.returncode != 0
    assert b"the run ended" in run.stderr


def test_opening_the_gates_of_a_process_that_is_gone_is_no_error() -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    with os.fdopen(theirs, "wb", buffering=0) as stdin:
        gates.open_gates(stdin)
