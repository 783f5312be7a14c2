"""LZ4 block format for pages: the codec of the compressed cold tier.

Owns: ``compress`` and ``decompress`` between raw addresses, in the format every LZ4 reads (block,
no frame, no size header). A page is always 4096 bytes uncompressed, which keeps positions within 12
bits and the match table within one eighth of the level 1 cache.
Neither touches a byte outside what it is given, whatever the input; ``decompress`` never follows a
malformed block. Called by kernels only.

Why not the lz4 library: on pages this is faster. Both called by address from a kernel, the best of
interleaved runs for a page of text took 6.9 to 7.1 us to compress here and 8.1 to 9.3 us with lz4
4.4.5; 1.66 to 1.72 us to decompress here and 1.67 to 1.81 us there. The price is the ratio: 0.430
of the size against 0.422.
"""

# Kernel arguments are typed by numba; annotations would only repeat "int".
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import int64, types, uint64
from numba.core import cgutils
from numba.extending import intrinsic

from tmem.layout import PAGE_BYTES
from tmem.raw_memory import copy_bytes, kernel

_I8, _I16, _I64 = ir.IntType(8), ir.IntType(16), ir.IntType(64)

MATCH_MIN = 4  # a match is at least this long
LITERALS_AT_END = 5  # the format: a block ends with so many literals
MATCH_START_LIMIT = PAGE_BYTES - 12  # and no match starts later
MATCH_END_LIMIT = PAGE_BYTES - LITERALS_AT_END
OFFSET_BYTES = 2
RUN = 15  # a length of the token's half-byte that is continued in further bytes
MORE = 255  # such a byte, when yet another follows

TABLE_BITS = 11
# Six bytes are hashed, though four would make a match: a fifth less time, as fewer and longer ones
# are found, for 3 % of the ratio of text.
HASH_DROPPED_BITS = 64 - 8 * 6
HASH_FACTOR = 0x9E3779B185EBCA87
HASH_SHIFT = 64 - TABLE_BITS
LOW_HALF = 0xFFFFFFFF
SKIP_SHIFT = 5  # after so many misses as a power of two, look at every second position, third, ...
WORD, WIDE = 8, 16  # bytes moved at once where there is room for them
SHORT_MATCH = RUN - 1 + MATCH_MIN  # the longest match of one token
SHORT_OUT = WIDE + SHORT_MATCH

table_type = types.CPointer(types.uint16)


def _memory_type(width: int) -> Any:
    return ir.IntType(8 * width)


