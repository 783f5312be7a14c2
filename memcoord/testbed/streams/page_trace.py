"""Page-reference traces of real programs: which page, read or written, in order.

Owns: the columns of such a file (``memcoord/testbed/data/README.md``) and turning them into a
stream. A trace is named ``sort``, ``cc1``, ``sqlite``, or by the path of a file of the same
columns. ``table`` reads the file: once to see what it has, and, where that is too much to hold,
again whenever its references are made.
"""

from collections.abc import Iterator

import numpy as np

from hypervisor.public.errors import ConfigError
from memcoord.testbed.scenarios.workloads import REFERENCES_MAX, PageTraceWorkload, check_trace
from memcoord.testbed.streams.references import Part, counted, cyclic
from memcoord.testbed.streams.stream import Stream
from memcoord.testbed.streams.table import NUMBER_MAX, Table, read_table

FLAG_WRITTEN = 1
FLAG_FETCHED = 2
PAGES_MAX = 1 << 24


def page_trace(work: PageTraceWorkload, seed: int) -> Stream:
    """The trace, ``repeat`` times; the seed changes nothing."""
    del seed
    once = load_trace(work.trace)
    count = len(once) * work.repeat
    if count > REFERENCES_MAX:
        raise ConfigError("workload.repeat", f"makes more than {REFERENCES_MAX} references")
    references = cyclic(once.references, count, int(work.phase * len(once)))
    program = once.program if work.program_file else np.zeros(once.page_count, dtype=np.bool_)
    return Stream(work.trace, references, once.page_count, program)


def load_trace(name: str) -> Stream:
    """The trace called ``name``; ConfigError (key ``workload``) names file and line of a fault.

    ``program`` are the pages of the program's own file: executed, and never written.
    """
    problem = check_trace(name)
    if problem:
        raise ConfigError("workload", problem)
    return parse_trace(name, read_table(name, "workload"))


def parse_trace(name: str, table: Table) -> Stream:
    """The trace in ``table``; ConfigError names the first bad line."""
    seen = _Seen()

    def parts(page_max: int, seen: _Seen | None = None) -> Iterator[Part]:
        # dt is only checked: the clock of the traced program
        columns = {"page": page_max, "dt": NUMBER_MAX, "flags": NUMBER_MAX}
        for pages, _, flags in table.rows(columns, most=REFERENCES_MAX + 1):
            if seen is not None:
                seen.note(pages.astype(np.int64), (flags & (FLAG_WRITTEN | FLAG_FETCHED)))
            yield pages.astype(np.int32), (flags & FLAG_WRITTEN).astype(np.uint8)

    references = counted(lambda: parts(seen.page_count - 1), parts(PAGES_MAX - 1, seen))
    if len(references) > REFERENCES_MAX:
        raise table.wrong(f"more than {REFERENCES_MAX} references")
    program = seen.flags[: seen.page_count] == FLAG_FETCHED
    return Stream(name, references, seen.page_count, program)


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
