"""Page-reference traces of real programs: which page, read or written, in order.

Owns: the names of the shipped traces and their file format (``testbed/data/README.md``). A trace is
read once by the process that replays it. A workload is named ``sort``, ``cc1``, ``sqlite``, or by
the path of a file in the same format, ending in ``.csv`` or ``.csv.xz``.
"""

from __future__ import annotations

import lzma
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from hypervisor.public.errors import ConfigError

#: Workload name -> file in ``testbed/data``.
SHIPPED = {"sort": "sort_k64.csv.xz", "cc1": "cc1_k256.csv.xz", "sqlite": "sqlite_k128.csv.xz"}
SUFFIXES = (".csv", ".csv.xz")
HEADER = "page,dt,flags"
FLAG_WRITTEN = 1
FLAG_FETCHED = 2
PAGES_MAX = 1 << 24
REFERENCES_MAX = 1 << 26


@dataclass(frozen=True)
class PageTrace:
    """References in order: ``pages[i]`` (0..page_count-1) was written when ``writes[i]`` is 1.

    ``program`` are the pages of the program's own file: executed, and never written.
    """

    name: str
    pages: list[int]
    writes: bytes
    page_count: int
    program: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self.pages)


def check_workload(name: str) -> str:
    """Empty when ``name`` names a shipped trace or a readable file, else what is wrong with it."""
    if name in SHIPPED:
        return ""
    if not name.endswith(SUFFIXES):
        return f"{name!r} is neither one of {', '.join(SHIPPED)} nor a {' or '.join(SUFFIXES)} file"
    return "" if Path(name).is_file() else f"no file {name!r}"


def load_trace(name: str) -> PageTrace:
    """The trace called ``name``; ConfigError (key ``workload``) names file and line of a fault."""
    problem = check_workload(name)
    if problem:
        raise ConfigError("workload", problem)
    source = resources.files("testbed") / "data" / SHIPPED[name] if name in SHIPPED else Path(name)
    data = source.read_bytes()
    try:
        text = (lzma.decompress(data) if source.name.endswith(".xz") else data).decode("ascii")
        return parse_trace(name, text.splitlines())
    except (ValueError, lzma.LZMAError) as error:
        raise ConfigError("workload", f"{source.name}: {error}") from None


def parse_trace(name: str, lines: Iterable[str]) -> PageTrace:
    """The trace in ``lines`` (header first); ValueError names the first bad line."""
    rows = iter(lines)
    if next(rows, "") != HEADER:
        raise ValueError(f"the first line must be {HEADER!r}")
    pages: list[int] = []
    writes = bytearray()
    seen: dict[int, int] = {}  # every flag a page ever had
    for number, row in enumerate(rows, start=2):
        try:
            page, _, flags = map(int, row.split(","))
        except ValueError:
            raise ValueError(f"line {number}: {row[:40]!r} is not 'page,dt,flags'") from None
        if not 0 <= page < PAGES_MAX:
            raise ValueError(f"line {number}: page {page} is not in 0..{PAGES_MAX - 1}")
        if number - 1 > REFERENCES_MAX:
            raise ValueError(f"more than {REFERENCES_MAX} references")
        pages.append(page)
        writes.append(flags & FLAG_WRITTEN)
        seen[page] = seen.get(page, 0) | flags
    if not pages:
        raise ValueError("no references")
    kinds = FLAG_FETCHED | FLAG_WRITTEN
    program = frozenset(page for page, flags in seen.items() if flags & kinds == FLAG_FETCHED)
    return PageTrace(name, pages, bytes(writes), max(pages) + 1, program)
