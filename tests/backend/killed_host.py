"""A host that is killed and recovered under guests that go on: what the tests of recovery share.

This process is the keeper: it holds the books and the fds of every domain. The hypervisor and each
guest are forked from it. A hypervisor says what is to be kept over a socket, whose queue outlives
it.
"""

from __future__ import annotations

import mmap
import os
import random
import select
import signal
import socket
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from backend.books import Books, KeptDomain
from backend.host import HostBackend
from frontend._guest import ffi, lib
from frontend.domain import Domain, Handles
from hypervisor.public.backend import DomainSpec
from hypervisor.public.errors import NoMemory
from hypervisor.public.messages import VERSION, Attached
from hypervisor.public.units import AREA_FRAMES, DomId, Frame

ANSWER_S = 60.0
FDS = ("ram", "meta", "bell")
AGE_S = 0.03  # a hypervisor is killed at an age of up to this


class Line:
    """One end of a socket: short texts, with fds."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end

    def say(self, text: str, fds: Sequence[int] = ()) -> None:
        socket.send_fds(self.end, [text.encode()], list(fds))

    def hear(self, timeout_s: float) -> tuple[str, list[int]] | None:
        if not select.select([self.end], [], [], timeout_s)[0]:
            return None
        data, fds, _, _ = socket.recv_fds(self.end, 65536, 8)
        return (data.decode(), list(fds)) if data else None


def serve(line: Line, keeper: Keeper, seed: int) -> None:
    """The hypervisor: make or recover the host, then set targets and pin at random."""
    books = Books(
        keeper.files,
        keep=lambda name, fd: line.say(f"keep {name}", [fd]),
        on_domain=lambda domid, fds: line.say(f"domain {domid}", [fds[name] for name in FDS]),
        on_gone=lambda domid: line.say(f"gone {domid}"),
    )
    kept = {
        domid: KeptDomain(keeper.specs[domid].name, dict(zip(FDS, fds, strict=True)))
        for domid, fds in keeper.domains.items()
    }
    host = HostBackend(**keeper.options, books=books, kept=kept if keeper.files else None)
    host.validate()
    if not keeper.files:
        for domid, spec in keeper.specs.items():
            host.open(domid, spec)
    broken = host.broken()
    line.say(f"error {broken}" if broken else "ready")
    chance = random.Random(seed)
    while (heard := line.hear(0.002)) is None:
        if keeper.disturb:
            keeper.disturb(host, chance)
    assert heard[0] == "check", heard
    host.validate()
    time.sleep(0.3)
    host.validate()
    for one in host.snapshot().domains:
        if one.resident_frames > one.installed_frames:
            line.say(f"error {one.name} has {one.resident_frames}, {one.installed_frames} granted")
        if one.broken or one.bad_requests:
            line.say(f"error {one.name}: {one.bad_requests} bad requests, broken {one.broken}")
        line.say(f"saw {one.name}: {one.ring_requests} requests, {one.reclaimed_areas} taken")
    line.say("checked")
    host.stop()
    os._exit(0)


class Keeper:
    """Holds what is kept; starts, kills and recovers the hypervisor."""

    def __init__(
        self,
        specs: dict[DomId, DomainSpec],
        disturb: Callable[[HostBackend, random.Random], None] | None = None,
        **options: Any,
    ) -> None:
        self.specs, self.options, self.disturb = specs, options, disturb
        self.files: dict[str, int] = {}
        self.domains: dict[DomId, list[int]] = {}
        self.pid, self._seed = 0, 0
        self.line: Line
        self.guests: list[Guest] = []
        HostBackend(**options).stop()  # loads tmem's kernels: what is forked has them

    def __enter__(self) -> Keeper:
        return self

    def __exit__(self, *_: object) -> None:
        for guest in self.guests:
            guest.close()
        if self.pid:
            self.kill()
        for fds in (self.files.values(), *self.domains.values()):
            for fd in fds:
                os.close(fd)

    def admit(self, domid: DomId, life: Life) -> None:
        """Have the domain live in a process of its own."""
        self.guests.append(Guest(self, domid, life))

    def kill_again_and_again(self, kills: int, seed: int) -> None:
        """Under the guests, which then end: AssertionError with what they found wrong."""
        chance = random.Random(seed)
        for _ in range(kills):
            time.sleep(chance.random() ** 2 * AGE_S)
            self.kill()
            self.start()
        errors = [error for guest in self.guests if (error := guest.end())]
        assert not errors, "\n".join(errors)

    def start(self) -> None:
        """Fork a hypervisor and wait until it serves."""
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._seed += 1
        self.pid = os.fork()
        if not self.pid:
            near.close()
            self._run(Line(far))
        far.close()
        self.line = Line(near)
        self.until("ready")

    def _run(self, line: Line) -> None:
        try:
            serve(line, self, self._seed)
        except BaseException:
            line.say("error " + traceback.format_exc())
        finally:
            os._exit(1)

    def until(self, wanted: str) -> None:
        """Hear the hypervisor out until it says ``wanted``."""
        until = time.monotonic() + ANSWER_S
        while True:
            heard = self.line.hear(max(until - time.monotonic(), 0))
            assert heard is not None, f"the hypervisor does not say {wanted}"
            self._note(*heard)
            if heard[0] == wanted:
                return

    def _note(self, text: str, fds: list[int]) -> None:
        verb, _, rest = text.partition(" ")
        assert verb != "error", rest
        if verb == "keep":
            self.files[rest] = fds[0]
        elif verb == "domain":
            self.domains[DomId(int(rest))] = fds
        elif verb == "gone":
            for fd in self.domains.pop(DomId(int(rest)), ()):
                os.close(fd)

    def kill(self) -> None:
        """Kill the hypervisor; note what it had said."""
        os.kill(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, status
        while (heard := self.line.hear(0)) is not None:
            self._note(*heard)
        self.line.end.close()

    def check(self) -> None:
        """Have the hypervisor add up its books, and end."""
        self.line.say("check")
        self.until("checked")
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        self.line.end.close()
        assert status == 0, status

    def handles(self, domid: DomId) -> Handles:
        return Handles(*map(os.dup, self.domains[domid]))


#: What a guest does: until the function says that it is time to end.
Life = Callable[[Domain, Callable[[], bool], random.Random], None]


class Guest:
    """A domain in a process of its own, that runs ``life`` until told to stop."""

    def __init__(
        self,
        keeper: Keeper,
        domid: DomId,
        life: Life,
    ) -> None:
        self.name = keeper.specs[domid].name
        self.shared = mmap.mmap(-1, 65536)
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        handles = keeper.handles(domid)
        meta_bytes = os.fstat(handles.meta).st_size
        told = Attached(
            version=VERSION,
            domid=domid,
            name=self.name,
            ram_bytes=keeper.specs[domid].maxmem_frames * 4096,
            meta_bytes=meta_bytes,
            spin_ns=0,
        )
        self.hypervisor_end = near  # held: the hypervisor's death is no hang-up
        self.pid = os.fork()
        if not self.pid:
            self._run(told, handles, far, life)
        far.close()
        for fd in handles:
            os.close(fd)

    def _run(self, told: Attached, handles: Handles, far: socket.socket, life: Any) -> None:
        code = 0
        try:
            with Domain(told, handles, far) as domain:
                life(domain, self._goes_on, random.Random(told.domid))
        except BaseException:
            text = traceback.format_exc().encode()[:60000]
            self.shared[32 : 32 + len(text)] = text
            self.shared[16:24] = len(text).to_bytes(8, "little")
            code = 1
        os._exit(code)

    def _goes_on(self) -> bool:
        self.shared[8:16] = (self.operations + 1).to_bytes(8, "little")
        return self.shared[0] == 0

    @property
    def operations(self) -> int:
        return int.from_bytes(self.shared[8:16], "little")

    def error(self) -> str:
        length = int.from_bytes(self.shared[16:24], "little")
        return self.shared[32 : 32 + length].decode()

    def end(self) -> str:
        """Tell it to stop, and wait until it has; what it found wrong, or nothing."""
        self.shared[0] = 1
        until = time.monotonic() + ANSWER_S
        while not (ended := os.waitpid(self.pid, os.WNOHANG))[0]:
            if time.monotonic() > until:
                return f"{self.name} hangs after {self.operations} operations"
            time.sleep(0.01)
        self.pid = 0
        return f"{self.name}: {self.error()}" if ended[1] else ""

    def close(self) -> None:
        """Kill it if it is still there."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        self.hypervisor_end.close()
        self.shared.close()


