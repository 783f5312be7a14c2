"""A guest that does as it is told: the other end of ``backend.conformance``.

Owns: ``GuestProcess``, a real process that is a domain of a backend in this process, and the guest
inside it, which takes, fills, verifies and gives back memory of each kind. Also how a domain is
handed over by its file descriptors (``hand_over``, ``domain_of``), since such a backend listens at
no socket. A frame that is held carries its own stamp, so that memory pulled away or moved wrongly
is seen. Called by: the conformance kit, tests of mechanisms, benches of mechanisms.
"""

import contextlib
import os
import socket
from collections.abc import Iterator, Sequence
from typing import Any

from frontend.domain import Domain, Handles
from hypervisor.public.backend import DomainHandles
from hypervisor.public.errors import NoMemory
from hypervisor.public.messages import VERSION, Attached
from hypervisor.public.units import AREA_FRAMES, FRAME_BYTES
from memcoord.testbed.runs.remote import END_S, Remote, operation, serve

STAMP_BYTES = 8
#: frames: single, where they are; areas: of 2 MiB; movable: by handle; cache: dropped when asked.
KINDS = ("frames", "areas", "movable", "cache")


def hand_over(
    remote: Remote, handles: DomainHandles, name: str, domid: int, **args: Any
) -> socket.socket:
    """Have ``remote`` become the domain of ``handles``: its operation ``adopt`` gets all of it.

    Returns the host's end of the domain's life line. RemoteError when the child cannot.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    told = {key: getattr(handles, key) for key in ("ram_bytes", "meta_bytes", "spin_ns")}
    attached = {"domid": domid, "name": name, **told}
    with theirs:
        fds = (handles.ram_fd, handles.meta_fd, handles.bell_fd, theirs.fileno())
        remote.hand("adopt", fds, attached=attached, **args)
    return ours


def domain_of(fds: Sequence[int], attached: dict[str, Any]) -> Domain:
    """In the child: the domain that was handed over; it owns ``fds`` from now on, or they close."""
    ram, meta, bell, line = fds
    connection = socket.socket(fileno=line)
    try:
        return Domain(Attached(VERSION, **attached), Handles(ram, meta, bell), connection)
    except BaseException:
        connection.close()
        for fd in (ram, meta, bell):
            os.close(fd)
        raise


class GuestProcess(Remote):
    """A process attached to ``handles``; satisfies ``backend.conformance.Guest``.

    Every method raises RemoteError when the guest failed at it, RemoteGone when it has ended.
    """

    def __init__(self, handles: DomainHandles, name: str, domid: int) -> None:
        super().__init__(name, "memcoord.testbed.guests.obedient")
        self._domain_line = hand_over(self, handles, name, domid)

    def take(self, kind: str, count: int) -> int:
        """Allocate up to ``count`` of a kind and stamp them. Returns how many."""
        return int(self.ask("take", kind=kind, count=count))

    def give(self, kind: str, count: int, stride: int = 1) -> int:
        """Free up to ``count`` of a kind, every ``stride``-th of those held. Returns how many."""
        return int(self.ask("give", kind=kind, count=count, stride=stride))

    def release(self, frames: int) -> int:
        """``Domain.release``. Returns how many frames went at once."""
        return int(self.ask("release", frames=frames))

    def verify(self) -> int:
        """The number of frames held that carry another stamp than their own."""
        return int(self.ask("verify"))

    def dirty(self) -> int:
        """Frames taken so far, since the start, that were given with something in them."""
        return int(self.ask("dirty"))

    def frames(self, kind: str) -> list[int]:
        """First frames of all that is held of a kind (handles of the movable)."""
        return [int(frame) for frame in self.ask("frames", kind=kind)]

    def peek(self, frame: int) -> int:
        """The stamp in a frame, held or not."""
        return int(self.ask("peek", frame=frame))

    def reopen(self) -> None:
        """As a rebooted kernel: forget everything and attach to the freshly formatted meta."""
        self.ask("reopen")

    def close(self, grace_s: float = END_S) -> None:
        """End the process, dead or alive, and the host's end of the domain's life line."""
        super().close(grace_s)
        self._domain_line.close()


class ObedientGuest:
    """The guest inside its process; ``GuestProcess`` says what each operation does."""

    def __init__(self) -> None:
        self._fds: Sequence[int] = ()
        self._attached: dict[str, Any] = {}
        self._dirty = 0

    @operation
    def adopt(self, fds: list[int], attached: dict[str, Any]) -> None:
        """Become the domain that is handed over; the fds are kept for ``reopen``."""
        self._fds, self._attached = fds, attached
        self._open()

    def _open(self) -> None:
        self.held: dict[str, list[int]] = {kind: [] for kind in KINDS}
        self.domain = domain_of([os.dup(fd) for fd in self._fds], self._attached)
        self.domain.on_pressure(self._drop)

    @operation
    def reopen(self) -> None:
        """Attach anew."""
        self.domain.close()
        self._open()

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

    @operation
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

    @operation
    def give(self, kind: str, count: int, stride: int) -> int:
        """Wipe the stamps of blocks and free them: ``dirty`` must see only others' content."""
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

    @operation
    def release(self, frames: int) -> int:
        """See ``GuestProcess.release``."""
        return int(self.domain.release(frames))

    @operation
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

    @operation
    def dirty(self) -> int:
        """See ``GuestProcess.dirty``."""
        return self._dirty

    @operation
    def frames(self, kind: str) -> list[int]:
        """See ``GuestProcess.frames``."""
        return self.held[kind]

    @operation
    def peek(self, frame: int) -> int:
        """See ``GuestProcess.peek``."""
        return int.from_bytes(self.domain.view(frame)[:STAMP_BYTES], "little")


def main() -> None:
    """Entry point of the process."""
    guest = ObedientGuest()
    serve(guest, is_threaded=False)
    guest.domain.close()


if __name__ == "__main__":
    main()
