"""The kernel's own way with a program that is short of memory: a control group, and swap below it.

Owns: one memory group for one run, of version 1 or 2 of control groups, and a swap device for the
time of that run: zram, or a file on a disk. Needs root; ``why_no_group`` and the OSError of a
device say what is missing. The swap device has the highest priority while it lives, so what the
program loses goes there; it is removed after each run, with nothing in it.
A group charges the file pages that a program reads first as well as its private memory; a domain
charges private memory only. So the same size is a little tighter for the group.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from memcoord.benchmarks.tmem import zram
from memcoord.testbed.runs import cgroups

#: A device holds all that a program can lose.
SWAP_BYTES = 1 << 28
FILE_CHUNK_BYTES = 1 << 20


def why_no_group() -> str:
    """Why there can be no memory group here; empty when there can."""
    if os.geteuid() != 0:
        return "control groups with swap need root"
    if _parent() is None:
        return "no control group with the memory controller may be made here"
    return ""


def _parent() -> tuple[Path, bool] | None:
    """Where groups may be made, and whether they are of version 1."""
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        mount, _, kind = line.partition(" - ")
        words = kind.split()
        if words[0] == "cgroup" and "memory" in words[2].split(","):
            path = Path(mount.split()[4])
            return (path, True) if os.access(path, os.W_OK) else None
    where = cgroups.place()
    if where is None or "memory" not in where.controllers:
        return None
    return where.path, False


@contextlib.contextmanager
def group(limit_bytes: int) -> Iterator[Path]:
    """A memory group with that limit, for one run; OSError when the kernel refuses it."""
    found = _parent()
    if found is None:
        raise OSError(why_no_group())
    parent, is_first = found
    path = parent / f"memcoord-bench-{os.getpid()}"
    path.mkdir()
    try:
        (path / ("memory.limit_in_bytes" if is_first else "memory.max")).write_text(
            str(limit_bytes)
        )
        yield path
    finally:
        cgroups.remove(path)


@contextlib.contextmanager
def swap_on_zram() -> Iterator[None]:
    """A zram device is swap within the block; OSError."""
    why = zram.why_missing()
    if why:
        raise OSError(why)
    with zram.zram_swap(SWAP_BYTES):
        yield


def make_file(path: Path) -> None:
    """A file that can be swap: blocks that are really there, and the header of mkswap; OSError."""
    with path.open("wb") as file:
        os.fchmod(file.fileno(), 0o600)
        empty = bytes(FILE_CHUNK_BYTES)
        for _ in range(SWAP_BYTES // FILE_CHUNK_BYTES):
            file.write(empty)
        os.fsync(file.fileno())
    zram.write_header(path, SWAP_BYTES)


@contextlib.contextmanager
def swap_on_file(path: Path) -> Iterator[None]:
    """The file is swap within the block; OSError, as where its file system cannot serve it."""
    with zram.swapped_on(path):
        yield
