"""A domain that leaves is gone once, and stays gone: its phase, read without the lock, never lies.

A thread in C reads the phase of a slot all the time while its domain is closed: Python is too slow
to see a word that is wrong for 100 ns.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest
from backend_steps import AREA, WAIT_S, spec

from backend._service import ffi
from backend.host import HostBackend
from hypervisor.public.units import DomId

pytestmark = pytest.mark.process
VM1 = DomId(0)
CLOSES = 200
SOURCE = """
#include <stdint.h>
int returns(const uint32_t *phase, int *is_watched, long longest, int reads)
{
    __atomic_store_n(is_watched, 1, __ATOMIC_RELEASE);
    while (__atomic_load_n(phase, __ATOMIC_ACQUIRE))
        if (!longest--)
            return -1;
    while (reads--)
        if (__atomic_load_n(phase, __ATOMIC_ACQUIRE))
            return 1;
    return 0;
}
"""
#: Reads until it is EMPTY: minutes.
LONGEST = 1 << 38
#: Reads of a phase after the first that was EMPTY: longer than a slot takes to be wiped.
READS = 100_000


@pytest.fixture(scope="module")
def watcher(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The library with ``returns``: 1 for a phase that was EMPTY and is something else again."""
    folder: Path = tmp_path_factory.mktemp("watcher")
    (folder / "watcher.c").write_text(SOURCE, encoding="utf-8")
    command = [*os.environ.get("CC", "cc").split(), "-O2", "-shared", "-fPIC", "-o"]
    subprocess.run([*command, folder / "watcher.so", folder / "watcher.c"], check=True, timeout=60)
    library = ctypes.CDLL(str(folder / "watcher.so"))
    library.returns.argtypes = [*2 * [ctypes.c_void_p], ctypes.c_long, ctypes.c_int]
    return library


def test_a_slot_is_empty_once(watcher: ctypes.CDLL) -> None:
    host = HostBackend(total_frames=8 * AREA, slack_frames=2 * AREA, tmem_max_frames=0, spin_ns=0)
    domain = ffi.addressof(host._host.domains, VM1)
    phase = int(ffi.cast("uintptr_t", ffi.addressof(domain[0], "phase")))
    is_watched, returned = ctypes.c_int(), []
    words = (phase, ctypes.addressof(is_watched))
    for _ in range(CLOSES):
        is_watched.value = 0
        host.open(VM1, spec("vm1", boot=1))
        thread = threading.Thread(
            target=lambda: returned.append(watcher.returns(*words, LONGEST, READS)), daemon=True
        )
        thread.start()
        while not is_watched.value:
            time.sleep(0)
        host.close(VM1)
        thread.join()
        assert host.wait_closed(WAIT_S)
    assert returned == [0] * CLOSES
    assert host.stop() == []
