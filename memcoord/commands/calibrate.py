"""``memcoord calibrate``: the cost set of this machine, for ``memcoord sim --costs FILE``.

Owns: what is measured, and the file. Measured are the processors this process may use, transfers
of 4 KiB between memory and the disk that the file is written to, put and get of tmem's compiled
code, and the first touch of a page. What a fault costs on top of that is the guest's program and
the ring; it is taken from the set ``testbed``. Called by ``memcoord.cli``.
"""

import contextlib
import mmap
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from time import perf_counter_ns

import numpy as np

from hypervisor.public.errors import ConfigError
from hypervisor.public.units import FRAME_BYTES
from memcoord.simulation.costs import NS_PER_US, costs_of, quantiles
from tmem import PoolFlag, Tmem

BASE = "testbed"
FILE_PAGES = 8192
TRANSFERS = 512
POOL_PAGES, ROUNDS = 4096, 9
DEFAULT_OUT = "costs.toml"


class _Base:
    """Stands for a scenario that says nothing but its cost set."""

    cost_set = BASE


def calibrate_command(out: str | None) -> tuple[dict[str, object], list[str]]:
    """Measure and write the file: what was found, and lines that say it.

    ConfigError when the file cannot be written.
    """
    path = Path(out or DEFAULT_OUT).absolute()
    reads, writes = disk_ns(path.parent)
    put_ns, get_ns = tmem_ns()
    base = costs_of(_Base).costs
    found: dict[str, object] = {
        "cpus": len(os.sched_getaffinity(0)),
        "quantum_us": base.quantum_ns / NS_PER_US,
        "fault_us": base.fault_ns / NS_PER_US,
        "first_touch_us": touch_ns() / NS_PER_US,
        "tmem_get_us": get_ns / NS_PER_US,
        "tmem_put_us": put_ns / NS_PER_US,
        "disk_shared": True,
        "disk_read_us": [one / NS_PER_US for one in quantiles(reads, "disk_read_us")],
        "disk_write_us": [one / NS_PER_US for one in quantiles(writes, "disk_write_us")],
    }
    lines = [f"{key} = {_toml(value)}" for key, value in found.items()]
    said = f'description = "memcoord calibrate; fault_us and quantum_us are those of {BASE}"'
    try:
        path.write_text("\n".join([said, *lines]) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError("--out", f"{path}: {error.strerror}") from None
    return {"out": str(path), **found}, [*lines, f"written to {path}"]


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]"
    return str(value)


def disk_ns(directory: Path) -> tuple[list[int], list[int]]:
    """Nanoseconds of random reads and writes of a page, past the page cache where that can be."""
    numbers = random.Random(1)
    page = mmap.mmap(-1, FRAME_BYTES)
    page[:] = numbers.randbytes(FRAME_BYTES)
    with _file(directory) as fd:
        for number in range(FILE_PAGES):
            os.pwrite(fd, page, number * FRAME_BYTES)
        os.fsync(fd)
        at = [numbers.randrange(FILE_PAGES) * FRAME_BYTES for _ in range(TRANSFERS)]
        reads = [_timed(partial(os.preadv, fd, [page], where)) for where in at]
        writes = [_timed(partial(os.pwrite, fd, page, where)) for where in at]
    page.close()
    return reads, writes


@contextlib.contextmanager
def _file(directory: Path) -> Iterator[int]:
    """A file without a name in a directory; ConfigError when there can be none."""
    try:
        with tempfile.NamedTemporaryFile(dir=directory) as named:
            try:
                fd = os.open(named.name, os.O_RDWR | os.O_DIRECT)
            except OSError:  # a file system in memory
                fd = os.open(named.name, os.O_RDWR)
            try:
                yield fd
            finally:
                os.close(fd)
    except OSError as error:
        raise ConfigError("--out", f"{directory}: {error.strerror}") from None


def _timed(call: Callable[[], object]) -> int:
    begin = perf_counter_ns()
    call()
    return perf_counter_ns() - begin


def tmem_ns() -> tuple[int, int]:
    """Nanoseconds of a put and of a get in compiled code: the least of a few rounds."""
    tmem = Tmem(pages=POOL_PAGES * 2)
    tmem.open_client(0)
    pool = tmem.new_pool(0, PoolFlag.VERSION)
    pages = np.random.default_rng(1).integers(0, 256, POOL_PAGES * FRAME_BYTES, np.uint8)
    indices = np.arange(POOL_PAGES, dtype=np.uint32)
    puts, gets = [], []
    for _ in range(ROUNDS):
        puts.append(_timed(lambda: tmem.put_many(0, pool, (0, 0, 0), indices, pages)))
        gets.append(_timed(lambda: tmem.get_many(0, pool, (0, 0, 0), indices, pages)))
    return round(min(puts) / POOL_PAGES), round(min(gets) / POOL_PAGES)


def touch_ns() -> int:
    """Nanoseconds until a page of new memory has been written to, the kernel's part of a fault."""
    memory = mmap.mmap(-1, POOL_PAGES * FRAME_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pages = np.frombuffer(memory, np.uint8)[::FRAME_BYTES]
    ns = _timed(lambda: pages.fill(1))
    return round(ns / POOL_PAGES)
