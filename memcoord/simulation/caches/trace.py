"""Traces: files in any form with a row per reference, as ``docs/traces.md`` names them.

Owns: their dense numbers. ``memcoord.testbed.traces.table`` reads the file. A page is any integer
below 2**64; the kernels need dense numbers, which are given here in the order of first reference.
Used by ``memcoord sim --trace`` and the bench of policies.
"""

# Kernel arguments are typed by their signatures.
# ruff: noqa: ANN001, ANN202

from dataclasses import dataclass

import numpy as np
from numba import int64, njit, types, uint64
from numpy.typing import NDArray

from memcoord.testbed.scenarios.trace_files import TraceForm
from memcoord.testbed.traces.forms import NUMBER_MAX
from memcoord.testbed.traces.table import PLAIN, Table, read_table
from tmem.compiled_cache import cached_kernels
from tmem.raw_memory import kernel

COLUMN = "page"
REFERENCES_MAX = (1 << 31) - 1
FIRST_TABLE = 1 << 12  # a power of two
GROUP_BITS = 3  # the search for names that differ in these bits only begins in one cache line
GROUP = 1 << GROUP_BITS
HASH_SHIFT = 34  # leaves room for GROUP_BITS below the number of the group
FIBONACCI = 0x9E3779B97F4A7C15  # 2**64 over the golden ratio


@dataclass(frozen=True, eq=False)
class Trace:
    """A stream of references: ``pages[i]`` is the dense number of the page ``ids[i]``.

    Dense numbers go from 0 to ``page_count`` - 1 in order of first reference. A trace that was made
    shorter says how many references it ``stands_for``; any other for as many as it has.
    """

    name: str
    pages: NDArray[np.int32]
    page_count: int
    ids: NDArray[np.uint64]
    stands_for: int

    def __len__(self) -> int:
        return len(self.pages)


@kernel
def _place(name, mask):
    """The slot where the search for a name begins; near names begin near each other."""
    group = ((name >> uint64(GROUP_BITS)) * uint64(FIBONACCI)) >> uint64(HASH_SHIFT)
    return int64(group << uint64(GROUP_BITS) | name & uint64(GROUP - 1)) & mask


def _number(ids, out):
    """Write dense numbers in order of first reference to ``out``, by an open table of the names
    seen. Returns how many there are."""
    mask = FIRST_TABLE - 1
    numbers = np.full(FIRST_TABLE, -1, np.int32)
    names = np.empty(FIRST_TABLE, np.uint64)
    count = 0
    for at in range(len(ids)):
        name = ids[at]
        slot = _place(name, mask)
        while numbers[slot] >= 0 and names[slot] != name:
            slot = (slot + 1) & mask
        if numbers[slot] >= 0:
            out[at] = numbers[slot]
            continue
        numbers[slot], names[slot], out[at] = count, name, count
        count += 1
        if 2 * count > mask:
            old_numbers, old_names = numbers, names
            mask = 4 * mask + 3
            numbers = np.full(mask + 1, -1, np.int32)
            names = np.empty(mask + 1, np.uint64)
            for old in range(len(old_numbers)):
                if old_numbers[old] >= 0:
                    slot = _place(old_names[old], mask)
                    while numbers[slot] >= 0:
                        slot = (slot + 1) & mask
                    numbers[slot], names[slot] = old_numbers[old], old_names[old]
    return count


_ids_type = types.Array(types.uint64, 1, "C", readonly=True)
with cached_kernels(__file__) as _cache:
    _number_all = njit(int64(_ids_type, types.int32[::1]), cache=_cache, nogil=True)(_number)


def load(path: str, form: TraceForm = PLAIN) -> Trace:
    """The trace in a file that is read as ``form`` says, or the shipped trace of that name.

    ConfigError (key ``trace``), in one line: there is no such file, it is damaged, nothing says
    where its rows have the page, it has no rows, or a row (named by its place) has no valid page.
    """
    return trace_of(read_table(path, "trace", form))


def trace_of(table: Table) -> Trace:
    """The trace in a table; errors as ``load``."""
    found, whole = [], 0
    clock = {"dt": NUMBER_MAX} if table.is_native else {}
    for ids, *dts in table.rows({COLUMN: NUMBER_MAX} | clock):
        found.append(ids)
        whole += sum(int(dt.sum()) for dt in dts)
    ids = np.concatenate(found)
    if len(ids) > REFERENCES_MAX:
        raise table.wrong(f"more than {REFERENCES_MAX} rows")
    pages, page_count = number(ids)
    return Trace(table.name, pages, page_count, ids, max(whole, len(ids)))


def number(ids: NDArray[np.uint64]) -> tuple[NDArray[np.int32], int]:
    """Dense numbers in order of first reference for any 64-bit numbers, and their count."""
    pages = np.empty(len(ids), np.int32)
    return pages, int(_number_all(ids, pages))
