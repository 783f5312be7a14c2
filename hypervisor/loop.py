"""The hypervisor's main loop: one thread, one poller, everything that is not per-page.

Owns: the domain table, the attach listener, the control plane, the times of ticks, and the order in
which these are served. The ``Backend`` handed in moves the memory itself.
Rules: ``run`` on the main thread until ``shutdown``; nothing in it blocks longer than a tick.

One round: wait for input or the next tick; attaching domains; ends of domains; control requests;
doorbells; broken domains; tick (snapshot, plan, apply, publish).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from hypervisor.admission import Admission, pidfd_of
from hypervisor.attach import AttachListener, hand_over
from hypervisor.config import HypervisorConfig
from hypervisor.control import ControlPlane
from hypervisor.coordination.by_hand import MemoryControl
from hypervisor.coordination.coordinator import Coordinator
from hypervisor.coordination.decisions import Decision
from hypervisor.coordination.feed import Feed, OnEvent, statistics_of
from hypervisor.domains import DomainEntry, DomainTable
from hypervisor.ending import Endings
from hypervisor.keeping.calls import Calls
from hypervisor.keeping.held import Held
from hypervisor.keeping.saved import Saved, entry_of, saved_domain
from hypervisor.public.backend import EXCESS, STUCK, Backend, DomainSpec, not_reached
from hypervisor.public.errors import (
    AttachRefused,
    InternalError,
    MemcoordError,
)
from hypervisor.public.messages import (
    PLAIN_OPS,
    VERSION,
    Attached,
    AttachRequest,
)
from hypervisor.public.settings import DomainSettings, common
from hypervisor.public.units import AREA_FRAMES, DomId, areas_of
from hypervisor.tmem_control import TMEM_OPS, compress, serve

EVENT_BYTES = 8
ENDED = "ended"
#: A domain that lives is told that it is detached, and has so long to let go of its memory.
GRACE_S = 0.5
#: A closed domain whose memory is not back after this time is reported.
LINGER_S = 2.0
DOORBELL_ID_BYTES = 16
#: Operations that the coordinator notes by the target that they set.
TARGET_OPS = ("mem-set", "tmem-set")


class Hypervisor:
    """Serve ``run_dir`` with ``backend`` and ``coordinator``; ``watch_fd``'s end stops it."""

    def __init__(
        self,
        config: HypervisorConfig,
        run_dir: Path,
        backend: Backend,
        coordinator: Coordinator,
        on_event: OnEvent,
        *,
        watch_fd: int = -1,
        clock: Callable[[], float] = time.monotonic,
        held: Held | None = None,
    ) -> None:
        self._config, self._backend, self._coordinator = config, backend, coordinator
        self._clock, self._watch_fd = clock, watch_fd
        self._domains = DomainTable()
        self._held = held = held or Held()
        self._endings = Endings(config.cgroup, held.take_below("init"), held.keep)
        self._admission = Admission(config, self._domains)
        saved = held.saved
        self._calls = Calls(() if saved is None else saved.calls)
        self._memory = MemoryControl(config, backend, coordinator)
        self._control = ControlPlane(
            run_dir,
            self._serve,
            calls=self._calls,
            save=self._save,
            token="" if saved is None else saved.token,
            backlog=held.begin.restarts > 0,
            listen=held.listen,
        )
        restarts = held.begin.restarts
        self._feed = Feed(config, run_dir, self._control.publish, restarts=restarts)
        self._on_event = self._feed.beside(on_event)
        self._listener = AttachListener(run_dir, self._admit, self._told, listen=held.listen)
        self._stopping = False
        self._bad_logged = 0
        self._last_fault = ""
        self._lingering: dict[DomId, tuple[float, bool]] = {}  # since when; it was reported
        self._ticks = 0
        if saved is not None:
            self._resume(saved)
        self._promise()
        self._save()
        if saved is not None:  # the one before may have died before it did
            self._publish()

    def run(self) -> None:
        """Serve until ``shutdown`` is asked for or the watch fd ends."""
        interval_s = self._config.interval_ms / 1000
        next_tick = self._clock() + interval_s
        while not self._stopping:
            wait_s = max(next_tick - self._clock(), 0)
            for fileno, events in self._poll(round(wait_s * 1000)):
                self._dispatch(fileno, events)
            if self._clock() >= next_tick:
                next_tick = max(next_tick + interval_s, self._clock())
                self._tick()

    def shutdown(self) -> None:
        """Leave ``run`` after the current round."""
        self._stopping = True

    def close(self) -> None:
        """Detach every domain and remove the sockets."""
        for entry in self._domains:
            self._detach(entry, "hypervisor stops")
        self._listener.close()
        self._control.close()
        self._endings.close()

    def _resume(self, saved: Saved) -> None:
        """Go on where another hypervisor stood. Nothing is saved before all of it is taken over."""
        self._ticks, self._admission.spent = saved.ticks, set(saved.spent)
        left, parted = self._backend.attached(), []
        for one in saved.domains:
            entry = entry_of(one, self._held.take_below(_peer(DomId(one.domid))))
            if entry is not None and entry.domid in left:
                self._domains.add(entry)
                self._control.expect_doorbell(entry.doorbell_id)
                is_here = entry.pidfd >= 0 and not _has_input(entry.pidfd)
                if is_here and self._admission.is_launched(entry.name):
                    self._endings.note(entry.name, entry.pid)
            elif entry is not None:
                parted.append(entry)  # the other died while it detached this one
        configs = {entry.domid: entry.config for entry in self._domains}
        self._coordinator.resume(saved.coordination, configs)
        for entry in parted:
            self._part(entry, "ended")
        for name, fd in self._held.take_below("peer").items():  # the other died while it admitted
            os.close(fd)
            self._held.drop(f"peer/{name}")
        for domid in left:
            if domid not in configs:
                self._backend.close(domid)
        self._domains.leaving = self._backend.leaving()
        self._detach_broken()
        for entry in self._domains:
            if not entry.is_told:
                hand_over(entry.connection, *self._answer(entry))
                entry.is_told = True

    def _save(self) -> None:
        """Have the next hypervisor know what this one knows, before anybody is told of it."""
        if self._held.is_kept:
            domains = [saved_domain(entry) for entry in self._domains]
            kept = self._coordinator.keep()
            spent = sorted(self._admission.spent)
            leaving = {int(domid): name for domid, name in self._domains.leaving.items()}
            token, calls = self._control.token, self._calls.keep()
            self._held.save(Saved(token, self._ticks, domains, spent, leaving, kept, calls))

    def _poll(self, timeout_ms: int) -> list[tuple[int, int]]:
        poller = select.poll()
        for fileno, events in self._control.poll_fds().items():
            poller.register(fileno, events)
        lives = [fd for e in self._domains for fd in (e.connection.fileno(), e.pidfd) if fd >= 0]
        fds = [self._backend.event_fd, self._backend.relay_fd, *self._listener.poll_fds()]
        if self._watch_fd >= 0:
            fds.append(self._watch_fd)
        for fileno in fds + lives:
            poller.register(fileno, select.POLLIN)
        return poller.poll(timeout_ms)

    def _dispatch(self, source: int, events: int) -> None:
        if self._control.handle(source, events):
            if self._control.doorbells():
                self._backend.kick()
            self._log_bad()
        elif source == self._watch_fd:
            self._on_event("watch-ended", {})
            self._stopping = True
        elif source == self._backend.event_fd:
            os.read(source, EVENT_BYTES)
            self._detach_broken()
        elif source == self._backend.relay_fd:
            os.read(source, EVENT_BYTES)
            self._ring_relayed()
        else:
            entry = self._domains.on_fd(source)
            if entry is None:
                self._listener.handle(source)
                self._log_bad()
            elif source == entry.pidfd:
                if _has_input(source):  # still: the number may have been another's before
                    self._detach(entry, ENDED)  # a child may hold the connection
            else:
                self._hear(entry)

    def _log_bad(self) -> None:
        bad = self._control.bad + self._listener.refused
        if bad and not self._bad_logged:
            self._on_event("bad-message", {"note": "counted from now on, logged once"})
        self._bad_logged = bad

    def _hear(self, entry: DomainEntry) -> None:
        """Detach the domain: its connection only ever brings its end, or a fault."""
        try:
            data = entry.connection.recv(EVENT_BYTES)
        except BlockingIOError:  # an event of another connection that had this number before
            return
        except OSError:
            data = b""
        self._detach(entry, "spoke out of turn" if data else ENDED)

    def _ring_relayed(self) -> None:
        for domid in self._backend.relayed():
            entry = self._domains.get(domid)
            if entry is not None:
                self._control.ring(entry.doorbell_id)

    def _detach_broken(self) -> None:
        for domid, reason in self._backend.broken():
            entry = self._domains.get(domid)
            if entry is not None:
                if reason in (EXCESS, STUCK):
                    what = {"domid": domid, "name": entry.name, "why": reason}
                    self._on_event("violation", what)
                    self._end_process(entry)
                self._detach(entry, reason)
        self._note_leaving()

    def _admit(
        self, request: AttachRequest, pid: int, connection: socket.socket
    ) -> tuple[Attached, list[int]]:
        config = self._admission.config_of(request, pid)
        if request.doorbell not in ("futex", "zmq"):
            raise AttachRefused("doorbell", f"{request.doorbell!r} is neither futex nor zmq")
        domid = self._domains.next_domid(config.name)
        pidfd = pidfd_of(pid, connection)
        spec = DomainSpec(
            name=config.name,
            maxmem_frames=config.maxmem_frames,
            boot_frames=config.boot_frames,
            target_frames=config.target_frames,
            tmem_target_pages=config.tmem_max_pages,
            doorbell=request.doorbell,
            **common(config, DomainSettings),
        )
        try:
            self._backend.open(domid, spec)
        except MemcoordError:
            if pidfd >= 0:
                os.close(pidfd)
            self._promise()  # a failed open may have used up part of the promised frames
            raise
        doorbell_id = secrets.token_hex(DOORBELL_ID_BYTES) if request.doorbell == "zmq" else ""
        self._control.expect_doorbell(doorbell_id)
        entry = DomainEntry(domid, config, pid, request.doorbell, connection, pidfd, doorbell_id)
        self._domains.add(entry)
        self._admission.spent.add(config.name)
        if self._admission.is_launched(config.name):
            self._endings.note(config.name, pid)
        self._promise()  # a mechanism may boot with less and leave the rest promised
        self._coordinator.domain_opened(domid, config)
        self._plan()  # before its first put
        self._on_event("attached", {"domain": config.name, "domid": domid, "pid": pid})
        life = {"connection": connection.fileno(), "pidfd": pidfd}
        self._held.keep_below(_peer(domid), {what: fd for what, fd in life.items() if fd >= 0})
        self._save()
        return self._answer(entry)

    def _answer(self, entry: DomainEntry) -> tuple[Attached, list[int]]:
        """What makes an admitted process a domain: its answer, and its memory."""
        handles = self._backend.handles(entry.domid)
        answer = Attached(
            VERSION,
            entry.domid,
            entry.name,
            handles.ram_bytes,
            handles.meta_bytes,
            handles.spin_ns,
            entry.doorbell_id,
        )
        return answer, [handles.ram_fd, handles.meta_fd, handles.bell_fd]

    def _told(self, answer: Attached) -> None:
        entry = self._domains.get(DomId(answer.domid))
        if entry is not None:
            entry.is_told = True
            self._save()

    def _end_process(self, entry: DomainEntry) -> None:
        """With "kill": its memory goes back only if it stops to touch it. Never our own process."""
        if self._config.on_violation == "kill" and entry.pid != os.getpid():
            self._endings.kill(entry.name, entry.pidfd)

    def _promise(self) -> None:
        """Reserve the boot frames of every configured domain that has not attached."""
        absent = [
            domain for domain in self._config.domains if self._domains.named(domain.name) is None
        ]
        self._backend.promise(sum(areas_of(d.boot_frames) * AREA_FRAMES for d in absent))

    def _detach(self, entry: DomainEntry, reason: str) -> None:
        """Strike a domain off. Nothing that goes wrong with one domain ends the hypervisor."""
        self._domains.remove(entry.domid)
        self._coordinator.domain_closed(entry.domid)
        for step in (self._close_memory, self._promise_again, self._let_go):
            try:
                step(entry, reason)
            except (MemcoordError, OSError) as error:
                self._on_event("detach-failed", {"domid": entry.domid, "why": str(error)})
        self._save()

    def _detach_for(self, entry: DomainEntry) -> None:
        """Detach a domain for an operator: that it is off the list is one save with the answer."""
        self._coordinator.note(entry.domid, "detached by the operator")
        self._domains.remove(entry.domid)
        self._calls.done(None)
        self._save()
        self._detach(entry, "asked for")

    def _close_memory(self, entry: DomainEntry, reason: str) -> None:
        """Tell a domain that lives before its memory goes; its domid stays taken until that."""
        is_dead = entry.pidfd >= 0 and _has_input(entry.pidfd)
        told_first = not is_dead and reason not in (EXCESS, STUCK)
        self._backend.close(entry.domid, GRACE_S if told_first else 0.0)
        self._domains.leaving = self._backend.leaving()

    def _promise_again(self, _entry: DomainEntry, _reason: str) -> None:
        self._promise()

    def _let_go(self, entry: DomainEntry, reason: str) -> None:
        self._control.forget_doorbell(entry.doorbell_id)
        self._part(entry, reason)

    def _part(self, entry: DomainEntry, reason: str) -> None:
        """End a domain's connection, of which the keeper has a duplicate."""
        with contextlib.suppress(OSError):
            entry.connection.shutdown(socket.SHUT_RDWR)
        self._held.drop(_peer(entry.domid))
        entry.connection.close()
        if entry.pidfd >= 0:
            os.close(entry.pidfd)
        self._on_event("detached", {"domain": entry.name, "domid": entry.domid, "reason": reason})

    def _note_leaving(self) -> None:
        """Report, once, each closed domain whose file does not let its memory go."""
        before, now_s = self._domains.leaving, self._clock()
        self._domains.leaving = self._backend.leaving()
        for domid, name in self._domains.leaving.items():
            since_s, told = self._lingering.get(domid, (now_s, False))
            if domid not in before:
                since_s, told = now_s, False
            if not told and now_s - since_s > LINGER_S:
                told = True
                why = f"{STUCK}; its frames stay charged until that process lets go or ends"
                self._on_event("domain-lingers", {"domid": domid, "name": name, "why": why})
            self._lingering[domid] = (since_s, told)
        for domid in self._lingering.keys() - self._domains.leaving.keys():
            del self._lingering[domid]

    def _tick(self) -> None:
        self._note_leaving()
        self._plan()
        self._ticks += 1
        self._save()
        self._backend.beat()
        self._listener.expire()
        self._control.expire()
        for name in self._backend.haunted():
            self._on_event("violation", {"name": name, "gone": True})
            if self._config.on_violation == "kill" and self._admission.is_launched(name):
                self._endings.kill(name)
        if self._config.tmem_compression:
            compress(self._backend)
        self._publish()

    def _plan(self) -> None:
        report = self._coordinator.tick()
        self._feed.decided(self._ticks + 1, report.time_ns, report.deeds + report.decisions)
        fault = "" if report.fault is None else str(report.fault)
        if fault and fault != self._last_fault:  # once, though a policy may fail at every tick
            self._on_event("policy-fault", {"why": fault})
        self._last_fault = fault
        for violation in report.violations:
            self._on_event("violation", msgspec.to_builtins(violation))  # excess.c acts, not this

    def _publish(self) -> None:
        configs = {entry.domid: entry.config for entry in self._domains}
        faults = self._coordinator.statistics().faults
        self._feed.tick(self._ticks, self._backend.snapshot(), faults, configs)
        self._feed.latencies(self._backend.latencies)

    def _serve(self, op: str, args: dict[str, Any]) -> Any:
        result = self._carry_out(op, args)
        if op not in PLAIN_OPS:
            self._note_by_hand(op, args)
        return result

    def _note_by_hand(self, op: str, args: dict[str, Any]) -> None:
        """Tell ``why`` of what no target shows."""
        if op in TARGET_OPS:
            return
        what = ", ".join(f"{name} {value}" for name, value in args.items() if name != "domain")
        for entry in self._domains:
            if args.get("domain") in ("", entry.name):
                self._coordinator.note(entry.domid, f"{op} by the operator; {what}".rstrip("; "))

    def _carry_out(self, op: str, args: dict[str, Any]) -> Any:
        if op in TMEM_OPS:
            return serve(self._backend, self._domains, op, args)
        match op:
            case "ping":
                return {"pid": os.getpid(), "domains": len(self._domains), "ticks": self._ticks}
            case "list":
                return [
                    {"domid": e.domid, "name": e.name, "pid": e.pid, "doorbell": e.doorbell}
                    for e in self._domains
                ]
            case "statistics":
                control = {
                    "bad_messages": self._control.bad,
                    "refused": self._listener.refused,
                    "restarts": self._held.begin.restarts,
                }
                return statistics_of(self._backend.snapshot()) | {"control": control}
            case "validate":
                return self._backend.recount()
            case "why":
                return self._why(args["domain"])
            case "mem-set":
                entry = self._domains.attached(args["domain"])
                return self._memory.mem_set(entry, args["target_frames"])
            case "mem-pin" | "mem-unpin":
                entry = self._domains.attached(args["domain"])
                return self._memory.pin(op, entry, args["frame"], args["count"])
            case "tmem-set":
                entry = self._domains.attached(args["domain"])
                return self._memory.tmem_set(entry, args["target_pages"])
            case "detach":
                return self._detach_for(self._domains.attached(args["domain"]))
            case "shutdown":
                return self.shutdown()
        raise InternalError(f"op {op} is checked but not served")

    def _why(self, name: str) -> Any:
        """Decisions about a domain, attached or gone."""
        decisions = self._coordinator.why(name)
        entry = self._domains.attached(name) if not decisions else self._domains.named(name)
        if entry is not None:
            now = self._memory.standing(entry)
            if said := not_reached(now):
                target = now["target_frames"]
                time_ns = self._coordinator.now_ns()
                decisions.append(Decision(self._ticks, time_ns, name, "ram", target, target, said))
        return msgspec.to_builtins(decisions)


def _peer(domid: DomId) -> str:
    """Under which name the keeper has what ties a domain to its process."""
    return f"peer/{domid}"


def _has_input(fileno: int) -> bool:
    poller = select.poll()
    poller.register(fileno, select.POLLIN)
    return bool(poller.poll(0))
