"""The measured processes of ``memcoord bench nbd``: the domain that serves, and the client.

Owns: a block device of a domain; and connections to any NBD server, with the compiled client's
loops on them.
Called by: ``memcoord.benchmarks.nbd.bench``.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from dataclasses import asdict
from pathlib import Path

from memcoord.benchmarks._loops import lib
from memcoord.benchmarks.measured import Measured, ok, run, timed
from memcoord.testbed.runs.remote import operation

CONNECT_S = 20.0
ANSWER_S = 10.0
POLL_S = 0.02
OPTION_GO = 7
GREETING = struct.Struct(">8s8sH")
CLIENT_FLAGS = struct.pack(">I", 3)  # fixed newstyle, no zeroes
OPTION = struct.Struct(">8sII")
REPLY = struct.Struct(">QIII")
ACK = 1


class NbdGuest(Measured):
    """``name`` means a device, or the connection to a server."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        super().__init__(stack)
        self._devices: dict[str, object] = {}
        self._sockets: dict[str, socket.socket] = {}

    @operation
    def serve(self, key: str, name: str, size: int, file: str, path: str) -> bool:
        """Serve a device of domain ``key`` at ``path``; whether its file is written directly."""
        from frontend.blocks import BlockDevice  # here only: the client is no domain

        device = BlockDevice(self._attached[key].domain, size, file, connections=1)
        self._stack.callback(device.close)
        device.serve(path)
        self._devices[name] = device
        return device.direct

    @operation
    def counted(self, name: str) -> dict[str, int]:
        """The statistics of a device."""
        return asdict(self._devices[name].statistics())  # type: ignore[attr-defined]

    @operation
    def connect(self, name: str, path: str) -> None:
        """Be a client of the server at ``path``, which may be just starting."""
        self._sockets[name] = negotiated(Path(path))
        self._stack.callback(self._sockets[name].close)

    @operation
    def fill(self, name: str, size: int, version: int) -> None:
        """Write every block."""
        ok(lib.mcb_nbd_fill(self._sockets[name].fileno(), size, version), f"fill {name}")

    @operation
    def verify(self, name: str, size: int, version: int) -> None:
        """Read every block and look at every byte."""
        ok(lib.mcb_nbd_verify(self._sockets[name].fileno(), size, version), f"verify {name}")

    @operation
    def requests(
        self, name: str, write: bool, count: int, bytes_: int, size: int, seed: int, rest_ns: int
    ) -> bytes:
        """Requests one after the other; their samples."""
        on = (self._sockets[name].fileno(), write)
        return timed(f"requests to {name}", lib.mcb_nbd, on, count, bytes_, size, seed, rest_ns)


def negotiated(path: Path) -> socket.socket:
    """A connection ready for requests; OSError after CONNECT_S, or when the server refuses."""
    deadline = time.monotonic() + CONNECT_S
    while True:
        made = socket.socket(socket.AF_UNIX)
        try:
            made.connect(str(path))
            break
        except OSError:
            made.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_S)
    seconds = struct.pack("ll", int(ANSWER_S), 0)
    for direction in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        made.setsockopt(socket.SOL_SOCKET, direction, seconds)
    made.recv(GREETING.size, socket.MSG_WAITALL)
    made.sendall(CLIENT_FLAGS + OPTION.pack(b"IHAVEOPT", OPTION_GO, 6) + bytes(6))
    kind = 0
    while kind != ACK:
        _, _, kind, count = REPLY.unpack(made.recv(REPLY.size, socket.MSG_WAITALL))
        made.recv(count, socket.MSG_WAITALL)
        if kind >> 31:
            made.close()
            raise OSError(f"{path}: the server refuses: {kind:#x}")
    return made


if __name__ == "__main__":
    run(NbdGuest)
