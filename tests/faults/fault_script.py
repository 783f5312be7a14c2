"""A life of a host and its two domains, and one child process for each call that fails in it.

Owns: the script, and what must hold after every step of it. ``test_faults`` runs this file as a
program with the library of ``fault.c`` in LD_PRELOAD:

    python fault_script.py MECHANISM CALL ERROR COUNT

For N = 1, 2, 3, ... (larger steps after EACH_UP_TO) a child is forked that runs the script while
calls N to N + COUNT - 1 of CALL fail with ERROR, until a child ends in which none failed. A line of
JSON per child says what it saw.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from backend.host import HostBackend
from frontend.domain import Domain
from frontend.tmem_client import TmemClient
from hypervisor.public.backend import BankSpec, DomainSpec
from hypervisor.public.errors import MemcoordError
from hypervisor.public.units import AREA_FRAMES, DomId
from memcoord.testbed.guests.obedient import domain_of

CALLS = ("madvise", "fallocate", "mmap", "memfd_create", "eventfd", "mbind", "pwritev")
#: As COUNT: the call fails from the Nth time on, until the script is at its end.
LAST_OF_ALL = 1 << 30
CHILDREN_MAX = 64
EACH_UP_TO = 24  # every N up to here, then some of them: later calls are of sites seen before
CHILD_S = 120
SETTLE_S = 20.0
TARGET_S = 0.3  # a mechanism may be unable to reach a target meanwhile
POLL_S = 0.002
OPTIONS: dict[str, dict[str, int]] = {"virtio-mem": {"block_areas": 1}, "balloon": {"merge": 1}}
FIRST, SECOND = DomId(0), DomId(1)
OURS = ("/memfd:", "anon_inode:[eventfd]")


class Life:
    """One host, from its start to its end, and the errors that its user got on the way."""

    def __init__(self, mechanism: str) -> None:
        self.mechanism = mechanism
        self.errors: list[str] = []
        self.backend: HostBackend | None = None
        self.guests: dict[DomId, Domain] = {}
        self.lines: dict[DomId, socket.socket] = {}

    def step(self, what: str, action: Callable[[], Any]) -> Any:
        """An error of ours is an answer; any other is a finding. The ledger is right after both."""
        result = None
        try:
            result = action()
        except MemcoordError as error:
            self.errors.append(f"{what}: {type(error).__name__}: {error}")
        if self.backend is not None:
            self.backend.validate()
        return result

    def run(self) -> None:
        """Every step; those that need what was refused are left out."""
        self.step("host", self.open_host)
        if self.backend is None:
            return
        for domid, mechanism in ((FIRST, self.mechanism), (SECOND, "direct")):
            self.step(f"open {domid}", lambda d=domid, m=mechanism: self.open(d, m))
        for domid in list(self.guests):
            self.use(domid)
        self.move()
        if FIRST in self.guests:
            self.step("reboot", self.reboot)
        for domid in list(self.guests):
            self.use(domid)

    def open_host(self) -> None:
        self.backend = HostBackend(
            total_frames=24 * AREA_FRAMES,
            slack_frames=2 * AREA_FRAMES,
            tmem_max_frames=4 * AREA_FRAMES,
            spin_ns=0,
            backing="4k",
            banks=[BankSpec(24 * AREA_FRAMES, node=0)],
            stop_excess=True,
        )

    def open(self, domid: DomId, mechanism: str) -> None:
        assert self.backend is not None
        spec = DomainSpec(
            f"vm{domid}",
            12 * AREA_FRAMES,
            4 * AREA_FRAMES,
            6 * AREA_FRAMES,
            credit_areas=1 if mechanism == "direct" else 0,
            mechanism=mechanism,
            options=OPTIONS.get(mechanism, {}),
        )
        self.handles = {**getattr(self, "handles", {}), domid: self.backend.open(domid, spec)}
        self.step(f"attach {domid}", lambda: self.attach(domid))

    def attach(self, domid: DomId) -> None:
        handles = self.handles[domid]
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        told = {key: getattr(handles, key) for key in ("ram_bytes", "meta_bytes", "spin_ns")}
        fds = [os.dup(fd) for fd in (handles.ram_fd, handles.meta_fd, handles.bell_fd)]
        try:
            guest = domain_of(
                [*fds, theirs.detach()], {"domid": domid, "name": f"vm{domid}", **told}
            )
        except BaseException:
            ours.close()
            raise
        self.guests[domid], self.lines[domid] = guest, ours

    def use(self, domid: DomId) -> None:
        """Allocate, write, give back; grow and shrink by the guest; tmem."""
        guest = self.guests[domid]
        held = self.step(f"alloc {domid}", lambda: guest.alloc_many(5 * AREA_FRAMES)) or []
        for frame in list(held)[:: AREA_FRAMES // 2]:
            guest.view(frame)[:8] = b"written!"
        if held and self.backend is not None:
            self.step(f"pin {domid}", lambda: self.pin(domid, held[0]))
        self.step(f"request {domid}", lambda: guest.request(AREA_FRAMES))
        if held:
            self.step(f"tmem {domid}", lambda: self.put_and_get(guest, held[0]))
        if held:
            self.step(f"free {domid}", lambda: guest.free_many(held))
        self.step(f"release {domid}", lambda: guest.release(2 * AREA_FRAMES))

    def pin(self, domid: DomId, frame: int) -> None:
        assert self.backend is not None
        self.backend.pin_dma(domid, frame, 1)
        self.backend.unpin_dma(domid, frame, 1)

    def put_and_get(self, guest: Domain, frame: int) -> None:
        client = TmemClient(guest)
        pool = client.new_pool(persistent=True)
        before = bytes(guest.view(frame))
        if client.put(pool, (1, 2, 3), 4, frame) > 0:
            guest.view(frame)[:8] = b"\0" * 8
            assert client.get(pool, (1, 2, 3), 4, frame) > 0, "an acknowledged page is lost"
            assert bytes(guest.view(frame)) == before, "a page came back wrong"
        client.destroy_pool(pool)

    def move(self) -> None:
        """Targets down and up, so that memory goes from one domain to the other."""
        assert self.backend is not None
        for domid, areas in ((FIRST, 2), (SECOND, 10), (SECOND, 3), (FIRST, 8)):
            if domid in self.handles_open():
                frames = areas * AREA_FRAMES
                self.step(f"target {domid}", lambda d=domid, f=frames: self.target(d, f))

    def target(self, domid: DomId, frames: int) -> None:
        assert self.backend is not None
        self.backend.set_target(domid, frames)
        self.backend.settle(domid, TARGET_S)

    def handles_open(self) -> set[DomId]:
        assert self.backend is not None
        return {domain.domid for domain in self.backend.snapshot().domains}

    def reboot(self) -> None:
        assert self.backend is not None
        self.guests.pop(FIRST).close()
        self.lines.pop(FIRST).close()
        self.backend.reboot(FIRST)
        self.attach(FIRST)

    def look(self) -> None:
        """The kernel answers again: files hold what the ledger says, and no more."""
        assert self.backend is not None
        until = time.monotonic() + SETTLE_S
        while over := [
            f"{domain.name}: {domain.resident_frames} resident, {domain.installed_frames} granted"
            for domain in self.backend.snapshot().domains
            if domain.resident_frames > domain.installed_frames
        ]:
            assert time.monotonic() < until, over
            time.sleep(POLL_S)
        self.backend.validate()

    def end(self) -> None:
        """Everything goes back."""
        for guest in self.guests.values():
            guest.close()
        for line in self.lines.values():
            line.close()
        if self.backend is None:
            return
        self.look()
        for domid in self.handles_open():
            self.backend.close(domid)
        until = time.monotonic() + SETTLE_S
        while (now := self.backend.snapshot()).free_frames + now.tmem_frames < now.total_frames:
            assert time.monotonic() < until, f"frames did not come back: {now}"
            time.sleep(POLL_S)
        self.backend.validate()
        if self.backend.tmem is not None:
            self.backend.tmem.validate()
        self.backend.stop()


def left_behind() -> list[str]:
    """Files and mappings of ours that are still there."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{name}")
            if target.startswith(OURS):
                found.append(f"fd {target}")
    with open("/proc/self/maps", encoding="utf-8") as maps:
        found += [f"mapping {line.split()[-2]}" for line in maps if "/memfd:" in line]
    return found


