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
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from backend.books import Books, KeptDomain
from backend.host import HostBackend
from frontend.domain import Domain, Handles
from hypervisor.public.backend import DomainSpec
from hypervisor.public.errors import MemcoordError, NoMemory
from hypervisor.public.messages import VERSION, Attached
from hypervisor.public.units import DomId, Frame

ANSWER_S = 60.0
FDS = ("ram", "meta", "bell")
FRESH = 0.03  # seconds: a hypervisor is killed at an age up to this


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
            assert heard is not None, (
                f"the hypervisor does not say {wanted}: {os.waitpid(self.pid, os.WNOHANG)}"
            )
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
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
        while (heard := self.line.hear(0)) is not None:
            self._note(*heard)
        self.line.end.close()

    def check(self) -> None:
        """Have the hypervisor add up its books, and end."""
        self.line.say("check")
        self.until("checked")
        _, status = os.waitpid(self.pid, 0)
        self.line.end.close()
        assert status == 0, status

    def handles(self, domid: DomId) -> Handles:
        return Handles(*map(os.dup, self.domains[domid]))


class Guest:
    """A domain in a process of its own, that runs ``life`` until told to stop."""

    WORDS = struct.Struct("qqq")  # stop, operations, length of the error

    def __init__(
        self,
        keeper: Keeper,
        domid: DomId,
        life: Callable[[Domain, Callable[[], bool], random.Random], None],
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

    def end(self) -> None:
        """Tell it to stop; AssertionError with its traceback when it failed."""
        self.shared[0] = 1
        until = time.monotonic() + ANSWER_S
        while not (ended := os.waitpid(self.pid, os.WNOHANG))[0]:
            if time.monotonic() > until:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise AssertionError(f"{self.name} hangs after {self.operations} operations")
            time.sleep(0.01)
        assert ended[1] == 0, f"{self.name}: {self.error()}"


def live(domain: Domain, goes_on: Callable[[], bool], chance: random.Random) -> None:
    """Allocate, write, verify and free at random; persistent tmem pages as well, if there is tmem."""
    held: dict[int, tuple[int, int]] = {}
    stamp = 0
    while goes_on():
        if held and (chance.random() < 0.45 or len(held) > 3000):
            frame = chance.choice(list(held)) if len(held) < 64 else next(iter(held))
            verify(domain, frame, held.pop(frame))
            continue
        order = chance.choice((0, 0, 0, 3, 6, 9, 9))
        try:
            frame = int(domain.alloc(order))
        except NoMemory:
            for one in list(held)[: len(held) // 2]:
                verify(domain, one, held.pop(one))
            continue
        stamp += 1
        held[frame] = (order, stamp)
        write(domain, frame, order, stamp)
        if chance.random() < 0.02:
            try:
                domain.release(chance.randrange(1, 3))
            except MemcoordError:
                raise
    for frame in list(held):
        verify(domain, frame, held.pop(frame))


def write(domain: Domain, frame: int, order: int, stamp: int) -> None:
    for at in {frame, frame + (1 << order) - 1}:
        domain.memory[at * 4096 : at * 4096 + 8] = (stamp << 20 | at).to_bytes(8, "little")


def verify(domain: Domain, frame: int, wrote: tuple[int, int]) -> None:
    order, stamp = wrote
    for at in {frame, frame + (1 << order) - 1}:
        found = int.from_bytes(domain.memory[at * 4096 : at * 4096 + 8], "little")
        assert found == stamp << 20 | at, f"frame {at}: {found:#x}, not {stamp << 20 | at:#x}"
    domain.free(Frame(frame), order)


@contextmanager
def killed_again_and_again(
    keeper: Keeper, guests: Sequence[Guest], kills: int, seed: int = 1
) -> Iterator[None]:
    """Kill the hypervisor ``kills`` times while the guests live; the block sees the last one."""
    chance = random.Random(seed)
    try:
        for _ in range(kills):
            time.sleep(chance.random() ** 2 * FRESH)
            keeper.kill()
            keeper.start()
        yield
    finally:
        errors = []
        for guest in guests:
            try:
                guest.end()
            except AssertionError as error:
                errors.append(str(error))
        if errors:
            sys.stderr.write("\n".join(errors))
    assert not errors, errors
