"""Goal: a host's tmem in memfds is found again by another host, and holds no memory too much."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from backend._service import ffi, lib
from backend.tmem_pool import TmemFiles, TmemPool
from hypervisor.public.units import AREA_BYTES
from tmem import Code, PoolFlag

AREAS = 6
PAGES = 700  # more than one area holds


@pytest.fixture
def host() -> Iterator[Any]:
    out = ffi.new("struct mc_host **")
    assert lib.mc_host_open(out, 16, 0, 0, -1) == 0
    yield out[0]
    lib.mc_host_close(out[0])


@pytest.fixture
def files() -> Iterator[TmemFiles]:
    made = TmemFiles.make(AREAS, compression=True)
    yield made
    os.close(made.state_fd)
    os.close(made.slab_fd)


def test_a_pool_in_files_is_recovered_and_frees_what_it_does_not_hold(
    host: Any, files: TmemFiles
) -> None:
    pool = TmemPool(host, AREAS, None, 0, files=files, compression=True)
    assert host.tmem.is_slab_shared
    for area in range(4):
        pool.tmem.grow(area)
    pool.tmem.open_client(3)
    slot = pool.tmem.new_pool(3, PoolFlag.VERSION | PoolFlag.PERSISTENT)
    pages = np.arange(PAGES * 512, dtype=np.uint64).reshape(PAGES, 512) + 1
    indices = np.arange(PAGES)
    assert (pool.tmem.put_many(3, slot, (1, 1, 1), indices, pages) == Code.DONE).all()
    lib.mc_populate_write(host.tmem.slab, AREAS * AREA_BYTES)  # as if killed while it grew
    pool.close()
    again = TmemPool(host, AREAS, None, 0, files=files, recover=True, compression=True)
    assert again.recovered is not None
    assert (again.recovered.pages, len(again.recovered.areas)) == (PAGES, 2)
    again.free_unheld()
    assert lib.mc_resident_bytes(files.slab_fd) == 2 * AREA_BYTES
    back = np.zeros_like(pages)
    assert (again.tmem.get_many(3, slot, (1, 1, 1), indices, back) == Code.DONE).all()
    assert np.array_equal(back, pages)
    again.close()
