"""Tables of whole numbers in CSV files, plain, .xz or .zst: every trace, and the demand of VMs.

Owns: finding such a file, unpacking it, and reading a column of it: the one reader for workloads
and for ``memcoord sim --trace``. The header names the columns in any order; columns that are not
asked for are ignored. ``abi/table.h`` says what a row and a number are. The first bytes of a file
tell its compression, not its name. Every error is a ConfigError in one line that names the file
and, for a row, its line.
"""

import csv
import lzma
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hypervisor.public.errors import ConfigError
from memcoord.testbed.scenarios.workloads import SHIPPED_BLOCK_TRACES, SHIPPED_TRACES
from memcoord.testbed.streams._table import ffi, lib

#: The largest number of a table where nothing lower is asked for.
NUMBER_MAX = 1 << 63
XZ_MAGIC = b"\xfd7zXZ\x00"
ZSTD_MAGIC = b"(\xb5/\xfd"
SHOWN_CHARACTERS = 40
_SHIPPED = SHIPPED_TRACES | SHIPPED_BLOCK_TRACES


class Table:
    """The table in the bytes ``data``, which errors call ``name``; ``key``: the key of an error."""

    def __init__(self, name: str, data: bytes, key: str) -> None:
        self.name, self._key = name, key
        head, _, self._rows = data.partition(b"\n")
        self._head = head.decode("utf-8-sig", "replace").strip()
        try:
            self._names = [name.strip() for name in next(csv.reader([self._head]), [])]
        except csv.Error as error:
            raise self.wrong(f"its first line is none of a CSV file: {error}") from None

    def column(self, name: str, *, highest: int = NUMBER_MAX, most: int = 0) -> NDArray[np.uint64]:
        """The numbers of a column, at most ``highest``, one a row; of the first ``most`` rows only,
        unless that is 0. ConfigError: no such column, no rows, or a row without such a number."""
        if name not in self._names:
            found = repr(self._head[:SHOWN_CHARACTERS]) if self._head else "nothing"
            raise self.wrong(f"its first line names no column {name!r}, but {found}")
        rows = self._rows.count(b"\n") + 1
        numbers = np.empty(min(rows, most) if most else rows, np.uint64)
        data, out = ffi.from_buffer(self._rows), ffi.from_buffer("uint64_t[]", numbers)
        column = self._names.index(name)
        read = lib.mc_table_column(data, len(self._rows), column, highest, out, len(numbers))
        if read < 0:
            line = self._rows.split(b"\n", -read - 1)[-read - 2].decode("ascii", "replace").strip()
            limit = "2**63" if highest == NUMBER_MAX else highest
            raise self.wrong(
                f"line {-read}: {line[:SHOWN_CHARACTERS]!r} has no {name} of 0 to {limit}"
            )
        if not read:
            raise self.wrong("no rows")
        return numbers[:read]

    def wrong(self, what: str) -> ConfigError:
        """The error of a table of which ``what`` is true."""
        return ConfigError(self._key, f"{self.name}: {what}")


def read_table(source: str, key: str) -> Table:
    """The table in the file ``source``, or of the shipped trace of that name; ConfigError."""
    path = Path(source)
    try:
        if source in _SHIPPED:
            return shipped_table(_SHIPPED[source], key)
        return Table(path.name, _unpacked(path.read_bytes()), key)
    except OSError as error:
        raise ConfigError(key, f"{source}: {error.strerror or error}") from None
    except ValueError as error:  # a name with a null byte
        raise ConfigError(key, f"{source!a}: {error}") from None
    except (lzma.LZMAError, EOFError) as error:
        raise ConfigError(key, f"{path.name}: damaged: {error}") from None
    except ModuleNotFoundError:
        what = "a .zst file needs one more package: pip install 'memcoord[zst]'"
        raise ConfigError(key, f"{path.name}: {what}") from None


def shipped_table(name: str, key: str = "data") -> Table:
    """The table in a shipped file of data."""
    data = (resources.files("memcoord.testbed") / "data" / name).read_bytes()
    return Table(name, _unpacked(data), key)


def _unpacked(data: bytes) -> bytes:
    if data.startswith(XZ_MAGIC):
        return lzma.decompress(data)
    return _unzstd(data) if data.startswith(ZSTD_MAGIC) else data


def _unzstd(data: bytes) -> bytes:
    import zstandard

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
