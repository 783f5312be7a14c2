"""The compiled entries: for Python's fast path, and for the hypervisor's C service thread.

Owns: what is compiled, and with which signature. Two kinds of callers run the same kernels on the
same state, and are never in it at the same time:

  Python      ``put_buffer``, ``get_buffer``, ``control``. They keep the GIL, which is the lock of
              embedded use: one operation is atomic for every thread of the process.
  C service   the functions of ``Entries``, by address. They need no Python and no GIL; the service
              holds a lock of its own around each call. Once it runs, Python calls a ``Tmem``
              method that takes part in this only under that lock. The counters and ``mm_target``
              in ``Tmem.clients`` are aligned words and may be read and written at any time.

Importing this module compiles or loads every kernel.
"""

# Kernel arguments are typed by their signatures; annotations would only repeat them.
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numba import cfunc, int64, njit, uint64

from tmem import codes, evict, invalidation_log, kernels, pools, slab, store
from tmem.compiled_cache import cached_kernels
from tmem.layout import (
    C_ERRORS,
    CLIENT_WORDS,
    CLIENTS,
    H_ERRORS,
    H_NOTE,
    H_OPERATIONS,
    MAX_CLIENTS,
    NOTE_DESTROY_POOL,
    NOTE_OPEN_CLIENT,
    PAGE_BYTES,
)
from tmem.raw_memory import (
    cells_at,
    kernel,
    note,
    oids_at,
    page_address,
    readable_page,
    words_at,
    writable_page,
)

if TYPE_CHECKING:
    from tmem.pool import Tmem

PUT, GET, FLUSH_PAGE, FLUSH_OBJECT, NEW_POOL, DESTROY_POOL = (int(op) for op in codes.Op)
RELINQUISH, FLUSH_TO_HOST = range(2)  # of ``host``
ENODEV, ENOSYS = int(codes.Code.ENODEV), int(codes.Code.ENOSYS)
NEED_SLAB = int(codes.Code.NEED_SLAB)
BAD_INDEX, BAD_BUFFER = int(codes.Code.BAD_INDEX), int(codes.Code.BAD_BUFFER)

# struct mc_record, in u64 words: op is the low half-word of word 0, arg[] starts at word 3.
RECORD_ARG = 3
OP_MASK = 0xFFFF
LOW_HALF = INDEX_MAX = 0xFFFFFFFF


@kernel
def counted(s, client, code):
    """Count an operation and whether it failed; returns its code."""
    if code == NEED_SLAB:
        return code
    s[H_OPERATIONS] += 1
    if code < 0:
        s[H_ERRORS] += 1
        if 0 <= client < MAX_CLIENTS:
            s[CLIENTS + client * CLIENT_WORDS + C_ERRORS] += 1
    return code


@kernel
def without_page(s, op, client, word, oid0, oid1, oid2, index):
    """Every operation that moves no data. ``word`` is arg[0] of the record: pool or flags."""
    if op == NEW_POOL:
        return pools.new_pool(s, client, word, int64(oid0), int64(oid1))
    pool = pools.pool_of(s, client, word)
    if op == DESTROY_POOL:
        if s[H_NOTE] and pool >= 0:
            note(s, NOTE_DESTROY_POOL, client, pool, oid0, oid1, oid2, 0)
        return pools.destroy_pool(s, client, word)
    if pool < 0:
        return ENODEV
    if op == FLUSH_PAGE:
        return kernels.flush_page(s, client, pool, oid0, oid1, oid2, index)
    if op == FLUSH_OBJECT:
        return kernels.flush_object(s, client, pool, oid0, oid1, oid2)
    return ENOSYS


def _put_buffer(state, client, slot, oid0, oid1, oid2, index, page):
    data = page_address(page)
    if data == 0:
        return BAD_BUFFER
    if not 0 <= index <= INDEX_MAX:
        return BAD_INDEX
    s = words_at(state)
    code = kernels.put_page(s, client, slot, oid0, oid1, oid2, index, data, int64(0))
    return counted(s, client, code)


def _get_buffer(state, client, slot, oid0, oid1, oid2, index, page):
    data = page_address(page)
    if data == 0:
        return BAD_BUFFER
    if not 0 <= index <= INDEX_MAX:
        return BAD_INDEX
    s = words_at(state)
    code = kernels.get_page(s, client, slot, oid0, oid1, oid2, index, data)
    return counted(s, client, code)


def _control(state, op, client, word, oid0, oid1, oid2, index):
    if not 0 <= index <= INDEX_MAX:
        return BAD_INDEX
    s = words_at(state)
    code = without_page(s, op, client, word, oid0, oid1, oid2, index)
    return counted(s, client, code)


def _execute(state, record, page, client, may_ask):
    s, words = words_at(int64(state)), oids_at(int64(record))
    op = int64(words[0] & uint64(OP_MASK))
    word = words[RECORD_ARG]
    oid0, oid1, oid2 = words[RECORD_ARG + 1], words[RECORD_ARG + 2], words[RECORD_ARG + 3]
    slot, index = int64(word & uint64(LOW_HALF)), int64(word >> uint64(32))
    if op != PUT and op != GET:
        if op != FLUSH_PAGE:
            slot = int64(word)
        code = without_page(s, op, client, slot, oid0, oid1, oid2, index)
    elif op == PUT:
        code = kernels.put_page(s, client, slot, oid0, oid1, oid2, index, int64(page), may_ask)
    else:
        code = kernels.get_page(s, client, slot, oid0, oid1, oid2, index, int64(page))
    return counted(s, client, code)


