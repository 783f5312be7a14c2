"""Tables of whole numbers in CSV files, plain, .xz or .zst: every trace, and the demand of VMs.

Owns: finding such a file, unpacking it, and reading columns of it: the one reader for workloads
and for ``memcoord sim --trace``. A file is read in blocks and never held, so it may have any
length. The header names the columns in any order; columns that are not asked for are ignored.
``abi/table.h`` says what a row and a number are. The first bytes of a file tell its compression,
not its name. Every error is a ConfigError in one line that names the file and, for a row, its line.
"""

import csv
import lzma
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from hypervisor.public.errors import ConfigError
from memcoord.testbed.scenarios.workloads import SHIPPED_BLOCK_TRACES, SHIPPED_TRACES
from memcoord.testbed.streams._table import ffi, lib

#: The largest number of a table where nothing lower is asked for.
NUMBER_MAX = 1 << 63
XZ_MAGIC = b"\xfd7zXZ\x00"
ZSTD_MAGIC = b"(\xb5/\xfd"
MAGIC_BYTES = 6
SHOWN_CHARACTERS = 40
#: Bytes of a file that are read at once; a row has two at least.
BLOCK_BYTES = 1 << 17
#: A row, or what an open quotation mark makes one.
ROW_BYTES_MAX = 1 << 26
_SHIPPED = SHIPPED_TRACES | SHIPPED_BLOCK_TRACES

Numbers = NDArray[np.uint64]
Blocks = Callable[[], Iterator[bytes]]


class Table:
    """The table in ``data``, which errors call ``name``; ``key``: the key of an error.

    ``data`` are bytes, or a function that reads them from the beginning, block by block.
    """

    def __init__(self, name: str, data: bytes | Blocks, key: str) -> None:
        self.name, self._key = name, key
        self._open: Blocks = (lambda: _sliced(data)) if isinstance(data, bytes) else data
        self._head, _ = self._begin()
        try:
            self._names = [name.strip() for name in next(csv.reader([self._head]), [])]
        except csv.Error as error:
            raise self.wrong(f"its first line is none of a CSV file: {error}") from None

    def column(self, name: str, *, highest: int = NUMBER_MAX, most: int = 0) -> Numbers:
        """``rows`` of one column, all of them at once."""
        return np.concatenate([block[0] for block in self.rows({name: highest}, most=most)])

    def rows(self, columns: Mapping[str, int], *, most: int = 0) -> Iterator[tuple[Numbers, ...]]:
        """The numbers of columns, block by block, each at most what ``columns`` says of it.

        Of the first ``most`` rows only, unless that is 0. ConfigError: no such column, no rows, or
        a row without such a number.
        """
        places = [self._place(name) for name in columns]
        wanted = list(zip(places, columns, columns.values(), strict=True))
        left, line, rest = most or NUMBER_MAX, 0, b""
        _, blocks = self._begin()
        block, following = next(blocks, b""), next(blocks, None)
        is_empty = True
        while left > 0:
            data, is_last = rest + block, following is None
            read, ended = self._read(data, is_last, wanted, left, line)
            if len(read[0]):
                is_empty = False
                left -= len(read[0])
                yield tuple(read)
            if following is None:
                break
            line += data.count(b"\n", 0, ended)
            rest = data[ended:]
            if len(rest) > ROW_BYTES_MAX:
                raise self.wrong(f"line {line + 2}: a row of more than {ROW_BYTES_MAX} bytes")
            block, following = following, next(blocks, None)
        if is_empty:
            raise self.wrong("no rows")

    def wrong(self, what: str) -> ConfigError:
        """The error of a table of which ``what`` is true."""
        return ConfigError(self._key, f"{self.name}: {what}")

    def _begin(self) -> tuple[str, Iterator[bytes]]:
        """The first line, and the blocks of what follows it."""
        blocks, data = self._open(), b""
        for block in blocks:
            data += block
            if b"\n" in block or len(data) > ROW_BYTES_MAX:
                break
        head, _, rest = data.partition(b"\n")

        def following() -> Iterator[bytes]:
            yield rest
            yield from blocks

        return head.decode("utf-8-sig", "replace").strip(), following()

    def _place(self, name: str) -> int:
        if name in self._names:
            return self._names.index(name)
        found = repr(self._head[:SHOWN_CHARACTERS]) if self._head else "nothing"
        raise self.wrong(f"its first line names no column {name!r}, but {found}")

    def _read(
        self,
        data: bytes,
        is_last: bool,
        wanted: list[tuple[int, str, int]],
        most: int,
        lines_before: int,
    ) -> tuple[list[Numbers], int]:
        """The rows of a block, a column at a time, and where they end."""
        rows = min(data.count(b"\n") + 1, most)
        ended, found = ffi.new("uint64_t *"), []
        for place, name, highest in wanted:
            out = np.empty(rows, np.uint64)
            read = lib.mc_table_column(
                *(ffi.from_buffer(data), len(data), is_last, place, highest),
                *(ffi.from_buffer("uint64_t[]", out), rows, ended),
            )
            if read < 0:
                line = data.split(b"\n", -read - 1)[-read - 2].decode("ascii", "replace").strip()
                limit = "2**63" if highest == NUMBER_MAX else highest
                what = f"{line[:SHOWN_CHARACTERS]!r} has no {name} of 0 to {limit}"
                raise self.wrong(f"line {lines_before - read}: {what}")
            found.append(out[:read])
        return found, int(ended[0])


