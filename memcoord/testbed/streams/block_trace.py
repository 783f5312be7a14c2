"""Block traces: any CSV file with a column ``page``, one row one reference.

Owns: taking it for references to a file's pages, numbered in order of first use: clean pages, which
cleancache keeps. Numbers in the file need not be dense. ``table`` reads the file.
"""

import numpy as np

from hypervisor.public.errors import ConfigError
from memcoord.testbed.scenarios.workloads import REFERENCES_MAX, BlockTraceWorkload
from memcoord.testbed.streams.stream import Stream
from memcoord.testbed.streams.table import read_table

COLUMN = "page"


def block_trace(work: BlockTraceWorkload, seed: int) -> Stream:
    """The file's references, ``repeat`` times; ConfigError when it cannot be read."""
    del seed
    table = read_table(work.file, "workload")
    numbers = table.column(COLUMN, most=work.references or REFERENCES_MAX + 1)
    if len(numbers) * work.repeat > REFERENCES_MAX:
        raise ConfigError("workload.repeat", f"makes more than {REFERENCES_MAX} references")
    _, first, dense = np.unique(numbers, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))
    pages = np.tile(order[dense].astype(np.int32), work.repeat)
    writes, program = np.zeros(len(pages), dtype=np.uint8), np.ones(len(first), dtype=np.bool_)
    return Stream(table.name, pages, writes, len(first), program)
