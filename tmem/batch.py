"""Many pages in one call, on contiguous buffers.

Owns: what an array of pages, of names and of codes is. The caller's buffers are used where they
are, by their addresses; only indices of another type are copied. Used through ``Tmem.put_many``
and ``Tmem.get_many``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tmem import serve
from tmem.codes import TmemError
from tmem.layout import MAX_CLIENTS, PAGE_BYTES, POOLS_PER_CLIENT

Codes = npt.NDArray[np.int64]


def run(
    state_address: int, op: int, client: int, pool: int, oid: Any, indices: Any, pages: Any
) -> Codes:
    """Execute ``op``, PUT or GET, for each index: the codes, shape (n,).

    TmemError for arrays of another shape or size, OverflowError for an index that is no u32,
    BufferError for pages of a get that cannot be written.
    """
    which = _indices(indices)
    count = len(which)
    names = np.ascontiguousarray(oid, dtype=np.uint64)
    if names.shape not in ((3,), (count, 3)):
        raise TmemError(f"{count} pages have one oid or {count}, not an array {names.shape}")
    data = np.frombuffer(pages, np.uint8)
    if data.nbytes != count * PAGE_BYTES:
        raise TmemError(f"{count} pages are {count * PAGE_BYTES} bytes, not {data.nbytes}")
    if op == serve.GET and not data.flags.writeable:
        raise BufferError("pages to be filled must be writable")
    codes = np.empty(count, np.int64)
    serve.py_many(
        state_address,
        op,
        client if 0 <= client < MAX_CLIENTS else MAX_CLIENTS,
        pool if 0 <= pool < POOLS_PER_CLIENT else POOLS_PER_CLIENT,
        names.ctypes.data,
        3 if names.ndim == 2 else 0,
        which.ctypes.data,
        data.ctypes.data,
        codes.ctypes.data,
        count,
    )
    return codes


def _indices(indices: Any) -> npt.NDArray[np.uint32]:
    given = np.asarray(indices)
    if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
        raise TmemError(f"indices are one row of integers, not {given.dtype} of {given.shape}")
    if given.size and not 0 <= int(given.min()) <= int(given.max()) <= serve.INDEX_MAX:
        raise OverflowError("an index is a u32")
    return np.ascontiguousarray(given, dtype=np.uint32)
