"""Traces: CSV files with a ``page`` column and a row per reference, plain, .xz or .zst.

Owns: reading them. The header names the columns in any order; columns other than ``page`` are
ignored. A page is any integer from 0 to 2**63. The kernels need dense numbers, which are given here
in the order of first reference. RFC 4180 quotes and both line ends are understood, and blank lines
are skipped. The first bytes of a file tell its compression, not its name. Used by ``memcoord sim
--trace`` and the bench of policies.
"""

# Kernel arguments are typed by their signatures.
# ruff: noqa: ANN001, ANN202

import csv
import lzma
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from numba import int64, njit, types, uint64
from numpy.typing import NDArray

from hypervisor.public.errors import ConfigError
from tmem.compiled_cache import cached_kernels
from tmem.raw_memory import kernel

COLUMN = "page"
PAGE_MAX = 1 << 63
PAGE_TENTH = PAGE_MAX // 10  # divided here: in a kernel PAGE_MAX is an int64, so negative
REFERENCES_MAX = (1 << 31) - 1
XZ_MAGIC = b"\xfd7zXZ\x00"
ZSTD_MAGIC = b"(\xb5/\xfd"
SHOWN_CHARACTERS = 40

NEWLINE, RETURN, QUOTE, COMMA, SPACE, ZERO, NINE = b'\n\r", 09'
NOTHING, DIGITS, ENDED, BAD = range(4)  # states of the page of a row as it is read
FIRST_TABLE = 1 << 12  # a power of two
GROUP_BITS = 3  # the search for names that differ in these bits only begins in one cache line
GROUP = 1 << GROUP_BITS
HASH_SHIFT = 34  # leaves room for GROUP_BITS below the number of the group
FIBONACCI = 0x9E3779B97F4A7C15  # 2**64 over the golden ratio


@dataclass(frozen=True, eq=False)
class Trace:
    """A stream of references: ``pages[i]`` is the dense number of the page ``ids[i]``.

    Dense numbers go from 0 to ``page_count`` - 1 in order of first reference.
    """

    name: str
    pages: NDArray[np.int32]
    page_count: int
    ids: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.pages)


def _parse(data, start, column, out):
    """Write the pages of the rows from ``start`` on to ``out``; (rows, line of the first bad row
    or 0)."""
    rows, line, field = 0, 1, 0
    value, kind, quoted, blank = uint64(0), NOTHING, False, True
    for at in range(start, len(data) + 1):
        byte = data[at] if at < len(data) else np.uint8(NEWLINE)
        if byte == NEWLINE and (not quoted or at == len(data)):
            line += 1
            if not blank:
                if kind != DIGITS and kind != ENDED:
                    return rows, line
                out[rows] = value
                rows += 1
            field, value, kind, quoted, blank = 0, uint64(0), NOTHING, False, True
            continue
        if byte == NEWLINE:
            line += 1
        if byte != RETURN:
            blank = False
        if byte == QUOTE:
            quoted = not quoted
        elif byte == COMMA and not quoted:
            field += 1
        elif field == column and kind != BAD:
            if ZERO <= byte <= NINE and kind != ENDED and value <= uint64(PAGE_TENTH):
                value = value * uint64(10) + uint64(byte - ZERO)
                kind = DIGITS if value <= uint64(PAGE_MAX) else BAD
            elif byte != SPACE and byte != RETURN:
                kind = BAD
            elif kind == DIGITS:
                kind = ENDED
    return rows, 0


@kernel
def _place(name, mask):
    """The slot where the search for a name begins; near names begin near each other."""
    group = ((name >> uint64(GROUP_BITS)) * uint64(FIBONACCI)) >> uint64(HASH_SHIFT)
    return int64(group << uint64(GROUP_BITS) | name & uint64(GROUP - 1)) & mask


def _number(ids, out):
    """Write dense numbers in order of first reference to ``out``, by an open table of the names
    seen. Returns how many there are."""
    mask = FIRST_TABLE - 1
    numbers = np.full(FIRST_TABLE, -1, np.int32)
    names = np.empty(FIRST_TABLE, np.uint64)
    count = 0
    for at in range(len(ids)):
        name = ids[at]
        slot = _place(name, mask)
        while numbers[slot] >= 0 and names[slot] != name:
            slot = (slot + 1) & mask
        if numbers[slot] >= 0:
            out[at] = numbers[slot]
            continue
        numbers[slot], names[slot], out[at] = count, name, count
        count += 1
        if 2 * count > mask:
            old_numbers, old_names = numbers, names
            mask = 4 * mask + 3
            numbers = np.full(mask + 1, -1, np.int32)
            names = np.empty(mask + 1, np.uint64)
            for old in range(len(old_numbers)):
                if old_numbers[old] >= 0:
                    slot = _place(old_names[old], mask)
                    while numbers[slot] >= 0:
                        slot = (slot + 1) & mask
                    numbers[slot], names[slot] = old_numbers[old], old_names[old]
    return count


