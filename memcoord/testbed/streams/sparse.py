"""PageRank and ALS: the page references of sweeps over a sparse matrix.

Owns: the memory layout of the two programs and the walk they share. Both hold their non-zeroes in
rows (edges of a vertex, ratings of a user) and go through them in order; for every non-zero they
read the record it points to in one table, and after every row they write a record of another:

  offsets[row], {entries[k], table[column of k]} for every k of the row, result[row]

These are the references of the algorithms themselves, not a model of them; arithmetic is left out
because it changes no address.
"""

import bisect
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from hypervisor.public.units import FRAME_BYTES
from memcoord.testbed.scenarios.workloads import AnalyticsWorkload, GraphWorkload
from memcoord.testbed.streams.references import (
    Pages,
    Part,
    References,
    chained,
    counted,
    cyclic,
    gathered,
    merged_parts,
    spans,
    sweep,
)
from memcoord.testbed.streams.stream import Stream, anonymous

#: Quadrant probabilities of R-MAT (Chakrabarti et al., SDM 2004), as Graph500 has them.
RMAT = (0.57, 0.19, 0.19, 0.05)
#: Zipf exponents of the users that rate and of the items they rate.
ZIPF_USERS, ZIPF_ITEMS = 0.6, 0.9
OFFSET_BYTES = 8


