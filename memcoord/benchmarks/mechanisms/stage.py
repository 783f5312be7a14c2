"""One host and its domains, as benches of mechanisms set them up again and again.

Owns: a ``HostBackend`` in the bench's own process, domains of that host in measured processes, and
the resizing by hand: targets are set at the moment at which a policy that knew all would set them,
between donor and asker by a compiled loop.
Rules: the main thread, or that loop in its stead, drives the backend. A call into a guest that must
run meanwhile runs on a thread of the pool. A step that does not end as it should is a
``StepError``, with the reason the backend gives.
Used by: the benches ``mechanisms``, ``bursts`` and ``interference``.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from backend._service import ffi as backend_ffi
from backend._service import lib as service
from backend.host import HostBackend
from hypervisor.public.backend import DomainSnapshot, DomainSpec, Settled
from hypervisor.public.errors import MemcoordError, error_of
from hypervisor.public.units import AREA_FRAMES, DomId
from memcoord.benchmarks._loops import ffi, lib
from memcoord.testbed.guests.obedient import hand_over
from memcoord.testbed.runs.remote import Remote

SETTLE_S = 20.0
SETTLE_POLL_S = 0.0001
PLEA_POLL_MS = 20
ORCHESTRA_S = 30.0
SPIN_NS = 50_000


class StepError(MemcoordError):
    """A mechanism failed at a step."""


@dataclass(frozen=True)
class Variant:
    """A mechanism as it is measured: its name in the table, and how it is set up.

    ``asks``: a guest that needs memory asks its mechanism; otherwise the bench is told, and resizes
    both domains at once. ``by_itself``: options with which the mechanism gives back unused memory
    by itself, with delays in the scale of the job. ``step_areas``: its granule, at least an area.
    """

    name: str
    mechanism: str
    options: Mapping[str, int] = field(default_factory=dict)
    asks: bool = False
    by_itself: Mapping[str, int] = field(default_factory=dict)
    step_areas: int = 1

    def round_up(self, areas: int) -> int:
        """The fewest whole steps that are ``areas``."""
        return -(-areas // self.step_areas) * self.step_areas

    def spec(
        self, name: str, most: int, boot: int, target: int, credit: int = 0, **options: int
    ) -> DomainSpec:
        """A domain of this mechanism, its sizes and its credit in areas."""
        frames = (most * AREA_FRAMES, boot * AREA_FRAMES, target * AREA_FRAMES)
        given = {**self.options, **options}
        return DomainSpec(
            name, *frames, credit_areas=credit, mechanism=self.mechanism, options=given
        )


class Resize(NamedTuple):
    """The cost of one change of a target. CPU time: of the backend, of its caller, of the guest.

    ``beyond_frames``: frames the kernel holds for the domain beyond those the ledger knows.
    """

    elapsed_ns: int
    cpu_ns: int
    moved_frames: int
    beyond_frames: int


@dataclass
class Orchestra:
    """The state of the compiled loop that resizes by hand, and the call that runs it."""

    c: Any
    playing: Future[int] | None = None


class StagedGuest:
    """A domain and the process it runs in."""

    def __init__(self, stage: Stage, remote: Remote, domid: DomId, spec: DomainSpec) -> None:
        self._stage, self._remote = stage, remote
        self.domid, self.key = domid, spec.name
        handles = stage.backend.open(domid, spec)
        self.ram_fd = handles.ram_fd
        self._line = hand_over(remote, handles, spec.name, domid, key=self.key)

    def ask(self, op: str, **args: Any) -> Any:
        """The value of an operation of ``MechanismGuest`` on this domain."""
        return self._remote.ask(op, key=self.key, **args)

    def start(self, op: str, **args: Any) -> Future[Any]:
        """The same, while this thread goes on."""
        return self._stage.pool.submit(self.ask, op, **args)

    def plead(self) -> int:
        """The file descriptor, over there, by which the guest tells that it waits for memory."""
        return int(self._remote.hand("keep_fds", [self._stage.plea_fd])[0])

    def cpu_ns(self) -> int:
        """CPU time of the guest's process so far."""
        cpu_clock = (~self._remote.pid << 3) | 2  # of a process, as clock_getcpuclockid makes it
        return time.clock_gettime_ns(cpu_clock)

    def now(self) -> DomainSnapshot:
        """The domain at this instant."""
        found = self._stage.backend.snapshot().domains
        return next(domain for domain in found if domain.domid == self.domid)

    def close(self) -> None:
        """End the domain; the host gets all its memory back."""
        with contextlib.suppress(MemcoordError):
            self.ask("leave")
        self._stage.backend.close(self.domid)
        self._line.close()


