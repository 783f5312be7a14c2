"""One scenario under one policy: a hypervisor process, its domains, and the order of their lives.

Owns: the order of a run.
  1. hypervisor.json and a file per domain are written; the hypervisor and all processes of domains
     start, beside each other; the hypervisor answers a ping.
  2. domains that start together attach and wait for each other, the late ones wait outside
     (``barrier``).
  3. domains go at their time; statistics are read until every domain has ended.
  4. the hypervisor is asked to shut down; remaining processes are ended; sockets are removed.
A domain that dies is noted and the run goes on. The hypervisor's death, a signal, or a run that
stands still for STALL_S ends it. Called by ``memcoord.commands.run`` from the main thread.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec

from hypervisor.config import HypervisorConfig, attach_token
from hypervisor.public import messages
from hypervisor.public.errors import MemcoordError
from hypervisor.public.feed import FeedMessage, Latencies, Why
from hypervisor.public.units import FRAME_BYTES
from memcoord.testbed.guests.replay import GuestConfig
from memcoord.testbed.live import (
    barrier,
    hypervisor,
    machine_start,
    nurseries,
    program_start,
    verdicts,
)
from memcoord.testbed.live.compiling import compile_first
from memcoord.testbed.live.nurseries import Nurseries
from memcoord.testbed.live.statistics_reader import BadStatistics, StatisticsReader
from memcoord.testbed.live.verdicts import RunningDomain
from memcoord.testbed.report.progress import Progress
from memcoord.testbed.report.results import DomainResult, PolicyResult, policy_failure
from memcoord.testbed.report.series import Series
from memcoord.testbed.runs import cgroups
from memcoord.testbed.runs.cgroups import Slice
from memcoord.testbed.runs.confine import Rights
from memcoord.testbed.runs.launcher import Child, Interrupts, Launcher
from memcoord.testbed.runs.load import LoadMeter, own_cpu
from memcoord.testbed.runs.rundir import EVENTS, RunDir, check_socket_path
from memcoord.testbed.scenarios.programs import ProgramWorkload
from memcoord.testbed.scenarios.schema import Scenario, to_hypervisor_config
from memcoord.testbed.scenarios.virtual_machines import MachineWorkload
from memcoord.testbed.scenarios.workloads import files_of
from memcoord.testbed.streams import domain_seed
from memcoord.testbed.watch.frame import frame_of
from memcoord.testbed.watch.history import WINDOW_S, History
from memcoord.testbed.watch.kept import Kept

#: In the folder of a domain: what its process is told, where it swaps.
TOLD, SWAP = "config.json", "swap"
POLL_MS = 50
#: The same while somebody is on the way to a gate, where others wait.
GATE_POLL_MS = 5
#: No reference done and nothing ended for this long: the run is stuck. A program has its limit_s.
STALL_S = 60.0
#: What domains get to make their streams and to attach.
GATHER_S = 120.0
#: What they get beyond it for each virtual machine, which boots on CPUs that all of them share.
GATHER_MACHINE_S = 30.0
#: How often the view of the run is drawn anew.
SHOW_S = 0.5
#: Messages of the feed, beside ticks, that are kept of the time before the start.
EARLY_MAX = 1000
#: What domains get to notice that the hypervisor died, and to say so.
FAREWELL_S = 15.0
#: Sockets of the running hypervisor that are linked in the run directory itself.
LINKS = (messages.CONTROL_SOCKET, messages.STATS_SOCKET, messages.TOKEN_FILE)


class RunBroken(MemcoordError):
    """A run cannot go on; the text is one line for the report."""


class RunInterrupted(RunBroken):
    """A signal asked for the end."""


class PolicyRun:
    """Run ``scenario`` under ``policy`` in ``directory``, a fresh directory inside the run's.

    ``lengths``: the references of each domain's workload, by name. ``series``: where its ticks are
    written, if anywhere; ``kept``: where its decisions and latencies are. ``record``: a file for
    every tmem operation of the run. ``born``: where its processes are forked. ``round_index``
    counts the runs of this policy before it; ``label`` is its name in progress and events.
    """

    def __init__(
        self,
        scenario: Scenario,
        policy: str,
        directory: Path,
        *,
        run: RunDir,
        series: Series | None,
        progress: Progress,
        interrupts: Interrupts,
        born: Nurseries,
        lengths: dict[str, int],
        kept: Kept | None = None,
        record: Path | None = None,
        round_index: int = 0,
        label: str = "",
    ) -> None:
        self._scenario, self._policy, self._directory = scenario, policy, directory
        self._label = label or policy
        self._run, self._series, self._kept, self._progress = run, series, kept, progress
        self._born = born
        self._interrupts, self._record, self._round_index = interrupts, record, round_index
        self._domains = [
            RunningDomain(domain, number, lengths[domain.name])
            for number, domain in enumerate(scenario.domain, start=1)
        ]
        self._total = sum(domain.length for domain in self._domains)
        self._statistics = StatisticsReader(directory, self._hear)
        self._is_going, self._early = False, list[FeedMessage]()
        self._history, self._shown_s = History(), 0.0

    def execute(self) -> PolicyResult:
        """Run to the end and leave no process; never raises for what a child does.

        OSError or MemcoordError when a process cannot be started or a file cannot be written.
        """
        begin_s, meter = time.monotonic(), LoadMeter(own_cpu_s=lambda: own_cpu() + self._born.cpu_s)
        error = ""
        self._progress.begin(self._label, self._total)
        self._compile()
        self._born.begin(tmem=self._scenario.tmem != 0)
        config = self._prepare()
        with (
            self._make_groups(config) as self._groups,
            contextlib.ExitStack() as self._stack,
            Launcher(self._directory, self._born.forks) as launcher,
            self._statistics as seen,
        ):
            if self._groups is not None:
                config = msgspec.structs.replace(config, cgroup=str(self._groups.path))
            self._launcher = launcher
            self._hypervisor = hypervisor.start(launcher, self._directory, config)
            self._note_start("hypervisor", self._hypervisor)
            try:
                for domain in self._domains:
                    self._start_domain(domain)
                self._wait_ready()
                seen.subscribe()
                self._gather()
                self._drive()
            except (RunBroken, BadStatistics) as broken:
                error = str(broken)
                self._event("run-broken", reason=error)
            ended = self._end()
            error = error or ended or policy_failure(seen.faulty_ticks, seen.served_ticks)
        self._remove_scratch()
        return PolicyResult(
            policy=self._policy,
            domains=self._results(),
            wall_s=time.monotonic() - begin_s,
            ticks=seen.ticks,
            policy_faults=seen.faults,
            error=error,
            overlap=barrier.differences(self._domains),
            seed=self._scenario.seed,
            round_index=self._round_index,
            moves_ram=any(domain.ram_moved for domain in self._domains),
            load=meter.stop(),
            notices=self._hypervisor.notices() + verdicts.notices(self._directory / EVENTS),
        )

    def broken(self, error: str) -> PolicyResult:
        """What came of a run whose ``execute`` raised ``error``; its processes have ended."""
        self._remove_scratch()
        return PolicyResult(
            policy=self._policy,
            domains=self._results(),
            seed=self._scenario.seed,
            round_index=self._round_index,
            error=error,
        )

    def _results(self) -> list[DomainResult]:
        return [
            domain.result or domain.last_seen("stopped", "the run ended before it started")
            for domain in self._domains
        ]

    # Before.

    def _compile(self) -> None:
        """Have tmem's kernels compiled now, where the work can be seen; once on a machine."""
        if self._scenario.tmem:
            compile_first(self._progress.note)

    def _prepare(self) -> HypervisorConfig:
        """Write every domain's file, name what ``clean`` may remove; the configuration."""
        check_socket_path(self._directory / messages.DOORBELL_SOCKET)
        self._directory.mkdir(mode=0o700)
        secret = secrets.token_hex()
        for domain in self._domains:
            domain.holds = barrier.holds_of(domain, self._domains)
            told = GuestConfig(
                directory=str(self._directory),
                name=domain.spec.name,
                number=domain.number,
                workload=domain.spec.workload,
                seed=domain_seed(self._scenario.seed, domain.spec.name),
                boot_frames=domain.spec.ram.frames,
                swap_file=str(self._folder(domain) / SWAP),
                tmem=self._scenario.tmem != 0,
                token=attach_token(secret, domain.spec.name),
                holds=tuple(domain.holds),
                maxmem_frames=domain.spec.maxmem.frames,
                ram_min_frames=(domain.spec.ram_min or domain.spec.ram).frames,
            )
            self._folder(domain).mkdir(mode=0o700)
            (self._folder(domain) / TOLD).write_bytes(told.encode())
        folder = self._directory.name
        self._run.record_files([*(f"{folder}/{name}" for name in self._scratch()), *LINKS])
        for name in LINKS:
            # The control verbs, given the run directory, find the hypervisor that serves now.
            (self._run.path / name).unlink(missing_ok=True)
            (self._run.path / name).symlink_to(Path(folder) / name)
        config = to_hypervisor_config(self._scenario, self._policy)
        config = msgspec.structs.replace(config, attach_secret=secret)
        if self._record is not None:
            config = msgspec.structs.replace(config, tmem_record=str(self._record))
        return config

    def _make_groups(self, config: HypervisorConfig) -> AbstractContextManager[Slice | None]:
        """Control groups of the domains, until the block is left; None where there can be none."""
        where = cgroups.place()
        if where is None:
            return contextlib.nullcontext()
        path = cgroups.path_of(where, self._run.manifest.run)
        self._run.record_cgroup(path)
        members = {domain.name: domain.maxmem_frames * FRAME_BYTES for domain in config.domains}
        total_bytes = config.total_frames * FRAME_BYTES
        try:
            return Slice(path, where.controllers, total_bytes, members)
        except OSError as error:
            self._progress.note(f"not possible here: a control group of the domains: {error}")
            return contextlib.nullcontext()

    def _folder(self, domain: RunningDomain) -> Path:
        """The domain's own folder, the only one it can read or write in."""
        return self._directory / domain.spec.name

    def _scratch(self) -> list[str]:
        swaps = (f"{domain.spec.name}/{SWAP}" for domain in self._domains)
        return [*messages.SOCKETS, messages.TOKEN_FILE, *swaps]

    def _note_start(self, name: str, child: Child) -> None:
        self._run.record_process(name, child.pid)
        self._event("started", process=name, pid=child.pid)

    def _wait_ready(self) -> None:
        self._progress.note("starting the hypervisor")
        deadline_s = time.monotonic() + hypervisor.READY_S
        while time.monotonic() < deadline_s:
            self._check()
            if hypervisor.answers(self._directory):
                self._event("ready", process="hypervisor")
                return
        raise RunBroken(f"the hypervisor was not ready after {hypervisor.READY_S:.0f} s")

    # During.

    def _gather(self) -> None:
        """Let the domains attach, and wait until each stands where it is to wait."""
        self._progress.note("starting the domains")
        barrier.attach_first(self._domains)
        machines = [one for one in self._domains if isinstance(one.spec.workload, MachineWorkload)]
        limit_s = GATHER_S + GATHER_MACHINE_S * len(machines)
        deadline_s = time.monotonic() + limit_s
        while barrier.is_closed(self._domains):
            if time.monotonic() > deadline_s:
                raise RunBroken(f"the domains were not ready after {limit_s:.0f} s")
            for _ in self._statistics.read(GATE_POLL_MS):
                pass  # of the time before the start, which is in no series
            self._check()

    def _drive(self) -> None:
        self._progress.note("running")
        moved_s = self._statistics.begin_s = time.monotonic()
        self._is_going = True
        for message in self._early:
            self._keep(message)
        done_before = -1
        while any(domain.result is None for domain in self._domains):
            now_s = time.monotonic()
            for domain in barrier.let_go(self._domains, self._statistics.elapsed_s):
                self._event("go", process=domain.spec.name)
                moved_s = now_s
            is_held = any(not domain.is_going for domain in self._domains)
            self._read(GATE_POLL_MS if is_held else POLL_MS)
            for domain in self._domains:
                domain.crash_if_due()
            self._check()
            done = sum(domain.references for domain in self._domains)
            self._progress.advance(min(done, self._total), self._total)
            self._show(now_s)
            waiting = any(
                (not domain.is_going and domain.spec.start_after_s > 0)
                or (domain.is_going and domain.is_program and domain.runs)
                for domain in self._domains
            )
            if done != done_before or waiting:
                done_before, moved_s = done, now_s
            elif now_s - moved_s > STALL_S:
                raise RunBroken(f"no reference was done for {STALL_S:.0f} s")

    def _start_domain(self, domain: RunningDomain) -> None:
        name, folder = domain.spec.name, self._folder(domain)
        config = str(folder / TOLD)
        group = str(self._groups.of(name)) if self._groups is not None else ""
        work = domain.spec.workload
        if isinstance(work, ProgramWorkload):
            domain.child = program_start.start(
                self._launcher,
                name,
                work,
                Path(config),
                group=group,
                secret=str(self._run.path),
                stack=self._stack,
            )
        elif isinstance(work, MachineWorkload):
            domain.child = machine_start.start(
                self._launcher, name, work, Path(config), group=group, secret=str(self._run.path)
            )
        else:
            rights = Rights(
                secret=str(self._run.path),
                writes=(str(folder),),
                reads=tuple(files_of(work)),
                cgroup=group,
            )
            domain.child = self._launcher.start(name, nurseries.GUEST, config, rights=rights)
        self._note_start(name, domain.child)

    def _read(self, wait_ms: int = 0) -> None:
        by_name = {domain.spec.name: domain for domain in self._domains}
        for publication in self._statistics.read(wait_ms):
            self._history.hear(publication)
            if self._series is not None:
                at_s = self._statistics.since_begin_s(publication)
                self._series.add(self._policy, publication, at_s, self._round_index)
            for row in publication.domains:
                if domain := by_name.get(row.get("name", "")):
                    domain.note(row, publication.monotonic_ns / 1e9)

    def _hear(self, message: FeedMessage) -> None:
        self._history.hear(message)
        if self._is_going:
            self._keep(message)
        elif len(self._early) < EARLY_MAX:  # its time is told by the start, which is to come
            self._early.append(message)

    def _keep(self, message: FeedMessage) -> None:
        """Keep what the hypervisor decided, and what its grants cost."""
        if self._kept is None:
            return
        where = self._policy, self._round_index, self._statistics.begin_s
        if isinstance(message, Why):
            self._kept.decided(*where, message)
        elif isinstance(message, Latencies):
            self._kept.took(*where, message)

    def _show(self, now_s: float) -> None:
        """Show how the domains fare, as soon as there is a window of ticks to say it of."""
        if now_s - self._shown_s < SHOW_S or self._statistics.elapsed_s < WINDOW_S:
            return
        self._shown_s = now_s
        frame = frame_of(self._history, time.monotonic_ns(), title=self._label)
        if frame is not None:
            self._progress.watch(frame)

    def _check(self) -> None:
        """Note processes that ended; RunBroken when the run cannot go on."""
        ended = self._launcher.reap()
        for domain in self._domains:
            if domain.child in ended:
                self._judge(domain)
        if self._hypervisor in ended:
            how = self._hypervisor.how_it_ended()
            self._event("died", process="hypervisor", how=how)
            raise RunBroken(f"the hypervisor died: {how}")
        if self._interrupts.received is not None:
            raise RunInterrupted(f"interrupted by {self._interrupts.received.name}")

    def _judge(self, domain: RunningDomain, *, stopped: bool = False) -> None:
        assert domain.child is not None
        domain.result = domain.judge(stopped=stopped)
        how = domain.child.how_it_ended()
        self._event(domain.result.state, process=domain.spec.name, how=how)
        self._progress.note(f"{domain.spec.name} {domain.result.state}")

    # After.

    def _end(self) -> str:
        """Stop the domains that still run, then the hypervisor, each within named bounds.

        Returns the fault of the hypervisor, or an empty string.
        """
        died = self._hypervisor.returncode is not None
        if died:  # the domains notice by themselves; their words belong in the report
            children = [one.child for one in self._domains if one.child and one.is_going]
            self._launcher.wait(children, FAREWELL_S)
        for domain in self._domains:
            if domain.child is not None and domain.runs:
                stopped = domain.child.process.poll() is None
                self._launcher.stop([domain.child])
                self._judge(domain, stopped=stopped)
        if died:
            return ""
        with contextlib.suppress(BadStatistics):
            self._read()
        problem = hypervisor.end(self._launcher, self._hypervisor, self._directory)
        self._event("ended", process="hypervisor", how=self._hypervisor.how_it_ended())
        return problem

    def _remove_scratch(self) -> None:
        for name in self._scratch():
            (self._directory / name).unlink(missing_ok=True)
        for name in LINKS:
            (self._run.path / name).unlink(missing_ok=True)

    def _event(self, event: str, **fields: Any) -> None:
        self._run.event(self._label, event, **fields)
