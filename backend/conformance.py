"""What every mechanism must do, as a kit: the same steps, a real guest process, exact accounts.

Owns: the checks. ``CHECKS`` maps a name to a function of a ``Lab``; a check raises
``NotConforming`` with what it saw. A test, or the author of a mechanism, runs all of them:

    for name, check in CHECKS.items():
        with Lab(Subject("virtio-mem", {"block_areas": 2}), start_guest) as lab:
            check(lab)

``start_guest`` starts a process that is attached to the handles it is given (``Guest``);
``memcoord.testbed.guests.obedient.GuestProcess`` is one. After every step of a check the ledger is
validated and its sums are compared with the total; what the kernel gave (st_blocks) is compared
with what was granted.
Sizes are in units of the mechanism's granule, at least an area.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from backend._service import ffi
from backend.host import HostBackend
from backend.options import mechanism_of
from hypervisor.public.backend import DomainHandles, DomainSnapshot, DomainSpec, Settled
from hypervisor.public.errors import MemcoordError
from hypervisor.public.units import AREA_FRAMES, FRAME_BYTES, DomId

#: Of the domain under test, in units: maxmem and what it boots with.
MAX_UNITS = 8
BOOT_UNITS = 4
SLACK_AREAS = 2
#: Every wait of a check; the checks say what must have happened by then, never how fast.
SETTLE_S = 30.0
REST_S = 0.3  # after which a target that was cancelled would have shown
POLL_S = 0.002
DEVICE_BYTE = b"\xd5"
EVERYTHING = 1 << 20
TAKE_TRIES = 3
SUBJECT = DomId(0)
BYSTANDER = DomId(1)


class NotConforming(AssertionError):
    """A mechanism did what none may; the text says which step, what was wanted, what was seen."""


class Guest(Protocol):
    """A guest process; see ``memcoord.testbed.guests.obedient.GuestProcess`` for what each does."""

    def take(self, kind: str, count: int) -> int:
        """Allocate and stamp."""

    def give(self, kind: str, count: int, stride: int = 1) -> int:
        """Free."""

    def verify(self) -> int:
        """How many stamps are wrong."""

    def dirty(self) -> int:
        """How many frames came with something in them."""

    def frames(self, kind: str) -> list[int]:
        """What is held."""

    def peek(self, frame: int) -> int:
        """The stamp in a frame."""

    def tell(self, op: str, **args: Any) -> None:
        """A command, without waiting."""

    def reopen(self) -> None:
        """Attach anew after a reboot."""

    def kill(self) -> None:
        """SIGKILL."""

    def close(self) -> None:
        """End."""


StartGuest = Callable[[DomainHandles, str, int], Guest]


@dataclass(frozen=True)
class Subject:
    """A mechanism as it is to be checked. ``host`` are arguments of ``HostBackend``."""

    mechanism: str
    options: Mapping[str, int] = field(default_factory=dict)
    unit_areas: int = 1
    host: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return "-".join([self.mechanism, *(f"{name}={v}" for name, v in self.options.items())])


class Lab:
    """A host, a domain of the mechanism under test, its guest, and eyes on the accounts."""

    def __init__(self, subject: Subject, start_guest: StartGuest) -> None:
        self.subject, self._start = subject, start_guest
        self.unit = subject.unit_areas * AREA_FRAMES
        total = 2 * MAX_UNITS * self.unit + SLACK_AREAS * AREA_FRAMES
        options = {"tmem_max_frames": 0, **subject.host}
        self.backend = HostBackend(
            total_frames=total, slack_frames=SLACK_AREAS * AREA_FRAMES, **options
        )
        self._guests: dict[DomId, Guest] = {}
        self.guest = self.attach(SUBJECT, subject.mechanism, subject.options)

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        for guest in self._guests.values():
            guest.close()
        self.backend.stop()

    def attach(self, domid: DomId, mechanism: str, options: Mapping[str, int]) -> Guest:
        """One more domain of the same size, and its guest."""
        name = f"vm{domid}"
        boot = BOOT_UNITS * self.unit
        spec = DomainSpec(
            name, MAX_UNITS * self.unit, boot, boot, 0, mechanism=mechanism, options=options
        )
        self._guests[domid] = self._start(self.backend.open(domid, spec), name, domid)
        return self._guests[domid]

    def domain(self, domid: DomId = SUBJECT) -> DomainSnapshot:
        """A domain now."""
        return next(d for d in self.backend.snapshot().domains if d.domid == domid)

    def target(self, units: int) -> None:
        """Set the target of the domain under test, and look."""
        self.backend.set_target(SUBJECT, units * self.unit)
        self.look(f"target {units}")

    def settle(self) -> Settled:
        """Wait for the target; "moving" is not accepted."""
        settled = self.backend.settle(SUBJECT, SETTLE_S)
        self.look(f"settled {settled}")
        self.wants(settled.state != "moving", f"still moving after {SETTLE_S} s: {settled}")
        return settled

    def reach(self, units: int) -> None:
        """Set a target and wait until it is reached."""
        self.target(units)
        settled = self.settle()
        self.wants(settled.state == "reached", f"target {units} units not reached: {settled}")

    def look(self, step: str) -> None:
        """The invariants that hold at any instant."""
        self.backend.validate()
        now = self.backend.snapshot()
        accounts = now.free_frames + now.installed_frames + now.ready_frames + now.tmem_frames
        self.wants(accounts == now.total_frames, f"{step}: {accounts} of {now.total_frames}")

    def look_resident(self, step: str) -> None:
        """What the kernel gave is what was granted, once nothing is on its way."""
        until = time.monotonic() + SETTLE_S
        while (now := self.domain()).resident_frames > now.installed_frames:
            accounts = f"{now.resident_frames} resident, {now.installed_frames} granted"
            self.wants(time.monotonic() <= until, f"{step}: {accounts}")
            time.sleep(POLL_S)
        self.look(step)

    def close_subject(self) -> None:
        """Close the domain under test, and wait until its memory is back."""
        self.backend.close(SUBJECT)
        self.look("closing")
        gone = self.backend.wait_closed(SETTLE_S)
        self.wants(gone, f"not gone after {SETTLE_S} s: {self.backend.leaving()}")
        self.look("closed")

    def device_page(self, frame: int) -> Any:
        """A frame of the domain under test, as a device that was passed through sees it."""
        address = self.backend._host.domains[SUBJECT].ram + frame * FRAME_BYTES
        return ffi.buffer(ffi.cast("char *", address), FRAME_BYTES)

    def wants(self, holds: bool, text: str) -> None:
        """NotConforming unless it holds."""
        if not holds:
            raise NotConforming(f"{self.subject}: {text}")

    def take_all(self) -> int:
        """Fill all that the guest can have with unmovable frames. Returns how many.

        Tries again, because memory that was on its way may come right after a refusal.
        """
        taken = sum(self.guest.take("frames", EVERYTHING) for _ in range(TAKE_TRIES))
        self.look(f"took {taken}")
        return taken

    def intact(self, step: str) -> None:
        """What the guest holds is what it wrote, and nothing it was given was another's."""
        self.wants(self.guest.verify() == 0, f"{step}: memory in use was taken or changed")
        self.wants(self.guest.dirty() == 0, f"{step}: memory came with something in it")