class Stage:
    """A context manager: a host of ``areas`` areas, ``slack`` of them kept free.

    ``spin_ns``: how long either side of a ring looks again before it sleeps.
    """

    def __init__(
        self, areas: int, slack: int, backing: str, huge_dir: str, spin_ns: int = SPIN_NS
    ) -> None:
        self.pool = ThreadPoolExecutor(4)
        self._huge = backing == "2m"
        self.backend = HostBackend(
            total_frames=areas * AREA_FRAMES, slack_frames=slack * AREA_FRAMES, tmem_max_frames=0,
            spin_ns=spin_ns, backing=backing, huge_dir=huge_dir,
        )  # fmt: skip
        self._guests: list[StagedGuest] = []
        self.plea_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.pool.shutdown()
        for guest in self._guests:
            guest.close()
        self.backend.stop()
        os.close(self.plea_fd)

    def guest(self, remote: Remote, spec: DomainSpec) -> StagedGuest:
        """Open a domain and have ``remote`` run it."""
        guest = StagedGuest(self, remote, DomId(len(self._guests)), spec)
        self._guests.append(guest)
        return guest

    def settle(self, guest: StagedGuest, timeout_s: float = SETTLE_S) -> Settled:
        """Wait until a domain has reached its target or cannot, at most ``timeout_s`` seconds."""
        until = time.monotonic() + timeout_s
        while (now := self.backend.settle(guest.domid, 0)).state == "moving":
            if time.monotonic() > until:
                break
            time.sleep(SETTLE_POLL_S)
        return now

    def resize(self, guest: StagedGuest, frames: int) -> Resize:
        """Set a target and wait until it is reached, by the backend's clock; StepError if not."""
        before = self.settle(guest).target_frames
        host_ns, guest_ns = _others_cpu_ns(), guest.cpu_ns()
        begun_ns = time.thread_time_ns()
        self.backend.set_target(guest.domid, frames)
        caller_ns = time.thread_time_ns() - begun_ns
        settled = self.settle(guest)
        cpu_ns = caller_ns + _others_cpu_ns() - host_ns + guest.cpu_ns() - guest_ns
        now = guest.now()
        if settled.state != "reached" or not now.reached_ns:
            raise StepError(
                f"{now.mechanism}: {before} -> {settled.target_frames} frames ended at "
                f"{settled.plugged_frames}: {settled.state} {settled.why}".strip()
            )
        beyond = max(now.resident_frames - now.installed_frames, 0)
        # A guest with a balloon that touches one frame of an empty area gets a whole huge page.
        if beyond and not (self._huge and now.mechanism == "balloon"):
            raise StepError(
                f"{now.mechanism}: the kernel still holds memory that the ledger counts as returned"
            )
        moved = max(abs(settled.target_frames - before), 1)
        return Resize(max(now.reached_ns - now.set_ns, 1), max(cpu_ns, 1), moved, beyond)

    def orchestrate(self, waiting: Future[Any], parts: Orchestra) -> Any:
        """Move memory from a donor to an asker at each plea, until ``waiting`` is done; its result.

        StepError when a target could not be set, or a donor did not come to its own.
        """
        parts.playing = self.pool.submit(lib.mcb_orchestrate, parts.c)
        try:
            result = waiting.result()
        finally:
            parts.c.stop = 1
            status = parts.playing.result(ORCHESTRA_S)
        if status < 0:
            raise StepError(str(error_of(status, "resizing by hand")))
        return result

    def orchestra(self, donor: StagedGuest, asker: StagedGuest, step_frames: int) -> Orchestra:
        """What ``orchestrate`` needs, from the targets that both have now."""
        targets = donor.now().target_frames, asker.now().target_frames
        return Orchestra(ffi.new(
            "struct mcb_orchestra *",
            {
                "host": ffi.cast("void *", self.backend.address),
                "set_target": _address("mc_domain_set_target"),
                "reach": _address("mc_domain_reach"),
                "plea_fd": self.plea_fd, "donor": donor.domid, "asker": asker.domid,
                "donor_frames": targets[0], "asker_frames": targets[1],
                "step_frames": step_frames,
            },
        ))  # fmt: skip

    def serve(self, waiting: Future[Any], answer: Callable[[], None]) -> Any:
        """Answer pleas until ``waiting`` is done; its result."""
        poll = select.poll()
        poll.register(self.plea_fd, select.POLLIN)
        while not waiting.done():
            if poll.poll(PLEA_POLL_MS):
                os.eventfd_read(self.plea_fd)
                answer()
        return waiting.result()


def _address(function: str) -> int:
    """Of a function of the backend's module, for a call from another module."""
    return int(backend_ffi.cast("uintptr_t", backend_ffi.addressof(service, function)))


def _others_cpu_ns() -> int:
    """CPU time of all other threads of this process: those of the backend."""
    return time.process_time_ns() - time.thread_time_ns()
