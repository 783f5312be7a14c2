"""One function call in a child, executed instruction by instruction, looked at after each store.

``every_state`` yields what memory shared with the child would be if the child were killed there. A
single step costs some microseconds, so only the small block is compared after each; what else is
shared is as it is when the block changes.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable, Iterator

import numpy as np

TRACEME, SINGLESTEP = 0, 9
STEPS_MAX = 3_000_000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_libc.ptrace.restype = ctypes.c_long
_libc.memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


def is_permitted() -> bool:
    """Whether this machine lets a process trace its child."""
    child = os.fork()
    if child == 0:
        os._exit(_libc.ptrace(TRACEME, 0, None, None) != 0)
    return os.waitpid(child, 0)[1] == 0


def every_state(block: np.ndarray, call: Callable[[], object]) -> Iterator[np.ndarray]:
    """Run ``call`` in a child. Yields the block as it was before and after each instruction that
    changes it: twice per change, so that the caller sees each with what else is shared now."""
    child = os.fork()
    if child == 0:
        _libc.ptrace(TRACEME, 0, None, None)
        os.kill(os.getpid(), signal.SIGSTOP)
        call()
        os._exit(0)
    before, size = block.copy(), block.nbytes
    here, there = block.ctypes.data, before.ctypes.data
    _, status = os.waitpid(child, 0)
    assert os.WIFSTOPPED(status), status
    try:
        for _ in range(STEPS_MAX):
            assert _libc.ptrace(SINGLESTEP, child, None, None) == 0, ctypes.get_errno()
            _, status = os.waitpid(child, 0)
            if not os.WIFSTOPPED(status):
                assert os.WIFEXITED(status), status
                assert os.WEXITSTATUS(status) == 0
                return
            assert os.WSTOPSIG(status) == signal.SIGTRAP, status
            if _libc.memcmp(here, there, size):
                yield before
                before[:] = block
                yield before
        raise AssertionError("the call does not end")
    finally:
        if os.WIFSTOPPED(status):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
