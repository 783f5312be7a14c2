"""One scenario under one policy: a hypervisor process, its domains, and what became of them.

Owns: the order of a run and the verdict on every process.
  1. hypervisor.json and a file per domain are written; the hypervisor starts and answers a ping.
  2. domains start at their time; statistics are read until every domain has ended.
  3. the hypervisor is asked to shut down; whatever remains is ended; sockets are removed.
A domain that dies is noted and the run goes on. The hypervisor's death, a signal, or a run that
stands still for STALL_S ends it. Called by ``memcoord.commands.run`` from the main thread.
"""

from __future__ import annotations

import contextlib
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import zmq

from hypervisor.public import messages
from hypervisor.public.errors import MemcoordError, PeerGone
from memcoord.testbed.guests.replay import GuestConfig, GuestResult
from memcoord.testbed.report.progress import RunProgress
from memcoord.testbed.report.results import (
    CRASHED,
    DomainResult,
    PolicyResult,
    policy_failure,
)
from memcoord.testbed.report.series import Series
from memcoord.testbed.runs import control_client, rundir
from memcoord.testbed.runs.launcher import ASK_S, Child, Interrupts, Launcher
from memcoord.testbed.runs.rundir import RunDir, check_socket_path
from memcoord.testbed.scenarios.schema import Domain, Scenario, to_hypervisor_config
from memcoord.testbed.scenarios.workloads import title_of
from memcoord.testbed.streams import domain_seed

HYPERVISOR_MODULE = "memcoord.testbed.live.hypervisor_main"
GUEST_MODULE = "memcoord.testbed.guests.replaying"
#: The first start on a machine compiles every numba kernel.
READY_S = 300.0
PING_MS = 500
POLL_MS = 50
#: No reference done and nothing ended for this long: the run is stuck.
STALL_S = 60.0
#: What domains get to notice that the hypervisor died, and to say so.
FAREWELL_S = 15.0
SOCKETS = (
    messages.ATTACH_SOCKET,
    messages.CONTROL_SOCKET,
    messages.STATS_SOCKET,
    messages.DOORBELL_SOCKET,
)
#: Those of the running hypervisor, linked in the run directory itself.
LINKS = (messages.CONTROL_SOCKET, messages.STATS_SOCKET)
PUBLICATIONS_MAX = 1000
NOTICES_MAX = 3
#: What the hypervisor logs (``hypervisor.loop``) that belongs into the report.
NOTABLE = ("policy-fault", "violation")


class RunBroken(MemcoordError):
    """A run cannot go on; the text is one line for the report."""


class RunInterrupted(RunBroken):
    """A signal asked for the end."""


@dataclass
class Guest:
    """One domain of the run: its part of the scenario, its process, its latest statistics."""

    spec: Domain
    number: int
    child: Child | None = None
    statistics: dict[str, Any] = field(default_factory=dict)
    result: DomainResult | None = None
    told: bool = False  # it was killed because the scenario says so