def grow(lab: Lab) -> None:
    """A higher target is memory the guest can have, exactly that much."""
    lab.reach(BOOT_UNITS)
    lab.reach(MAX_UNITS)
    taken = lab.take_all()
    lab.wants(taken == MAX_UNITS * lab.unit, f"could take {taken} of {MAX_UNITS * lab.unit}")
    lab.intact("grown")
    lab.look_resident("grown and touched")
    lab.wants(lab.domain().current_frames == taken, "current is not what was taken")


def shrink(lab: Lab) -> None:
    """A lower target takes memory that was used and freed; the host has it, the kernel too."""
    lab.reach(MAX_UNITS)
    lab.take_all()
    before = lab.domain()
    lab.guest.give("frames", EVERYTHING)
    lab.reach(2)
    after = lab.domain()
    lab.wants(after.current_frames <= 2 * lab.unit, f"holds {after.current_frames}")
    lab.wants(after.shrunk_frames > before.shrunk_frames, "nothing was counted as taken")
    lab.wants(after.reached_ns >= after.set_ns > 0, "the time it took was not noted")
    lab.look_resident("shrunk")
    taken = lab.take_all()
    lab.wants(taken <= 2 * lab.unit, f"has {taken} frames beyond its target")
    lab.intact("shrunk")
    lab.look_resident("shrunk and touched")


def shrink_partly(lab: Lab) -> None:
    """A shrink that cannot finish stops in a state with a reason, and goes on when it can."""
    lab.reach(MAX_UNITS)
    lab.take_all()
    lab.target(2)
    settled = lab.settle()
    lab.wants(settled.state == "partial", f"everything is in use, yet {settled}")
    lab.wants(settled.why != "", "no reason is given")
    lab.wants(settled.plugged_frames >= 2 * lab.unit, f"overshot: {settled}")
    lab.intact("partly shrunk")
    lab.guest.give("frames", EVERYTHING)
    lab.reach(2)
    lab.look_resident("shrunk after all")


