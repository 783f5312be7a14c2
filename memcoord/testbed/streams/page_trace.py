"""Page-reference traces of real programs: which page, read or written, in order.

Owns: the columns of such a file (``memcoord/testbed/data/README.md``) and turning them into a
stream. A trace is named ``sort``, ``cc1``, ``sqlite``, or by the path of a file of the same
columns. ``table`` reads the file.
"""

import numpy as np

from hypervisor.public.errors import ConfigError
from memcoord.testbed.scenarios.workloads import REFERENCES_MAX, PageTraceWorkload, check_trace
from memcoord.testbed.streams.stream import Stream
from memcoord.testbed.streams.table import Table, read_table

FLAG_WRITTEN = 1
FLAG_FETCHED = 2
PAGES_MAX = 1 << 24


def page_trace(work: PageTraceWorkload, seed: int) -> Stream:
    """The trace, ``repeat`` times; the seed changes nothing."""
    del seed
    once = load_trace(work.trace)
    if len(once) * work.repeat > REFERENCES_MAX:
        raise ConfigError("workload.repeat", f"makes more than {REFERENCES_MAX} references")
    begin = -int(work.phase * len(once))
    pages, writes = np.roll(once.pages, begin), np.roll(once.writes, begin)
    pages, writes = np.tile(pages, work.repeat), np.tile(writes, work.repeat)
    program = once.program if work.program_file else np.zeros(once.page_count, dtype=np.bool_)
    return Stream(work.trace, pages, writes, once.page_count, program)


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
    pages = table.column("page", highest=PAGES_MAX - 1, most=REFERENCES_MAX + 1)
    if len(pages) > REFERENCES_MAX:
        raise table.wrong(f"more than {REFERENCES_MAX} references")
    table.column("dt", most=REFERENCES_MAX)  # only checked: the clock of the traced program
    flags = table.column("flags", most=REFERENCES_MAX)
    page_count = int(pages.max()) + 1
    seen = np.zeros(page_count, dtype=np.uint64)  # every flag a page ever had
    np.bitwise_or.at(seen, pages, flags)
    writes = (flags & FLAG_WRITTEN).astype(np.uint8)
    program = seen & (FLAG_FETCHED | FLAG_WRITTEN) == FLAG_FETCHED
    return Stream(name, pages.astype(np.int32), writes, page_count, program)
