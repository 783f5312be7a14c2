"""A trace in our own form, made of one in any form: ``page,dt,flags``, as the shipped ones are.

Owns: the conversion, and the shorter trace with the same LRU misses (``abi/phases.h``). The file is
packed as its name says; it appears under its name when it is whole. Nothing is held but a block,
a number for every page, and one phase.
"""

import gzip
import lzma
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from hypervisor.public.errors import ConfigError
from memcoord.testbed.traces._table import ffi, lib
from memcoord.testbed.traces.numbering import NumberedTable, Part
from memcoord.testbed.traces.table import Table
from memcoord.testbed.traces.unpacked import ZSTD_MISSING

SUFFIXES = (".csv", ".csv.gz", ".csv.xz", ".csv.zst")
HEADER = b"page,dt,flags\n"
#: Pages of a phase: more make a shorter trace, which is exact for fewer sizes of memory.
PHASE_PAGES_MAX = 1 << 20


@dataclass(frozen=True)
class Converted:
    """What was written."""

    path: str
    references: int
    rows: int
    pages: int


def check_name(path: Path, key: str) -> None:
    """ConfigError when no trace can be written under this name."""
    if not path.name.endswith(SUFFIXES):
        raise ConfigError(key, f"{path.name!r} must end in {', '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise ConfigError(key, f"no folder {str(path.parent)!r}")
    if path.name.endswith(".zst"):
        try:
            import zstandard
        except ModuleNotFoundError:
            raise ConfigError(key, ZSTD_MISSING) from None
        del zstandard


def convert(table: Table, path: Path, *, phase_pages: int = 0, most: int = 0) -> Converted:
    """Write the first ``most`` references of ``table`` (0: all) to ``path``.

    With ``phase_pages`` only what LRU memories of at least so many pages need; a memory of fewer is
    approximated. Without, a row per reference. ConfigError as ``Table.rows``.
    """
    numbered = NumberedTable(table, most)
    rows = _Phases(phase_pages) if phase_pages else _Plain()
    references = written = 0
    with _packed(path) as file:
        file.write(HEADER)
        for part in numbered.parts(may_add=True):
            references += len(part[0])
            written += rows.write(part, numbered.page_count, file)
        written += rows.end(file)
    return Converted(str(path), references, written, numbered.page_count)


class _Rows:
    """Room for rows, and their text."""

    def __init__(self) -> None:
        self._columns: list[Any] = []
        self.rows = ffi.new("struct mc_phase_rows *")

    def make_room(self, count: int) -> None:
        """Have room for ``count`` rows."""
        if self._columns and len(self._columns[0]) >= count:
            return
        self._columns = [np.empty(count, np.uint64) for _ in range(3)]
        into = [ffi.from_buffer("uint64_t[]", column) for column in self._columns]
        self.rows.pages, self.rows.dts, self.rows.flags = into

    def fill(self, part: Part) -> None:
        """The references of ``part``, a row for each."""
        count = len(part[0])
        for column, values in zip(self._columns, (part[0], 1, part[1]), strict=True):
            column[:count] = values

    def write(self, count: int, file: IO[bytes]) -> int:
        """Write the first ``count`` rows; returns how many those are."""
        if count:
            text = bytearray(count * lib.MC_PHASE_LINE_BYTES_MAX)
            length = lib.mc_phase_text(self.rows, count, ffi.from_buffer("uint8_t[]", text))
            file.write(memoryview(text)[:length])
        return count


class _Plain:
    """A row for every reference."""

    def __init__(self) -> None:
        self._rows = _Rows()

    def write(self, part: Part, page_count: int, file: IO[bytes]) -> int:
        del page_count
        self._rows.make_room(len(part[0]))
        self._rows.fill(part)
        return self._rows.write(len(part[0]), file)

    def end(self, file: IO[bytes]) -> int:
        del file
        return 0


class _Phases:
    """The first and the last reference of a page in every phase of ``pages`` different pages."""

    def __init__(self, pages: int) -> None:
        self._rows = _Rows()
        self._pages = pages
        self._events = ffi.new("struct mc_phase_event[]", 2 * pages)
        self._places = np.zeros(0, np.uint32)
        self._phases = ffi.new("struct mc_phases *")
        self._phases.pages_max, self._phases.events = pages, self._events

    def write(self, part: Part, page_count: int, file: IO[bytes]) -> int:
        if page_count > len(self._places):
            grown = np.zeros(1 << page_count.bit_length(), np.uint32)
            grown[: len(self._places)] = self._places
            self._places = grown
            self._phases.places = ffi.from_buffer("uint32_t[]", grown)
        count = len(part[0])
        self._rows.make_room(count + 2 * self._pages)
        pages, flags = (np.ascontiguousarray(column) for column in part)
        into = ffi.from_buffer("int32_t[]", pages), ffi.from_buffer("uint8_t[]", flags)
        return self._rows.write(
            lib.mc_phases_take(self._phases, *into, count, self._rows.rows), file
        )

    def end(self, file: IO[bytes]) -> int:
        self._rows.make_room(2 * self._pages)
        return self._rows.write(lib.mc_phases_end(self._phases, self._rows.rows), file)


@contextmanager
def _packed(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to, which is ``path`` when all went well, and is gone otherwise."""
    unfinished = path.with_name(f".{path.name}.part")
    try:
        with _opened(unfinished, path.name) as file:
            yield file
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def _opened(path: Path, name: str) -> Iterator[IO[bytes]]:
    if name.endswith(".xz"):
        with lzma.open(path, "wb") as packed:
            yield packed
    elif name.endswith(".gz"):
        with gzip.open(path, "wb") as packed:
            yield cast(IO[bytes], packed)
    elif name.endswith(".zst"):
        import zstandard

        with path.open("wb") as plain, zstandard.ZstdCompressor().stream_writer(plain) as packed:
            yield packed
    else:
        with path.open("wb") as plain:
            yield plain
