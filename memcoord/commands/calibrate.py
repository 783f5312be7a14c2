"""``memcoord calibrate``: the cost set of this machine, for ``memcoord sim --costs FILE``.

Owns: what is measured, and the file. Measured are the processors this process may use; transfers
of one page and of several between memory and the disk that the file is written to, and how many the
disk serves at once; put and get of tmem's compiled code; and, in a real domain
(``memcoord.benchmarks.agreement.guest_costs``), a reference, a fault, a first touch and a message
to the hypervisor. ``quantum_us`` is taken from the set ``testbed``. The machine, its load and the
command stand in the file. Called by ``memcoord.cli``.
"""

import concurrent.futures
import contextlib
import mmap
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter_ns

import numpy as np

from hypervisor.public.errors import ConfigError
from hypervisor.public.units import FRAME_BYTES
from memcoord.benchmarks.agreement import guest_costs
from memcoord.simulation.costs import NS_PER_US, costs_of, quantiles
from memcoord.testbed.report.progress import Progress, duration
from memcoord.testbed.runs import facts
from tmem import PoolFlag, Tmem

BASE = "testbed"
FILE_PAGES = 8192
TRANSFERS = 512
MANY_PAGES, MANY_TRANSFERS = 8, 64
READERS = 4
POOL_PAGES, PART_PAGES, ROUNDS = 4096, 256, 20
DEFAULT_OUT = "costs.toml"
DIGITS = 3
PER_LINE = 8


class _Base:
    """Stands for a scenario that says nothing but its cost set."""

    cost_set = BASE