_bytes_type = types.Array(types.uint8, 1, "C", readonly=True)
_ids_type = types.Array(types.uint64, 1, "C", readonly=True)
with cached_kernels(__file__) as _cache:
    _rows_of = njit(
        types.UniTuple(int64, 2)(_bytes_type, int64, int64, uint64[::1]), cache=_cache, nogil=True
    )(_parse)
    _number_all = njit(int64(_ids_type, types.int32[::1]), cache=_cache, nogil=True)(_number)


def load(path: str) -> Trace:
    """Read the trace in a file, or the shipped trace of that name.

    ConfigError (key ``trace``), in one line: there is no such file, it is damaged, it has no
    ``page`` column or no rows, or a row (named by its line) has no valid page.
    """
    return parse(Path(path).name, _decompressed(path, _read(path)))


def parse(name: str, data: bytes) -> Trace:
    """Read the trace in the bytes of a CSV file; errors as ``load``, which name ``name``."""
    text = np.frombuffer(data, np.uint8)
    head, _, _ = data.partition(b"\n")
    ids = np.empty(data.count(b"\n") + 1, np.uint64)
    rows, bad_line = _rows_of(text, len(head) + 1, _column(name, head), ids)
    if bad_line:
        line = data.split(b"\n", bad_line)[bad_line - 1].decode("ascii", "replace").strip()
        raise _wrong(
            f"{name}: line {bad_line}: {line[:SHOWN_CHARACTERS]!r} has no page of 0 to 2**63"
        )
    if not 0 < rows <= REFERENCES_MAX:
        raise _wrong(f"{name}: {'no rows' if not rows else f'more than {REFERENCES_MAX} rows'}")
    pages, page_count = number(ids[:rows])
    return Trace(name, pages, page_count, ids[:rows])


def number(ids: NDArray[np.uint64]) -> tuple[NDArray[np.int32], int]:
    """Dense numbers in order of first reference for any 64-bit numbers, and their count."""
    pages = np.empty(len(ids), np.int32)
    return pages, int(_number_all(ids, pages))


def _column(name: str, head: bytes) -> int:
    line = head.decode("utf-8-sig", "replace").strip()
    try:
        names = [column.strip() for column in next(csv.reader([line]), [])]
    except csv.Error as error:
        raise _wrong(f"{name}: its first line is none of a CSV file: {error}") from None
    if COLUMN not in names:
        found = repr(line[:SHOWN_CHARACTERS]) if line else "nothing"
        raise _wrong(f"{name}: its first line names no column {COLUMN!r}, but {found}")
    return names.index(COLUMN)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        for file in (resources.files("memcoord.testbed") / "data").iterdir():
            if path and file.name.startswith(f"{path}_"):
                return file.read_bytes()
        raise _wrong(f"{path}: {error.strerror or error}") from None


def _decompressed(path: str, data: bytes) -> bytes:
    try:
        if data.startswith(XZ_MAGIC):
            return lzma.decompress(data)
        return _unzstd(data) if data.startswith(ZSTD_MAGIC) else data
    except (lzma.LZMAError, EOFError) as error:
        raise _wrong(f"{path}: damaged: {error}") from None


def _unzstd(data: bytes) -> bytes:
    try:
        import zstandard
    except ModuleNotFoundError:
        raise _wrong("a .zst file needs one more package: pip install 'memcoord[zst]'") from None
    parts = []
    while data:  # frame by frame: a reader across frames takes a cut frame for the end
        frame = zstandard.ZstdDecompressor().decompressobj()
        try:
            parts.append(frame.decompress(data))
        except zstandard.ZstdError as error:
            raise EOFError(error) from None
        if not frame.eof:
            raise EOFError("it ends before its end")
        data = frame.unused_data
    return b"".join(parts)


def _wrong(what: str) -> ConfigError:
    return ConfigError("trace", what)
