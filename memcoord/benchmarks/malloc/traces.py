"""Recorded traces of allocations: the file, and those that are shipped.

Owns: the format. A file is lzma of columns, each of ``count`` numbers: calls (uint8,
``enum mcb_call``), places (uint32) and sizes (uint32), little-endian. A place is where the program
keeps a block: it is free again when the block is. ``memcoord.benchmarks.malloc.record`` writes such
files.
"""

from __future__ import annotations

import lzma
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memcoord.benchmarks._loops import lib

FOLDER = Path(__file__).parent / "traces"
SUFFIX = ".xz"
MALLOC, FREE, REALLOC, CALLOC = lib.MCB_MALLOC, lib.MCB_FREE, lib.MCB_REALLOC, lib.MCB_CALLOC
_BYTES_A_CALL = 1 + 4 + 4


@dataclass(frozen=True)
class Trace:
    """Calls of one program, in order."""

    calls: NDArray[np.uint8]
    places: NDArray[np.uint32]
    sizes: NDArray[np.uint32]

    @property
    def held(self) -> int:
        """Blocks that live at once, at most."""
        return int(self.places.max()) + 1

    def kept_bytes(self) -> int:
        """Bytes of the blocks that are never freed."""
        sizes = np.zeros(self.held, np.uint64)
        for call, place, size in zip(self.calls, self.places, self.sizes, strict=True):
            sizes[place] = 0 if call == FREE else size
        return int(sizes.sum())


def names() -> tuple[str, ...]:
    """The traces that are shipped."""
    return tuple(sorted(path.stem for path in FOLDER.glob(f"*{SUFFIX}")))


def read(path: Path) -> Trace:
    """The trace in a file; ValueError when it is none."""
    data = lzma.decompress(path.read_bytes())
    count, rest = divmod(len(data), _BYTES_A_CALL)
    if rest or not count:
        raise ValueError(f"{path}: {len(data)} bytes are no trace of allocations")
    calls = np.frombuffer(data, np.uint8, count)
    places = np.frombuffer(data, "<u4", count, count)
    sizes = np.frombuffer(data, "<u4", count, count + 4 * count)
    return Trace(calls, places, sizes)


def shipped(name: str) -> Trace:
    """The trace of that name."""
    return read(FOLDER / f"{name}{SUFFIX}")


def write(path: Path, trace: Trace) -> None:
    """Write a file."""
    data = trace.calls.tobytes() + trace.places.tobytes() + trace.sizes.tobytes()
    path.write_bytes(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))