def one_life(mechanism: str, call: str, number: int, error: int, count: int) -> dict[str, Any]:
    """In the child: what came of it."""
    library = ctypes.CDLL(None)
    library.fault_refused.restype = ctypes.c_long
    life = Life(mechanism)
    found: dict[str, Any] = {"number": number, "finding": ""}
    library.fault_arm(CALLS.index(call), ctypes.c_long(number), error, ctypes.c_long(count))
    try:
        life.run()
        library.fault_disarm()
        life.end()
        if left := left_behind():
            found["finding"] = f"left behind: {left}"
    except BaseException:
        library.fault_disarm()
        found["finding"] = traceback.format_exc()
    found |= {"refused": library.fault_refused(), "errors": life.errors}
    return found


def in_child(*arguments: Any) -> dict[str, Any]:
    """Fork, and wait for what the child says, at most CHILD_S."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        with open(writing, "w", encoding="utf-8") as pipe:
            json.dump(one_life(*arguments), pipe)
        os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as pipe:
        if not select.select([pipe], [], [], CHILD_S)[0]:
            os.kill(child, signal.SIGKILL)
        text = pipe.read()
    status = os.waitpid(child, 0)[1]
    if status or not text:
        finding = f"the child ended with {os.waitstatus_to_exitcode(status)}"
        return {"number": arguments[2], "finding": finding, "refused": 1, "errors": []}
    told: dict[str, Any] = json.loads(text)
    return told


def main(mechanism: str, call: str, error: str, count: str) -> None:
    """Walk N up to the first child in which no call failed."""
    # Kernels are loaded before the fork, once.
    HostBackend(total_frames=8 * AREA_FRAMES, slack_frames=AREA_FRAMES, spin_ns=0).stop()
    number = 0
    for _ in range(CHILDREN_MAX):
        number += 1 + number // EACH_UP_TO
        told = in_child(mechanism, call, number, getattr(errno, error), int(count))
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()
        if not told["refused"]:
            return


if __name__ == "__main__":
    main(*sys.argv[1:])
