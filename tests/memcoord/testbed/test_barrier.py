"""The start barrier's words, and what it says of an overlap that is not the scenario's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from memcoord.testbed.guests import gates
from memcoord.testbed.live.barrier import attach_first, differences, done_at, holds_of, let_go
from memcoord.testbed.live.verdicts import RunningDomain
from memcoord.testbed.report.results import DomainResult
from memcoord.testbed.runs.launcher import Child
from memcoord.testbed.scenarios.schema import Domain, parse

LENGTH = 1000
LATE: dict[str, object] = {"start_when": {"domain": "vm1", "done": 0.5}}


def domain(name: str, begin_s: float | None, end_s: float | None, **keys: object) -> RunningDomain:
    """A domain that is over and did its references at an even pace."""
    made = RunningDomain(spec(name, **keys), 1, LENGTH)
    made.begin_s, made.end_s = begin_s, end_s
    if end_s is not None:
        made.result = DomainResult(domain=name, workload="loop", references=LENGTH)
    return made


class Guests:
    """Processes of domains as their launcher sees them: what each said, how many gates it got."""

    def __init__(self, folder: Path, *domains: RunningDomain) -> None:
        self.folder, self.domains = folder, list(domains)
        self.stdins: dict[str, int] = {}
        for one in domains:
            one.holds = holds_of(one, domains)
            process = subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.PIPE)
            process.wait()
            assert process.stdin is not None
            ours, theirs = os.pipe()
            os.dup2(theirs, process.stdin.fileno())
            os.close(theirs)
            os.set_blocking(ours, False)
            self.stdins[one.spec.name] = ours
            one.child = Child(one.spec.name, process, self._output(one.spec.name))
            self._output(one.spec.name).touch()

    def _output(self, name: str) -> Path:
        return self.folder / f"{name}.out"

    def say(self, name: str, gate: str) -> None:
        with self._output(name).open("a") as file:
            file.write(f"{gate}\n")

    def opened(self) -> dict[str, int]:
        """The gates that were opened since this was asked last."""
        found = {}
        for name, fd in self.stdins.items():
            try:
                found[name] = len(os.read(fd, 9))
            except BlockingIOError:
                continue
        return found

    def close(self) -> None:
        for one in self.domains:
            assert one.child is not None
            assert one.child.process.stdin is not None
            one.child.process.stdin.close()
            os.close(self.stdins[one.spec.name])


def spec(name: str, **keys: object) -> Domain:
    work = {"kind": "loop", "size": "1 MiB", "resident": "10 pages", "repeat": 1}
    plain = {"name": name, "maxmem": "2 MiB", "ram": "2 MiB", "workload": work}
    first = {**plain, "name": "vm1"}
    rest = [] if name == "vm1" else [{**plain, **keys}]
    whole = {"name": "test", "memory": "16 MiB", "domain": [first, *rest]}
    return parse(whole).domain[-1]


def late(begin_s: float | None) -> RunningDomain:
    return domain("vm2", begin_s, 20.0, **LATE)


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


def test_the_one_waited_for_stands_still_until_the_late_one_is_ready(tmp_path: Path) -> None:
    first, second = domain("vm1", None, None), domain("vm2", None, None, **LATE)
    guests = Guests(tmp_path, first, second)
    assert (first.holds, second.holds) == ([LENGTH // 2], [])
    attach_first(guests.domains)
    assert [one.spec.name for one in let_go(guests.domains, 0.0)] == ["vm1"]
    assert guests.opened() == {"vm1": 2}
    assert let_go(guests.domains, 99.0) == []  # however late it gets
    guests.say("vm1", gates.held_at(LENGTH // 2))
    assert let_go(guests.domains, 99.0) == []
    assert guests.opened() == {"vm2": 1}  # it attaches, and nobody goes on
    assert let_go(guests.domains, 99.0) == []
    assert guests.opened() == {}
    guests.say("vm2", gates.READY)
    assert [one.spec.name for one in let_go(guests.domains, 99.0)] == ["vm2"]
    assert guests.opened() == {"vm1": 1, "vm2": 1}
    assert let_go(guests.domains, 99.0) == []
    guests.close()


def test_nobody_waits_for_a_domain_that_is_gone(tmp_path: Path) -> None:
    first, second = domain("vm1", None, None), domain("vm2", None, None, **LATE)
    guests = Guests(tmp_path, first, second)
    guests.say("vm1", gates.held_at(LENGTH // 2))
    second.result = DomainResult(domain="vm2", workload="loop", state="killed")
    assert [one.spec.name for one in let_go([second, first], 0.0)] == ["vm1", "vm2"]
    assert guests.opened() == {"vm1": 3}  # the two of its start, and the one it was held at
    guests.close()


def test_a_domain_starts_when_the_one_it_waits_for_has_ended(tmp_path: Path) -> None:
    first, second = domain("vm1", 0.0, 1.0), domain("vm2", None, None, **LATE)
    guests = Guests(tmp_path, first, second)
    assert [one.spec.name for one in let_go(guests.domains, 0.0) if one is second] == ["vm2"]
    assert guests.opened() == {"vm2": 2}
    guests.close()


GUEST = """
from memcoord.testbed.guests.gates import MADE, READY, held_at, stand_at
stand_at(MADE)
stand_at(READY)
waits = []
stand_at(held_at(7), lambda: waits or waits.append(print("waits", flush=True)))
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
        out += process.stdout.readline() + process.stdout.readline()
        assert gates.reached(out, gates.held_at(7))
        gates.open_gates(process.stdin)
        out += process.stdout.read()
        assert gates.answer_of(out).split() == [b"waits", b"{}"]


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
