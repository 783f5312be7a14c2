"""A fork server: it has imported all a guest needs, so a domain's process starts in milliseconds.

``python -P -m memcoord.benchmarks.chaos.zygote RUN_DIR`` with a SOCK_SEQPACKET socket as stdin
takes one ``Life`` (msgpack) per message, forks, and answers with a pidfd of the child beside one
byte. It ends with the other end of the socket, and all its children with it.
Rules: one thread and no domain in this process, so that a fork takes nothing along.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

import msgspec
import zmq  # noqa: F401  what a child would import is imported before the fork

import frontend.handshake
import frontend.relay  # noqa: F401
from memcoord.benchmarks.chaos import guest
from memcoord.benchmarks.chaos.account import Slot
from memcoord.benchmarks.chaos.plan import Life

MESSAGE_BYTES_MAX = 4096
PR_SET_PDEATHSIG = 1
EXIT_FAILED = 70


def _child(run_dir: Path, life: Life, parent: int) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == parent:  # it may have ended before the line above
        guest.live(run_dir, life, Slot(run_dir, life.slot))


def _spawn(run_dir: Path, line: socket.socket, data: bytes) -> None:
    life, parent = msgspec.msgpack.decode(data, type=Life), os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            line.close()
            _child(run_dir, life, parent)
        finally:
            os._exit(0)
    pidfd = os.pidfd_open(pid)  # it is not reaped yet, so the number is still its own
    socket.send_fds(line, [b"\0"], [pidfd])
    os.close(pidfd)


def _reap() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def main(argv: list[str]) -> int:
    """Serve the socket that is stdin until its other end closes."""
    with socket.socket(fileno=os.dup(0)) as line:
        while data := line.recv(MESSAGE_BYTES_MAX):
            _spawn(Path(argv[1]), line, data)
            _reap()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
