"""The forms of a file of references: what tells them apart, and how a block of each is read.

Owns: a reader per form. ``Fields`` are rows of a text file, with names in a first line (csv) or
without (text); ``Lines`` are those of a program that traces memory (lackey, perf); ``Records`` have
a fixed size (oracleGeneral and vscsi of libCacheSim). ``abi/table.h`` and ``abi/tracer.h`` say what
a row is. A reader gives whole columns of a block, and raises ``BadRow`` with the place of a wrong
one. Called by ``table``.
"""

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hypervisor.public.units import FRAME_BYTES
from memcoord.testbed.scenarios.trace_files import FORMATS, TraceForm, number_of
from memcoord.testbed.traces._table import ffi, lib

#: The largest number of a table where nothing lower is asked for.
NUMBER_MAX = (1 << 64) - 1
SHOWN_CHARACTERS = 40
#: What separates the fields of a row, if its first line has it; commas where it has none of them.
SEPARATORS = (",", ";", "\t", " ")
#: Words in the name of a binary file, which tell its format.
NAMED = {"oraclegeneral": "oracleGeneral", "vscsi": "vscsi"}
PAGE, OPERATION, FLAGS = "page", "op", "flags"

_LACKEY = re.compile(r"(==|--|\*\*)\d+\1|I  [0-9a-f]+,\d+$| [LSM] [0-9a-f]+,\d+$")
_PERF = re.compile(r"(^|.*\s)\d+\.\d+:(\s|$)")
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]+\Z|[0-9]+\Z")
_HEXADECIMAL = re.compile(r"(0[xX])?[0-9a-fA-F]+\Z")

Numbers = NDArray[np.uint64]


class BadRow(Exception):
    """Row ``at`` of a block, from 1, is wrong: ``why``."""

    def __init__(self, at: int, why: str) -> None:
        self.at, self.why = at, why
        super().__init__(why)


class NotRead(Exception):
    """A file cannot be read as it was asked for, whatever stands in its rows."""


class Reader(Protocol):
    """How blocks of one form are read."""

    unit: str  # what a row is called
    lines_before: int  # the first row
    page_size: int  # bytes of a page, where its numbers are addresses; else 1

    def has(self, column: str) -> bool:
        """Whether the file has a column of this name."""

    def read(
        self, data: bytes, is_last: bool, columns: Mapping[str, int], most: int
    ) -> tuple[list[Numbers], int]:
        """At most ``most`` rows of a block, a column at a time, and where the last one ends."""

    def rows_in(self, data: bytes, end: int) -> int:
        """How many rows there are in the first ``end`` bytes of a block, empty ones too."""


def format_of(name: str, head: bytes, form: TraceForm) -> str:
    """The format of the file ``name``, which begins with ``head``; NotRead."""
    if form.format:
        return form.format
    if b"\0" in head:
        told = [kind for word, kind in NAMED.items() if word in name.lower()]
        if not told:
            binary = " or ".join(NAMED.values())
            raise NotRead(f"its rows are no text: name its format, {binary} (--format)")
        return told[0]
    line = _first_row(head)
    if _LACKEY.match(line):
        return "lackey"
    if _PERF.match(line):
        return "perf"
    place = number_of(form.columns.get(PAGE, 1))
    try:
        fields = _split(line, separator_of(line))
    except csv.Error:
        return "csv"
    is_number = _HEXADECIMAL if form.hexadecimal else _NUMBER
    at = min(place, len(fields))
    return "text" if at > 0 and is_number.match(fields[at - 1]) else "csv"


def reader_of(kind: str, head: bytes, form: TraceForm) -> Reader:
    """The reader of a file of the format ``kind``, which begins with ``head``; NotRead."""
    if kind in ("lackey", "perf"):
        return Lines(kind, form.page_size or FRAME_BYTES)
    if kind in RECORDS:
        return Records(kind)
    assert kind in FORMATS
    line = _first_row(head) if kind == "text" else _text(head.partition(b"\n")[0])
    separator = separator_of(line)
    try:
        names = _split(line, separator)
    except csv.Error as error:
        raise NotRead(f"its first line is none of a CSV file: {error}") from None
    size = form.page_size or 1
    number = lib.MC_TABLE_HEXADECIMAL if form.hexadecimal else lib.MC_TABLE_DECIMAL
    if kind == "csv":
        return Fields(separator, names, _named(names, form), number, line, size, lines_before=1)
    return Fields(separator, [], _numbered(names, form), number, line, size)


def separator_of(line: str) -> str:
    """What separates the fields of rows, by the first of them."""
    return next((one for one in SEPARATORS if one in line.strip()), SEPARATORS[0])


