"""A pool taken over from a process that was killed, seen from Python: ``tmem.rebuild`` does it.

Owns: ``recover_state``, and what it found. Used by ``tmem.pool``.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from tmem.codes import TmemBroken
from tmem.compiled import calling, load
from tmem.state import State
from tmem.units import RECOVERY


@dataclass(frozen=True)
class Recovered:
    """What a rebuild found."""

    pages: int  # persistent ones, all there
    ephemeral_pages: int  # dropped
    clients: tuple[int, ...]  # open
    areas: tuple[int, ...]  # of the slab, held: all others hold nothing
    seconds: float


def recover_state(state: State) -> Recovered:
    """Make the pool in this state whole. TmemBroken when its words contradict each other."""
    rebuild = calling(load(RECOVERY)["rebuild"], 3)
    start = time.perf_counter()
    header = state.header
    ephemeral = int(header["ephemeral_pages"])
    cells = np.zeros(len(state.cells), np.uint8)
    frames = np.zeros(len(state.frames), np.uint8)
    for buckets in (state.page_buckets, state.object_buckets, state.hash_buckets):
        buckets[:] = 0
    broken = int(rebuild(state.address, cells.ctypes.data, frames.ctypes.data))
    if broken:
        raise TmemBroken(f"the pool to recover is damaged: cell {broken} contradicts another")
    return Recovered(
        int(header["pages"]),
        ephemeral,
        tuple(np.flatnonzero(state.clients["is_open"]).tolist()),
        tuple(np.flatnonzero(state.areas["size"]).tolist()),
        time.perf_counter() - start,
    )
