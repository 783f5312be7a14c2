"""The process of a nursery: it has imported what others need, and forks them.

``python -P -m memcoord.testbed.runs.nursery_main RUN_DIR MODULE...`` with a SOCK_SEQPACKET socket
as stdin imports each MODULE, then takes one ``Birth`` per message, with four files: the standard
ones of the new process, and a pipe that is told how it ended. It answers with a number, the pid or
below 0 an errno, and a pidfd. It ends when the other end of the socket closes; its children see to
themselves. RUN_DIR is for people only: who looks for the processes of a run finds it.
Rules: one thread and nothing of a run in this process, so that a fork takes nothing along. A new
process has its standard files and no other; ``main`` of its module gets the arguments.
"""

from __future__ import annotations

import gc
import os
import select
import socket
import struct
import sys
import threading
import traceback
from importlib import import_module
from typing import NoReturn

import msgspec

from hypervisor.public.errors import InternalError
from memcoord.testbed.runs import confine, hiding

MODULE = "memcoord.testbed.runs.nursery_main"
MESSAGE_BYTES_MAX = 1 << 16
FILES = 4
#: A pid or minus an errno; an exit status, below 0 for a signal.
NUMBER = struct.Struct("=i")
EXIT_FAILED = 1
FIRST_OTHER_FD = 3


class Birth(msgspec.Struct, frozen=True):
    """Run ``main`` of ``module``; ``rights``, if any, as ``confine.become`` takes them."""

    module: str
    arguments: tuple[str, ...]
    rights: str = ""


def serve(line: socket.socket) -> None:
    """Give birth as asked until the other end closes; tell of each end as it comes."""
    children: dict[int, tuple[int, int]] = {}  # pidfd -> pid, pipe
    poll = select.poll()
    poll.register(line, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd in children:
                poll.unregister(fd)
                _bury(fd, *children.pop(fd))
                continue
            data, files, _, _ = socket.recv_fds(
                line, MESSAGE_BYTES_MAX, FILES, socket.MSG_CMSG_CLOEXEC
            )
            if not data:
                return
            if born := _give_birth(line, msgspec.msgpack.decode(data, type=Birth), files):
                pidfd, pid = born
                children[pidfd] = (pid, files[-1])
                poll.register(pidfd, select.POLLIN)


def _give_birth(line: socket.socket, birth: Birth, files: list[int]) -> tuple[int, int] | None:
    """The pidfd and the pid of a new process, told to the other end; None where there is none."""
    standard = files[:-1]
    try:
        pid = os.fork()
    except OSError as error:
        line.send(NUMBER.pack(-(error.errno or 0)))
        for fd in files:
            os.close(fd)
        return None
    if pid == 0:
        _live(birth, standard)
    for fd in standard:
        os.close(fd)
    pidfd = os.pidfd_open(pid)  # it is not waited for yet: the number is still its own
    socket.send_fds(line, [NUMBER.pack(pid)], [pidfd])
    return pidfd, pid


def _bury(pidfd: int, pid: int, told: int) -> None:
    """Tell how a child ended, to whoever still listens."""
    _, status = os.waitpid(pid, 0)
    with os.fdopen(told, "wb") as pipe:
        try:
            pipe.write(NUMBER.pack(os.waitstatus_to_exitcode(status)))
            pipe.flush()
        except BrokenPipeError:
            pipe.detach()
    os.close(pidfd)


def _live(birth: Birth, standard: list[int]) -> NoReturn:
    """Be the new process, to its end."""
    status = EXIT_FAILED
    try:  # nothing of the nursery's is to be undone here
        os.setpgid(0, 0)
        for number, fd in enumerate(standard):
            os.dup2(fd, number)
        os.closerange(FIRST_OTHER_FD, os.sysconf("SC_OPEN_MAX"))
        sys.argv = [birth.module, *birth.arguments]
        if birth.rights:
            hiding.show()  # who makes a namespace writes files in /proc that are its own
            confine.become(birth.rights)
        status = import_module(birth.module).main(sys.argv) or 0
    except SystemExit as end:
        status = _status_of(end)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _status_of(end: SystemExit) -> int:
    if isinstance(end.code, int):
        return end.code
    if end.code is None:
        return 0
    sys.stderr.write(f"{end.code}\n")
    return EXIT_FAILED


def main(argv: list[str]) -> int:
    """Entry point of the process."""
    hiding.hide()
    os.environ.update(hiding.SINGLE_THREADED)
    line = socket.socket(fileno=os.dup(0))
    for module in argv[2:]:
        import_module(module)
    if threading.active_count() > 1 or len(os.listdir("/proc/self/task")) > 1:
        raise InternalError(f"a nursery has threads: {threading.enumerate()}")
    gc.collect()
    gc.freeze()  # what is loaded stays shared with those that are forked
    serve(line)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