class PolicyRun:
    """Run ``scenario`` under ``policy`` in ``directory``, a fresh directory inside the run's."""

    def __init__(
        self,
        scenario: Scenario,
        policy: str,
        directory: Path,
        *,
        run: RunDir,
        series: Series,
        progress: RunProgress,
        interrupts: Interrupts,
        lengths: dict[str, int],
        record: Path | None = None,
    ) -> None:
        self._scenario = scenario
        self._policy = policy
        self._directory = directory
        self._run = run
        self._series = series
        self._progress = progress
        self._interrupts = interrupts
        self._record = record
        self._guests = [Guest(domain, index + 1) for index, domain in enumerate(scenario.domain)]
        self._lengths = lengths
        self._total = sum(lengths[domain.name] for domain in scenario.domain)
        self._ticks = self._served_ticks = 0
        self._faults = self._faulty_ticks = 0
        self._begin_s = 0.0

    def execute(self) -> PolicyResult:
        """Run to the end and leave no process; never raises for what a child does."""
        begin_s = time.monotonic()
        error = ""
        self._progress.begin(self._policy, self._total)
        self._prepare()
        with Launcher(self._directory) as launcher, zmq.Context() as context:
            hypervisor = self._start_process(
                launcher, "hypervisor", HYPERVISOR_MODULE, str(self._directory), "0"
            )
            with context.socket(zmq.SUB) as statistics:
                try:
                    self._wait_ready(launcher, hypervisor)
                    self._subscribe(statistics)
                    self._drive(launcher, hypervisor, statistics)
                except RunBroken as broken:
                    error = str(broken)
                    self._event("run-broken", reason=error)
                ended = self._end(launcher, hypervisor, statistics)
                error = error or ended or policy_failure(self._faulty_ticks, self._served_ticks)
        self._remove_scratch()
        return PolicyResult(
            policy=self._policy,
            domains=[self._result_of(guest) for guest in self._guests],
            wall_s=time.monotonic() - begin_s,
            ticks=self._ticks,
            policy_faults=self._faults,
            error=error,
            notices=self._notices(),
        )

    # Before.

    def _prepare(self) -> None:
        check_socket_path(self._directory / messages.DOORBELL_SOCKET)
        self._directory.mkdir(mode=0o700)
        config = to_hypervisor_config(self._scenario, self._policy)
        if self._record is not None:
            config = msgspec.structs.replace(config, tmem_record=str(self._record))
        data = msgspec.json.format(msgspec.json.encode(config), indent=2)
        (self._directory / "hypervisor.json").write_bytes(data + b"\n")
        for guest in self._guests:
            told = GuestConfig(
                directory=str(self._directory),
                name=guest.spec.name,
                number=guest.number,
                workload=guest.spec.workload,
                seed=domain_seed(self._scenario.seed, guest.spec.name),
                boot_frames=guest.spec.ram.frames,
                swap_file=str(self._directory / f"{guest.spec.name}.swap"),
                tmem=self._scenario.tmem != 0,
            )
            (self._directory / f"{guest.spec.name}.json").write_bytes(told.encode())
        folder = self._directory.name
        scratch = [*SOCKETS, *(f"{guest.spec.name}.swap" for guest in self._guests)]
        self._run.record_files([*(f"{folder}/{name}" for name in scratch), *LINKS])
        for name in LINKS:
            # Whoever is given the run directory finds the hypervisor that serves now.
            (self._run.path / name).unlink(missing_ok=True)
            (self._run.path / name).symlink_to(Path(folder) / name)

    def _start_process(self, launcher: Launcher, name: str, module: str, *arguments: str) -> Child:
        child = launcher.start(name, module, *arguments)
        self._run.record_process(name, child.pid)
        self._event("started", process=name, pid=child.pid)
        return child

    def _wait_ready(self, launcher: Launcher, hypervisor: Child) -> None:
        self._progress.note("starting the hypervisor (the first run compiles its kernels)")
        deadline_s = time.monotonic() + READY_S
        while time.monotonic() < deadline_s:
            self._check(launcher, hypervisor)
            try:
                control_client.call(self._directory, "ping", timeout_ms=PING_MS)
            except PeerGone:
                time.sleep(POLL_MS / 1000)
            else:
                self._event("ready", process="hypervisor")
                return
        raise RunBroken(f"the hypervisor was not ready after {READY_S:.0f} s")

    def _subscribe(self, statistics: zmq.Socket[bytes]) -> None:
        statistics.linger = 0
        statistics.rcvhwm = PUBLICATIONS_MAX
        statistics.subscribe(b"")
        statistics.connect(f"ipc://{self._directory / messages.STATS_SOCKET}")

    # During.

    def _drive(self, launcher: Launcher, hypervisor: Child, statistics: zmq.Socket[bytes]) -> None:
        self._progress.note("running")
        self._begin_s = moved_s = time.monotonic()
        done_before = -1
        while any(guest.result is None for guest in self._guests):
            now_s = time.monotonic()
            for guest in self._guests:
                if guest.child is None and self._is_due(guest, now_s - self._begin_s):
                    self._start_guest(launcher, guest)
                    moved_s = now_s
            statistics.poll(POLL_MS)
            self._read(statistics)
            self._crash()
            self._check(launcher, hypervisor)
            done = self._done()
            self._progress.advance(done, self._total)
            waiting = any(guest.child is None for guest in self._guests)
            if done != done_before or waiting:
                done_before, moved_s = done, now_s
            elif now_s - moved_s > STALL_S:
                raise RunBroken(f"no reference was done for {STALL_S:.0f} s")

    def _is_due(self, guest: Guest, elapsed_s: float) -> bool:
        when = guest.spec.start_when
        if when is None:
            return elapsed_s >= guest.spec.start_after_s
        return all(
            other.result is not None or self._share_done(other) >= when.done
            for other in self._guests
            if other.spec.name == when.domain
        )

    def _share_done(self, guest: Guest) -> float:
        done = max(int(guest.statistics.get("guest_references", 0)), 0)  # -1: not reported yet
        return done / self._lengths[guest.spec.name]

    def _crash(self) -> None:
        """Kill the domains whose time has come, as SIGKILL does: between any two instructions."""
        for guest in self._guests:
            at = guest.spec.crash_at
            if at is None or guest.child is None or guest.result is not None or guest.told:
                continue
            if guest.statistics and self._share_done(guest) >= at:
                guest.told = True
                guest.child.process.kill()

    def _start_guest(self, launcher: Launcher, guest: Guest) -> None:
        name = guest.spec.name
        config = str(self._directory / f"{name}.json")
        guest.child = self._start_process(launcher, name, GUEST_MODULE, config)

    def _read(self, statistics: zmq.Socket[bytes]) -> None:
        for _ in range(PUBLICATIONS_MAX):
            try:
                message = messages.decode(statistics.recv(zmq.NOBLOCK))
            except zmq.Again:
                return
            except messages.BadMessage as error:
                raise RunBroken(f"statistics cannot be read: {error}") from None
            if not isinstance(message, messages.Publication):
                raise RunBroken(f"statistics hold a {type(message).__name__}")
            self._ticks += 1
            self._series.add(self._policy, message, time.monotonic() - self._begin_s)
            faults = message.host.get("policy_faults", 0)
            self._served_ticks += bool(message.domains)
            self._faulty_ticks += bool(message.domains) and faults > self._faults
            self._faults = faults
            by_name = {guest.spec.name: guest for guest in self._guests}
            for domain in message.domains:
                if guest := by_name.get(domain.get("name", "")):
                    guest.statistics = domain

    def _check(self, launcher: Launcher, hypervisor: Child) -> None:
        """Note who ended; RunBroken when the run cannot go on."""
        ended = launcher.reap()
        for guest in self._guests:
            if guest.child in ended:
                self._judge(guest)
        if hypervisor in ended:
            self._event("died", process="hypervisor", how=hypervisor.how_it_ended())
            raise RunBroken(f"the hypervisor died: {hypervisor.how_it_ended()}")
        if self._interrupts.received is not None:
            raise RunInterrupted(f"interrupted by {self._interrupts.received.name}")

    def _done(self) -> int:
        return sum(
            guest.result.references
            if guest.result
            else max(guest.statistics.get("guest_references", 0), 0)
            for guest in self._guests
        )

    # After.

    def _end(self, launcher: Launcher, hypervisor: Child, statistics: zmq.Socket[bytes]) -> str:
        """Stop the domains that still run, then the hypervisor, each within named bounds.

        Returns what was wrong with the hypervisor, or an empty string.
        """
        if hypervisor.returncode is not None:
            # The domains notice by themselves; what they say belongs in the report.
            launcher.wait([guest.child for guest in self._guests if guest.child], FAREWELL_S)
        for guest in self._guests:
            if guest.child is not None and guest.result is None:
                stopped = guest.child.process.poll() is None
                launcher.stop([guest.child])
                self._judge(guest, stopped=stopped)
        if hypervisor.returncode is not None:
            return ""
        with contextlib.suppress(RunBroken):
            self._read(statistics)
        try:
            control_client.call(self._directory, "shutdown")
        except MemcoordError as error:
            self._event("shutdown-refused", reason=str(error))
            launcher.stop([hypervisor])
        launcher.stop([hypervisor], ask_s=ASK_S)
        how = hypervisor.how_it_ended()
        self._event("ended", process="hypervisor", how=how)
        return f"the hypervisor did not end well: {how}" if hypervisor.returncode else ""

    def _judge(self, guest: Guest, *, stopped: bool = False) -> None:
        assert guest.child is not None
        how = guest.child.how_it_ended()
        code = guest.child.returncode
        if stopped:
            guest.result = self._last_seen(guest, "stopped", "the run ended before it")
        elif code == 0:
            guest.result = self._answer_of(guest, guest.child.stdout_path)
        elif guest.told and code == -signal.SIGKILL:
            guest.result = self._last_seen(guest, CRASHED, "")
        elif code is not None and code < 0:
            guest.result = self._last_seen(guest, "killed", how)
        else:
            guest.result = self._last_seen(guest, "failed", how)
        self._event(guest.result.state, process=guest.spec.name, how=how)
        self._progress.note(f"{guest.spec.name} {guest.result.state}")

    def _answer_of(self, guest: Guest, path: Path) -> DomainResult:
        try:
            answer = msgspec.json.decode(path.read_bytes(), type=GuestResult)
        except msgspec.DecodeError as error:
            return self._last_seen(guest, "failed", f"no result: {error}")
        return DomainResult(
            domain=guest.spec.name,
            workload=title_of(guest.spec.workload),
            **msgspec.structs.asdict(answer),
        )

    def _last_seen(self, guest: Guest, state: str, reason: str) -> DomainResult:
        # What it never reported, -1, did not happen as far as anybody knows.
        seen = {
            name: max(value, 0) for name, value in guest.statistics.items() if type(value) is int
        }
        return DomainResult(
            domain=guest.spec.name,
            workload=title_of(guest.spec.workload),
            state=state,
            reason=reason,
            references=seen.get("guest_references", 0),
            faults=seen.get("guest_faults", 0),
            tmem_hits=seen.get("gets_hit", 0),
            swap_ins=seen.get("guest_swap_ins", 0),
            swap_outs=seen.get("guest_swap_outs", 0),
            failed_puts=seen.get("puts_failed", 0),
        )

    def _result_of(self, guest: Guest) -> DomainResult:
        return guest.result or self._last_seen(guest, "stopped", "the run ended before it started")

    def _remove_scratch(self) -> None:
        for name in [*SOCKETS, *(f"{guest.spec.name}.swap" for guest in self._guests)]:
            (self._directory / name).unlink(missing_ok=True)
        for name in LINKS:
            (self._run.path / name).unlink(missing_ok=True)

    def _notices(self) -> list[str]:
        """What the hypervisor logged that the user must see, each text once."""
        path = self._directory / rundir.EVENTS
        texts: dict[str, None] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            try:
                event = msgspec.json.decode(line, type=dict[str, Any])
            except msgspec.DecodeError:
                continue  # the last line of a hypervisor that was killed
            if event.get("event") in NOTABLE:
                fields = {k: v for k, v in event.items() if k not in ("time_ns", "source", "event")}
                text = str(fields.get("why") or f"{event['event']}: {fields}")
                texts[" ".join(text.split())] = None
        more = len(texts) - NOTICES_MAX
        rest = [f"and {more} more in {path}"] if more > 0 else []
        return [*texts][:NOTICES_MAX] + rest

    def _event(self, event: str, **fields: Any) -> None:
        self._run.event(self._policy, event, **fields)
