"""Tables of whole numbers in files: every trace, and the demand of VMs. One reader for all of them.

Owns: reading columns of a file in any form, for workloads and for ``memcoord sim --trace``. A file
is read in blocks and never held, so it may have any length. ``forms`` reads a block, ``unpacked``
the file. Columns that are not asked for are ignored. Every error is a ConfigError in one line that
names the file and, for a row, its place, what it has and what was expected.
"""

import codecs
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from hypervisor.public.errors import ConfigError
from memcoord.testbed.scenarios.trace_files import (
    SHIPPED_BLOCK_TRACES,
    SHIPPED_TRACES,
    TraceForm,
)
from memcoord.testbed.traces.forms import (
    FLAGS,
    NUMBER_MAX,
    OPERATION,
    PAGE,
    BadRow,
    NotRead,
    Numbers,
    Reader,
    format_of,
    reader_of,
)
from memcoord.testbed.traces.unpacked import (
    Blocks,
    blocks_of_bytes,
    blocks_of_file,
    shipped_blocks,
)

#: A row, or what an open quotation mark makes one.
ROW_BYTES_MAX = 1 << 26
#: Bytes of a file that tell its form, or as many as it takes to see a row of it.
HEAD_BYTES = 1 << 10
#: A file as it stands.
PLAIN = TraceForm()
_SHIPPED = SHIPPED_TRACES | SHIPPED_BLOCK_TRACES


def _has_row(head: bytes) -> bool:
    """Whether a file that begins so has a whole line that is no comment."""
    lines = head.split(b"\n")[:-1]
    return any(line.strip() and not line.startswith(b"#") for line in lines)


class Table:
    """The table in ``data``, which errors call ``name``; ``key``: the key of an error.

    ``data`` are bytes, or a function that reads them from the beginning, block by block. ``form``
    says how they are to be read. Data of lackey is not looked at before its rows are read.
    """

    def __init__(self, name: str, data: bytes | Blocks, key: str, form: TraceForm = PLAIN) -> None:
        self.name, self._key = name, key
        self._is_plain = not (form.columns or form.page_size or form.hexadecimal)
        self._open = blocks_of_bytes(data) if isinstance(data, bytes) else data
        head = b"" if form.format == "lackey" else self._head()
        try:
            self.format = format_of(name, head, form)
            self._reader: Reader = reader_of(self.format, head, form)
        except NotRead as error:
            raise self.wrong(str(error)) from None

    @property
    def is_native(self) -> bool:
        """Whether it is one of ours: dense pages, in a file of which nothing had to be said."""
        return self._is_plain and self.has("dt") and self.has(FLAGS)

    def has(self, column: str) -> bool:
        """Whether the file has a column of this name."""
        return self._reader.has(column)

    def column(self, name: str, *, highest: int = NUMBER_MAX, most: int = 0) -> Numbers:
        """``rows`` of one column, all of them at once."""
        return np.concatenate([block[0] for block in self.rows({name: highest}, most=most)])

    def references(
        self, *, highest: int = NUMBER_MAX, most: int = 0
    ) -> Iterator[tuple[Numbers, Numbers]]:
        """Pages and flags, block by block; all are reads where no column says otherwise."""
        flags = next((one for one in (OPERATION, FLAGS) if self.has(one)), "")
        columns = {PAGE: highest} | ({flags: NUMBER_MAX} if flags else {})
        for pages, *rest in self.rows(columns, most=most):
            yield pages, rest[0] if rest else np.zeros_like(pages)

    def rows(self, columns: Mapping[str, int], *, most: int = 0) -> Iterator[tuple[Numbers, ...]]:
        """The numbers of columns, block by block, each at most what ``columns`` says of it.

        Of the first ``most`` rows only, unless that is 0. ConfigError: no such column, no rows, or
        a row without such a number.
        """
        left, row, rest = most or NUMBER_MAX, self._reader.lines_before, b""
        blocks = self._blocks()
        is_empty, is_last = True, False
        while left > 0 and not is_last:
            block = next(blocks, None)
            is_last = block is None
            data = rest + (block or b"")
            found, ended = self._read(data, is_last, columns, left, row)
            if len(found[0]):
                is_empty = False
                left -= len(found[0])
                yield tuple(found)
            row += self._reader.rows_in(data, ended)
            rest = data[ended:]
            if len(rest) > ROW_BYTES_MAX:
                unit = self._reader.unit
                raise self.wrong(f"{unit} {row + 1}: a row of more than {ROW_BYTES_MAX} bytes")
        if is_empty:
            raise self.wrong("no rows")

    def wrong(self, what: str) -> ConfigError:
        """The error of a table of which ``what`` is true."""
        return ConfigError(self._key, f"{self.name}: {what}")

    def _read(
        self, data: bytes, is_last: bool, columns: Mapping[str, int], most: int, row: int
    ) -> tuple[list[Numbers], int]:
        try:
            found, ended = self._reader.read(data, is_last, columns, most)
        except BadRow as bad:
            raise self.wrong(f"{self._reader.unit} {row + bad.at}: {bad.why}") from None
        except NotRead as error:
            raise self.wrong(str(error)) from None
        if self._reader.page_size > 1 and PAGE in columns:
            at = [*columns].index(PAGE)
            found[at] //= np.uint64(self._reader.page_size)
        return found, ended

    def _head(self) -> bytes:
        """The beginning of the file: a row of it at least."""
        data = b""
        for block in self._open():
            data += block
            is_enough = len(data) >= HEAD_BYTES and b"\n" in block and _has_row(data)
            if is_enough or len(data) > ROW_BYTES_MAX or b"\0" in block:
                break
        return data

    def _blocks(self) -> Iterator[bytes]:
        """The blocks of the rows."""
        blocks = self._open()
        data = next(blocks, b"")
        if self._reader.lines_before:
            while b"\n" not in data and len(data) <= ROW_BYTES_MAX:
                block = next(blocks, None)
                if block is None:
                    break
                data += block
            data = data.partition(b"\n")[2]
        yield data.removeprefix(codecs.BOM_UTF8)
        yield from blocks


def read_table(source: str, key: str, form: TraceForm = PLAIN) -> Table:
    """The table in the file ``source``, or of the shipped trace of that name; ConfigError."""
    if source in _SHIPPED:
        return shipped_table(_SHIPPED[source], key)
    return Table(Path(source).name, blocks_of_file(source, key), key, form)


def shipped_table(name: str, key: str = "data") -> Table:
    """The table in a shipped file of data."""
    return Table(name, shipped_blocks(name), key)
