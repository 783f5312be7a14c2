"""Run a rival's server, a program that is not ours.

``python -m memcoord.benchmarks.server COMMAND...``

Owns: one promise: the server ends with the process of the bench, however that ends. This process
becomes the command, so that its id in the manifest stays true.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(command: list[str]) -> None:
    """Become ``command``; OSError when it cannot be run."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
