"""A guest that does as it is told: the other end of ``backend.conformance``.

Owns: ``GuestProcess``, which starts a real process as a domain of a backend in this one, and the
loop of that process: take, fill, verify and give back memory of each kind.
``python -P -m memcoord.testbed.guests.obedient CONFIG`` with the fds it was given in CONFIG,
commands as lines of JSON on stdin, an answer each on stdout. It ends when stdin does.

A frame that is held carries its own stamp, so that memory pulled or moved wrongly is seen.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from frontend.domain import Domain, Handles
from hypervisor.public.backend import DomainHandles
from hypervisor.public.errors import MemcoordError, NoMemory
from hypervisor.public.messages import VERSION, Attached
from hypervisor.public.units import AREA_FRAMES, FRAME_BYTES
from memcoord.testbed.runs.launcher import ROOT

ANSWER_S = 60.0
END_S = 20.0
STAMP_BYTES = 8
#: frames: single, where they are; areas: of 2 MiB; movable: by handle; cache: dropped when asked.
KINDS = ("frames", "areas", "movable", "cache")


class GuestProcess:
    """A process attached to ``handles``; satisfies ``backend.conformance.Guest``."""

    def __init__(self, handles: DomainHandles, name: str, domid: int) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        fds = (handles.ram_fd, handles.meta_fd, handles.bell_fd, theirs.fileno())
        config = {
            "fds": fds,
            "attached": {
                "domid": domid,
                "name": name,
                "ram_bytes": handles.ram_bytes,
                "meta_bytes": handles.meta_bytes,
                "spin_ns": handles.spin_ns,
            },
        }
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self._line = ours
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "memcoord.testbed.guests.obedient", json.dumps(config)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=fds,
            env={**os.environ, "PYTHONPATH": path},
        )
        theirs.close()
        self.pid = self._process.pid
        self._answer()

    def tell(self, op: str, **args: Any) -> None:
        """Send a command and do not wait."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"op": op, **args}).encode() + b"\n")
        self._process.stdin.flush()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise MemcoordError(f"the guest ended with {self._process.wait(END_S)}")
        answer = json.loads(line)
        if isinstance(answer, dict) and "error" in answer:
            raise MemcoordError(f"the guest says: {answer['error']}")
        return answer

    def ask(self, op: str, **args: Any) -> Any:
        """Send a command and wait for its answer; MemcoordError when the guest failed at it."""
        self.tell(op, **args)
        return self._answer()

    def take(self, kind: str, count: int) -> int:
        """Allocate up to ``count`` of a kind and stamp them; how many there were."""
        return int(self.ask("take", kind=kind, count=count))

    def give(self, kind: str, count: int, stride: int = 1) -> int:
        """Free up to ``count`` of a kind, every ``stride``-th of those held; how many."""
        return int(self.ask("give", kind=kind, count=count, stride=stride))

    def release(self, frames: int) -> int:
        """``Domain.release``: how many frames went at once."""
        return int(self.ask("release", frames=frames))

    def verify(self) -> int:
        """Frames held whose stamp is not theirs."""
        return int(self.ask("verify"))

    def dirty(self) -> int:
        """Frames taken so far, since the start, that were given with something in them."""
        return int(self.ask("dirty"))

    def frames(self, kind: str) -> list[int]:
        """First frames of what is held of a kind (handles of the movable)."""
        return [int(frame) for frame in self.ask("frames", kind=kind)]

    def peek(self, frame: int) -> int:
        """The stamp in a frame, held or not."""
        return int(self.ask("peek", frame=frame))

    def reopen(self) -> None:
        """As a rebooted kernel: forget everything and attach to what the hypervisor formatted."""
        self.ask("reopen")

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait(END_S)

    def close(self) -> None:
        """End the process, dead or alive."""
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.kill()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._line.close()