def _first_row(head: bytes) -> str:
    """The first line that is neither empty nor a comment."""
    lines = (line for line in head.split(b"\n") if line.strip() and not line.startswith(b"#"))
    return _text(next(lines, b""))


def _text(line: bytes) -> str:
    return line.decode("utf-8-sig", "replace").rstrip("\r\n")


def _split(line: str, separator: str) -> list[str]:
    """The fields of a line; csv.Error."""
    if separator == " ":
        return line.split()
    return [name.strip() for name in next(csv.reader([line], delimiter=separator), [])]


def _named(names: list[str], form: TraceForm) -> dict[str, int]:
    """Columns of ours -> their places, of those that ``form`` names in a first line of names."""
    found = {}
    for what, column in form.columns.items():
        place = number_of(column) - 1
        if place < 0 and column in names:
            place = names.index(str(column))
        if not 0 <= place < len(names):
            raise NotRead(f"its first line names no column {column!r}, but {_shown(names)}")
        found[what] = place
    return found


def _numbered(fields: list[str], form: TraceForm) -> dict[str, int]:
    """The same for a file whose first line is a row."""
    found = {}
    for what, column in form.columns.items():
        place = number_of(column) - 1
        if not 0 <= place < len(fields):
            rows = f"a row has {len(fields)} columns, without names"
            raise NotRead(f"{rows}: {what} = {column!r} must be a number of 1 to {len(fields)}")
        found[what] = place
    if PAGE not in found:
        if len(fields) > 1:
            rows = f"a row has {len(fields)} columns, without names"
            raise NotRead(f"{rows}: say which is the page, as --columns page=1")
        found[PAGE] = 0
    return found


def _shown(names: list[str]) -> str:
    text = ",".join(names)
    return repr(text[:SHOWN_CHARACTERS]) if text else "nothing"


@dataclass
class Fields:
    """Rows of fields, whose columns have names in a first line, or only numbers."""

    separator: str
    names: list[str]  # of the first line, where it is no row
    places: dict[str, int]  # columns of ours that the caller named
    number: int  # how numbers are written
    first_line: str
    page_size: int
    unit: str = "line"
    lines_before: int = 0  # 1: the first line has names

    def has(self, column: str) -> bool:
        """As every reader."""
        return column in self.places or column in self.names

    def read(
        self, data: bytes, is_last: bool, columns: Mapping[str, int], most: int
    ) -> tuple[list[Numbers], int]:
        """As every reader; BadRow, NotRead."""
        rows = min(data.count(b"\n") + 1, most)
        part = _part(data, is_last, self.separator, comments=not self.lines_before)
        ended, found = ffi.new("uint64_t *"), []
        for name, highest in columns.items():
            kind = lib.MC_TABLE_OPERATION if name == OPERATION else self.number
            kind = kind if name in (PAGE, OPERATION) else lib.MC_TABLE_DECIMAL
            out = np.empty(rows, np.uint64)
            into = ffi.from_buffer("uint64_t[]", out)
            place = self._place(name)
            read = lib.mc_table_column(part, place, kind, highest, into, rows, ended)
            if read < 0:
                raise BadRow(-read, self._why(_line(data, -read), name, highest))
            found.append(out[:read])
        return found, int(ended[0])

    def rows_in(self, data: bytes, end: int) -> int:
        """As every reader."""
        return data.count(b"\n", 0, end)

    def _place(self, name: str) -> int:
        if name in self.places:
            return self.places[name]
        if name in self.names:
            return self.names.index(name)
        found = _shown([self.first_line]) if self.lines_before else "numbers only"
        say = f"; name it: columns {name}=NAME" if name == PAGE and len(self.names) > 1 else ""
        raise NotRead(f"its first line names no column {name!r}, but {found}{say}")

    def _why(self, line: str, name: str, highest: int) -> str:
        place = self._place(name)
        if len(self.names) > 1:
            where = f" in its column {self.names[place]!r}"
        else:
            where = f" in its column {place + 1}" if self.separator in line.strip() else ""
        if name == OPERATION:
            return f"{line!r} has no read or write{where}, as r, w, read, write, 0, 1, 28 or 2a"
        most = "2**64 - 1" if highest == NUMBER_MAX else highest
        digits = " in hexadecimal digits" if self.number == lib.MC_TABLE_HEXADECIMAL else ""
        return f"{line!r} has no {name} of 0 to {most}{digits}{where}"


