"""An NBD client of our own, for tests, which send what no client should.

Owns: the negotiation (fixed newstyle) and single requests, written from the protocol's text, not
from the server. One thread. A wait longer than the socket's timeout raises TimeoutError.
"""

from __future__ import annotations

import socket
import struct
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple, Self

TIMEOUT_S = 30.0
MAGIC = b"NBDMAGIC"
OPTION_MAGIC = b"IHAVEOPT"
REPLY_MAGIC = 0x3E889045565A9
REQUEST_MAGIC, SIMPLE_MAGIC, CHUNK_MAGIC = 0x25609513, 0x67446698, 0x668E33EF
FIXED_NEWSTYLE, NO_ZEROES = 1, 2
EXPORT_BYTES = 10  # of the answer to EXPORT_NAME, without zeroes


class Option(IntEnum):
    """Options of the negotiation."""

    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8


class Command(IntEnum):
    """Kinds of requests."""

    READ = 0
    WRITE = 1
    DISCONNECT = 2
    FLUSH = 3
    TRIM = 4
    CACHE = 5
    WRITE_ZEROES = 6


class NbdError(OSError):
    """The server answered with an error; ``errno`` is NBD's, which are Linux'."""


class Reply(NamedTuple):
    """An answer of the negotiation: its kind, and its bytes."""

    kind: int
    data: bytes


class NbdClient:
    """A connection to the NBD server at a Unix socket, ready for requests when made.

    ``go`` False: after the greeting the caller negotiates by itself.
    """

    def __init__(
        self, path: str | Path, name: str = "", *, structured: bool = False, go: bool = True
    ) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(TIMEOUT_S)
        self.structured = False
        self.size = self.flags = self._handle = 0
        self._reads: set[int] = set()
        try:
            self.socket.connect(str(path))
            greeting = self.receive(18)
            if greeting[:16] != MAGIC + OPTION_MAGIC:
                raise NbdError(71, "no NBD server of the newstyle")
            self.socket.sendall(struct.pack(">I", FIXED_NEWSTYLE | NO_ZEROES))
            if go:
                self._go(name, structured)
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up, without a word."""
        self.socket.close()

    def receive(self, count: int) -> bytes:
        """Exactly ``count`` bytes; EOFError when the server hangs up before."""
        found = bytearray(count)
        view, have = memoryview(found), 0
        while have < count:
            got = self.socket.recv_into(view[have:])
            if got == 0:
                raise EOFError(f"the server hung up after {have} of {count} bytes")
            have += got
        return bytes(found)

    # Negotiation

    def option(self, option: int, data: bytes = b"") -> list[Reply]:
        """Send an option; the answers up to the last one, which says yes or no."""
        self.socket.sendall(OPTION_MAGIC + struct.pack(">II", option, len(data)) + data)
        replies: list[Reply] = []
        while not replies or not (replies[-1].kind == 1 or replies[-1].kind >> 31):
            magic, of, kind, count = struct.unpack(">QIII", self.receive(20))
            if (magic, of) != (REPLY_MAGIC, option):
                raise NbdError(71, "the answer is to another option")
            replies.append(Reply(kind, self.receive(count)))
        return replies

    def _go(self, name: str, structured: bool) -> None:
        if structured:
            self.structured = self.option(Option.STRUCTURED_REPLY)[-1].kind == 1
        replies = self.option(Option.GO, go_data(name))
        if replies[-1].kind != 1:
            raise NbdError(2, f"no export {name!r}: {replies[-1].kind:#x}")
        for reply in replies:
            if reply.kind == 3 and reply.data[:2] == bytes(2):
                self.size, self.flags = struct.unpack(">QH", reply.data[2:12])

    # Requests

    def request(
        self, command: int, offset: int = 0, count: int = 0, data: bytes = b"", flags: int = 0
    ) -> int:
        """Send a request; its handle."""
        self._handle += 1
        if command == Command.READ:
            self._reads.add(self._handle)
        head = struct.pack(">IHHQQI", REQUEST_MAGIC, flags, command, self._handle, offset, count)
        self.socket.sendall(head + data)
        return self._handle

    def answer(self, handle: int, count: int = 0) -> bytes:
        """The ``count`` bytes of the answer to ``handle``; NbdError when it is an error."""
        if self.structured and handle in self._reads:
            return self._chunks(handle, count)
        magic, error, of = struct.unpack(">IIQ", self.receive(16))
        if (magic, of) != (SIMPLE_MAGIC, handle):
            raise NbdError(71, f"the answer is to {of}, not to {handle}")
        if error:
            raise NbdError(error, "answered by the server")
        return self.receive(count)

    def _chunks(self, handle: int, count: int) -> bytes:
        first, found, error = -1, bytearray(count), 0
        covered, done = 0, False
        while not done:
            magic, flags, kind, of, length = struct.unpack(">IHHQI", self.receive(20))
            if (magic, of) != (CHUNK_MAGIC, handle):
                raise NbdError(71, f"the answer is to {of}, not to {handle}")
            data, done = self.receive(length), bool(flags & 1)
            if kind == 0x8001:
                error = struct.unpack(">I", data[:4])[0]
            elif kind == 1:
                at = struct.unpack(">Q", data[:8])[0]
                first = at if first < 0 else first
                found[at - first : at - first + length - 8] = data[8:]
                covered += length - 8
        if error:
            raise NbdError(error, "answered by the server")
        if covered != count:
            raise NbdError(71, f"{covered} of {count} bytes were answered")
        return bytes(found)

    def read(self, offset: int, count: int) -> bytes:
        """``count`` bytes of the device."""
        return self.answer(self.request(Command.READ, offset, count), count)

    def write(self, offset: int, data: bytes, flags: int = 0) -> None:
        """Write bytes to the device."""
        self.answer(self.request(Command.WRITE, offset, len(data), data, flags))

    def trim(self, offset: int, count: int) -> None:
        """Discard a range."""
        self.answer(self.request(Command.TRIM, offset, count))

    def write_zeroes(self, offset: int, count: int) -> None:
        """Zero a range."""
        self.answer(self.request(Command.WRITE_ZEROES, offset, count))

    def flush(self) -> None:
        """Have what was written kept."""
        self.answer(self.request(Command.FLUSH))


def go_data(name: str) -> bytes:
    """What follows INFO and GO: a name, and no kind of information that is asked for."""
    encoded = name.encode()
    return struct.pack(">I", len(encoded)) + encoded + bytes(2)
