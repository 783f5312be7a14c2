"""Files of references: which there are, and how a file of one's own is to be read.

Owns: the names of the shipped traces; ``TraceForm``, the keys of a scenario (and the options of the
command) that say what a file looks like; what is wrong with them before any file is read.
``memcoord.testbed.traces`` reads the files.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from memcoord.testbed.scenarios.sizes import Wish

#: Trace name -> file in ``memcoord/testbed/data``.
SHIPPED_TRACES = {
    "sort": "sort_k64.csv.xz",
    "cc1": "cc1_k256.csv.xz",
    "sqlite": "sqlite_k128.csv.xz",
}
#: The same for block traces.
SHIPPED_BLOCK_TRACES = {
    "cscope": "lirs_cs.csv.xz",
    "multi3": "lirs_multi3.csv.xz",
    "sprite": "lirs_sprite_60k.csv.xz",
    "nt": "arc_p6_60k.csv.xz",
}
Format = Literal["", "csv", "text", "oracleGeneral", "vscsi", "perf", "lackey"]
FORMATS: tuple[str, ...] = ("csv", "text", "oracleGeneral", "vscsi", "perf", "lackey")
#: Formats whose rows have columns that can be named, and those whose pages are addresses anyway.
WITH_COLUMNS, OF_ADDRESSES = ("csv", "text"), ("perf", "lackey")
#: What a column can be named for: the page, and whether it is read, written or fetched.
COLUMNS = ("page", "op")
PAGE_BYTES_MAX = 1 << 40

_COLUMN_NUMBER = re.compile(r"[1-9][0-9]{0,5}\Z")


class TraceForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a file of references is to be read; what is left out, the file itself tells.

    ``format``: docs/traces.md explains each. ``columns``: which column has the ``page`` and, where
    there is one, the ``op``; by its name in the first line, or by its number from 1. With
    ``page_size`` the numbers are addresses in bytes, and a page has so many. ``hexadecimal``: they
    are, also where no 0x says so.
    """

    format: Format = ""  # "": the file tells
    # Which has the ``page``, which the ``op``: a name, or a number from 1.
    columns: Mapping[str, str | int] = {}
    # The numbers are addresses, and a page has so many; 0: they are pages.
    page_size: Annotated[int, Meta(ge=0, le=PAGE_BYTES_MAX, description="bytes")] = 0
    hexadecimal: bool = False  # the numbers are, also without 0x

    def __hash__(self) -> int:
        """Streams are kept by workload, and a mapping has no hash of its own."""
        fields = (getattr(self, name) for name in self.__struct_fields__)
        parts = (frozenset(one.items()) if isinstance(one, Mapping) else one for one in fields)
        return hash((type(self), *parts))

    def form_wishes(self) -> Iterator[Wish]:
        """Conditions beside the bounds of the fields above."""
        for what, column in self.columns.items():
            named = " and ".join(COLUMNS)
            yield "columns", what in COLUMNS, f"{what!r} is no column of ours: they are {named}"
            fits = number_of(column) > 0 or (isinstance(column, str) and bool(column.strip()))
            yield "columns", fits, f"{what} = {column!r}: a name, or a number from 1"
        plain = self.format in ("", *WITH_COLUMNS)
        which = f"rows of {self.format} have none: for {' and '.join(WITH_COLUMNS)}"
        yield "columns", plain or not self.columns, which
        yield "hexadecimal", plain or not self.hexadecimal, which.replace("have none", "need none")
        takes_size = plain or self.format in OF_ADDRESSES
        yield "page_size", takes_size or not self.page_size, f"{self.format} has no addresses"


def number_of(column: str | int) -> int:
    """The number of a column, from 1; 0 where it is a name."""
    return int(column) if _COLUMN_NUMBER.match(str(column)) else 0


def check_file(name: str, shipped: Mapping[str, str]) -> str:
    """Empty when ``name`` is that of a shipped trace or of a file, else what is wrong with it."""
    if name in shipped or Path(name).is_file():
        return ""
    return f"{name!r} is no file, and none of {', '.join(shipped)}"
