"""Page-reference traces of real programs: which page, read or written, in order.

Owns: the file format (``memcoord/testbed/data/README.md``) and turning it into a stream. A trace is
named ``sort``, ``cc1``, ``sqlite``, or by the path of a file of the same format, ``.csv`` or
``.csv.xz``.
"""

import lzma
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hypervisor.public.errors import ConfigError
from memcoord.testbed.scenarios.workloads import SHIPPED_TRACES, PageTraceWorkload, check_trace
from memcoord.testbed.streams.stream import Stream

HEADER = "page,dt,flags"
COLUMNS = 3
FLAG_WRITTEN = 1
FLAG_FETCHED = 2
PAGES_MAX = 1 << 24
REFERENCES_MAX = 1 << 26


def page_trace(work: PageTraceWorkload, seed: int) -> Stream:
    """The trace, ``repeat`` times; the seed changes nothing."""
    del seed
    once = load_trace(work.trace)
    if len(once) * work.repeat > REFERENCES_MAX:
        raise ConfigError("workload.repeat", f"makes more than {REFERENCES_MAX} references")
    pages, writes = np.tile(once.pages, work.repeat), np.tile(once.writes, work.repeat)
    program = once.program if work.program_file else np.zeros(once.page_count, dtype=np.bool_)
    return Stream(work.trace, pages, writes, once.page_count, program)


def load_trace(name: str) -> Stream:
    """The trace called ``name``; ConfigError (key ``workload``) names file and line of a fault.

    ``program`` are the pages of the program's own file: executed, and never written.
    """
    problem = check_trace(name)
    if problem:
        raise ConfigError("workload", problem)
    if name in SHIPPED_TRACES:
        source = resources.files("memcoord.testbed") / "data" / SHIPPED_TRACES[name]
    else:
        source = Path(name)
    try:
        return parse_trace(name, read_text(source.read_bytes(), source.name).splitlines())
    except (ValueError, lzma.LZMAError, EOFError) as error:
        raise ConfigError("workload", f"{source.name}: {error}") from None


def read_text(data: bytes, file_name: str) -> str:
    """The text of a ``.csv`` or ``.csv.xz`` file."""
    return (lzma.decompress(data) if file_name.endswith(".xz") else data).decode("ascii")


def parse_trace(name: str, lines: list[str]) -> Stream:
    """The trace in ``lines`` (header first); ValueError names the first bad line."""
    if not lines or lines[0] != HEADER:
        raise ValueError(f"the first line must be {HEADER!r}")
    if len(lines) == 1:
        raise ValueError("no references")
    if len(lines) - 1 > REFERENCES_MAX:
        raise ValueError(f"more than {REFERENCES_MAX} references")
    rows = parse_numbers(lines, COLUMNS, HEADER)
    pages = rows[:, 0]
    beyond = np.flatnonzero((pages < 0) | (pages >= PAGES_MAX))
    if len(beyond):
        first = int(beyond[0])
        raise ValueError(f"line {first + 2}: page {pages[first]} is not in 0..{PAGES_MAX - 1}")
    page_count = int(pages.max()) + 1
    seen = np.zeros(page_count, dtype=np.int64)  # every flag a page ever had
    np.bitwise_or.at(seen, pages, rows[:, 2])
    writes = (rows[:, 2] & FLAG_WRITTEN).astype(np.uint8)
    program = seen & (FLAG_FETCHED | FLAG_WRITTEN) == FLAG_FETCHED
    return Stream(name, pages.astype(np.int32), writes, page_count, program)


def parse_numbers(lines: list[str], columns: int, header: str) -> NDArray[np.int64]:
    """The rows below the header, whole numbers; ValueError names the first bad line."""
    try:
        rows: NDArray[np.int64] = np.loadtxt(
            lines[1:], delimiter=",", dtype=np.int64, ndmin=2, comments=None
        )
        good = rows.shape == (len(lines) - 1, columns)
    except (ValueError, OverflowError):
        good = False
    if good:
        return rows
    for number, line in enumerate(lines[1:], start=2):
        cells = line.split(",")
        try:
            good = len(cells) == columns and all(abs(int(cell)) < 1 << 63 for cell in cells)
        except ValueError:
            good = False
        if not good:
            raise ValueError(f"line {number}: {line[:40]!r} is not {header!r}")
    raise ValueError(f"the lines are not all {header!r}")