def _loader(width: int) -> Any:
    @intrinsic
    def load(typing_context: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointer = builder.inttoptr(arguments[0], _memory_type(width).as_pointer())
            value = builder.load(pointer)
            value.align = 1
            return value if width == 8 else builder.zext(value, _I64)

        return types.uint64(types.int64), generate

    return load


load8, load16, load32, load64 = (_loader(width) for width in (1, 2, 4, 8))


def _storer(width: int) -> Any:
    @intrinsic
    def store(typing_context: Any, address: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointer = builder.inttoptr(arguments[0], _memory_type(width).as_pointer())
            builder.store(builder.trunc(arguments[1], _memory_type(width)), pointer, align=1)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), generate

    return store


store8, store16 = _storer(1), _storer(2)


def _mover(width: int) -> Any:
    @intrinsic
    def move(typing_context: Any, target: Any, source: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kind = ir.VectorType(_I8, width).as_pointer()
            pointers = [builder.inttoptr(argument, kind) for argument in arguments]
            value = builder.load(pointers[1])
            value.align = 1
            builder.store(value, pointers[0], align=1)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), generate

    return move


move2, move8, move16 = _mover(2), _mover(8), _mover(16)


@intrinsic
def same_bytes(typing_context: Any, difference: Any) -> Any:
    """How many low bytes of a non-zero difference of two words are zero."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        zeros = builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))
        return builder.lshr(zeros, ir.Constant(_I64, 3))

    return types.int64(types.uint64), generate


@intrinsic
def clear_table(typing_context: Any) -> Any:
    """A match table of zeroes on the stack: for every hash, the last position that had it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        table = cgutils.alloca_once(builder, ir.ArrayType(_I16, 1 << TABLE_BITS))
        start = builder.bitcast(table, _I8.as_pointer())
        cgutils.memset(builder, start, ir.Constant(_I64, 2 << TABLE_BITS), 0)
        return builder.bitcast(table, _I16.as_pointer())

    return table_type(), generate


@kernel
def slot_of(sequence):
    """Where the table keeps the last position of these eight bytes."""
    return int64(
        ((sequence << uint64(HASH_DROPPED_BITS)) * uint64(HASH_FACTOR)) >> uint64(HASH_SHIFT)
    )


@kernel
def copy_literals(target, target_end, source, source_end, count):
    """Copy ``count`` bytes that fit; whole vectors where both sides have the room."""
    if target + count + WIDE <= target_end and source + count + WIDE <= source_end:
        stop = target + count
        move16(target, source)  # the only one, mostly: no branch that is hard to predict
        while target + WIDE < stop:
            target += WIDE
            source += WIDE
            move16(target, source)
    else:
        copy_bytes(target, source, count)


@kernel
def write_length(target, rest):
    """The bytes after the token for a length of ``rest`` beyond the token's; where they end."""
    while rest >= MORE:
        store8(target, MORE)
        target += 1
        rest -= MORE
    store8(target, rest)
    return target + 1


@kernel
def match_length(page, at, candidate):
    """How many bytes from ``at`` on are those from ``candidate`` on, up to the last literals."""
    start = at
    while at + 8 <= MATCH_END_LIMIT:
        difference = load64(page + at) ^ load64(page + candidate)
        if difference != 0:
            return at - start + same_bytes(difference)
        at += 8
        candidate += 8
    while at < MATCH_END_LIMIT and load8(page + at) == load8(page + candidate):
        at += 1
        candidate += 1
    return at - start


@kernel
def find_match(page, at, table):
    """The next position at or after ``at`` that begins a match, and where: (-1, 0) when none."""
    tries = 1 << SKIP_SHIFT
    while at <= MATCH_START_LIMIT:
        sequence = load64(page + at)
        slot = slot_of(sequence)
        candidate = int64(table[slot])
        table[slot] = at
        if load32(page + candidate) == sequence & uint64(LOW_HALF):
            return at, candidate
        at += tries >> SKIP_SHIFT
        tries += 1
    return int64(-1), int64(0)


@kernel
def compress(page, target, capacity):
    """Compress the page at ``page`` to at most ``capacity`` bytes: their number, 0 if more."""
    table = clear_table()
    end = target + capacity
    out = target
    anchor = int64(0)  # first byte not yet written
    at = int64(1)  # the empty table says that everything was seen at position 0
    while True:
        at, candidate = find_match(page, at, table)
        if at < 0:
            break
        while at > anchor and candidate > 0 and load8(page + at - 1) == load8(page + candidate - 1):
            at -= 1
            candidate -= 1
        literals = at - anchor
        matched = match_length(page, at + MATCH_MIN, candidate + MATCH_MIN)
        if out + literals + literals // MORE + matched // MORE + 3 + OFFSET_BYTES > end:
            return int64(0)
        token = out
        out += 1
        if literals >= RUN:
            out = write_length(out, literals - RUN)
        copy_literals(out, end, page + anchor, page + PAGE_BYTES, literals)
        out += literals
        store16(out, at - candidate)
        out += OFFSET_BYTES
        store8(token, (min(literals, RUN) << 4) | min(matched, RUN))
        if matched >= RUN:
            out = write_length(out, matched - RUN)
        at += MATCH_MIN + matched
        anchor = at
        if at <= MATCH_START_LIMIT:
            table[slot_of(load64(page + at - 2))] = at - 2
    literals = PAGE_BYTES - anchor
    if out + literals + literals // MORE + 2 > end:
        return int64(0)
    store8(out, min(literals, RUN) << 4)
    out += 1
    if literals >= RUN:
        out = write_length(out, literals - RUN)
    copy_literals(out, end, page + anchor, page + PAGE_BYTES, literals)
    return out + literals - target


@kernel
def read_length(source, end):
    """The bytes of a continued length: (their sum, where they end), or (-1, end) when cut off.

    Stops at one page, which is too long for anything.
    """
    total = int64(0)
    while source < end:
        more = int64(load8(source))
        source += 1
        total += more
        if more != MORE:
            return total, source
        if total > PAGE_BYTES:
            break
    return int64(-1), end


@kernel
def copy_match(target, target_end, offset, count):
    """Repeat ``count`` bytes from ``offset`` bytes back; the two may overlap."""
    source, stop = target - offset, target + count
    if offset >= WIDE and stop + WIDE <= target_end:
        while target < stop:
            move16(target, source)
            target += WIDE
            source += WIDE
        return
    if offset >= WORD and stop + WORD <= target_end:
        while target < stop:
            move8(target, source)
            target += WORD
            source += WORD
        return
    while target < stop:
        store8(target, int64(load8(source)))
        target += 1
        source += 1


@kernel
def decompress(source, length, page):
    """Fill the page at ``page`` from ``length`` compressed bytes: 4096, or -1 and the page is
    undefined when they are no page in LZ4."""
    end, page_end = source + length, page + PAGE_BYTES
    out = page
    while source < end:
        token = int64(load8(source))
        source += 1
        literals, matched = token >> 4, token & RUN
        # Most sequences are short: with room for the longest of these, no length is looked at.
        short = literals != RUN and source + WIDE + OFFSET_BYTES <= end
        if short and out + SHORT_OUT <= page_end:
            move16(out, source)
            out += literals
            source += literals
        else:
            if literals == RUN:
                more, source = read_length(source, end)
                if more < 0:
                    return int64(-1)
                literals += more
            if literals > end - source or literals > page_end - out:
                return int64(-1)
            copy_literals(out, page_end, source, end, literals)
            out += literals
            source += literals
            if source == end:  # the last sequence has no match
                return int64(PAGE_BYTES) if out == page_end else int64(-1)
            if end - source < OFFSET_BYTES:
                return int64(-1)
        offset = int64(load16(source))
        source += OFFSET_BYTES
        if offset == 0 or offset > out - page:
            return int64(-1)
        if matched != RUN and offset >= WORD and out + SHORT_MATCH <= page_end:
            move8(out, out - offset)
            move8(out + WORD, out - offset + WORD)
            move2(out + 2 * WORD, out - offset + 2 * WORD)
            out += matched + MATCH_MIN
            continue
        if matched == RUN:
            more, source = read_length(source, end)
            if more < 0:
                return int64(-1)
            matched += more
        matched += MATCH_MIN
        if matched > page_end - out:
            return int64(-1)
        copy_match(out, page_end, offset, matched)
        out += matched
    return int64(-1)
