"""What is called of the kernels from outside: by the hypervisor's C service thread, and by Python.

Owns: the entries of the pool, each of which takes the address of the state first, and what of a
request they look at. ``tmem.serve`` has them linked and says who calls which.
Rules: an entry is compiled by ``tmem.compiling``. Importing this module imports numba, so nothing
that runs beside a pool does.
"""

from __future__ import annotations

from numba import int64, uint64

from tmem import codes, evict, invalidation_log, kernels, pools, slab, store
from tmem.entry import entry
from tmem.index import Name
from tmem.layout import (
    MAX_CLIENTS,
    NO_RECORD,
    NOTE_DESTROY_POOL,
    NOTE_OPEN_CLIENT,
    PAGE_BYTES,
    STATE,
)
from tmem.raw_memory import array_at, kernel, record_at, words_at
from tmem.record import RECORD

PUT, GET, FLUSH_PAGE, FLUSH_OBJECT, NEW_POOL, DESTROY_POOL = (int(op) for op in codes.Op)
ENODEV, ENOSYS = int(codes.Code.ENODEV), int(codes.Code.ENOSYS)
NEED_SLAB, BAD_INDEX = int(codes.Code.NEED_SLAB), int(codes.Code.BAD_INDEX)
MAY_ASK, AGAIN = codes.MAY_ASK, codes.AGAIN
RELINQUISH, INDEX_MAX = codes.RELINQUISH, codes.INDEX_MAX
LOW_HALF = INDEX_MAX

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


@entry(beside="execute")
def control(address, op, client, word, oid0, oid1, oid2, index):
    """An operation without a page, for Python: BAD_INDEX for an index that is no u32."""
    if not 0 <= index <= INDEX_MAX:
        return BAD_INDEX
    state, oid = state_at(address), (uint64(oid0), uint64(oid1), uint64(oid2))
    return counted(state, client, without_page(state, op, client, word, oid, index))


@entry
def execute(address, record, page, client, how):
    """A request of a guest: see ``serve.Entries.execute``."""
    state, request = state_at(address), record_of(record)
    op = request.op
    slot, oid, index = name_in(request)
    if op == NEW_POOL:
        code = new_pool(state, client, request, how & AGAIN)
    elif op != PUT and op != GET:
        if op != FLUSH_PAGE:
            slot = int64(request.arg[0])  # the whole word is a pool, or flags
        code = without_page(state, op, client, slot, oid, index)
    elif op == PUT:
        code = kernels.put_page(state, client, slot, oid, index, page, how & MAY_ASK)
    else:
        code = kernels.get_page(state, client, slot, oid, index, page)
    return counted(state, client, code)


@entry(beside="execute")
def peek(address, record, page, client):
    """Read a page and change nothing, not even a counter."""
    slot, oid, index = name_in(record_of(record))
    return kernels.peek_page(state_at(address), client, slot, oid, index, page)


@entry
def grow(address, area):
    """Take an area of the slab into use."""
    return slab.add_area(state_at(address), area)


@entry
def shrink(address):
    """Give an area up: its number, or -1."""
    return evict.shrink(state_at(address))


@entry(beside="shrink")
def host(address, op, amount):
    """RELINQUISH or FLUSH_TO_HOST, for dom0."""
    state = state_at(address)
    if op == RELINQUISH:
        return evict.relinquish(state, amount)
    return evict.flush_to_host(state, amount)


@entry
def compress(address, budget):
    """Compress cold pages until ``budget`` were compressed."""
    return store.compress_step(state_at(address), budget)


@entry(beside="execute")
def many(address, op, client, slot, oids, stride, indices, data, codes, count):
    """PUT or GET of ``count`` pages: their answers are written to ``codes``."""
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


@entry
def take_gone(address, client, out):
    """Move the log of invalidations of a client out, as far as there is room."""
    return invalidation_log.take_gone(state_at(address), client, out)


@entry
def open_client(address, client):
    """Make a client."""
    state = state_at(address)
    code = pools.open_client(state, client)
    if code == 0:
        kernels.note(state, NOTE_OPEN_CLIENT, client, Name(0, (uint64(0), uint64(0), uint64(0)), 0))
    return code


@entry
def close_client(address, client):
    """Free all that a client has: the number of pages."""
    return pools.close_client(state_at(address), client)