class Array:
    """Pages ``first`` to ``first + pages - 1`` holding records one after the other."""

    def __init__(self, first: int, pages: int, record_bytes: int) -> None:
        self.first, self.pages, self._record_bytes = first, pages, record_bytes

    def page_of(self, index: NDArray[np.integer]) -> Pages:
        """Pages on which the records begin."""
        return (self.first + index * self._record_bytes // FRAME_BYTES).astype(np.int32)

    def filled(self) -> References:
        """Every page written in order: the program loads its input."""
        return sweep(self.first, self.pages, write=True)


class Layout:
    """Arrays one after the other in a program's memory, each on pages of its own."""

    def __init__(self) -> None:
        self.page_count = 0

    def array(self, records: int, record_bytes: int) -> Array:
        """The next array of the memory."""
        first = self.page_count
        self.page_count += -(-records * record_bytes // FRAME_BYTES)
        return Array(first, self.page_count - first, record_bytes)


class Matrix:
    """Non-zeroes sorted by row, and where they lie; ``columns[k]`` belongs to row ``rows[k]``."""

    def __init__(
        self,
        layout: Layout,
        rows: NDArray[np.integer],
        columns: NDArray[np.integer],
        row_count: int,
        entry_bytes: int,
    ) -> None:
        order = np.argsort(rows, kind="stable")
        self._rows = rows[order].astype(np.int32)
        self._columns = columns[order].astype(np.int32)
        # Each row has two references of its own, each entry two: where they stand follows.
        every = np.arange(row_count)
        begin = np.searchsorted(self._rows, every)
        end = np.searchsorted(self._rows, every, side="right")
        self._row_at, self._result_at = 2 * begin + 2 * every, 2 * end + 2 * every + 1
        self._length = 2 * (len(rows) + row_count)
        self._offsets = layout.array(row_count + 1, OFFSET_BYTES)
        self._entries = layout.array(len(rows), entry_bytes)

    def filled(self) -> list[References]:
        """Loading it."""
        return [self._offsets.filled(), self._entries.filled()]

    def walk(self, table: Array, result: Array) -> References:
        """One sweep: read ``table`` by column, write ``result`` by row."""

        def parts() -> Iterator[Part]:
            for begin, end in spans(self._length):
                yield self._part(table, result, begin, end)

        return counted(lambda: gathered(merged_parts(parts())))

    def _part(self, table: Array, result: Array, begin: int, end: int) -> Part:
        """References ``begin`` to ``end`` of a walk, before runs of one page are merged."""
        pages, writes = np.empty(end - begin, np.int32), np.zeros(end - begin, np.uint8)
        first, last = np.searchsorted(self._row_at, (begin, end))
        pages[self._row_at[first:last] - begin] = self._offsets.page_of(np.arange(first, last))
        first, last = self._entry_from(begin), self._entry_from(end)
        pages[self._entry_at(first, last) - begin] = self._entries.page_of(np.arange(first, last))
        first, last = self._entry_from(begin - 1), self._entry_from(end - 1)
        read = table.page_of(self._columns[first:last].astype(np.int64))
        pages[self._entry_at(first, last) + 1 - begin] = read
        first, last = np.searchsorted(self._result_at, (begin, end))
        written = self._result_at[first:last] - begin
        pages[written], writes[written] = result.page_of(np.arange(first, last)), 1
        return pages, writes

    def _entry_at(self, first: int, last: int) -> NDArray[np.int64]:
        """Where the references to entries ``first`` to ``last`` stand; the table's is behind."""
        return 2 * np.arange(first, last) + 2 * self._rows[first:last].astype(np.int64) + 1

    def _entry_from(self, at: int) -> int:
        """The first entry that is read at reference ``at`` or later."""
        entries = range(len(self._rows))
        return bisect.bisect_left(entries, at, key=lambda k: 2 * k + 2 * int(self._rows[k]) + 1)


def graph_analytics(work: GraphWorkload, seed: int) -> Stream:
    """PageRank, pulling: a vertex reads the ranks of those that point to it."""
    rng = np.random.default_rng(seed)
    source, target = _rmat(rng, work.vertices, work.vertices * work.degree)
    layout = Layout()
    matrix = Matrix(layout, target, source, work.vertices, work.edge_bytes)
    ranks = [layout.array(work.vertices, work.vertex_bytes) for _ in range(2)]
    load = chained([*matrix.filled(), ranks[0].filled()])
    steps = [matrix.walk(ranks[turn], ranks[1 - turn]) for turn in range(2)]
    turns = [steps[turn % 2] for turn in range(work.iterations)]
    return anonymous("graph-analytics", chained([load, *turns]), layout.page_count)


def in_memory_analytics(work: AnalyticsWorkload, seed: int) -> Stream:
    """ALS: users' factors from the items', items' from the users', again; then the next run."""
    rng = np.random.default_rng(seed)
    user = _zipf(rng, work.users, work.ratings, ZIPF_USERS)
    item = _zipf(rng, work.items, work.ratings, ZIPF_ITEMS)
    layout = Layout()
    by_user = Matrix(layout, user, item, work.users, work.rating_bytes)
    by_item = Matrix(layout, item, user, work.items, work.rating_bytes)
    users = layout.array(work.users, work.row_bytes)
    items = layout.array(work.items, work.row_bytes)
    load = [*by_user.filled(), *by_item.filled(), items.filled()]
    step = [by_user.walk(items, users), by_item.walk(users, items)]
    once = chained([*load, *(step * work.iterations)])
    turns = range(1, work.runs if work.pause_s > 0 else 1)
    pauses = tuple((turn * len(once), work.pause_s) for turn in turns)
    every = cyclic(once, len(once) * work.runs)
    return anonymous("in-memory-analytics", every, layout.page_count, pauses)


def _rmat(
    rng: np.random.Generator, vertices: int, edges: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Edges of an R-MAT graph: one quadrant per bit of the vertex numbers."""
    ends = np.zeros((2, edges), dtype=np.int64)
    bounds = np.cumsum(RMAT)[:-1]
    for _ in range(vertices.bit_length() - 1):
        quadrant = np.searchsorted(bounds, rng.random(edges), side="right")
        ends = ends << 1 | np.stack((quadrant >> 1, quadrant & 1))
    return ends[0], ends[1]


def _zipf(rng: np.random.Generator, size: int, count: int, exponent: float) -> NDArray[np.int64]:
    """``count`` draws from 0..size-1, popular ones anywhere among them."""
    weight = np.cumsum(np.arange(1, size + 1, dtype=np.float64) ** -exponent)
    drawn = np.searchsorted(weight, rng.random(count) * weight[-1])
    places: NDArray[np.int64] = rng.permutation(size)[np.minimum(drawn, size - 1)]
    return places
