"""The compiled entries: for Python's fast path, and for the hypervisor's C service thread.

Owns: what is compiled, and with which signature. Two kinds of callers run the same kernels on the
same state, and are never in it at the same time:

  Python      ``put_buffer``, ``get_buffer``, ``control`` and the ``py_*`` functions. They keep the
              GIL, which is the lock of embedded use: one operation is atomic for every thread of
              the process.
  C service   the functions of ``Entries``, by address. They need no Python and no GIL; the service
              holds a lock of its own around each call. Once it runs, Python calls a ``Tmem``
              method that enters the state only under that lock. The counters and ``mm_target``
              in ``Tmem.clients`` are aligned words and may be read and written at any time.

Every entry takes the address of the state first. Importing this module compiles or loads every
kernel. Used by ``tmem.pool`` and what belongs to it, and by hosts for ``entry_points``.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

from numba import cfunc, int64, njit, uint64

from tmem import codes, evict, invalidation_log, kernels, pools, slab, store
from tmem.compiled_cache import cached_kernels
from tmem.index import Name
from tmem.layout import (
    MAX_CLIENTS,
    NO_RECORD,
    NOTE_DESTROY_POOL,
    NOTE_OPEN_CLIENT,
    PAGE_BYTES,
    STATE,
)
from tmem.page_argument import page_address, readable_page, writable_page
from tmem.raw_memory import array_at, kernel, record_at, words_at
from tmem.record import RECORD

PUT, GET, FLUSH_PAGE, FLUSH_OBJECT, NEW_POOL, DESTROY_POOL = (int(op) for op in codes.Op)
RELINQUISH, FLUSH_TO_HOST = range(2)  # of ``host``
MAY_ASK, AGAIN = 1, 2  # of ``execute``: how
ENODEV, ENOSYS = int(codes.Code.ENODEV), int(codes.Code.ENOSYS)
NEED_SLAB = int(codes.Code.NEED_SLAB)
BAD_INDEX, BAD_BUFFER = int(codes.Code.BAD_INDEX), int(codes.Code.BAD_BUFFER)
LOW_HALF = INDEX_MAX = 0xFFFFFFFF

state_at, record_of = record_at(STATE), record_at(RECORD)
oids_at, indices_at = array_at("u8"), array_at("u4")


@kernel
def counted(state, client, code):
    """Count an operation and whether it failed; returns its code."""
    if code == NEED_SLAB:
        return code
    state.operations += 1
    if code < 0:
        state.errors += 1
        if 0 <= client < MAX_CLIENTS:
            state.clients[client].errors += 1
    return code


@kernel
def without_page(state, op, client, word, oid, index):
    """Every operation that moves no data. ``word`` is the slot, of a new pool the flags."""
    if op == NEW_POOL:
        return pools.new_pool(state, client, word, int64(oid[0]), int64(oid[1]), NO_RECORD)
    name = Name(pools.pool_of(state, client, word), oid, index)
    if op == DESTROY_POOL:
        if name.pool >= 0:
            kernels.note(state, NOTE_DESTROY_POOL, client, name)
        return pools.destroy_pool(state, client, word)
    if name.pool < 0:
        return ENODEV
    if op == FLUSH_PAGE:
        return kernels.flush_page(state, client, name)
    if op == FLUSH_OBJECT:
        return kernels.flush_object(state, client, name)
    return ENOSYS


@kernel
def new_pool(state, client, request, again):
    """NEW_POOL of a record; when a killed process has made the pool already, that one."""
    made = pools.slot_made_by(state, client, request.seq) if again else -1
    if made >= 0:
        return made
    arg = request.arg
    flags, uuid_lo, uuid_hi = int64(arg[0]), int64(arg[1]), int64(arg[2])
    return pools.new_pool(state, client, flags, uuid_lo, uuid_hi, request.seq)


@kernel
def name_in(record):
    """The slot, oid and index a record of a put, get or flush carries in its arguments."""
    arg = record.arg
    return int64(arg[0] & uint64(LOW_HALF)), (arg[1], arg[2], arg[3]), int64(arg[0] >> uint64(32))


def _put_buffer(address, client, slot, oid0, oid1, oid2, index, page):
    data = page_address(page)
    if data == 0:
        return BAD_BUFFER
    if not 0 <= index <= INDEX_MAX:
        return BAD_INDEX
    state = state_at(address)
    code = kernels.put_page(state, client, slot, (oid0, oid1, oid2), index, data, int64(0))
    return counted(state, client, code)


def _get_buffer(address, client, slot, oid0, oid1, oid2, index, page):
    data = page_address(page)
    if data == 0:
        return BAD_BUFFER
    if not 0 <= index <= INDEX_MAX:
        return BAD_INDEX
    state = state_at(address)
    code = kernels.get_page(state, client, slot, (oid0, oid1, oid2), index, data)
    return counted(state, client, code)


def _control(address, op, client, word, oid0, oid1, oid2, index):
    if not 0 <= index <= INDEX_MAX:
        return BAD_INDEX
    state = state_at(address)
    return counted(state, client, without_page(state, op, client, word, (oid0, oid1, oid2), index))


def _execute(address, record, page, client, how):
    state, request = state_at(int64(address)), record_of(int64(record))
    op = request.op
    slot, oid, index = name_in(request)
    if op == NEW_POOL:
        code = new_pool(state, client, request, how & AGAIN)
    elif op != PUT and op != GET:
        if op != FLUSH_PAGE:
            slot = int64(request.arg[0])  # the whole word is a pool, or flags
        code = without_page(state, op, client, slot, oid, index)
    elif op == PUT:
        code = kernels.put_page(state, client, slot, oid, index, int64(page), how & MAY_ASK)
    else:
        code = kernels.get_page(state, client, slot, oid, index, int64(page))
    return counted(state, client, code)


def _peek(address, record, page, client):
    slot, oid, index = name_in(record_of(int64(record)))
    return kernels.peek_page(state_at(int64(address)), client, slot, oid, index, int64(page))


def _grow(address, area):
    return slab.add_area(state_at(int64(address)), area)


def _shrink(address):
    return evict.shrink(state_at(int64(address)))


def _host(address, op, amount):
    state = state_at(int64(address))
    if op == RELINQUISH:
        return evict.relinquish(state, amount)
    return evict.flush_to_host(state, amount)


def _compress(address, budget):
    return store.compress_step(state_at(int64(address)), budget)


def _many(address, op, client, slot, oids, stride, indices, data, codes, count):
    state, words = state_at(address), oids_at(oids)
    which, answers = indices_at(indices), words_at(codes)
    for number in range(count):
        at = number * stride
        oid, index = (words[at], words[at + 1], words[at + 2]), which[number]
        if op == PUT:
            code = kernels.put_page(state, client, slot, oid, index, data, int64(0))
        else:
            code = kernels.get_page(state, client, slot, oid, index, data)
        answers[number] = counted(state, client, code)
        data += PAGE_BYTES
    return count


def _take_gone(address, client, out):
    return invalidation_log.take_gone(state_at(int64(address)), client, out)


def _open_client(address, client):
    state = state_at(int64(address))
    code = pools.open_client(state, client)
    if code == 0:
        kernels.note(state, NOTE_OPEN_CLIENT, client, Name(0, (uint64(0), uint64(0), uint64(0)), 0))
    return code


def _close_client(address, client):
    return pools.close_client(state_at(int64(address)), client)


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
        execute=execute.address,
        grow=grow.address,
        shrink=shrink.address,
        compress=compress.address,
        open_client=open_client.address,
        close_client=close_client.address,
    )
