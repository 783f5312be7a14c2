"""A child process that carries out operations: started, told, asked within a time limit, ended.

Owns: ``Remote``, the parent's end, ``serve``, the loop of the child, and the frames between them.
The line is a socket pair whose far end is the child's stdin. A frame is its length, the number of
file descriptors that come with it, and a body in msgpack: ``[operation, arguments]`` towards the
child, ``[succeeded, value]`` back. Each operation gets one answer, in the order of the operations.
Rules: a child carries out only those methods of its target that are marked ``@operation``, and
nothing on the line is ever executed as code. Every wait of the parent has a limit. The child ends
when the parent hangs up, and with ``end_with_parent`` also in the middle of an operation when the
parent dies. One ``Remote`` is used by one thread at a time.
Called by: benches, sweeps and the tests of mechanisms.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import subprocess
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from hypervisor.public.errors import MemcoordError
from memcoord.testbed.runs.launcher import Child, Launcher, end_with_parent, start_python

ANSWER_S = 120.0
END_S = 20.0
FDS_MAX = 8
FRAME_BYTES_MAX = 1 << 26
#: Bytes of the body, file descriptors beside it.
HEADER = struct.Struct("<II")
MARK = "_is_operation"

Method = TypeVar("Method", bound=Callable[..., Any])


class RemoteError(MemcoordError):
    """A child failed at an operation, or did not answer in time; the text is its own account."""


class RemoteGone(RemoteError):
    """A child ended instead of answering; the text says how."""


def operation(method: Method) -> Method:
    """Mark a method that the parent may ask for by name."""
    setattr(method, MARK, True)
    return method


def operations_of(target: object) -> dict[str, Callable[..., Any]]:
    """The operations of ``target``, by name."""
    kind = type(target)
    return {name: getattr(target, name) for name in dir(kind) if hasattr(getattr(kind, name), MARK)}


class Remote:
    """The parent's end of one child: ``python -P -m MODULE ARGUMENTS...``, started by ``__init__``.

    With a launcher, the launcher also ends the child and keeps its output in files. Without one,
    the child prints to stderr, and ``close`` ends the child.
    """

    def __init__(
        self, name: str, module: str, *arguments: str, launcher: Launcher | None = None
    ) -> None:
        self._line, theirs = socket.socketpair()
        self._line.settimeout(ANSWER_S)
        with theirs:
            if launcher is not None:
                self.child = launcher.start(name, module, *arguments, stdin=theirs.fileno())
            else:
                process = start_python("-m", module, *arguments, stdin=theirs, stdout=2)
                self.child = Child(name, process)
        self.pid = self.child.pid

    def fileno(self) -> int:
        """For a selector: readable when an answer has come or the child has ended."""
        return self._line.fileno()

    def tell(self, op: str, **args: Any) -> None:
        """Send an operation and do not wait."""
        self._send(op, args, ())

    def _send(self, op: str, args: dict[str, Any], fds: Sequence[int]) -> None:
        body = msgspec.msgpack.encode([op, args])
        header = HEADER.pack(len(body), len(fds))
        with contextlib.suppress(OSError):  # the child ended: waiting for the answer says how
            if fds:
                socket.send_fds(self._line, [header], fds)
                self._line.sendall(body)
            else:
                self._line.sendall(header + body)

    def answer(self, limit_s: float = ANSWER_S) -> Any:
        """The value of the oldest operation that is not yet answered.

        RemoteGone when the child ended instead. RemoteError when it failed at the operation, or
        has not answered within ``limit_s`` seconds; a late answer would be taken for the next, so
        such a child is of no further use.
        """
        try:
            frame = _receive(self._line, time.monotonic() + limit_s)
        except TimeoutError:
            raise RemoteError(f"{self.child.name}: no answer within {limit_s:.0f} s") from None
        except OSError:
            frame = None
        if frame is None:
            self._await_end(END_S)
            raise RemoteGone(f"{self.child.name}: {self.child.how_it_ended()}")
        succeeded, value = frame[0]
        if not succeeded:
            raise RemoteError(f"{self.child.name}: {value}")
        return value

    def ask(self, op: str, **args: Any) -> Any:
        """Send an operation and wait ANSWER_S for its value; errors as ``answer``."""
        self._send(op, args, ())
        return self.answer()

    def hand(self, op: str, fds: Sequence[int], **args: Any) -> Any:
        """As ``ask``; the operation gets file descriptors, at most FDS_MAX, as argument ``fds``."""
        self._send(op, args, fds)
        return self.answer()

    def signal(self, number: int) -> None:
        """Send a signal, unless the child has ended."""
        self.child.process.send_signal(number)

    def kill(self) -> None:
        """End the child at once, by SIGKILL."""
        self.signal(signal.SIGKILL)
        self._await_end(END_S)

    def hang_up(self) -> None:
        """Ask the child to end; it finishes the operation it is at."""
        with contextlib.suppress(OSError):
            self._line.shutdown(socket.SHUT_WR)

    def close(self, grace_s: float = END_S) -> None:
        """End the child: hang up, wait ``grace_s`` seconds, then SIGKILL. May be called again."""
        self.hang_up()
        if not self._await_end(grace_s):
            self.kill()
        self._line.close()

    def _await_end(self, limit_s: float) -> bool:
        try:
            self.child.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return False
        return True


def serve(target: object, *, is_threaded: bool = True) -> None:
    """In a child: carry out the operations of ``target`` until the parent hangs up.

    An exception of an operation is its answer. Unless ``is_threaded`` is False, a thread ends the
    process as soon as the parent is gone, also while an operation lasts.
    """
    line = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # code that reads stdin must not take a frame
    os.close(nothing)
    if is_threaded:
        end_with_parent(line.fileno())
    known = operations_of(target)
    with line, contextlib.suppress(ConnectionError):
        while (frame := _receive(line)) is not None:
            (op, args), fds = frame
            try:
                if op not in known:
                    raise LookupError(f"no operation is called {op!r}")
                value = known[op](**args, **({"fds": fds} if fds else {}))
                body = msgspec.msgpack.encode([True, value])
            except Exception:  # the parent reports it
                body = msgspec.msgpack.encode([False, traceback.format_exc()])
            line.sendall(HEADER.pack(len(body), 0) + body)


def _receive(line: socket.socket, deadline_s: float | None = None) -> tuple[Any, list[int]] | None:
    """The next message and the file descriptors that came with it; None when the line has ended.

    TimeoutError after ``deadline_s`` of the monotonic clock.
    """
    _wait(line, deadline_s)
    header, fds, _, _ = socket.recv_fds(line, HEADER.size, FDS_MAX)
    header += _read(line, HEADER.size - len(header), deadline_s)
    if len(header) < HEADER.size:
        return None
    size, _ = HEADER.unpack(header)
    if size > FRAME_BYTES_MAX:
        raise RemoteError(f"a frame of {size} bytes, at most {FRAME_BYTES_MAX}")
    body = _read(line, size, deadline_s)
    return (msgspec.msgpack.decode(body), fds) if len(body) == size else None


def _read(line: socket.socket, size: int, deadline_s: float | None) -> bytes:
    """So many bytes, or fewer when the line has ended."""
    data = bytearray()
    while len(data) < size:
        _wait(line, deadline_s)
        more = line.recv(size - len(data))
        if not more:
            break
        data += more
    return bytes(data)


def _wait(line: socket.socket, deadline_s: float | None) -> None:
    if deadline_s is None:
        return
    poll = select.poll()
    poll.register(line, select.POLLIN)
    if not poll.poll(max(0.0, deadline_s - time.monotonic()) * 1000):
        raise TimeoutError