def calibrate_command(
    out: str | None, machine: guest_costs.Machine | None = None
) -> tuple[dict[str, object], list[str]]:
    """Measure and write the file: what was found, and lines that say it.

    ``machine`` stands in for this one's domains. ConfigError when the file cannot be written,
    MemcoordError when the domain fails.
    """
    path = Path(out or DEFAULT_OUT).absolute()
    before = facts.load()
    with Progress() as progress:
        progress.say(f"calibrate: {duration(guest_costs.EXPECTED_S)} on two quiet cores")
        disk = disk_costs(path.parent)
        put_ns, get_ns, refused_ns = tmem_ns()
        progress.begin("calibrate, a domain", guest_costs.PROBES)
        here = contextlib.nullcontext(machine) if machine else guest_costs.real_machine()
        with here as measured:
            guest = guest_costs.measure(measured, put_ns, get_ns, progress.advance)
    found: dict[str, object] = {
        "cpus": facts.cores(),
        "quantum_us": costs_of(_Base).costs.quantum_ns / NS_PER_US,
        "hit_us": _us(guest.hit_ns),
        "fault_us": _us(guest.fault_ns),
        "first_touch_us": _us(guest.first_touch_ns),
        "call_us": _us(guest.call_ns),
        "switch_us": _us(guest.switch_ns),
        "tmem_get_us": _us(guest.get_ns),
        "tmem_put_us": _us(guest.put_ns),
        "tmem_refused_us": _us(refused_ns),
        "tmem_shared": True,
        **disk,
    }
    lines = [f"{key} = {_toml(value)}" for key, value in found.items()]
    try:
        path.write_text("\n".join([*_origin(before), *lines]) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError("--out", f"{path}: {error.strerror}") from None
    return {"out": str(path), **found}, [*lines, f"written to {path}"]


def _origin(load_before: float) -> list[str]:
    """Lines of the file that say how it was measured."""
    machine = f"{facts.cpu_model()}, {facts.cores()} cores, Linux {facts.describe()['kernel']}"
    load = f"load average {load_before:.2f} before, {facts.load():.2f} after"
    return [f"# {machine}", f"# {load}", 'description = "memcoord calibrate"']


def _us(ns: float) -> float:
    return round(ns / NS_PER_US, DIGITS)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        rows = (value[at : at + PER_LINE] for at in range(0, len(value), PER_LINE))
        return "[\n" + "".join(f"  {', '.join(map(str, row))},\n" for row in rows) + "]"
    return str(value)


def disk_costs(directory: Path) -> dict[str, object]:
    """Keys of the disk in a cost set; ConfigError when there can be no file in the directory."""
    with _file(directory) as fd:
        _fill(fd)
        reads, writes = (_times(fd, 1, TRANSFERS, write=write) for write in (False, True))
        more = [_times(fd, MANY_PAGES, MANY_TRANSFERS, write=write) for write in (False, True)]
        depth = _depth(fd)
    each = [
        max(median(many) - median(one), 0.0) / (MANY_PAGES - 1)
        for many, one in zip(more, (reads, writes), strict=True)
    ]
    return {
        "disk_shared": True,
        "disk_depth": depth,
        "disk_read_us": [_us(one) for one in quantiles(reads, "disk_read_us")],
        "disk_write_us": [_us(one) for one in quantiles(writes, "disk_write_us")],
        "disk_read_page_us": _us(each[0]),
        "disk_write_page_us": _us(each[1]),
    }


def _fill(fd: int) -> None:
    with _page() as page:
        for number in range(FILE_PAGES):
            os.pwrite(fd, page, number * FRAME_BYTES)
    os.fsync(fd)


@contextlib.contextmanager
def _page(count: int = 1) -> Iterator[mmap.mmap]:
    """Pages of noise, aligned as a transfer past the page cache wants them."""
    with mmap.mmap(-1, count * FRAME_BYTES) as pages:
        pages[:] = random.Random(1).randbytes(count * FRAME_BYTES)
        yield pages


def _times(fd: int, pages: int, count: int, *, write: bool, seed: int = 1) -> list[int]:
    """Nanoseconds of transfers of so many pages, each at a random place."""
    numbers = random.Random(seed)
    with _page(pages) as buffer:
        call = partial(os.pwritev if write else os.preadv, fd, [buffer])
        places = [numbers.randrange(FILE_PAGES - pages) * FRAME_BYTES for _ in range(count)]
        return [_timed(partial(call, place)) for place in places]


def _depth(fd: int) -> int:
    """Reads that the disk serves at once: how many times as many a few readers get as one."""
    alone_ns = _timed(lambda: _times(fd, 1, TRANSFERS, write=False, seed=2))
    with concurrent.futures.ThreadPoolExecutor(READERS) as readers:
        begin_ns = perf_counter_ns()
        done = [
            readers.submit(_times, fd, 1, TRANSFERS, write=False, seed=number)
            for number in range(READERS)
        ]
        concurrent.futures.wait(done)
        together_ns = perf_counter_ns() - begin_ns
    return min(max(round(READERS * alone_ns / together_ns), 1), READERS)


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


def tmem_ns() -> tuple[int, int, int]:
    """Nanoseconds of a put, of a get and of a put that is refused, in compiled code: the
    median of parts."""
    tmem = Tmem(pages=POOL_PAGES * 2)
    tmem.open_client(0)
    pool = tmem.new_pool(0, PoolFlag.VERSION | PoolFlag.PERSISTENT)
    pages = np.random.default_rng(1).integers(0, 256, POOL_PAGES * FRAME_BYTES, np.uint8)
    name = 0, pool, (0, 0, 0)
    parts = [
        (
            np.arange(at, at + PART_PAGES, dtype=np.uint32),
            pages[at * FRAME_BYTES : (at + PART_PAGES) * FRAME_BYTES],
        )
        for at in range(0, POOL_PAGES, PART_PAGES)
    ]
    times: tuple[list[int], ...] = ([], [], [])
    for _ in range(ROUNDS):
        for kind, (run, target) in enumerate(
            ((tmem.put_many, -1), (tmem.get_many, -1), (tmem.put_many, 0))
        ):
            tmem.clients["mm_target"][0] = target
            times[kind].extend(_timed(partial(run, *name, *part)) for part in parts)
            if kind == 1:
                tmem.flush_object(*name)
    put_ns, get_ns, refused_ns = (
        round(float(np.quantile(one, guest_costs.TYPICAL)) / PART_PAGES) for one in times
    )
    return put_ns, get_ns, refused_ns
