"""Page-reference traces of real programs: which page, read or written, in order.

Owns: turning such a file into a stream. A trace is named ``sort``, ``cc1``, ``sqlite``, or by the
path of a file. One with the columns of the shipped ones (``memcoord/testbed/data/README.md``) has
dense page numbers, which stand; the pages of any other are numbered in order of first use.
``memcoord.testbed.traces`` reads the file: once to see what it has, and, where that is too much to
hold, again whenever its references are made.
"""

from collections.abc import Iterator

import numpy as np

from hypervisor.public.errors import ConfigError
from memcoord.testbed.scenarios.trace_files import SHIPPED_TRACES, TraceForm, check_file
from memcoord.testbed.scenarios.workloads import REFERENCES_MAX, PageTraceWorkload
from memcoord.testbed.streams.references import Part, References, counted, cyclic
from memcoord.testbed.streams.stream import Stream
from memcoord.testbed.traces.forms import NUMBER_MAX
from memcoord.testbed.traces.numbering import (
    FLAG_FETCHED,
    FLAG_WRITTEN,
    PAGES_MAX,
    NumberedTable,
)
from memcoord.testbed.traces.table import PLAIN, Table, read_table


class _Seen:
    """Every flag that a page ever had."""

    def __init__(self) -> None:
        self.page_count = 0
        self.flags = np.zeros(1, np.uint8)

    def note(self, pages: np.ndarray, flags: np.ndarray) -> None:
        self.page_count = max(self.page_count, int(pages.max()) + 1)
        if self.page_count > len(self.flags):
            more = (1 << self.page_count.bit_length()) - len(self.flags)
            self.flags = np.concatenate((self.flags, np.zeros(more, np.uint8)))
        np.bitwise_or.at(self.flags, pages, flags.astype(np.uint8))


def page_trace(work: PageTraceWorkload, seed: int) -> Stream:
    """The trace, ``repeat`` times; the seed changes nothing."""
    del seed
    once = load_trace(work.trace, work)
    count = len(once) * work.repeat
    if count > REFERENCES_MAX:
        raise ConfigError("workload.repeat", f"makes more than {REFERENCES_MAX} references")
    references = cyclic(once.references, count, int(work.phase * len(once)))
    program = once.program if work.program_file else np.zeros(once.page_count, dtype=np.bool_)
    return Stream(work.trace, references, once.page_count, program)


def load_trace(name: str, form: TraceForm = PLAIN) -> Stream:
    """The trace called ``name``; ConfigError (key ``workload``) names file and line of a fault.

    ``program`` are the pages of the program's own file: executed, and never written.
    """
    problem = check_file(name, SHIPPED_TRACES)
    if problem:
        raise ConfigError("workload", problem)
    return parse_trace(name, read_table(name, "workload", form))


def parse_trace(name: str, table: Table) -> Stream:
    """The trace in ``table``; ConfigError names the first bad line."""
    seen = _Seen()
    references = _as_it_stands(table, seen) if table.is_native else _numbered(table, seen)
    if len(references) > REFERENCES_MAX:
        raise table.wrong(f"more than {REFERENCES_MAX} references")
    program = seen.flags[: seen.page_count] == FLAG_FETCHED
    return Stream(name, references, seen.page_count, program)


def _as_it_stands(table: Table, seen: _Seen) -> References:
    def parts(page_max: int, seen: _Seen | None = None) -> Iterator[Part]:
        # dt is only checked: the clock of the traced program
        columns = {"page": page_max, "dt": NUMBER_MAX, "flags": NUMBER_MAX}
        for pages, _, flags in table.rows(columns, most=REFERENCES_MAX + 1):
            if seen is not None:
                seen.note(pages.astype(np.int64), (flags & (FLAG_WRITTEN | FLAG_FETCHED)))
            yield pages.astype(np.int32), (flags & FLAG_WRITTEN).astype(np.uint8)

    return counted(lambda: parts(seen.page_count - 1), parts(PAGES_MAX - 1, seen))


def _numbered(table: Table, seen: _Seen) -> References:
    rows = NumberedTable(table, REFERENCES_MAX + 1)

    def parts(*, is_first: bool) -> Iterator[Part]:
        for pages, flags in rows.parts(may_add=is_first):
            if is_first:
                seen.note(pages, flags)
            yield pages, flags & np.uint8(FLAG_WRITTEN)

    return counted(lambda: parts(is_first=False), parts(is_first=True))