def live(domain: Domain, goes_on: Callable[[], bool], chance: random.Random) -> None:
    """Allocate, write, verify, free, offer memory at random; every frame keeps its content."""
    held: dict[int, tuple[int, int]] = {}
    stamp = 0
    while goes_on():
        if chance.random() < 0.01:
            domain.release(chance.randrange(1, 4) * AREA_FRAMES)
            continue
        if held and (chance.random() < 0.45 or len(held) > 3000):
            frame = chance.choice(list(held)) if len(held) < 64 else next(iter(held))
            verify(domain, frame, held.pop(frame))
            continue
        order = chance.choice((0, 0, 0, 3, 6, 9, 9))
        try:
            frame = int(domain.alloc(order))
        except NoMemory:
            for one in list(held)[: len(held) // 2 + 1]:
                verify(domain, one, held.pop(one))
            continue
        stamp += 1
        held[frame] = (order, stamp)
        write(domain, frame, order, stamp)
    for frame in list(held):
        verify(domain, frame, held.pop(frame))
    check_allocator(domain)


def live_on_tmem(domain: Domain, goes_on: Callable[[], bool], chance: random.Random) -> None:
    """Put, get and flush persistent pages at random: what was acknowledged is there, as put."""
    pools = [domain.tmem.new_pool(persistent=True), domain.tmem.new_pool(persistent=True)]
    frame = int(domain.alloc(0))
    stored: dict[tuple[int, int], int] = {}
    stamp = 0
    while goes_on():
        key = chance.choice(pools), chance.randrange(400)
        oid = (key[1] // 16, 0, 7)
        what = chance.random()
        if what < 0.5:
            stamp += 1
            # Some pages are zeroes, some the same as others, some cannot be compressed.
            body = (
                bytes(8) if stamp % 5 == 0 else chance.randbytes(64) if stamp % 3 else b"same" * 16
            )
            page = (stamp.to_bytes(8, "little") if stamp % 7 else bytes(8)) + body * 60
            domain.memory[frame * 4096 : (frame + 1) * 4096] = page.ljust(4096, b"\0")
            status = domain.tmem.put(key[0], oid, key[1], frame)
            if status == 1:
                stored[key] = hash(bytes(domain.view(frame)))
            elif status < 0 or key in stored:
                stored.pop(key, None)  # a put that replaces and fails has flushed the old page
                domain.tmem.flush_page(key[0], oid, key[1])
        elif what < 0.9:
            domain.memory[frame * 4096 : (frame + 1) * 4096] = b"\xaa" * 4096
            status = domain.tmem.get(key[0], oid, key[1], frame)
            assert (status == 1) == (key in stored), f"{key}: get says {status}"
            if status == 1:
                assert hash(bytes(domain.view(frame))) == stored[key], f"{key}: another page"
        else:
            domain.tmem.flush_page(key[0], oid, key[1])
            stored.pop(key, None)
    for (pool, index), wrote in stored.items():
        assert domain.tmem.get(pool, (index // 16, 0, 7), index, frame) == 1, f"{index} is lost"
        assert hash(bytes(domain.view(frame))) == wrote, f"{index}: another page"
    assert domain.tmem.new_pool(persistent=True) == 2, "a pool was made twice"


def check_allocator(domain: Domain) -> None:
    """The guest's own books add up, once its driver and the hypervisor leave them alone."""
    domain.drain()
    where = ffi.new("uint32_t *")
    until = time.monotonic() + 5
    while (status := lib.mc_frames_validate(ffi.addressof(domain._guest.frames), where)) < 0:
        assert time.monotonic() < until, f"allocator: {status} at area {where[0]}"
        time.sleep(0.01)


def write(domain: Domain, frame: int, order: int, stamp: int) -> None:
    for at in {frame, frame + (1 << order) - 1}:
        domain.memory[at * 4096 : at * 4096 + 8] = (stamp << 20 | at).to_bytes(8, "little")


def verify(domain: Domain, frame: int, wrote: tuple[int, int]) -> None:
    order, stamp = wrote
    for at in {frame, frame + (1 << order) - 1}:
        found = int.from_bytes(domain.memory[at * 4096 : at * 4096 + 8], "little")
        assert found == stamp << 20 | at, f"frame {at}: {found:#x}, not {stamp << 20 | at:#x}"
    domain.free(Frame(frame), order)