def read_table(source: str, key: str) -> Table:
    """The table in the file ``source``, or of the shipped trace of that name; ConfigError."""
    if source in _SHIPPED:
        return shipped_table(_SHIPPED[source], key)
    path = Path(source)

    def blocks() -> Iterator[bytes]:
        try:
            with path.open("rb") as file:
                yield from _unpacked(file)
        except OSError as error:
            raise ConfigError(key, f"{source}: {error.strerror or error}") from None
        except ValueError as error:  # a name with a null byte
            raise ConfigError(key, f"{source!a}: {error}") from None
        except (lzma.LZMAError, EOFError) as error:
            raise ConfigError(key, f"{path.name}: damaged: {error}") from None
        except ModuleNotFoundError:
            what = "a .zst file needs one more package: pip install 'memcoord[zst]'"
            raise ConfigError(key, f"{path.name}: {what}") from None

    return Table(path.name, blocks, key)


def shipped_table(name: str, key: str = "data") -> Table:
    """The table in a shipped file of data."""

    def blocks() -> Iterator[bytes]:
        with (resources.files("memcoord.testbed") / "data" / name).open("rb") as file:
            yield from _unpacked(file)

    return Table(name, blocks, key)


def _sliced(data: bytes) -> Iterator[bytes]:
    for begin in range(0, len(data), BLOCK_BYTES):
        yield data[begin : begin + BLOCK_BYTES]


def _unpacked(file: IO[bytes]) -> Iterator[bytes]:
    magic = file.read(MAGIC_BYTES)
    file.seek(0)
    if magic.startswith(ZSTD_MAGIC):
        yield from _unzstd(file)
        return
    with lzma.open(file) if magic == XZ_MAGIC else file as plain:
        while data := plain.read(BLOCK_BYTES):
            yield data


def _unzstd(file: IO[bytes]) -> Iterator[bytes]:
    import zstandard

    data = file.read(BLOCK_BYTES)
    while data:  # frame by frame: a reader across frames takes a cut frame for the end
        frame = zstandard.ZstdDecompressor().decompressobj()
        while data and not frame.eof:
            try:
                unpacked = frame.decompress(data)
            except zstandard.ZstdError as error:
                raise EOFError(error) from None
            yield from _sliced(unpacked)
            data = file.read(BLOCK_BYTES)
        if not frame.eof:
            raise EOFError("it ends before its end")
        data = frame.unused_data + data
