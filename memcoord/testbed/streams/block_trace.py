"""Block traces: any CSV file with a column ``page``, one row one reference.

Owns: taking it for references to a file's pages, numbered in order of first use: clean pages, which
cleancache keeps. Numbers in the file need not be dense. ``table`` reads the file: once to number
its pages, and, where it is too long to hold, again whenever its references are made.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from hypervisor.public.errors import ConfigError
from memcoord.testbed.scenarios.workloads import REFERENCES_MAX, BlockTraceWorkload
from memcoord.testbed.streams.references import Pages, Part, counted, cyclic
from memcoord.testbed.streams.stream import Stream
from memcoord.testbed.streams.table import NUMBER_MAX, read_table

COLUMN = "page"
#: Different pages of a trace: 64 GiB.
PAGES_MAX = 1 << 24


def block_trace(work: BlockTraceWorkload, seed: int) -> Stream:
    """The file's references, ``repeat`` times; ConfigError when it cannot be read."""
    del seed
    table = read_table(work.file, "workload")
    numbering = Numbering()

    def parts(may_add: bool) -> Iterator[Part]:
        most = work.references or REFERENCES_MAX + 1
        for (names,) in table.rows({COLUMN: NUMBER_MAX}, most=most):
            if may_add:
                numbering.add(names)
            pages = numbering.of(names)
            if len(numbering) > PAGES_MAX:
                raise table.wrong(f"more than {PAGES_MAX} pages")
            if pages is None:
                raise table.wrong("it was changed while it was read")
            yield pages, np.zeros(len(pages), dtype=np.uint8)

    once = counted(lambda: parts(may_add=False), parts(may_add=True))
    if len(once) * work.repeat > REFERENCES_MAX:
        raise ConfigError("workload.repeat", f"makes more than {REFERENCES_MAX} references")
    program = np.ones(len(numbering), dtype=np.bool_)
    return Stream(table.name, cyclic(once, len(once) * work.repeat), len(numbering), program)


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

    def of(self, names: NDArray[np.uint64]) -> Pages | None:
        """The numbers of ``names``; None when one has none."""
        places = np.minimum(np.searchsorted(self._names, names), len(self) - 1)
        return self._numbers[places] if (self._names[places] == names).all() else None
