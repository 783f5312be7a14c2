"""The guest that cheats, inside its process: it attaches as any domain does, then does as it likes.

Owns: ``CheatingGuest``, the operations of that process. The same process can be an honest neighbour
(``hold``, ``verify``, ``grants``), so that cheats and victims differ in nothing else.
A cheat works on a ``BareAttachment``, because the frontend believes the words in meta and would
suffer from its own lies. When the hypervisor has thrown the guest out, a cheat that goes on
attaches anew: every attachment is one life.
Called by: ``memcoord.benchmarks.hostile.lab``, which starts the process and tells it what to do.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import socket
import sys
import time
from typing import Any

import frontend
from hypervisor.public import messages
from hypervisor.public.errors import NoMemory, PeerGone, error_of
from hypervisor.public.units import AREA_FRAMES, FRAME_BYTES
from memcoord.benchmarks._loops import ffi, lib
from memcoord.benchmarks.hostile.held_file import Holder
from memcoord.testbed.runs.remote import operation, serve

ATTACH_S = 20.0
RETRY_S = 0.002
SAMPLES_MAX = 20_000
#: A grant takes a hundred times as long as a put.
GRANTS_S, PUTS_S = 0.08, 0.02
OFFERING_S = 0.01
WORD_BYTES = 8
NS = 1_000_000_000
#: Sections of meta in their order, with the weight of each among random corruptions. A broken ring
#: ends a life, so rings have little weight: most lives shall be long.
SECTIONS = {
    "control": 60, "memory_ring": 1, "tmem_ring": 1, "trees": 100, "areas": 200, "rows": 100,
    "heads": 100, "slots": 60,
}  # fmt: skip
WHERE = {"control": (0, 1), "rings": (1, 3), "allocator": (3, 8)}
HOWS = {
    "zero": lib.MCC_ZERO, "ones": lib.MCC_ONES, "random": lib.MCC_RANDOM,
    "off by one": lib.MCC_OFF_BY_ONE,
}  # fmt: skip
#: Loops of cheat.h that need nothing but the attachment and their time.
LOOPS = {
    "burn": lib.mcc_burn, "touch": lib.mcc_touch, "flood bell": lib.mcc_flood_bell,
    "lie": lib.mcc_lie,
}  # fmt: skip
F_ADD_SEALS, F_SEAL_WRITE = 1033, 8


class BareAttachment:
    """File descriptors, two mappings and two rings of one domain, without a frontend.

    OSError or PeerGone when the hypervisor does not attach the domain.
    """

    def __init__(self, run_dir: str, name: str, random_state: int) -> None:
        self._line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.fds: list[int] = []
        self.c: Any = ffi.new("struct mcc_attachment *", {"state": random_state})
        try:
            self._line.settimeout(ATTACH_S)
            self._line.connect(os.path.join(run_dir, messages.ATTACH_SOCKET))
            self._line.send(messages.encode(messages.AttachRequest(messages.VERSION, name, 0)))
            data, self.fds, _, _ = socket.recv_fds(self._line, messages.MESSAGE_BYTES_MAX, 3)
            answer = messages.decode(data)
            if not isinstance(answer, messages.Attached):
                raise PeerGone(f"not attached: {answer}")
        except (OSError, PeerGone):
            self.leave()
            raise
        self.c.meta_bytes, self.c.ram_bytes = answer.meta_bytes, answer.ram_bytes
        self.c.ram = lib.mc_map(self.fds[0], answer.ram_bytes)
        self.c.meta = lib.mc_map(self.fds[1], answer.meta_bytes)
        self.c.bell_fd, self.c.attach_fd = self.fds[2], self._line.fileno()
        lib.mcc_bind(self.c)
        control: Any = ffi.cast("struct mc_control *", self.c.meta)
        starts = [0, *(getattr(control, f"{name}_offset") for name in list(SECTIONS)[1:])]
        #: Where each section begins and the last one ends, in words; read before it is corrupted.
        self.bounds = [start // WORD_BYTES for start in (*starts, answer.meta_bytes)]

    def leave(self) -> None:
        """Hang up and let go of everything."""
        for address, size in ((self.c.ram, self.c.ram_bytes), (self.c.meta, self.c.meta_bytes)):
            if address:
                lib.mc_unmap(address, size)
        for fd in self.fds:
            os.close(fd)
        self._line.close()


class CheatingGuest:
    """One domain, honest or not. An operation with ``for_s`` lasts about as many seconds."""

    def __init__(self, run_dir: str, name: str, seed: int) -> None:
        self._run_dir, self._name = run_dir, name
        self._state = seed
        self._lives = 0
        self._bare: BareAttachment | None = None
        self._domain: frontend.Domain | None = None
        self._held: list[int] = []
        self._put_frame: int | None = None  # None: not looked yet
        self._pool = -1
        self._holder: Holder | None = None

    # Operations of an honest neighbour

    @operation
    def join(self) -> None:
        """Attach through the frontend, as any program does."""
        self._domain = frontend.attach(self._run_dir, name=self._name)

    @operation
    def hold(self, areas: int) -> int:
        """Fill whole areas, as many as there are up to ``areas``. Returns how many are held."""
        domain = self._joined()
        for _ in range(areas):
            try:
                first = domain.alloc(9)
            except NoMemory:
                break
            for frame in range(first, first + AREA_FRAMES):
                lib.mc_content_fill(domain.address + frame * FRAME_BYTES, domain.domid, frame, 1)
            self._held.append(first)
        return len(self._held)

    @operation
    def verify(self) -> int:
        """The number of held pages whose content has changed."""
        domain = self._joined()
        return sum(
            lib.mc_content_check(domain.address + frame * FRAME_BYTES, domain.domid, frame, 1) >= 0
            for first in self._held
            for frame in range(first, first + AREA_FRAMES)
        )

    @operation
    def served(self, for_s: float, pause_s: float, puts: bool = True) -> dict[str, list[int]]:
        """The nanoseconds that this domain waits for each area and each put, in turns.

        Asks for an area and offers it again, over and over; ``puts`` one page, over and over.
        """
        guest = ffi.cast("struct mc_guest *", self._joined().guest_address)
        samples, until = ffi.new("uint64_t[]", SAMPLES_MAX), time.monotonic() + for_s
        found: dict[str, list[int]] = {"grant": [], "put": []}
        turn = (samples, SAMPLES_MAX, _ns(pause_s))
        while time.monotonic() < until:
            found["grant"] += _taken(samples, lib.mcc_grants(guest, *turn, _ns(GRANTS_S)), "grants")
            if puts and self._put_from() >= 0:
                done = lib.mcc_puts(guest, self._pool, self._put_frame, *turn, _ns(PUTS_S))
                found["put"] += _taken(samples, done, "puts")
        return found

    def _put_from(self) -> int:
        """The frame that is put; -1 when there is none to be had."""
        if self._put_frame is None:
            domain, self._put_frame = self._joined(), -1
            with contextlib.suppress(NoMemory):
                self._pool = domain.tmem.new_pool(persistent=True)
                self._put_frame = int(domain.alloc())
                domain.view(self._put_frame)[:] = b"p" * FRAME_BYTES
        return self._put_frame

    @operation
    def burn(self, for_s: float) -> int:
        """Compute and nothing else, as a busy neighbour does that is no cheat."""
        return int(lib.mcc_burn(ffi.new("struct mcc_attachment *", {"attach_fd": -1}), _ns(for_s)))

    # Cheats

    @operation
    def attach_bare(self) -> None:
        """Attach without a frontend, so that cheats survive what they write."""
        self._attachment()

    @operation
    def repeat(self, loop: str, for_s: float) -> int:
        """Run one of LOOPS. Returns how often it did its work."""
        return int(LOOPS[loop](self._attachment().c, _ns(for_s)))

    @operation
    def flood_ring(self, for_s: float, first: int, second: int) -> int:
        """Keep the memory ring full of requests of the largest size. Returns how many."""
        most = lib.MC_GROW_AREAS_MAX
        return int(lib.mcc_flood_ring(self._attachment().c, first, second, most, _ns(for_s)))

    @operation
    def ignore(self, for_s: float) -> int:
        """Use all memory and free nothing, while claiming that the target is reached."""
        held = self.hold(1 << 20)
        guest: Any = ffi.cast("struct mc_guest *", self._joined().guest_address)
        bare = ffi.new("struct mcc_attachment *", {"state": self._state})
        bare.meta = int(ffi.cast("uintptr_t", guest.control))
        bare.bell_fd, bare.attach_fd = guest.bell_fd, guest.attach_fd
        lib.mcc_lie(bare, _ns(for_s))
        return held

    @operation
    def each_word(self, where: str, how: int, step: int) -> dict[str, int]:
        """Corrupt every (step-th) word of a part of meta in one way, a request after each."""
        low, high = WHERE[where]
        bare = self._attachment()
        first, last = bare.bounds[low], bare.bounds[high]
        at = first
        while at < last:  # every life does at least one word
            bare = self._attachment()
            at = int(lib.mcc_each_word(bare.c, at, last, step, how))
            self._state = bare.c.state
        return {"corruptions": (last - first + step - 1) // step, "lives": self._lives}

    @operation
    def corrupt(self, count: int) -> dict[str, int]:
        """``count`` random corruptions all over meta, over as many lives as that takes."""
        done = 0
        while done < count:  # every life does at least one
            bare = self._attachment()
            bounds = zip(bare.bounds, bare.bounds[1:], SECTIONS.values(), strict=False)
            ranges = ffi.new("struct mcc_range[]", list(bounds))
            done += int(lib.mcc_corrupt(bare.c, ranges, len(SECTIONS), count - done))
            self._state = bare.c.state
        return {"corruptions": done, "lives": self._lives}

    @operation
    def malformed(self, count: int) -> dict[str, int]:
        """Send ``count`` malformed records over both rings, over as many lives as that takes."""
        answered, unanswered = 0, 0
        while answered < count and not unanswered:
            bare = self._attachment()
            answered += int(lib.mcc_malformed(bare.c, count - answered))
            self._state, unanswered = bare.c.state, int(bare.c.unanswered)
        return {"answered": answered, "unanswered": unanswered, "lives": self._lives}

    @operation
    def files(self) -> dict[str, str]:
        """Try on the fds what would hurt the hypervisor; the kernel's answer to each."""
        ram, meta, bell = self._attachment().fds
        return {
            "shrink ram": _errno(lambda: os.ftruncate(ram, 0)),
            "grow ram": _errno(lambda: os.ftruncate(ram, 1 << 40)),
            "shrink meta": _errno(lambda: os.ftruncate(meta, 0)),
            "forbid to write ram": _errno(lambda: fcntl.fcntl(ram, F_ADD_SEALS, F_SEAL_WRITE)),
            "punch meta": _errno(lambda: lib.mc_punch(meta, 0, FRAME_BYTES)),
            "punch ram": _errno(lambda: lib.mc_punch(ram, 0, self._attachment().c.ram_bytes)),
            "bell without blocking": _errno(lambda: os.set_blocking(bell, False)),
            "read the bell": _errno(lambda: os.read(bell, 8)),
        }

    @operation
    def lock_file(self, for_s: float) -> int:
        """Have another process punch the file all the time while the hypervisor is to fill it."""
        bare, until = self._attachment(), time.monotonic() + for_s
        pid = os.fork()
        if pid == 0:
            while time.monotonic() < until:
                lib.mc_punch(bare.fds[0], 0, bare.c.ram_bytes)
            os._exit(0)
        sent = self.flood_ring(for_s, lib.MC_OP_GROW, lib.MC_OP_RELEASE)
        os.waitpid(pid, 0)
        return sent

    @operation
    def hold_lock(self, how: str) -> None:
        """Have another process keep the lock of the file of ram."""
        self._holder = Holder(how, self._attachment().fds[0])

    @operation
    def act_held(self, deed: str, for_s: float) -> None:
        """Under that lock: offer memory, leave, or both, and let go in the end."""
        until = time.monotonic() + for_s
        if deed in ("release", "both"):
            self.flood_ring(OFFERING_S, lib.MC_OP_RELEASE, lib.MC_OP_RELEASE)
        if deed in ("leave", "both") and self._bare is not None:
            self._bare.leave()
            self._bare = None
        time.sleep(max(until - time.monotonic(), 0))
        if self._holder is not None:
            self._holder.close()

    @operation
    def keep(self, for_s: float) -> int:
        """Use the memory after the hypervisor has thrown the guest out. Returns how often."""
        if self._bare is None:
            raise PeerGone("was never attached")
        return int(lib.mcc_touch(self._bare.c, _ns(for_s)))

    @operation
    def pass_on(self, for_s: float) -> int:
        """Let another process have the fds, use the memory and end. Returns its pid."""
        bare = self._attachment()
        pid = os.fork()
        if pid == 0:
            os.close(bare.c.attach_fd)  # as if it had never been a domain
            lib.mcc_touch(bare.c, _ns(for_s))
            os._exit(0)
        return pid

    def _joined(self) -> frontend.Domain:
        if self._domain is None:
            raise PeerGone("is not attached")
        return self._domain

    def _attachment(self) -> BareAttachment:
        """The bare attachment, made anew when the hypervisor has hung up on the last one.

        The hypervisor may still be clearing the last one away, hence the tries.
        """
        bare = self._bare
        if bare is not None and not select.select([bare.c.attach_fd], [], [], 0)[0]:
            return bare
        if bare is not None:
            self._state = bare.c.state
            bare.leave()
            self._bare = None
        until = time.monotonic() + ATTACH_S
        while True:
            try:
                self._bare = BareAttachment(self._run_dir, self._name, self._state)
            except (OSError, PeerGone):
                if time.monotonic() > until:
                    raise
                time.sleep(RETRY_S)
                continue
            self._lives += 1
            return self._bare


def _ns(seconds: float) -> int:
    return int(seconds * NS)


def _taken(samples: Any, done: int, what: str) -> list[int]:
    if done < 0:
        raise error_of(done, what)
    return list(samples[0:done])


def _errno(call: Any) -> str:
    try:
        status = call()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error.errno))
    return errno.errorcode[-status] if isinstance(status, int) and status < 0 else "done"


if __name__ == "__main__":
    serve(CheatingGuest(sys.argv[1], sys.argv[2], int(sys.argv[3])), is_threaded=False)
