"""The slow path: once per interval, look at all domains, ask the policy, move the targets.

Owns: the list of coordinated domains, the last valid plan, the journal. Called by the hypervisor's
main thread only. The backend enforces targets, on every put and install.

One tick: 1. one snapshot; 2. a view of it; 3. ``policy.plan(view)`` with a deadline, checked; 4.
when that fails, a ``PolicyFault`` is reported and the last valid plan is used instead; 5. shrinks,
then grows; 6. domains using more than they were granted are reported. Grants and puts never wait
for a tick, so memory keeps flowing even while the policy fails.

A newcomer is planned for when it attaches: its opener calls ``tick`` once more, before the domain
can put a page. Until a plan is valid the newcomer may have an equal share of tmem, and no more than
the limited targets of the others leave; a plan that sets no tmem targets then sets it free.

The last valid plan is kept through faults: domains that left drop out. A domain the plan does not
know is unlimited when the plan limits no domain (greedy), else the domain gets an equal share and
all targets are scaled to capacity. Before the first valid plan every RAM target stays as opened.
The carry of the last valid plan is shown in every view until another plan is valid.

A domain that opted out is in no view: its targets stay as they were opened, or as the operator set
them, and the memory it holds is taken off the capacity the policy shares.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np

from hypervisor.config import DomainConfig, HypervisorConfig
from hypervisor.coordination.apply import apply_ram, apply_tmem
from hypervisor.coordination.decision_writer import DecisionWriter
from hypervisor.coordination.decisions import Decision, Journal
from hypervisor.coordination.kept import KeptCoordination, kept_of, member_of
from hypervisor.coordination.policy_runner import Failed, Loading, Stalled
from hypervisor.coordination.snapshot_view import Member, Present, proxy_of, view_of
from hypervisor.coordination.violations import Violation, find_violations
from hypervisor.public.backend import DomainSnapshot, HostSnapshot, Targets
from hypervisor.public.errors import InternalError, MemcoordError, PolicyFault
from hypervisor.public.units import DomId
from policies import CheckedPlan, Plan, PlanError, Policy, View, check_plan
from policies.base import name_of
from policies.checked import describe_error

FAULT_TEXT_MAX = 300
OPTED_OUT = "opted out: no policy changes its targets"
TAKEN_OVER = "taken over from a hypervisor that died: its policy's decisions are forgotten"
#: Deeds of the operator that the next coordinator still knows, per domain.
BY_HAND_MAX, BY_HAND_CHARACTERS_MAX = 8, 120

Runner = Callable[[Callable[[], object], float], object]


@dataclass(frozen=True)
class TickReport:
    """The snapshot of one tick, and everything the tick did."""

    tick: int
    time_ns: int
    host: HostSnapshot
    decisions: tuple[Decision, ...]
    violations: tuple[Violation, ...]
    fault: PolicyFault | None
    stalled: bool
    waiting_frames: int  # RAM growth that waits for memory
    deeds: tuple[Decision, ...] = ()  # of the operator, since the tick before


@dataclass
class Statistics:
    """Counts since start."""

    policy: str
    ticks: int = 0
    faults: int = 0
    stalls: int = 0
    decisions: int = 0
    refusals: int = 0
    violations: int = 0
    last_plan_tick: int = -1  # tick of the last valid plan


class Coordinator:
    """Ticks. ``runner(call, deadline_s)`` runs the policy; without it the policy has a deadline of
    its own, as a ``PolicyProcess`` has."""

    def __init__(
        self,
        backend: Targets,
        policy: Policy,
        *,
        config: HypervisorConfig,
        clock: Callable[[], int] = time.monotonic_ns,
        runner: Runner | None = None,
    ) -> None:
        self._backend = backend
        self._policy = policy
        self._config = config
        self._clock = clock
        self._runner: Runner = runner or (lambda call, _deadline_s: call())
        self._members: dict[DomId, Member] = {}
        self._kept_tmem: dict[DomId, int] = {}
        self._kept_ram: dict[DomId, int] = {}
        self._fault = ""  # of the tick before
        self._last_ns = clock()
        self._journal = Journal()
        self._deeds: list[Decision] = []  # since the last tick
        self._statistics = Statistics(policy=name_of(policy))

    def domain_opened(self, domid: DomId, config: DomainConfig) -> None:
        """Coordinate ``domid`` from the next tick on; until then its tmem is bounded."""
        member = self._members[domid] = Member(domid, config)
        if config.opt_out:
            return
        host = self._backend.snapshot()
        opened = {now.domid: now.tmem_target_pages for now in host.domains}
        target = opened.pop(domid, 0)
        limited = sum(max(pages, 0) for pages in opened.values())
        share = host.tmem_capacity_pages // max(len(self._members), len(self._config.domains))
        share = max(min(share, host.tmem_capacity_pages - limited), 0)
        if not 0 <= target <= share:
            member.is_provisional = True
            try:
                self._backend.set_tmem_target(domid, share)
            except MemcoordError as error:  # the tick that follows reports a refusal
                if isinstance(error, InternalError):
                    raise

    def domain_closed(self, domid: DomId) -> None:
        """Forget ``domid``; its last decisions can still be asked for. Unknown ones are ignored."""
        for known in (self._members, self._kept_tmem, self._kept_ram):
            known.pop(domid, None)

    def pin(
        self, domid: DomId, *, tmem_pages: int | None = None, ram_frames: int | None = None
    ) -> None:
        """Hold a target against the policy from the next tick on; -1 lets the policy set it again.

        KeyError when ``domid`` is not coordinated.
        """
        member = self._members[domid]
        now = member.seen
        if tmem_pages is not None:
            member.pinned_tmem_pages = tmem_pages if tmem_pages >= 0 else None
            self._note_pin(member, "tmem", -1 if now is None else now.tmem_target_pages, tmem_pages)
        if ram_frames is not None:
            member.pinned_ram_frames = ram_frames if ram_frames >= 0 else None
            old = member.config.target_frames if now is None else now.target_frames
            self._note_pin(member, "ram", old, ram_frames)

    def _note_pin(
        self, member: Member, kind: Literal["tmem", "ram"], old: int, pinned: int
    ) -> None:
        """A line for ``why`` about an operator's hand; below 0 the policy has the target again."""
        rule = "set by the operator" if pinned >= 0 else "given back to the policy by the operator"
        tick, name = self._statistics.ticks, member.config.name
        new = pinned if pinned >= 0 else old
        self._note_deed(member, Decision(tick, self._clock(), name, kind, old, new, rule))

    def note(self, domid: DomId, what: str) -> None:
        """A line for ``why``: something other than a target was changed by hand. May be unknown."""
        member = self._members.get(domid)
        if member is not None:
            tick, name = self._statistics.ticks, member.config.name
            target = -1 if member.seen is None else member.seen.tmem_target_pages
            done = Decision(
                tick, self._clock(), name, "operator", target, target, what[:BY_HAND_CHARACTERS_MAX]
            )
            self._note_deed(member, done)

    def _note_deed(self, member: Member, deed: Decision) -> None:
        self._journal.add(deed)
        self._deeds.append(deed)
        member.by_hand.append(deed)
        del member.by_hand[:-BY_HAND_MAX]

    def keep(self) -> KeptCoordination:
        """What the next coordinator needs to go on as this one would."""
        counts = asdict(self._statistics)
        del counts["policy"]
        members = [
            kept_of(member, self._kept_tmem.get(domid), self._kept_ram.get(domid))
            for domid, member in self._members.items()
        ]
        needs = tuple(getattr(self._policy, "needs", ()))
        return KeptCoordination(counts, members, self._fault, needs)

    def resume(self, kept: KeptCoordination, configs: dict[DomId, DomainConfig]) -> None:
        """Go on where another coordinator stood, with those of its domains that are left."""
        self._statistics = Statistics(self._statistics.policy, **kept.counts)
        self._fault = kept.fault
        seen = {now.domid: now for now in self._backend.snapshot().domains}
        for one in kept.members:
            domid = DomId(one.domid)
            if domid not in configs or domid not in seen:
                continue
            member = self._members[domid] = member_of(one, configs[domid])
            member.seen = now = seen[domid]
            if one.tmem is not None:
                self._kept_tmem[domid] = one.tmem
            if one.ram is not None:
                self._kept_ram[domid] = one.ram
            for deed in member.by_hand:
                self._journal.add(deed)
            tick, target = self._statistics.ticks, now.tmem_target_pages
            note = Decision(tick, self._clock(), now.name, "policy", target, target, TAKEN_OVER)
            self._journal.add(note)

    def now_ns(self) -> int:
        """The clock of the decisions."""
        return self._clock()

    def why(self, name: str) -> list[Decision]:
        """The last decisions about the domain called ``name``, oldest first."""
        return self._journal.of(name)

    def statistics(self) -> Statistics:
        """A copy of the counts."""
        return replace(self._statistics)

    def tick(self) -> TickReport:
        """One round. Errors of the policy are caught; InternalError of the backend propagates."""
        tick, now_ns = self._statistics.ticks, self._clock()
        host = self._backend.snapshot()
        attending = [
            (self._members[now.domid], now)
            for now in sorted(host.domains, key=lambda now: now.domid)
            if now.domid in self._members
        ]
        present = [one for one in attending if not one[0].config.opt_out]
        aside = [one for one in attending if one[0].config.opt_out]
        elapsed_s = max(now_ns - self._last_ns, 0) / 1e9
        view = view_of(host, present, aside, tick=tick, interval_s=elapsed_s)
        plan, fault, stalled = self._decide(view, present)
        rule = self._statistics.policy if fault is None else "last valid plan kept"
        proxies = tuple(proxy_of(*one) for one in present)
        writer = DecisionWriter(tick, now_ns, view, plan, rule, proxies)
        decisions = [_stays(writer, *one) for one in aside if one[0].age == 0]
        decisions += self._note_fault(fault, writer, present)
        decisions += writer.tmem(apply_tmem(self._backend, present, plan))
        decisions += writer.ram(apply_ram(self._backend, host, present, plan), present)
        for decision in decisions:
            self._journal.add(decision)
        violations = find_violations(attending)
        for member, now in attending:
            member.seen, member.age = now, member.age + 1
        self._last_ns = now_ns
        self._count(decisions, violations, fault, stalled)
        deeds, self._deeds = tuple(self._deeds), []
        return TickReport(
            tick=tick,
            time_ns=now_ns,
            host=host,
            decisions=tuple(decisions),
            violations=violations,
            fault=fault,
            stalled=stalled,
            waiting_frames=sum(member.waiting_frames for member, _ in present),
            deeds=deeds,
        )

    def _decide(self, view: View, present: Present) -> tuple[CheckedPlan, PolicyFault | None, bool]:
        """The policy's plan, or the last valid one with the fault and whether it stalled."""
        deadline_s = self._config.policy_deadline_ms / 1000
        stalled = False
        try:
            plan = check_plan(self._runner(lambda: self._policy.plan(view), deadline_s), view)
        except Loading:
            return self._last_valid(view, present), None, False
        except Failed as error:
            why, stalled = str(error), isinstance(error, Stalled)
        except PlanError as error:
            why = f"answered nonsense: {error}"
        except Exception as error:  # a policy's author may raise anything
            why = f"raised {describe_error(error)}"
        else:
            self._keep(plan, present)
            self._set_free(plan, present)
            self._statistics.last_plan_tick = view.tick
            return plan, None, False
        fault = PolicyFault(self._statistics.policy, why[:FAULT_TEXT_MAX])
        return self._last_valid(view, present), fault, stalled

    def _keep(self, plan: CheckedPlan, present: Present) -> None:
        domids = [member.domid for member, _ in present]
        if plan.tmem is not None:
            self._kept_tmem = dict(zip(domids, map(int, plan.tmem), strict=True))
        if plan.ram is not None:
            self._kept_ram = dict(zip(domids, map(int, plan.ram), strict=True))
        for index, (member, _) in enumerate(present):
            member.carried = None if plan.carry is None else plan.carry[index]

    def _set_free(self, plan: CheckedPlan, present: Present) -> None:
        """The first valid plan ends the bounds of newcomers, also when it sets no tmem targets."""
        for member, _ in present:
            if member.is_provisional and plan.tmem is None:
                self._backend.set_tmem_target(member.domid, member.config.tmem_max_pages)
            member.is_provisional = False

    def _last_valid(self, view: View, present: Present) -> CheckedPlan:
        """The kept plan, made to fit the domains and the capacity there are now."""
        domids = [member.domid for member, _ in present]
        plan = CheckedPlan()
        if self._kept_tmem:
            free = all(target == Plan.UNLIMITED for target in self._kept_tmem.values())
            other = Plan.UNLIMITED if free else view.capacity // max(len(view), 1)
            tmem = np.array([self._kept_tmem.get(domid, other) for domid in domids], dtype=float)
            limited = tmem != Plan.UNLIMITED
            total = tmem[limited].sum()
            if total > view.capacity:
                tmem[limited] *= view.capacity / total
            plan = check_plan(Plan(tmem=tmem), view)
        if self._kept_ram:
            ram = [self._kept_ram.get(now.domid, now.target_frames) for _, now in present]
            try:
                checked = check_plan(Plan(ram=ram), view)
            except PlanError:  # newcomers made it too much: targets in force stay as they are
                return plan
            plan = replace(plan, ram=checked.ram, ram_clamps=checked.ram_clamps)
        return plan

    def _note_fault(
        self, fault: PolicyFault | None, writer: DecisionWriter, present: Present
    ) -> list[Decision]:
        """A line for every domain when a fault begins, changes or ends; not one per tick."""
        text = "" if fault is None else str(fault)
        if text == self._fault:
            return []
        self._fault = text
        return writer.news(f"{text}; last valid plan kept" if text else "policy answers", present)

    def _count(
        self,
        decisions: list[Decision],
        violations: tuple[Violation, ...],
        fault: PolicyFault | None,
        stalled: bool,
    ) -> None:
        counts = self._statistics
        counts.ticks += 1
        counts.faults += fault is not None
        counts.stalls += stalled
        counts.decisions += sum(decision.new != decision.old for decision in decisions)
        counts.refusals += sum("refused" in decision.clamp for decision in decisions)
        counts.violations += len(violations)


def _stays(writer: DecisionWriter, member: Member, now: DomainSnapshot) -> Decision:
    old = now.tmem_target_pages
    return Decision(writer.tick, writer.time_ns, now.name, "policy", old, old, OPTED_OUT)
