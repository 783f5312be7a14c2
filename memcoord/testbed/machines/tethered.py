"""Become a program that ends with its parent: ``tethered.py PARENT PROGRAM ARGUMENTS...``

Owns: one promise. The kernel kills this process when its parent ends, however that ends; a parent
that has ended before the promise was made is noticed. The file runs by itself, as ``python -I -S``,
and imports nothing of the project, so that it becomes the program within 20 ms. Used by
``process``. The parent is the *thread* that started it: that thread must stay.
"""

import ctypes
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1
EXIT_ORPHANED, EXIT_NO_PROGRAM = 70, 127


def main(arguments: list[str]) -> int:
    """Become the program; the exit code where that is not possible."""
    parent, program = arguments[0], arguments[1:]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # it would hold the memory of a guest
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != int(parent):
        return EXIT_ORPHANED
    try:
        os.execvp(program[0], program)
    except OSError as error:
        sys.stderr.write(f"{program[0]}: {error.strerror}\n")
    return EXIT_NO_PROGRAM


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
