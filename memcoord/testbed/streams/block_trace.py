"""Block traces: any CSV file with a column ``page``, one row one reference.

Owns: reading it as references to a file's pages, numbered in order of first use: clean pages, which
cleancache keeps. Numbers in the file need not be dense.
"""

import csv
import lzma
from pathlib import Path

import numpy as np

from hypervisor.public.errors import ConfigError
from memcoord.testbed.scenarios.workloads import BlockTraceWorkload
from memcoord.testbed.streams.page_trace import read_text
from memcoord.testbed.streams.stream import Stream

COLUMN = "page"


def block_trace(work: BlockTraceWorkload, seed: int) -> Stream:
    """The file's references, ``repeat`` times; ConfigError when it cannot be read."""
    del seed
    path = Path(work.file)
    try:
        numbers = _column(read_text(path.read_bytes(), path.name).splitlines(), work.references)
    except (OSError, ValueError, lzma.LZMAError, EOFError) as error:
        raise ConfigError("workload", f"{path.name}: {error}") from None
    _, first, dense = np.unique(numbers, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))
    pages = np.tile(order[dense].astype(np.int32), work.repeat)
    writes, program = np.zeros(len(pages), dtype=np.uint8), np.ones(len(first), dtype=np.bool_)
    return Stream(path.name, pages, writes, len(first), program)


def _column(lines: list[str], most: int) -> np.ndarray:
    header = next(csv.reader(lines[:1]), [])
    if COLUMN not in header:
        raise ValueError(f"the first line names no column {COLUMN!r}")
    rows = lines[1 : most + 1] if most else lines[1:]
    if not rows:
        raise ValueError("no references")
    place = header.index(COLUMN)
    return np.loadtxt(rows, delimiter=",", dtype=np.int64, usecols=place, ndmin=1, comments=None)