@dataclass
class Lines:
    """The output of a program that traces memory: an address a line."""

    kind: str
    page_size: int
    unit: str = "line"
    lines_before: int = 0

    def has(self, column: str) -> bool:
        """As every reader."""
        return column in (PAGE, FLAGS)

    def read(
        self, data: bytes, is_last: bool, columns: Mapping[str, int], most: int
    ) -> tuple[list[Numbers], int]:
        """As every reader; BadRow, NotRead."""
        rows = min(data.count(b"\n") + 1, most)
        both = {PAGE: np.empty(rows, np.uint64), FLAGS: np.empty(rows, np.uint64)}
        ended = ffi.new("uint64_t *")
        read_lines = lib.mc_tracer_lackey if self.kind == "lackey" else lib.mc_tracer_perf
        into = [ffi.from_buffer("uint64_t[]", out) for out in both.values()]
        read = read_lines(_part(data, is_last), *into, rows, ended)
        if read < 0:
            raise BadRow(-read, f"{_line(data, -read)!r} {_EXPECTED[self.kind]}")
        return [_of(both, name, self.kind)[:read] for name in columns], int(ended[0])

    def rows_in(self, data: bytes, end: int) -> int:
        """As every reader."""
        return data.count(b"\n", 0, end)


_EXPECTED = {
    "lackey": "is no line of lackey's: expected 'I  ADDRESS,SIZE', ' L ...', ' S ...' or ' M ...'",
    "perf": "has no address of data: expected what 'perf script -F time,event,addr' prints",
}

#: Rows of libCacheSim's binary formats. What is not read has no name of its own.
RECORDS = {
    "oracleGeneral": np.dtype([("time", "<u4"), ("page", "<u8"), ("size", "<u4"), ("next", "<i8")]),
    "vscsi": np.dtype(
        [
            *(("serial", "<u4"), ("size", "<u4"), ("pieces", "<u4")),
            *(("command", "<u2"), ("version", "<u2"), ("page", "<u8"), ("time", "<u8")),
        ]
    ),
}
#: The high byte of ``version`` in a row of vscsi, and the SCSI commands that write.
VSCSI_VERSION, VSCSI_WRITES = 1, (0x0A, 0x2A, 0x8A, 0xAA)


@dataclass
class Records:
    """Rows of a fixed size. The page is the object's number, as it stands."""

    kind: str
    page_size: int = 1
    unit: str = "row"
    lines_before: int = 0

    def has(self, column: str) -> bool:
        """As every reader."""
        return column in (PAGE, FLAGS)

    def read(
        self, data: bytes, is_last: bool, columns: Mapping[str, int], most: int
    ) -> tuple[list[Numbers], int]:
        """As every reader; BadRow, NotRead."""
        layout = RECORDS[self.kind]
        count, rest = divmod(len(data), layout.itemsize)
        count = min(count, most)
        rows = np.frombuffer(data, layout, count)
        if is_last and rest and count < most:
            what = f"the file ends with {rest} bytes of a row of {layout.itemsize}"
            raise BadRow(count + 1, what)
        flags = np.zeros(count, np.uint64)
        if self.kind == "vscsi":
            self._check(rows)
            flags[np.isin(rows["command"] & 0xFF, VSCSI_WRITES)] = lib.MC_REFERENCE_WRITTEN
        both = {PAGE: rows["page"].astype(np.uint64), FLAGS: flags}
        return [_of(both, name, self.kind) for name in columns], count * layout.itemsize

    def rows_in(self, data: bytes, end: int) -> int:
        """As every reader."""
        return end // RECORDS[self.kind].itemsize

    def _check(self, rows: NDArray[Any]) -> None:
        wrong = np.flatnonzero(rows["version"] >> 8 != VSCSI_VERSION)
        if len(wrong):
            found = int(rows["version"][wrong[0]])
            what = f"its column 'version' is {found:#06x}, expected {VSCSI_VERSION:#04x} and a byte"
            raise BadRow(int(wrong[0]) + 1, f"{what}: is this vscsi?")


def _of(columns: Mapping[str, Numbers], name: str, kind: str) -> Numbers:
    if name not in columns:
        raise NotRead(f"a row of {kind} has no column {name!r}")
    return columns[name]


def _part(data: bytes, is_last: bool, separator: str = " ", *, comments: bool = False) -> Any:
    part = ffi.new("struct mc_table_part *")
    part.data, part.length = ffi.from_buffer("uint8_t[]", data), len(data)
    part.separator, part.comments, part.is_last = ord(separator), comments, is_last
    return part


def _line(data: bytes, number: int) -> str:
    """Line ``number`` of a block, from 1, as far as it is shown."""
    line = data.split(b"\n", number)[number - 1].decode("ascii", "replace").strip()
    return line[:SHOWN_CHARACTERS]