def _peek(state, record, page, client):
    s, words = words_at(int64(state)), oids_at(int64(record))
    word = words[RECORD_ARG]
    oid0, oid1, oid2 = words[RECORD_ARG + 1], words[RECORD_ARG + 2], words[RECORD_ARG + 3]
    slot, index = int64(word & uint64(LOW_HALF)), int64(word >> uint64(32))
    return kernels.peek_page(s, client, slot, oid0, oid1, oid2, index, int64(page))


def _grow(state, area):
    return slab.add_area(words_at(int64(state)), area)


def _shrink(state):
    return evict.shrink(words_at(int64(state)))


def _host(state, op, amount):
    s = words_at(int64(state))
    if op == RELINQUISH:
        return evict.relinquish(s, amount)
    return evict.flush_to_host(s, amount)


def _compress(state, budget):
    return store.compress_step(words_at(int64(state)), budget)


def _many(state, op, client, slot, oids, stride, indices, data, codes, count):
    s, names = words_at(state), oids_at(oids)
    which, answers = cells_at(indices), words_at(codes)
    for number in range(count):
        at = number * stride
        oid0, oid1, oid2, index = names[at], names[at + 1], names[at + 2], int64(which[number])
        if op == PUT:
            code = kernels.put_page(s, client, slot, oid0, oid1, oid2, index, data, int64(0))
        else:
            code = kernels.get_page(s, client, slot, oid0, oid1, oid2, index, data)
        answers[number] = counted(s, client, code)
        data += PAGE_BYTES
    return count


def _take_gone(state, client, out):
    return invalidation_log.take_gone(words_at(int64(state)), client, out)


def _open_client(state, client):
    s = words_at(int64(state))
    code = pools.open_client(s, client)
    if s[H_NOTE] and code == 0:
        note(s, NOTE_OPEN_CLIENT, client, 0, uint64(0), uint64(0), uint64(0), 0)
    return code


def _close_client(state, client):
    return pools.close_client(words_at(int64(state)), client)


_KEY = (int64, int64, int64, uint64, uint64, uint64, int64)
with cached_kernels() as _cache:
    # A dispatcher looks at the types of every argument; its compiled function, called directly,
    # converts them and raises on what cannot be converted. Half the time of a hot call.
    def _entry(signature: Any, function: Any) -> Any:
        dispatcher = njit(signature, cache=_cache)(function)
        return next(iter(dispatcher.overloads.values())).entry_point

    def _pointer(signature: Any, function: Any) -> Any:
        return cfunc(signature, nopython=True, cache=_cache)(function)

    put_buffer = _entry(int64(*_KEY, readable_page), _put_buffer)
    get_buffer = _entry(int64(*_KEY, writable_page), _get_buffer)
    control = _entry(int64(int64, *_KEY), _control)
    execute = _pointer(int64(uint64, uint64, uint64, int64, int64), _execute)
    peek = _pointer(int64(uint64, uint64, uint64, int64), _peek)
    grow = _pointer(int64(uint64, int64), _grow)
    shrink = _pointer(int64(uint64), _shrink)
    compress = _pointer(int64(uint64, int64), _compress)
    many = _pointer(int64(*(int64,) * 10), _many)
    take_gone = _pointer(int64(uint64, int64, int64), _take_gone)
    host = _pointer(int64(uint64, int64, int64), _host)
    open_client = _pointer(int64(uint64, int64), _open_client)
    close_client = _pointer(int64(uint64, int64), _close_client)


def _with_gil(pointer: Any) -> Any:
    """For Python: an ordinary ctypes function would let go of the GIL, which is the lock."""
    count = len(pointer._sig.args)
    return ctypes.PYFUNCTYPE(ctypes.c_int64, *(ctypes.c_int64,) * count)(pointer.address)


py_execute, py_peek, py_many = _with_gil(execute), _with_gil(peek), _with_gil(many)
py_grow, py_shrink, py_host = _with_gil(grow), _with_gil(shrink), _with_gil(host)
py_compress, py_take_gone = _with_gil(compress), _with_gil(take_gone)
py_open_client, py_close_client = _with_gil(open_client), _with_gil(close_client)


@dataclass(frozen=True)
class Entries:
    """Addresses for the C service. Valid as long as the ``Tmem`` they were made for is alive.

    ``record`` is a copy in the service's own memory of a ``struct mc_record``, ``page`` the host
    address of the guest's 4096 bytes (0 when the operation needs none, or they cannot be touched).
    Any content of the record is safe. With ``may_ask`` a put that finds no free frame answers
    NEED_SLAB (-3000), nothing changed; the service may grow the pool and then repeats it with
    ``may_ask`` 0.
    """

    state_address: int  # uint64_t state of every call
    execute: int  # int64_t (uint64_t state, uint64_t record, uint64_t page, int64_t client,
    #                        int64_t may_ask): the status of the operation
    grow: int  # int64_t (uint64_t state, int64_t area): 0, or -1 for an area it cannot take
    shrink: int  # int64_t (uint64_t state): the area given up, or -1
    compress: int  # int64_t (uint64_t state, int64_t budget): pages compressed, 0 to the budget
    open_client: int  # int64_t (uint64_t state, int64_t client): 0, -17 open already, -1 no such
    close_client: int  # int64_t (uint64_t state, int64_t client): pages freed, or -19


def entry_points(tmem: Tmem) -> Entries:
    """The C functions and the state they work on, as integers."""
    return Entries(
        state_address=tmem.state_address,
        execute=execute.address,
        grow=grow.address,
        shrink=shrink.address,
        compress=compress.address,
        open_client=open_client.address,
        close_client=close_client.address,
    )
