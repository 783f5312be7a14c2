"""What a process of a run gives up or takes before anything else; nothing else is imported here.

Owns: ``hide`` and its variable, ``gain_nothing``, ``raise_files_limit``, what keeps numpy to one
thread, and where our packages are. Called by the processes of a run, at their start, and by
``confine``, which takes much more from a domain.
"""

import ctypes
import os
import resource
from pathlib import Path

#: Set to 1: processes may be traced, by gdb or perf, and leave cores.
DEBUG_VARIABLE = "MEMCOORD_DEBUG"
NOFILE_MAX = 65536
#: Of a process that is forked: numpy is to start no threads in it.
SINGLE_THREADED = {"OPENBLAS_NUM_THREADS": "1"}
ROOT = Path(__file__).resolve().parents[3]

_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38


def is_debugging() -> bool:
    """Whether DEBUG_VARIABLE is set."""
    return os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0")


def hide() -> bool:
    """Let no other process of this user trace this one, unless DEBUG_VARIABLE is set; whether."""
    if is_debugging():
        return False
    return bool(ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == 0)


def show() -> None:
    """Undo ``hide`` for a time: what lies in /proc of a hidden process is not this user's."""
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)


def gain_nothing() -> None:
    """Let no program that this process starts have more rights than it has itself."""
    ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def raise_files_limit() -> None:
    """As many file descriptors as this user may have, at most NOFILE_MAX."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = NOFILE_MAX if hard == resource.RLIM_INFINITY else min(hard, NOFILE_MAX)
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
