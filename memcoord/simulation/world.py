"""A scenario in virtual time: the same policies and coordinator, the same pool, no processes.

Owns: the order of events. Domains arrive, run their streams, leave or crash; every interval the
real ``hypervisor.coordinator`` ticks over ``memcoord.simulation.host``. Nothing here reads the time
of day: the same scenario, policy and seed give the same result, to the byte. ``simulate`` runs a
scenario to its end; a ``World`` can be stopped at ticks, as ``memcoord.simulation.env`` does.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from hypervisor.config import DomainConfig
from hypervisor.coordination.coordinator import Coordinator, TickReport
from hypervisor.coordination.policy_runner import ThreadRunner
from hypervisor.public.backend import DomainSpec
from hypervisor.public.errors import InternalError, NoMemory
from hypervisor.public.settings import DomainSettings, common
from hypervisor.public.units import AREA_FRAMES, DomId, areas_of
from memcoord.simulation import layout as L
from memcoord.simulation.costs import costs_of
from memcoord.simulation.host import SimHost
from memcoord.simulation.record import Recorder
from memcoord.testbed.report import results
from memcoord.testbed.scenarios.schema import Domain, Scenario, to_hypervisor_config
from memcoord.testbed.scenarios.workloads import title_of
from memcoord.testbed.streams import Stream, domain_seed, stream_of
from policies import Plan, Policy, View, loader
from policies.base import AGE_EDGES_S, MRC_POINTS, name_of, needs_of

#: Real time for one plan. No policy that ends takes so long, so the speed of the machine and its
#: other work do not change the result.
PLAN_S_MAX = 20.0
#: Ticks after which a run is given up: a month of virtual time at 100 ms.
TICKS_MAX = 30_000_000
COMPRESS_PAGES = 256
#: Streams kept for the next policy on the same scenario and seed.
STREAMS_KEPT = 32
NOTICES_MAX = 3
#: Counters of a domain's record that its result has too.
COUNTED = ("faults", "tmem_hits", "swap_ins", "swap_outs", "file_reads", "failed_puts")
NS_PER_MS = 1_000_000

Ages = NDArray[np.int64]


@dataclass
class SimDomain:
    """One domain of the scenario and its progress."""

    spec: Domain
    config: DomainConfig
    stream: Stream
    domid: DomId | None = None  # while it is open
    start_ns: int = -1  # -1 before it has arrived
    result: results.DomainResult | None = None  # once it has ended
    stops: list[int] = field(default_factory=list)  # references to stop before, ascending

    @property
    def crash(self) -> int:
        """The number of the reference before which it is killed, or one that never comes."""
        at = self.spec.crash_at
        return len(self.stream) + 1 if at is None else int(at * len(self.stream))


class WithPageAges:
    """A policy whose views also have ``cold`` and ``promotions``.

    Only the simulator knows the ages of pages: they are in no snapshot of a real host.
    """

    def __init__(self, policy: Policy, host: SimHost, clock: Callable[[], int]) -> None:
        self.name = name_of(policy)
        self._policy, self._host, self._clock = policy, host, clock
        self._promoted: dict[tuple[DomId, str], Ages] = {}

    def plan(self, view: View) -> Plan:
        """The policy's answer to the view with page ages."""
        cold, promotions = [], []
        for name in view.names:
            domid = self._host.named(name)
            now_cold, total = self._host.ages(domid, self._clock())
            cold.append(now_cold)
            promotions.append(total - self._promoted.get((domid, name), 0))
            self._promoted[domid, name] = total
        return self._policy.plan(replace(view, cold=_grid(cold), promotions=_grid(promotions)))


