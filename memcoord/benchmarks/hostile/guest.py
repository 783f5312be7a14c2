"""A guest process over the real attach protocol that does what no guest should: for ``cheats.py``.

Owns: ``CheatProcess``, which starts one, and the loop of that process. The same process can be an
honest neighbour (``hold``, ``verify``, ``grants``), so that cheats and victims differ in nothing
else. ``python -P -m memcoord.benchmarks.hostile.guest RUN_DIR NAME SEED``, commands as lines of
JSON on stdin, an answer each on stdout; it ends when stdin does.

A cheat sits on bare mappings (``Seat``): the frontend believes what stands in meta, and would
suffer from its own lies. A seat that was thrown out attaches again when the cheat goes on.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import select
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import frontend
from hypervisor.public.errors import MemcoordError, NoMemory, PeerGone, error_of
from hypervisor.public.messages import (
    ATTACH_SOCKET,
    MESSAGE_BYTES_MAX,
    VERSION,
    Attached,
    AttachRequest,
    decode,
    encode,
)
from hypervisor.public.units import AREA_FRAMES, FRAME_BYTES
from memcoord.benchmarks._loops import ffi, lib
from memcoord.testbed.runs.launcher import ROOT

ANSWER_S = 120.0
END_S = 20.0
ATTACH_S = 20.0
RETRY_S = 0.002
SAMPLES_MAX = 20_000
WORD_BYTES = 8
NS = 1_000_000_000
#: Sections of meta in their order, and how often a random corruption goes there. A broken ring ends
#: the life of a domain, so rings are hit rarely: most lives shall be long.
SECTIONS = {
    "control": 60, "memory_ring": 1, "tmem_ring": 1, "trees": 100, "areas": 200, "rows": 100,
    "heads": 100, "slots": 60,
}  # fmt: skip
WHERE = {"control": (0, 1), "rings": (1, 3), "allocator": (3, 8)}
HOWS = ("zero", "ones", "random", "off by one")
F_ADD_SEALS, F_SEAL_WRITE = 1033, 8


class CheatProcess:
    """The other end: starts the process as domain ``name`` of ``run_dir`` and talks to it."""

    def __init__(self, run_dir: Path, name: str, seed: int) -> None:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self.name = name
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-m",
                "memcoord.benchmarks.hostile.guest",
                str(run_dir),
                name,
                str(seed),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        self.pid = self._process.pid

    def tell(self, command: str, **args: Any) -> None:
        """Send a command and do not wait."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it was killed: the answer says so
            self._process.stdin.write(json.dumps({"command": command, **args}).encode() + b"\n")
            self._process.stdin.flush()

    def answer(self) -> Any:
        """The next answer; None when the process ended instead. MemcoordError when it failed."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], ANSWER_S)[0]:
            raise MemcoordError(f"{self.name}: no answer within {ANSWER_S:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            return None
        answer = json.loads(line)
        if isinstance(answer, dict) and "error" in answer:
            raise MemcoordError(f"{self.name}: {answer['error']}")
        return answer

    def ask(self, command: str, **args: Any) -> Any:
        """Send a command and wait for its answer."""
        self.tell(command, **args)
        return self.answer()

    def signal(self, number: int) -> None:
        """Send a signal, unless it ended."""
        self._process.send_signal(number)

    def close(self) -> None:
        """End the process, dead or alive."""
        self._process.kill()
        self._process.wait(END_S)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()


class Seat:
    """A bare attachment: fds, two mappings, two rings."""

    def __init__(self, run_dir: str, name: str, random_state: int) -> None:
        self._line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.fds: list[int] = []
        self.c: Any = ffi.new("struct mcc_seat *", {"state": random_state})
        try:
            self._line.settimeout(ATTACH_S)
            self._line.connect(os.path.join(run_dir, ATTACH_SOCKET))
            self._line.send(encode(AttachRequest(VERSION, name, 0)))
            data, self.fds, _, _ = socket.recv_fds(self._line, MESSAGE_BYTES_MAX, 3)
            answer = decode(data)
            if not isinstance(answer, Attached):
                raise PeerGone(f"not attached: {answer}")
        except (OSError, PeerGone):
            self.leave()
            raise
        self.c.meta_bytes, self.c.ram_bytes = answer.meta_bytes, answer.ram_bytes
        self.c.ram = lib.mc_map(self.fds[0], answer.ram_bytes)
        self.c.meta = lib.mc_map(self.fds[1], answer.meta_bytes)
        self.c.bell_fd, self.c.attach_fd = self.fds[2], self._line.fileno()
        lib.mcc_sit(self.c)
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


class Told:
    """The guest inside its process. Every public method is a command."""

    def __init__(self, run_dir: str, name: str, seed: int) -> None:
        self._run_dir, self._name = run_dir, name
        self._state = seed
        self._lives = 0
        self._seat: Seat | None = None
        self._domain: frontend.Domain | None = None
        self._held: list[int] = []

    # Honest

    def join(self) -> bool:
        """Attach as any program does."""
        self._domain = frontend.attach(self._run_dir, name=self._name)
        return True

    def hold(self, areas: int) -> int:
        """Fill whole areas, as many as there are up to ``areas``; how many."""
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

    def verify(self) -> int:
        """Pages held whose content is not what was written."""
        domain = self._joined()
        return sum(
            lib.mc_content_check(domain.address + frame * FRAME_BYTES, domain.domid, frame, 1) >= 0
            for first in self._held
            for frame in range(first, first + AREA_FRAMES)
        )

    def grants(self, for_s: float, pause_s: float) -> list[int]:
        """Ask for an area and offer it again, over and over; the nanoseconds of each grant."""
        samples = ffi.new("uint64_t[]", SAMPLES_MAX)
        guest = ffi.cast("struct mc_guest *", self._joined().guest_address)
        done = lib.mcc_grants(guest, samples, SAMPLES_MAX, _ns(pause_s), _ns(for_s))
        if done < 0:
            raise error_of(done, "grants")
        return list(samples[0:done])

    # Not

    def sit(self) -> bool:
        """Attach barely."""
        self._sitting()
        return True

    def burn(self, for_s: float) -> int:
        """Only busy, for comparison."""
        return int(lib.mcc_burn(self._sitting().c, _ns(for_s)))

    def touch(self, for_s: float) -> int:
        """Write to all of ram, granted or not."""
        seat = self._sitting()
        return int(lib.mcc_touch(seat.c, 0, seat.c.ram_bytes, _ns(for_s)))

    def flood_bell(self, for_s: float) -> int:
        """Ring without a pause."""
        return int(lib.mcc_flood_bell(self._sitting().c, _ns(for_s)))

    def flood_ring(self, for_s: float, op: int, other: int) -> int:
        """Keep the memory ring full of requests for as much as can be asked for."""
        most = lib.MC_GROW_AREAS_MAX
        return int(lib.mcc_flood_ring(self._sitting().c, op, other, most, _ns(for_s)))

    def ignore(self, for_s: float) -> int:
        """Use all there is and free nothing, while saying that all has been done."""
        held = self.hold(1 << 20)
        guest: Any = ffi.cast("struct mc_guest *", self._joined().guest_address)
        seat = ffi.new("struct mcc_seat *", {"state": self._state})
        seat.meta = int(ffi.cast("uintptr_t", guest.control))
        seat.bell_fd, seat.attach_fd = guest.bell_fd, guest.attach_fd
        lib.mcc_lie(seat, _ns(for_s))
        return held

    def lie(self, for_s: float) -> int:
        """Statistics that cannot be true."""
        return int(lib.mcc_lie(self._sitting().c, _ns(for_s)))

    def each_word(self, where: str, how: int, step: int) -> dict[str, int]:
        """Corrupt every (step-th) word of a part of meta in one way, a request after each."""
        low, high = WHERE[where]
        seat = self._sitting()
        first, last = seat.bounds[low], seat.bounds[high]
        at = first
        while at < last:  # every life does at least one word
            seat = self._sitting()
            at = int(lib.mcc_each_word(seat.c, at, last, step, how))
            self._state = seat.c.state
        return {"corruptions": (last - first + step - 1) // step, "lives": self._lives}

    def corrupt(self, count: int) -> dict[str, int]:
        """``count`` random corruptions all over meta, over as many lives as that takes."""
        done = 0
        while done < count:  # every life does at least one
            seat = self._sitting()
            bounds = zip(seat.bounds, seat.bounds[1:], SECTIONS.values(), strict=False)
            ranges = ffi.new("struct mcc_range[]", list(bounds))
            done += int(lib.mcc_corrupt(seat.c, ranges, len(SECTIONS), count - done))
            self._state = seat.c.state
        return {"corruptions": done, "lives": self._lives}

    def files(self) -> dict[str, str]:
        """Try on the fds what would hurt the hypervisor: what the kernel says to each."""
        ram, meta, bell = self._sitting().fds
        return {
            "shrink ram": _errno(lambda: os.ftruncate(ram, 0)),
            "grow ram": _errno(lambda: os.ftruncate(ram, 1 << 40)),
            "shrink meta": _errno(lambda: os.ftruncate(meta, 0)),
            "forbid to write ram": _errno(lambda: fcntl.fcntl(ram, F_ADD_SEALS, F_SEAL_WRITE)),
            "punch meta": _errno(lambda: lib.mc_punch(meta, 0, FRAME_BYTES)),
            "punch ram": _errno(lambda: lib.mc_punch(ram, 0, self._sitting().c.ram_bytes)),
            "bell without blocking": _errno(lambda: os.set_blocking(bell, False)),
            "read the bell": _errno(lambda: os.read(bell, 8)),
        }

    def lock_file(self, for_s: float) -> int:
        """Have another process punch the file all the time while the hypervisor is to fill it."""
        seat, until = self._sitting(), time.monotonic() + for_s
        pid = os.fork()
        if pid == 0:
            while time.monotonic() < until:
                lib.mc_punch(seat.fds[0], 0, seat.c.ram_bytes)
            os._exit(0)
        sent = self.flood_ring(for_s, lib.MC_OP_GROW, lib.MC_OP_RELEASE)
        os.waitpid(pid, 0)
        return sent

    def keep(self, for_s: float) -> int:
        """Having been thrown out, go on to use the memory."""
        seat = self._seat
        if seat is None:
            raise PeerGone("was never attached")
        return int(lib.mcc_touch(seat.c, 0, seat.c.ram_bytes, _ns(for_s)))

    def pass_on(self, for_s: float) -> int:
        """Let another process have the fds and use the memory, and end; its pid."""
        seat = self._sitting()
        pid = os.fork()
        if pid == 0:
            os.close(seat.c.attach_fd)  # as if it had never been a domain
            lib.mcc_touch(seat.c, 0, seat.c.ram_bytes, _ns(for_s))
            os._exit(0)
        return pid

    def _joined(self) -> frontend.Domain:
        if self._domain is None:
            raise PeerGone("is not attached")
        return self._domain

    def _sitting(self) -> Seat:
        """The seat there is, or a new one: the hypervisor may still be clearing the last away."""
        seat = self._seat
        if seat is not None and not select.select([seat.c.attach_fd], [], [], 0)[0]:
            return seat
        if seat is not None:
            self._state = seat.c.state
            seat.leave()
            self._seat = None
        until = time.monotonic() + ATTACH_S
        while True:
            try:
                self._seat = Seat(self._run_dir, self._name, self._state)
            except (OSError, PeerGone):
                if time.monotonic() > until:
                    raise
                time.sleep(RETRY_S)
                continue
            self._lives += 1
            return self._seat


def _ns(seconds: float) -> int:
    return int(seconds * NS)


def _errno(call: Any) -> str:
    try:
        status = call()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error.errno))
    return errno.errorcode[-status] if isinstance(status, int) and status < 0 else "done"


def main(argv: list[str]) -> int:
    """Entry point of the process."""
    if len(argv) != 4:
        sys.stderr.write(
            "usage: python -P -m memcoord.benchmarks.hostile.guest RUN_DIR NAME SEED\n"
        )
        return 2
    told = Told(argv[1], argv[2], int(argv[3]))
    for line in sys.stdin:
        command = json.loads(line)
        try:
            _say(getattr(told, command.pop("command"))(**command))
        except (MemcoordError, OSError, ValueError) as error:
            _say({"error": str(error) or type(error).__name__})
    return 0


def _say(answer: Any) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv))
