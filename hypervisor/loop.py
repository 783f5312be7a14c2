"""The hypervisor's main loop: one thread, one poller, everything that is not per-page.

Owns: the domain table, the attach listener, the control plane, the times of ticks, and the order in
which these are served. The ``Backend`` handed in moves the memory itself.
Rules: ``run`` on the main thread until ``shutdown``; nothing in it blocks longer than a tick.

One round: wait for input or the next tick; attaching domains; ends of domains; control requests;
doorbells; broken domains; tick (snapshot, plan, apply, publish).
"""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
import select
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from hypervisor.attach import AttachListener
from hypervisor.config import DomainConfig, HypervisorConfig, attach_token
from hypervisor.control import ControlPlane
from hypervisor.coordination.coordinator import Coordinator
from hypervisor.coordination.decisions import Decision
from hypervisor.domains import DomainEntry, DomainTable
from hypervisor.public.backend import EXCESS, STANDING, Backend, DomainSpec, not_reached
from hypervisor.public.errors import (
    AttachRefused,
    ConfigError,
    DomainBusy,
    InternalError,
    MemcoordError,
)
from hypervisor.public.messages import (
    SO_PEERPIDFD,
    VERSION,
    Attached,
    AttachRequest,
    Publication,
)
from hypervisor.public.settings import DomainSettings, check_name, common
from hypervisor.public.units import AREA_FRAMES, MAX_AREAS, DomId, areas_of
from hypervisor.tmem_control import TMEM_OPS, compress, serve

EVENT_BYTES = 8
#: Domains of one process that are not in the configuration: one process must not take the table.
DOMAINS_PER_PROCESS_MAX = 16
DOORBELL_ID_BYTES = 16

