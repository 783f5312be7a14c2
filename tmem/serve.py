"""The entries of a pool, linked: for Python's fast path, and for the hypervisor's C service thread.

Owns: who calls which entry, and how. Two kinds of callers run the same kernels on the same state,
and are never in it at the same time:

  Python      ``put_buffer``, ``get_buffer``, ``control`` and the ``py_*`` functions. They keep the
              GIL, which is the lock of embedded use: one operation is atomic for every thread of
              the process.
  C service   the functions of ``Entries``, by address. They need no Python and no GIL; the service
              holds a lock of its own around each call. Once it runs, Python calls a ``Tmem``
              method that enters the state only under that lock. The counters and ``mm_target``
              in ``Tmem.clients`` are aligned words and may be read and written at any time.

Importing this module links the entries, and has them compiled when no cache has them
(``tmem.compiled``); numba is not imported. Used by ``tmem.pool`` and what belongs to it, and by
hosts for ``entry_points``.
"""

from __future__ import annotations

from dataclasses import dataclass

from tmem import codes
from tmem.compiled import calling, calling_page, load
from tmem.layout import PAGE_BYTES
from tmem.units import POOL

PUT, GET, FLUSH_PAGE, FLUSH_OBJECT, NEW_POOL, DESTROY_POOL = (int(op) for op in codes.Op)
RELINQUISH, FLUSH_TO_HOST = codes.RELINQUISH, codes.FLUSH_TO_HOST
MAY_ASK, AGAIN = codes.MAY_ASK, codes.AGAIN
INDEX_MAX = codes.INDEX_MAX

_address = load(POOL)
_PAGE = {
    "page_bytes": PAGE_BYTES,
    "bad_buffer": int(codes.Code.BAD_BUFFER),
    "bad_index": int(codes.Code.BAD_INDEX),
}

put_buffer = calling_page(_address["many"], op=PUT, is_writable=False, **_PAGE)
get_buffer = calling_page(_address["many"], op=GET, is_writable=True, **_PAGE)
control = calling(_address["control"], 8, u64=(4, 5, 6))
py_execute, py_peek = calling(_address["execute"], 5), calling(_address["peek"], 4)
py_many, py_take_gone = calling(_address["many"], 10), calling(_address["take_gone"], 3)
py_grow, py_shrink = calling(_address["grow"], 2), calling(_address["shrink"], 1)
py_host, py_compress = calling(_address["host"], 3), calling(_address["compress"], 2)
py_open_client = calling(_address["open_client"], 2)
py_close_client = calling(_address["close_client"], 2)


@dataclass(frozen=True)
class Entries:
    """Addresses for the C service. Valid as long as the ``Tmem`` they were made for is alive.

    ``record`` is a copy in the service's own memory of a ``struct mc_record``, ``page`` the host
    address of the guest's 4096 bytes (0 when the operation needs none, or they cannot be touched).
    Any content of the record is safe. ``how`` is a sum. With MAY_ASK (1) a put that finds no free
    frame answers NEED_SLAB (-3000), nothing changed; the service may grow the pool and then repeats
    it without. With AGAIN (2) a process that was killed may have executed the record already: a
    pool that it made is answered, and not made twice. All other operations may simply be repeated.
    """

    state_address: int  # uint64_t state of every call
    execute: int  # int64_t (uint64_t state, uint64_t record, uint64_t page, int64_t client,
    #                        int64_t how): the status of the operation
    grow: int  # int64_t (uint64_t state, int64_t area): 0, or -1 for an area it cannot take
    shrink: int  # int64_t (uint64_t state): the area given up, or -1
    compress: int  # int64_t (uint64_t state, int64_t budget): pages compressed, 0 to the budget
    open_client: int  # int64_t (uint64_t state, int64_t client): 0, -17 open already, -1 no such
    close_client: int  # int64_t (uint64_t state, int64_t client): pages freed, or -19


def entry_points(state_address: int) -> Entries:
    """The C functions for the state at an address (``Tmem.state_address``), as integers."""
    return Entries(
        state_address=state_address,
        execute=_address["execute"],
        grow=_address["grow"],
        shrink=_address["shrink"],
        compress=_address["compress"],
        open_client=_address["open_client"],
        close_client=_address["close_client"],
    )