class Told:
    """The guest inside its process."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config
        self._dirty = 0
        self._open()

    def _open(self) -> None:
        self.held: dict[str, list[int]] = {kind: [] for kind in KINDS}
        ram, meta, bell, line = (os.dup(fd) for fd in self._config["fds"])
        attached = Attached(VERSION, **self._config["attached"])
        self.domain = Domain(attached, Handles(ram, meta, bell), socket.socket(fileno=line))
        self.domain.on_pressure(self._drop)

    def reopen(self) -> bool:
        """Attach anew."""
        self.domain.close()
        self._open()
        return True

    def _drop(self, frames: int) -> int:
        dropped = 0
        while dropped < frames and self.held["cache"]:
            self._free("cache", self.held["cache"].pop())
            dropped += 1
        self._report()
        return dropped

    def _report(self) -> None:
        self.domain.report(file_frames=len(self.held["cache"]))

    def _alloc(self, kind: str) -> int:
        if kind == "movable":
            return self.domain.alloc_movable()
        return int(self.domain.alloc(9 if kind == "areas" else 0))

    def _free(self, kind: str, block: int) -> None:
        if kind == "movable":
            self.domain.free_movable(block)
        else:
            self.domain.free(block, 9 if kind == "areas" else 0)

    @contextlib.contextmanager
    def _pages(self, kind: str, block: int) -> Iterator[list[tuple[int, memoryview]]]:
        """Each frame of a block with the number it is stamped with."""
        if kind == "movable":
            with self.domain.pinned(block) as page:
                yield [(block + (1 << 32), page)]
        else:
            count = AREA_FRAMES if kind == "areas" else 1
            start = block * FRAME_BYTES
            yield [
                (block + index, self.domain.memory[start + index * FRAME_BYTES :][:FRAME_BYTES])
                for index in range(count)
            ]

    def take(self, kind: str, count: int) -> int:
        """See ``GuestProcess.take``."""
        for taken in range(count):
            try:
                block = self._alloc(kind)
            except NoMemory:
                return taken
            with self._pages(kind, block) as pages:
                for number, page in pages:
                    self._dirty += bool(page[0] or page[FRAME_BYTES - 1])
                    page[:STAMP_BYTES] = (number + 1).to_bytes(STAMP_BYTES, "little")
            self.held[kind].append(block)
            if kind == "cache":
                self._report()
        return count

    def give(self, kind: str, count: int, stride: int) -> int:
        """See ``GuestProcess.give``. What goes is wiped, so that ``dirty`` sees others' only."""
        chosen = self.held[kind][::stride][:count]
        gone = set(chosen)
        self.held[kind] = [block for block in self.held[kind] if block not in gone]
        for block in chosen:
            with self._pages(kind, block) as pages:
                for _, page in pages:
                    page[:STAMP_BYTES] = bytes(STAMP_BYTES)
            self._free(kind, block)
        self.domain.drain()
        self._report()
        return len(chosen)

    def release(self, frames: int) -> int:
        """See ``GuestProcess.release``."""
        return int(self.domain.release(frames))

    def verify(self) -> int:
        """See ``GuestProcess.verify``."""
        wrong = 0
        for kind, blocks in self.held.items():
            for block in blocks:
                with self._pages(kind, block) as pages:
                    for number, page in pages:
                        stamp = int.from_bytes(page[:STAMP_BYTES], "little")
                        wrong += stamp != number + 1
        return wrong

    def dirty(self) -> int:
        """See ``GuestProcess.dirty``."""
        return self._dirty

    def frames(self, kind: str) -> list[int]:
        """See ``GuestProcess.frames``."""
        return self.held[kind]

    def peek(self, frame: int) -> int:
        """See ``GuestProcess.peek``."""
        return int.from_bytes(self.domain.view(frame)[:STAMP_BYTES], "little")


def main(argv: list[str]) -> int:
    """Entry point of the process."""
    if len(argv) != 2:
        sys.stderr.write("usage: python -P -m memcoord.testbed.guests.obedient CONFIG\n")
        return 2
    told = Told(json.loads(argv[1]))
    _say(True)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            _say(getattr(told, command.pop("op"))(**command))
        except (MemcoordError, ValueError) as error:
            _say({"error": str(error) or type(error).__name__})
    told.domain.close()
    return 0


def _say(answer: Any) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv))
