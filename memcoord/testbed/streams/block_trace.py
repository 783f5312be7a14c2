"""Block traces: a file in any form that names a page a row, one row one reference.

Owns: taking it for references to a file's pages, numbered in order of first use: clean pages, which
cleancache keeps. Numbers in the file need not be dense. ``memcoord.testbed.traces`` reads the file:
once to number its pages, and, where it is too long to hold, again whenever its references are made.
"""

import numpy as np

from hypervisor.public.errors import ConfigError
from memcoord.testbed.scenarios.workloads import REFERENCES_MAX, BlockTraceWorkload
from memcoord.testbed.streams.references import counted, cyclic
from memcoord.testbed.streams.stream import Stream
from memcoord.testbed.traces.numbering import NumberedTable
from memcoord.testbed.traces.table import read_table


def block_trace(work: BlockTraceWorkload, seed: int) -> Stream:
    """The file's references, ``repeat`` times; ConfigError when it cannot be read."""
    del seed
    table = read_table(work.file, "workload", work)
    rows = NumberedTable(table, work.references or REFERENCES_MAX + 1)
    first = rows.parts(may_add=True, flagged=False)
    once = counted(lambda: rows.parts(may_add=False, flagged=False), first)
    if len(once) * work.repeat > REFERENCES_MAX:
        raise ConfigError("workload.repeat", f"makes more than {REFERENCES_MAX} references")
    program = np.ones(rows.page_count, dtype=np.bool_)
    return Stream(table.name, cyclic(once, len(once) * work.repeat), rows.page_count, program)