def cancel(lab: Lab) -> None:
    """A newer target wins, whatever became of the older one."""
    lab.reach(MAX_UNITS)
    lab.guest.take("frames", lab.unit)
    for units in (2, MAX_UNITS, 3, 6, 2, MAX_UNITS):
        lab.target(units)
    settled = lab.settle()
    lab.wants(settled.state == "reached", f"the newest target is not reached: {settled}")
    time.sleep(REST_S)
    lab.look("rested")
    settled = lab.settle()
    lab.wants(settled.state == "reached", f"an older target was carried out: {settled}")
    lab.intact("cancelled")
    taken = lab.unit + lab.take_all()
    lab.wants(taken == MAX_UNITS * lab.unit, f"could take {taken} of {MAX_UNITS * lab.unit}")


def die(lab: Lab) -> None:
    """A guest killed in the middle of a resize: all comes back, its neighbour notices nothing."""
    neighbour = lab.attach(BYSTANDER, "direct", {})
    neighbour.take("frames", lab.unit)
    lab.reach(MAX_UNITS)
    lab.take_all()
    lab.guest.tell("give", kind="frames", count=EVERYTHING, stride=2)
    lab.target(2)
    lab.guest.kill()
    lab.look("killed")
    lab.target(MAX_UNITS)
    lab.close_subject()
    now = lab.backend.snapshot()
    held = sum(domain.installed_frames for domain in now.domains)
    lab.wants(now.free_frames + held == now.total_frames, f"not all came back: {now}")
    lab.wants(neighbour.verify() == 0, "the neighbour's memory changed")
    lab.wants(neighbour.take("frames", lab.unit) == lab.unit, "the neighbour gets no more memory")


def reboot(lab: Lab) -> None:
    """After a reboot the guest has what it boots with, then what its target says, all clean."""
    lab.reach(MAX_UNITS)
    lab.take_all()
    lab.target(6)
    lab.backend.reboot(SUBJECT)
    lab.look("rebooted")
    boot = BOOT_UNITS * lab.unit
    lab.guest.reopen()
    settled = lab.settle()
    lab.wants(settled.state == "reached", f"after a reboot: {settled}")
    lab.wants(settled.plugged_frames >= boot, f"has not what it boots with: {settled}")
    taken = lab.take_all()
    lab.wants(taken == 6 * lab.unit, f"could take {taken} of {6 * lab.unit} after a reboot")
    lab.intact("rebooted")
    lab.look_resident("rebooted and touched")


def pins(lab: Lab) -> None:
    """Memory that a device writes to is never pulled, even if the guest gives it away."""
    lab.reach(MAX_UNITS)
    lab.take_all()
    frames = lab.guest.frames("frames")
    pinned = [min(f for f in frames if f // lab.unit == unit) for unit in range(MAX_UNITS)]
    for frame in pinned:
        lab.backend.pin_dma(SUBJECT, frame, 1)
    lab.guest.give("frames", EVERYTHING)
    for frame in pinned:
        lab.device_page(frame)[:] = DEVICE_BYTE * FRAME_BYTES
    lab.target(1)
    lab.backend.settle(SUBJECT, SETTLE_S)
    lab.look("pinned")
    now = lab.domain()
    lab.wants(now.pinned_frames == len(pinned), f"{now.pinned_frames} frames are pinned")
    kept = [lab.device_page(frame)[:] == DEVICE_BYTE * FRAME_BYTES for frame in pinned]
    lab.wants(all(kept), "memory that a device writes to was taken")
    lab.wants(now.refused_dma > 0, "nothing was refused, or not counted")
    for frame in pinned:
        lab.backend.unpin_dma(SUBJECT, frame, 1)
    lab.reach(1)
    lab.look_resident("unpinned")


def refused_pins(lab: Lab) -> None:
    """Only the guest's own memory can be pinned."""
    beyond = MAX_UNITS * lab.unit
    for frame, count in ((beyond, 1), (beyond - 1, 2), (0, 0)):
        try:
            lab.backend.pin_dma(SUBJECT, frame, count)
        except MemcoordError:
            continue
        lab.wants(False, f"{count} frames from {frame} could be pinned")
    lab.wants(lab.domain().pinned_frames == 0, "something is pinned")


CHECKS: dict[str, Callable[[Lab], None]] = {
    "grow": grow,
    "shrink": shrink,
    "shrink that cannot finish": shrink_partly,
    "cancel by a newer target": cancel,
    "guest dies in the middle": die,
    "reboot": reboot,
    "pinned for DMA": pins,
    "pins refused": refused_pins,
}


def is_dma_safe(mechanism: str) -> bool:
    """Whether a mechanism says that it is safe with a passed-through device.

    API: for whoever passes a device through.
    """
    return bool(mechanism_of(mechanism).dma_safe)
