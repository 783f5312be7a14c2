"""One plan carried out on one host: births, deaths, an operator's verbs, audits.

Owns: ``PlanRun``, the loop that keeps the plan's times, and ``Found``, what it found. An audit ends
all victims and looks at what is left: memory, pages and files must be the witnesses' alone.
Rules: one thread; the loop waits for nobody but in bounded steps, so a stuck process costs the run
its bound and is told.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypervisor.public.errors import PeerGone
from memcoord.benchmarks.chaos import leaks
from memcoord.benchmarks.chaos.account import Account
from memcoord.benchmarks.chaos.audit import left_over
from memcoord.benchmarks.chaos.host import ChaosHost, Process, Stuck
from memcoord.benchmarks.chaos.plan import VERB_EACH_S, VICTIMS, WITNESSES, Death, Plan
from memcoord.testbed.runs.control_client import Refused

STEP_S = 0.001
AUDIT_KILLS = 250
AUDIT_S, AUDIT_POLL_S = 20.0, 0.05
RETURN_S = 60.0
#: Between two kills of the hypervisor that are not to fall into one pause.
SERVES_S_MIN = 0.2
SETTLE_S = 60.0
BROKEN_MAX = 100
#: What the operator may be told while domains come and go.
NORMAL_REFUSALS = ("no domain named", "may share", "are not all memory of")


@dataclass
class Found:
    """What one or several plans found. ``broken``: one text per broken invariant."""

    kills: int = 0
    stops: int = 0
    hypervisor_kills: int = 0
    verbs: int = 0
    detaches: int = 0
    validations: int = 0
    audits: int = 0
    broken: list[str] = field(default_factory=list)
    pauses_ms: list[float] = field(default_factory=list)
    samples: list[leaks.Sample] = field(default_factory=list)


@dataclass
class Victim:
    """A victim that lives now."""

    process: Process
    born_s: float
    death: Death
    is_stopped: bool = False

    def resumes_s(self) -> float:
        """When a stopped one goes on."""
        return self.born_s + self.death.stop_at_s + self.death.stopped_s


class PlanRun:
    """``plan`` on ``host``; ``done`` is told after every kill of a domain."""

    def __init__(
        self, plan: Plan, host: ChaosHost, account: Account, found: Found, done: Callable[[], None]
    ) -> None:
        self._plan, self._host, self._account = plan, host, account
        self._found, self._done = found, done
        self._victims: dict[int, Victim] = {}
        self._lives = dict.fromkeys(range(len(VICTIMS)), 0)
        self._verbs = plan.verbs()
        self._next_verb_s = 0.0
        self._deaths = plan.hypervisor_deaths()
        self._dead_pid = 0  # of a hypervisor that was killed, until all witnesses are served again
        self._killed_ns = self._back_ns = 0
        self._back_s = 0.0
        self._began_s = time.monotonic()
        self._kills = self._audited = 0

    def carry_out(self, until_s: float = 0.0) -> None:
        """The whole plan, or, after its kills, more of the same until that moment."""
        with contextlib.ExitStack() as stack:
            self._witnesses = [self._witness(stack, number) for number in range(len(WITNESSES))]
            stack.callback(self._end_victims)
            try:
                self._await_witnesses()
                while not self._is_done(until_s):
                    self._step()
                self.audit()
            except Stuck as error:
                self._break(str(error))

    def _witness(self, stack: contextlib.ExitStack, number: int) -> Process:
        process = self._host.spawn(self._plan.witness(number))
        stack.callback(process.kill)
        return process

    def _is_done(self, until_s: float) -> bool:
        is_enough = self._kills >= self._plan.kills and not self._deaths and not self._dead_pid
        return is_enough and time.monotonic() >= until_s

    def _step(self) -> None:
        now_s = time.monotonic()
        for number in range(len(VICTIMS)):
            self._look_after(number, now_s)
        if self._dead_pid:
            self._look_for_hypervisor()
        else:
            if self._is_hypervisor_due(now_s):
                self._begin_pause()
                self._kill_hypervisor()
            elif now_s >= self._next_verb_s:
                self._next_verb_s = now_s + VERB_EACH_S
                self._ask(*next(self._verbs))
            if self._kills - self._audited >= AUDIT_KILLS and not self._dead_pid:
                self.audit()
        if how := self._host.how_it_ended():
            raise Stuck(f"nobody serves the host any more: {how}")
        for name, process in zip(WITNESSES, self._witnesses, strict=True):
            if process.has_ended():
                raise Stuck(f"{name} has ended; {self._account.problems()[-1:]}")
        time.sleep(STEP_S)

    def _look_after(self, number: int, now_s: float) -> None:
        victim = self._victims.get(number)
        if victim is None:
            life, death = self._plan.victim(number, self._lives[number])
            self._lives[number] += 1
            self._victims[number] = Victim(self._host.spawn(life), now_s, death)
        elif victim.process.has_ended():  # it was detached
            victim.process.forget()
            del self._victims[number]
        elif victim.is_stopped:
            if now_s >= victim.resumes_s():
                victim.process.signal(signal.SIGCONT)
                victim.is_stopped, victim.death = False, Death(victim.death.age_s)
        elif 0 <= victim.death.stop_at_s <= now_s - victim.born_s:
            victim.process.signal(signal.SIGSTOP)
            victim.is_stopped = True
            self._found.stops += 1
        elif now_s - victim.born_s >= victim.death.age_s:
            self._kill(number)

    def _kill(self, number: int) -> None:
        self._victims.pop(number).process.kill()
        self._kills += 1
        self._found.kills += 1
        self._done()

    def _end_victims(self) -> None:
        for number in list(self._victims):
            self._kill(number)

    def _ask(self, op: str, arguments: dict[str, Any]) -> None:
        try:
            self._host.ask(op, **arguments)
        except Refused as error:
            if op == "validate" or not any(text in str(error) for text in NORMAL_REFUSALS):
                self._break(f"{op}: {error}")
        except PeerGone as error:
            self._break(f"{op}: {error}")
        self._found.verbs += 1
        self._found.detaches += op == "detach"
        self._found.validations += op == "validate"

    # The hypervisor's own death

    def _is_hypervisor_due(self, now_s: float) -> bool:
        is_due = bool(self._deaths) and self._kills >= self._deaths[0].after_kills
        return is_due and now_s >= self._back_s + SERVES_S_MIN

    def _begin_pause(self) -> None:
        for slot in range(len(WITNESSES)):
            self._account.forget_gap(slot)

    def _kill_hypervisor(self) -> None:
        death, self._back_ns = self._deaths.pop(0), 0
        self._dead_pid = self._host.kill_hypervisor(death.delay_s)
        self._killed_ns = time.monotonic_ns()
        self._found.hypervisor_kills += 1

    def _look_for_hypervisor(self) -> None:
        """After a kill: first another hypervisor must answer, then every witness put a page."""
        slots = range(len(WITNESSES))
        if not self._back_ns:
            if self._host.hypervisor_pid() not in (0, self._dead_pid):
                self._back_ns = time.monotonic_ns()
                if self._deaths and self._deaths[0].is_at_once:
                    self._kill_hypervisor()
        elif all(self._account.of(slot, "last_put_ns") > self._back_ns for slot in slots):
            self._dead_pid, self._back_s = 0, time.monotonic()
            self._found.pauses_ms += [self._account.of(slot, "gap_ns") / 1e6 for slot in slots]
            return
        if time.monotonic_ns() - self._killed_ns > RETURN_S * 1e9:
            what = "a witness put a page" if self._back_ns else "another one answered"
            raise Stuck(f"the hypervisor was killed, and after {RETURN_S:.0f} s not yet has {what}")

    def _await_witnesses(self) -> None:
        """Until every witness has put its first page."""
        until = time.monotonic() + SETTLE_S
        for slot, name in enumerate(WITNESSES):
            while not self._account.of(slot, "last_put_ns"):
                if time.monotonic() > until:
                    raise Stuck(f"{name} could not put a page for {SETTLE_S:.0f} s")
                time.sleep(STEP_S)

    # Audits

    def audit(self) -> None:
        """End all victims; what is left must be the witnesses' alone, and add up."""
        self._audited = self._kills
        self._end_victims()
        self._found.audits += 1
        until, problem = time.monotonic() + AUDIT_S, "never looked"
        for process in self._witnesses:
            process.signal(signal.SIGSTOP)  # so that counters can be compared with counts
        try:
            while problem and time.monotonic() < until:
                time.sleep(AUDIT_POLL_S)
                problem = self._left()
        finally:
            for process in self._witnesses:
                process.signal(signal.SIGCONT)
        if problem:
            self._break(f"after {self._kills} kills: {problem}")
        with contextlib.suppress(OSError, PeerGone):  # it ended: the next step tells
            pid = int(self._host.ask("ping")["pid"])
            at_s = time.monotonic() - self._began_s
            self._found.samples.append(leaks.sample(pid, self._host.run_dir, at_s))

    def _left(self) -> str:
        """Empty when only the witnesses are left and the books are right, else what is not."""
        try:
            now = self._host.ask("statistics")
            counted = self._host.ask("validate")
        except (Refused, PeerGone) as error:
            return str(error)
        self._found.validations += 1
        return left_over(now, counted, WITNESSES)

    def _break(self, what: str) -> None:
        if len(self._found.broken) < BROKEN_MAX:
            self._found.broken.append(f"{self._plan.variant}: {what}")