class World:
    """One domain, from tick to tick, at virtual time 0. ``policy`` is any policy object.

    ``label`` names the policy in the result, ``seed`` replaces the scenario's, ``recorder`` is
    called after every tick, and ``streams`` replaces those of the domains' workloads.
    """

    def __init__(
        self,
        scenario: Scenario,
        policy: Policy,
        *,
        label: str = "",
        seed: int | None = None,
        recorder: Recorder | None = None,
        streams: Sequence[Stream] | None = None,
    ) -> None:
        self.scenario, self.label = scenario, label or name_of(policy)
        self.now_ns = self._ticked_ns = 0
        self.ticks = 0
        self._recorder = recorder
        self._notices: dict[str, None] = {}
        self._served_ticks = self._faulty_ticks = 0
        self._moves_ram = False
        seed = self._seed = scenario.seed if seed is None else seed
        config = to_hypervisor_config(scenario, scenario.policies[0])
        self.host = SimHost(
            total_frames=config.total_frames,
            slack_frames=config.slack_frames,
            tmem_max_frames=config.tmem_max_pages,
            costs=costs_of(scenario),
            mrc_points=MRC_POINTS if "mrc" in needs_of(policy) else 0,
            seed=seed,
            tmem_options={"dedup": config.tmem_dedup, "compression": config.tmem_compression},
        )
        shown, run_policy = policy, ThreadRunner()
        if "ages" in needs_of(policy):
            shown = WithPageAges(policy, self.host, lambda: self.now_ns)
        self.coordinator = Coordinator(
            self.host,
            shown,
            config=config,
            clock=lambda: self.now_ns,
            runner=lambda call, _deadline_s: run_policy(call, PLAN_S_MAX),
        )
        if streams is None:
            streams = [_stream(d.workload, domain_seed(seed, d.name)) for d in scenario.domain]
        self.domains = [
            SimDomain(*parts)
            for parts in zip(scenario.domain, config.domains, streams, strict=True)
        ]
        self._plan_stops()
        self._promise()
        self._arrive()

    @property
    def over(self) -> bool:
        """Whether every domain has ended."""
        return all(domain.result is not None for domain in self.domains)

    def step(self) -> TickReport | None:
        """Run to the next tick and have the coordinator tick; None when the run ends before."""
        return self.tick() if self.advance() else None

    def advance(self) -> bool:
        """Run one interval without the tick at its end; False when the run ends before."""
        until_ns = self._ticked_ns + self.scenario.interval_ms * NS_PER_MS
        while not self.over:
            due_ns = min([until_ns, *self._starts()])
            domid = self._run(due_ns)
            if domid is not None:
                self._stopped(domid)
                continue
            self.now_ns = due_ns
            self._arrive()
            if due_ns == until_ns:
                self._ticked_ns = until_ns
                self.host.settle(until_ns)
                return True
        return False

    def run(self) -> results.PolicyResult:
        """Run to the end.

        InternalError when that takes more than TICKS_MAX ticks, or when tmem brings a wrong page.
        """
        while self.step() is not None:
            if self.ticks > TICKS_MAX:
                raise InternalError(f"{self.label}: not over after {self.ticks} ticks")
        return self.result()

    def result(self) -> results.PolicyResult:
        """The work of every domain so far. All times are virtual, also ``wall_s``."""
        return results.PolicyResult(
            policy=self.label,
            domains=[domain.result or self._counted(domain, "stopped") for domain in self.domains],
            wall_s=self.now_ns / 1e9,
            ticks=self.ticks,
            policy_faults=self.coordinator.statistics().faults,
            error=results.policy_failure(self._faulty_ticks, self._served_ticks),
            notices=[*self._notices][:NOTICES_MAX],
            seed=self._seed,
            moves_ram=self._moves_ram,
        )

    # Coming and going

    def _plan_stops(self) -> None:
        """Find the references before which each domain stops: its end, and where others start."""
        for domain in self.domains:
            count = len(domain.stream)
            waited = {
                int(other.spec.start_when.done * count)
                for other in self.domains
                if other.spec.start_when and other.spec.start_when.domain == domain.spec.name
            }
            end = min(count, domain.crash)
            domain.stops = sorted({stop for stop in waited if stop < end} | {end})

    def _starts(self) -> list[int]:
        """When the domains arrive that arrive at a time, in virtual nanoseconds."""
        return [
            round(domain.spec.start_after_s * 1e9)
            for domain in self.domains
            if domain.start_ns < 0 and domain.spec.start_when is None
        ]

    def _is_due(self, domain: SimDomain) -> bool:
        when = domain.spec.start_when
        if when is None:
            return domain.spec.start_after_s * 1e9 <= self.now_ns
        other = next(one for one in self.domains if one.spec.name == when.domain)
        if other.result is not None:
            return True
        if other.domid is None:
            return False
        done = self.host.counters(other.domid)["next"]
        return done >= int(when.done * len(other.stream))

    def _arrive(self) -> None:
        """Open every domain that is due, and have it planned for, as the hypervisor does."""
        opened = False
        for domain in self.domains:
            if domain.start_ns < 0 and self._is_due(domain):
                self._open(domain)
                opened = True
        if opened:
            self._plan()

    def _open(self, domain: SimDomain) -> None:
        domain.start_ns = self.now_ns
        taken = {other.domid for other in self.domains}
        domid = next(DomId(slot) for slot in range(L.SLOTS) if DomId(slot) not in taken)
        config = domain.config
        self._promise(excluding=domain)
        try:
            self.host.open(
                domid,
                DomainSpec(
                    name=config.name,
                    maxmem_frames=config.maxmem_frames,
                    boot_frames=config.boot_frames,
                    target_frames=config.target_frames,
                    **common(config, DomainSettings),
                    tmem_target_pages=config.tmem_max_pages,
                ),
            )
        except NoMemory as error:
            domain.result = self._counted(domain, "failed", str(error))
            self._promise()
            return
        domain.domid = domid
        self.coordinator.domain_opened(domid, config)
        resident = domain.spec.workload.resident.frames
        self.host.load(domid, domain.stream, resident, self.now_ns)
        self.host.resume(domid, domain.stops[0])

    def _promise(self, excluding: SimDomain | None = None) -> None:
        """Keep free the frames that absent domains boot with, as the hypervisor does."""
        absent = [one for one in self.domains if one.domid is None and one is not excluding]
        self.host.promise(sum(areas_of(one.config.boot_frames) for one in absent) * AREA_FRAMES)

    def _run(self, until_ns: int) -> DomId | None:
        try:
            return self.host.run(until_ns)
        except NoMemory as error:
            self._close(self._at(self.host.stuck()), "failed", str(error))
            return None if self.over else self._run(until_ns)

    def _stopped(self, domid: DomId) -> None:
        """Go on after a domain came to one of its stops: another domain is due, or it ends."""
        domain = self._at(domid)
        counters = self.host.counters(domid)
        self.now_ns = max(self.now_ns, counters["clock_ns"])
        domain.stops.pop(0)
        if domain.stops:
            self.host.resume(domid, domain.stops[0])
        else:
            is_crash = counters["next"] >= domain.crash
            self._close(domain, results.CRASHED if is_crash else results.DONE)
        self._arrive()

    def _close(self, domain: SimDomain, state: str, reason: str = "") -> None:
        assert domain.domid is not None
        domain.result = self._counted(domain, state, reason)
        self.coordinator.domain_closed(domain.domid)
        self.host.close(domain.domid)
        domain.domid = None
        self._promise()

    def _at(self, domid: DomId) -> SimDomain:
        return next(domain for domain in self.domains if domain.domid == domid)

    def _counted(self, domain: SimDomain, state: str, reason: str = "") -> results.DomainResult:
        name, title = domain.spec.name, title_of(domain.spec.workload)
        made = results.DomainResult(domain=name, workload=title, state=state, reason=reason)
        if domain.domid is not None:
            now = self.host.counters(domain.domid)
            made.references, made.run_s = now["next"], (now["clock_ns"] - domain.start_ns) / 1e9
            for counter in COUNTED:
                setattr(made, counter, now[counter])
        return made

    def tick(self) -> TickReport:
        """The tick at the end of an interval."""
        report = self._plan()
        self.ticks += 1
        self._served_ticks += bool(report.host.domains)
        self._faulty_ticks += bool(report.host.domains) and report.fault is not None
        if self.scenario.tmem_compression and self.host.tmem is not None:
            self.host.tmem.compress_step(COMPRESS_PAGES)
        if self._recorder is not None:
            self._recorder(self.now_ns / 1e9, report)
        return report

    def _plan(self) -> TickReport:
        """Have the coordinator take a snapshot, plan and apply."""
        report = self.coordinator.tick()
        if report.fault is not None:
            self._notices[str(report.fault)] = None
        self._moves_ram |= any(one.kind == "ram" and one.new != one.old for one in report.decisions)
        return report


_stream = functools.lru_cache(maxsize=STREAMS_KEPT)(stream_of)


def simulate(
    scenario: Scenario,
    policy_text: str,
    *,
    seed: int | None = None,
    recorder: Recorder | None = None,
) -> results.PolicyResult:
    """Run ``scenario`` in virtual time under the policy that ``policy_text`` names.

    PolicyError when there is no such policy. ``seed`` replaces the scenario's. The same arguments
    give the same result, to the byte.
    """
    policy = loader.load(policy_text)
    return World(scenario, policy, label=policy_text, seed=seed, recorder=recorder).run()


def _grid(rows: Sequence[Ages]) -> NDArray[np.float64]:
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(AGE_EDGES_S))
