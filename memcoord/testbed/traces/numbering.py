"""Dense numbers for the pages of a file, in order of first use.

Owns: the numbers. A file is read once to number its pages and, where it is too long to hold, again
whenever its references are made. Called by ``memcoord.testbed.streams`` and ``converted``.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from memcoord.testbed.traces.forms import NUMBER_MAX, PAGE, Numbers
from memcoord.testbed.traces.table import Table

#: Different pages of a file: 64 GiB.
PAGES_MAX = 1 << 24
#: Flags of a reference: the page was written to, or executed.
FLAG_WRITTEN, FLAG_FETCHED = 1, 2

Part = tuple[NDArray[np.int32], NDArray[np.uint8]]


class Numbering:
    """Dense numbers, in the order in which names were added first."""

    def __init__(self) -> None:
        self._names = np.empty(0, np.uint64)  # ascending
        self._numbers = np.empty(0, np.int32)

    def __len__(self) -> int:
        return len(self._names)

    def add(self, names: NDArray[np.uint64]) -> None:
        """Number those of ``names`` that have no number yet."""
        found, first = np.unique(names, return_index=True)
        is_new = ~np.isin(found, self._names, assume_unique=True)
        found, first = found[is_new], first[is_new]
        if len(found) == 0:
            return
        numbers = (len(self) + np.argsort(np.argsort(first))).astype(np.int32)
        places = np.searchsorted(self._names, found)
        self._names = np.insert(self._names, places, found)
        self._numbers = np.insert(self._numbers, places, numbers)

    def of(self, names: NDArray[np.uint64]) -> NDArray[np.int32] | None:
        """The numbers of ``names``; None when one has none."""
        places = np.minimum(np.searchsorted(self._names, names), len(self) - 1)
        return self._numbers[places] if (self._names[places] == names).all() else None


class NumberedTable:
    """The references of ``table``, their pages by dense numbers; at most ``most``, unless 0."""

    def __init__(self, table: Table, most: int = 0) -> None:
        self._table, self._most = table, most
        self._numbering = Numbering()

    @property
    def page_count(self) -> int:
        """How many pages there are, as far as the file was read."""
        return len(self._numbering)

    def parts(self, *, may_add: bool, flagged: bool = True) -> Iterator[Part]:
        """Read the file: pages, and the flags of each reference, 0 where not ``flagged``.

        ConfigError: a row is wrong, there are too many pages, or, without ``may_add``, one that was
        not there before.
        """
        table, most = self._table, self._most
        rows = table.references(most=most) if flagged else table.rows({PAGE: NUMBER_MAX}, most=most)
        for names, *flags in rows:
            if may_add:
                self._numbering.add(names)
            if len(self._numbering) > PAGES_MAX:
                raise table.wrong(f"more than {PAGES_MAX} pages")
            pages = self._numbering.of(names)
            if pages is None:
                raise table.wrong("it was changed while it was read")
            yield pages, _flags(flags, len(pages))


def _flags(found: list[Numbers], count: int) -> NDArray[np.uint8]:
    if not found:
        return np.zeros(count, np.uint8)
    return (found[0] & np.uint64(FLAG_WRITTEN | FLAG_FETCHED)).astype(np.uint8)