#: Write one event of the run: what happened, and its fields.
OnEvent = Callable[[str, dict[str, Any]], None]


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
    ) -> None:
        self._config, self._backend, self._coordinator = config, backend, coordinator
        self._on_event, self._clock, self._watch_fd = on_event, clock, watch_fd
        self._known = {domain.name: domain for domain in config.domains}
        self._spent: set[str] = set()  # names whose one-time token was used
        self._domains = DomainTable()
        self._control = ControlPlane(run_dir, self._serve)
        self._listener = AttachListener(run_dir, self._admit)
        self._promise()
        self._stopping = False
        self._bad_logged = 0
        self._last_fault = ""
        self._ticks = 0

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
                    self._detach(entry, "ended")  # a child may hold the connection
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
        self._detach(entry, "spoke out of turn" if data else "ended")

    def _ring_relayed(self) -> None:
        for domid in self._backend.relayed():
            entry = self._domains.get(domid)
            if entry is not None:
                self._control.ring(entry.doorbell_id)

    def _detach_broken(self) -> None:
        for domid, reason in self._backend.broken():
            entry = self._domains.get(domid)
            if entry is not None:
                if reason == EXCESS:
                    self._on_event("violation", {"domid": domid, "name": entry.name})
                    self._end_process(entry)
                self._detach(entry, reason)

    def _config_of(self, request: AttachRequest, pid: int) -> DomainConfig:
        known = self._known.get(request.name)
        if known is not None:
            self._check_token(request)
            if request.maxmem_frames not in (0, known.maxmem_frames):
                raise AttachRefused(
                    "maxmem", f"{request.name} is configured with {known.maxmem_frames} frames"
                )
            return known
        if not self._config.open_attach:
            raise AttachRefused(
                "unknown-domain", f"{request.name!r} is not in the configuration of this run"
            )
        problem = check_name(request.name)
        if problem:
            raise AttachRefused("bad-name", problem)
        if self._domains.count_of(pid) >= DOMAINS_PER_PROCESS_MAX:
            raise AttachRefused(
                "process-full",
                f"process {pid} has {DOMAINS_PER_PROCESS_MAX} domains, the most of one process "
                "that the configuration does not name",
            )
        if not AREA_FRAMES <= request.maxmem_frames <= MAX_AREAS * AREA_FRAMES:
            raise AttachRefused("maxmem", f"must be {AREA_FRAMES} to {MAX_AREAS * AREA_FRAMES}")
        return DomainConfig(
            name=request.name,
            maxmem_frames=request.maxmem_frames,
            boot_frames=0,
            target_frames=request.maxmem_frames,
        )

    def _check_token(self, request: AttachRequest) -> None:
        """AttachRefused unless the request brings the token of its name, never used before."""
        secret = self._config.attach_secret
        if not secret:
            return
        right = attach_token(secret, request.name)
        if not hmac.compare_digest(request.token.encode(), right.encode()):
            raise AttachRefused(
                "token", f"{request.name!r} is for the domain that the launcher gave its token to"
            )
        if request.name in self._spent:
            raise AttachRefused("token", f"the token of {request.name!r} was used before")

    def _admit(
        self, request: AttachRequest, pid: int, connection: socket.socket
    ) -> tuple[Attached, list[int]]:
        config = self._config_of(request, pid)
        if request.doorbell not in ("futex", "zmq"):
            raise AttachRefused("doorbell", f"{request.doorbell!r} is neither futex nor zmq")
        domid = self._domains.next_domid(config.name)
        pidfd = _pidfd(pid, connection)
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
            handles = self._backend.open(domid, spec)
        except MemcoordError:
            if pidfd >= 0:
                os.close(pidfd)
            self._promise()  # a failed open may have used up part of the promised frames
            raise
        doorbell_id = secrets.token_hex(DOORBELL_ID_BYTES) if request.doorbell == "zmq" else ""
        if doorbell_id:
            self._control.expect_doorbell(doorbell_id)
        self._domains.add(
            DomainEntry(domid, config, pid, request.doorbell, connection, pidfd, doorbell_id)
        )
        self._spent.add(config.name)
        self._promise()  # a mechanism may boot with less and leave the rest promised
        self._coordinator.domain_opened(domid, config)
        self._on_event("attached", {"domain": config.name, "domid": domid, "pid": pid})
        answer = Attached(
            VERSION,
            domid,
            config.name,
            handles.ram_bytes,
            handles.meta_bytes,
            handles.spin_ns,
            doorbell_id,
        )
        return answer, [handles.ram_fd, handles.meta_fd, handles.bell_fd]

    def _end_process(self, entry: DomainEntry) -> None:
        """With "kill": its memory goes back only if it stops to touch it. Never our own process."""
        if self._config.on_violation == "kill" and entry.pidfd >= 0 and entry.pid != os.getpid():
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(entry.pidfd, signal.SIGKILL)

    def _promise(self) -> None:
        """Reserve the boot frames of every configured domain that has not attached."""
        absent = [
            domain for domain in self._config.domains if self._domains.named(domain.name) is None
        ]
        self._backend.promise(sum(areas_of(d.boot_frames) * AREA_FRAMES for d in absent))

    def _detach(self, entry: DomainEntry, reason: str) -> None:
        self._domains.remove(entry.domid)
        self._coordinator.domain_closed(entry.domid)
        self._close_memory(entry.domid)
        self._promise()
        self._control.forget_doorbell(entry.doorbell_id)
        entry.connection.close()
        if entry.pidfd >= 0:
            os.close(entry.pidfd)
        self._on_event("detached", {"domain": entry.name, "domid": entry.domid, "reason": reason})

    def _close_memory(self, domid: DomId) -> None:
        """Take a domain's memory back; while a thread works on it, its domid stays taken."""
        try:
            self._backend.close(domid)
        except DomainBusy as error:
            if domid not in self._domains.busy:
                self._on_event("domain-busy", {"domid": domid, "why": str(error)})
            self._domains.busy.add(domid)
        else:
            self._domains.busy.discard(domid)

    def _tick(self) -> None:
        for domid in sorted(self._domains.busy):
            self._close_memory(domid)
        report = self._coordinator.tick()
        self._ticks += 1
        self._backend.beat()
        self._listener.expire()
        self._control.expire()
        fault = "" if report.fault is None else str(report.fault)
        if fault and fault != self._last_fault:  # once, though a policy may fail at every tick
            self._on_event("policy-fault", {"why": fault})
        self._last_fault = fault
        for violation in report.violations:
            self._violated(violation)
        if self._config.on_violation != "report":
            for name in self._backend.haunted():
                self._on_event("violation", {"name": name, "gone": True})
        if self._config.tmem_compression:
            compress(self._backend)
        self._control.publish(self._publication())

    def _violated(self, violation: Any) -> None:
        self._on_event("violation", msgspec.to_builtins(violation))
        entry = self._domains.get(violation.domid)
        if entry is not None and self._config.on_violation != "report":
            self._end_process(entry)
            self._detach(entry, EXCESS)

    def _publication(self) -> Publication:
        rows = self._statistics()
        host = rows["host"] | {"policy_faults": self._coordinator.statistics().faults}
        return Publication(VERSION, self._ticks, time.time_ns(), host=host, domains=rows["domains"])

    def _statistics(self) -> dict[str, Any]:
        snapshot = msgspec.to_builtins(self._backend.snapshot())
        domains = snapshot.pop("domains")
        return {"host": snapshot, "domains": list(domains)}

    def _entry_named(self, name: str) -> DomainEntry:
        entry = self._domains.named(name)
        if entry is None:
            raise ConfigError("domain", f"no domain named {name!r} is attached")
        return entry

    def _serve(self, op: str, args: dict[str, Any]) -> Any:
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
                bad = {"bad_messages": self._control.bad, "refused": self._listener.refused}
                return self._statistics() | {"control": bad}
            case "validate":
                return self._backend.recount()
            case "why":
                return self._why(args["domain"])
            case "mem-set":
                return self._mem_set(self._entry_named(args["domain"]), args["target_frames"])
            case "mem-pin" | "mem-unpin":
                return self._pin(
                    op, self._entry_named(args["domain"]), args["frame"], args["count"]
                )
            case "tmem-set":
                return self._tmem_set(self._entry_named(args["domain"]), args["target_pages"])
            case "detach":
                return self._detach(self._entry_named(args["domain"]), "asked for")
            case "shutdown":
                return self.shutdown()
        raise InternalError(f"op {op} is checked but not served")

    def _why(self, name: str) -> Any:
        """Decisions about a domain, attached or gone."""
        decisions = self._coordinator.why(name)
        entry = self._entry_named(name) if not decisions else self._domains.named(name)
        if entry is not None:
            now = self._standing(entry)
            if said := not_reached(now):
                target = now["target_frames"]
                time_ns = self._coordinator.now_ns()
                decisions.append(Decision(self._ticks, time_ns, name, "ram", target, target, said))
        return msgspec.to_builtins(decisions)

    def _standing(self, entry: DomainEntry) -> dict[str, Any]:
        """Where a domain is on its way to its targets."""
        domains = self._backend.snapshot().domains
        now = next(domain for domain in domains if domain.domid == entry.domid)
        return {name: getattr(now, name) for name in STANDING}

    def _mem_set(self, entry: DomainEntry, target_frames: int) -> dict[str, Any]:
        """Pin the RAM target against the policy; -1 lets the policy set it again. How far it is."""
        if not -1 <= target_frames <= entry.config.maxmem_frames:
            raise ConfigError(
                "target", f"must be 0 to {entry.config.maxmem_frames} frames (maxmem)"
            )
        released = target_frames < 0
        self._backend.set_target(
            entry.domid, entry.config.target_frames if released else target_frames
        )
        self._coordinator.pin(entry.domid, ram_frames=target_frames)
        return self._standing(entry)

    def _pin(self, op: str, entry: DomainEntry, frame: int, count: int) -> None:
        """Pin frames as targets of DMA, or let go of them."""
        if not (0 <= frame < frame + count <= entry.config.maxmem_frames):
            raise ConfigError(
                "frame", f"must be 0 to {entry.config.maxmem_frames - 1} (maxmem), count 1 or more"
            )
        work = self._backend.pin_dma if op == "mem-pin" else self._backend.unpin_dma
        try:
            work(entry.domid, frame, count)
        except InternalError:
            what = f"{count} frames from {frame} on are not all memory of {entry.name} now"
            raise ConfigError("frame", f"{what}: ask for frames it has been granted") from None

    def _tmem_set(self, entry: DomainEntry, target_pages: int) -> dict[str, Any]:
        """Pin the tmem target against the policy; below 0 lets the policy set it again. How far."""
        total = self._config.total_frames
        if target_pages > total:
            raise ConfigError("target", f"must be 0 to {total} pages (all host memory)")
        pages = max(target_pages, -1)
        self._backend.set_tmem_target(entry.domid, pages)
        self._coordinator.pin(entry.domid, tmem_pages=pages)
        return self._standing(entry)


def _has_input(fileno: int) -> bool:
    poller = select.poll()
    poller.register(fileno, select.POLLIN)
    return bool(poller.poll(0))


def _pidfd(pid: int, connection: socket.socket) -> int:
    """A pidfd of the process that connected, -1 where it has none; AttachRefused when it ended."""
    with contextlib.suppress(OSError):
        return connection.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    try:  # an older kernel
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise AttachRefused("ended", f"process {pid} connected and ended") from None
    except OSError:  # of another PID namespace
        return -1
