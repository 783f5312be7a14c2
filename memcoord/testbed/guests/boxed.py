"""The inside of ``memcoord exec --sandbox``: attach, run the program, tell how it ended.

``python -P -m memcoord.testbed.guests.boxed ORDERS`` with ``Orders`` as JSON. Standard files and
directory are the caller's. Over its line, a socket to the caller, come the numbers of signals for
the program, a byte each, and go one answer: an ``Outcome`` as JSON, or a line that says why not.
The line's hang-up ends everything.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading

import msgspec

from frontend.pager.program import environment, in_domain, run
from hypervisor.public.errors import MemcoordError
from memcoord.testbed.runs.launcher import EXIT_ORPHANED, without_ours
from memcoord.testbed.runs.sandbox import helper_of


class Orders(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to run and where; ``fds`` and ``directory`` are those of the ``Sandbox``."""

    argv: list[str]
    path: str
    name: str
    max_frames: int
    mechanism: str
    line: int
    fds: tuple[int, int]
    directory: str


def _obey(line: socket.socket) -> None:
    """Signals that come over the line are sent on by whoever waits for the program."""
    while number := line.recv(1):
        os.kill(os.getpid(), number[0])
    os._exit(EXIT_ORPHANED)


def main(argv: list[str]) -> int:
    """Entry point of the process."""
    orders = msgspec.json.decode(argv[1], type=Orders)
    line = socket.socket(fileno=orders.line)
    os.set_inheritable(orders.line, False)
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # until there is a program to send them on to
    threading.Thread(target=_obey, args=(line,), daemon=True).start()
    outer = {**without_ours(os.environ), "TMPDIR": orders.directory}
    try:
        with in_domain(
            orders.path,
            orders.name,
            orders.max_frames,
            orders.mechanism,
            orders.directory,
            directory=orders.directory,
            helper=helper_of(orders.fds),
        ) as (domain, family):
            preloaded = environment(outer, family)
            outcome = run(lambda: subprocess.Popen(orders.argv, env=preloaded), domain, family)
    except (MemcoordError, OSError) as error:
        line.send(str(error).encode())
        return 1
    line.send(msgspec.json.encode(outcome))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
