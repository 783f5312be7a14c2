"""Fixtures of the ABI's tests: the C sources with test-only loops, and processes that may not hang.

The loops are compiled by plain ``cc`` from the checkout, whichever copy of the package is under
test: two ends that exchange a million records must not wait for an interpreter.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cffi import FFI

from hypervisor.public._cdef import COMPILE_ARGS, cdef_of

HERE = Path(__file__).resolve().parent
ABI = HERE.parents[2] / "hypervisor" / "public" / "abi"
NAMES = ("layout", "ring", "bell", "backing")
WATCHDOG_S = 120.0
CC = os.environ.get("CC", "cc").split()


class Loops(NamedTuple):
    """The ring, the bells, the memory calls and ``ring_loops.c``, loaded from one library."""

    ffi: FFI
    lib: Any


def compile_loops(directory: Path, backing: Path) -> Loops:
    library = directory / "loops.so"
    sources = [*(ABI / f"{name}.c" for name in ("ring", "bell", "check")), backing]
    sources.append(HERE / "ring_loops.c")
    options = [*COMPILE_ARGS, "-Werror", "-D_GNU_SOURCE", "-shared", "-fPIC", f"-I{ABI}"]
    subprocess.run([*CC, *options, "-o", library, *sources], check=True, timeout=WATCHDOG_S)
    ffi = FFI()
    for header in [ABI / f"{name}.h" for name in NAMES] + [HERE / "ring_loops.c"]:
        ffi.cdef(cdef_of(header))
    return Loops(ffi, ffi.dlopen(str(library)))


@pytest.fixture(scope="session")
def loops(tmp_path_factory: pytest.TempPathFactory) -> Loops:
    return compile_loops(tmp_path_factory.mktemp("loops"), ABI / "backing.c")


@pytest.fixture(scope="session")
def loops_without_populate(tmp_path_factory: pytest.TempPathFactory) -> Loops:
    """The same where the kernel refuses MADV_POPULATE_*, as those before 5.14 do."""
    directory = tmp_path_factory.mktemp("old_kernel")
    backing = directory / "backing_old.c"
    backing.write_text(
        "#include <sys/mman.h>\n"
        "#undef MADV_POPULATE_READ\n#define MADV_POPULATE_READ 9998\n"
        "#undef MADV_POPULATE_WRITE\n#define MADV_POPULATE_WRITE 9999\n"
        '#include "backing.c"\n',
        encoding="ascii",
    )
    return compile_loops(directory, backing)


class Processes:
    """Children by fork, whose function's result is their exit code; they die with the test."""

    def __init__(self) -> None:
        self._running: set[int] = set()

    def start(self, function: Callable[[], int]) -> int:
        with warnings.catch_warnings():
            # CPython 3.12 warns of threads, which libraries of other tests may have left running;
            # the child uses none of their locks.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            code = 255
            try:
                signal.alarm(int(WATCHDOG_S))
                code = function() & 255
            finally:
                os._exit(code)
        self._running.add(pid)
        return pid

    def kill(self, pid: int) -> None:
        """SIGKILL, then reap; the child's exit code does not matter any more."""
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        self._running.discard(pid)

    def result(self, pid: int) -> int:
        """The exit code of a child that ends by itself, minus the signal that ended it."""
        watch = os.pidfd_open(pid)
        try:
            ended, _, _ = select.select([watch], [], [], WATCHDOG_S)
        finally:
            os.close(watch)
        assert ended, f"child {pid} hangs"
        self._running.discard(pid)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def kill_all(self) -> None:
        for pid in list(self._running):
            self.kill(pid)


@pytest.fixture
def processes() -> Iterator[Processes]:
    children = Processes()
    yield children
    children.kill_all()
