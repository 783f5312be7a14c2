"""XXH3 of a page: a 64-bit fingerprint, to find pages of the same content.

Owns: ``hash_page``, XXH3_64bits with seed 0 and the default secret (xxHash 0.8, "long input"), for
inputs of exactly one page. Not secret and not collision free: a guest can make two pages of one
hash, so whoever uses it compares the pages in full. Called by kernels only.
"""

from __future__ import annotations

import struct
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tmem.layout import PAGE_BYTES

_I32, _I64, _I128 = ir.IntType(32), ir.IntType(64), ir.IntType(128)
LANES = 8
_VECTOR = ir.VectorType(_I64, LANES)

SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
    "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
    "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
    "eac5ac8334d3ebc3c581a0fffa1363eb170ddd51b7f0da49d316552629d4689e"
    "2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)
PRIME32_1, PRIME32_2, PRIME32_3 = 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D
PRIME64_1, PRIME64_2 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F
PRIME64_3, PRIME64_4 = 0x165667B19E3779F9, 0x85EBCA77C2B2AE63
PRIME64_5, PRIME_MX1 = 0x27D4EB2F165667C5, 0x165667919E3779F9
START = (PRIME32_3, PRIME64_1, PRIME64_2, PRIME64_3, PRIME64_4, PRIME32_2, PRIME64_5, PRIME32_1)

STRIPE_BYTES = LANES * 8
SECRET_STEP = 8  # each stripe of a block uses the secret 8 bytes further on
BLOCK_STRIPES = (len(SECRET) - STRIPE_BYTES) // SECRET_STEP
BLOCK_BYTES = BLOCK_STRIPES * STRIPE_BYTES
WHOLE_BLOCKS = (PAGE_BYTES - 1) // BLOCK_BYTES
TAIL_STRIPES = (PAGE_BYTES - 1 - WHOLE_BLOCKS * BLOCK_BYTES) // STRIPE_BYTES
LAST_SECRET = len(SECRET) - STRIPE_BYTES - 7
MERGE_SECRET = 11
MASK = (1 << 64) - 1

assert len(SECRET) == 192


def _constant(words: tuple[int, ...]) -> Any:
    return ir.Constant(_VECTOR, [ir.Constant(_I64, word) for word in words])


def _splat(word: int) -> Any:
    return _constant((word,) * LANES)


def _secret(at: int) -> tuple[int, ...]:
    return struct.unpack_from(f"<{LANES}Q", SECRET, at)


def _accumulate(builder: Any, lanes: Any, page: Any, offset: Any, secret_at: int) -> Any:
    """One stripe: each lane adds its neighbour's word and the product of the halves of its own."""
    pointer = builder.inttoptr(builder.add(page, offset), _VECTOR.as_pointer())
    words = builder.load(pointer)
    words.align = 1
    keyed = builder.xor(words, _constant(_secret(secret_at)))
    low = builder.and_(keyed, _splat(0xFFFFFFFF))
    high = builder.lshr(keyed, _splat(32))
    swapped = builder.shuffle_vector(
        words, words, ir.Constant(ir.VectorType(_I32, LANES), [1, 0, 3, 2, 5, 4, 7, 6])
    )
    return builder.add(builder.add(lanes, swapped), builder.mul(low, high))


def _scramble(builder: Any, lanes: Any) -> Any:
    mixed = builder.xor(lanes, builder.lshr(lanes, _splat(47)))
    mixed = builder.xor(mixed, _constant(_secret(len(SECRET) - STRIPE_BYTES)))
    return builder.mul(mixed, _splat(PRIME32_1))


def _merge(builder: Any, lanes: Any) -> Any:
    """The lanes in one word, and the final avalanche."""
    total = ir.Constant(_I64, (PAGE_BYTES * PRIME64_1) & MASK)
    secret = _secret(MERGE_SECRET)
    for lane in range(0, LANES, 2):
        factors = []
        for part in (lane, lane + 1):
            word = builder.extract_element(lanes, ir.Constant(_I32, part))
            keyed = builder.xor(word, ir.Constant(_I64, secret[part]))
            factors.append(builder.zext(keyed, _I128))
        product = builder.mul(*factors)
        high = builder.trunc(builder.lshr(product, ir.Constant(_I128, 64)), _I64)
        total = builder.add(total, builder.xor(builder.trunc(product, _I64), high))
    total = builder.xor(total, builder.lshr(total, ir.Constant(_I64, 37)))
    total = builder.mul(total, ir.Constant(_I64, PRIME_MX1))
    return builder.xor(total, builder.lshr(total, ir.Constant(_I64, 32)))


@intrinsic
def hash_page(typing_context: Any, page: Any) -> Any:
    """XXH3_64bits of the 4096 bytes at an address, any alignment: ``hash_page(page)``, a u64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        page = arguments[0]
        state = cgutils.alloca_once_value(builder, _constant(START))
        with cgutils.for_range(builder, ir.Constant(_I64, WHOLE_BLOCKS)) as loop:
            start = builder.mul(loop.index, ir.Constant(_I64, BLOCK_BYTES))
            lanes = builder.load(state)
            for stripe in range(BLOCK_STRIPES):
                offset = builder.add(start, ir.Constant(_I64, stripe * STRIPE_BYTES))
                lanes = _accumulate(builder, lanes, page, offset, stripe * SECRET_STEP)
            builder.store(_scramble(builder, lanes), state)
        lanes = builder.load(state)
        for stripe in range(TAIL_STRIPES):
            offset = ir.Constant(_I64, WHOLE_BLOCKS * BLOCK_BYTES + stripe * STRIPE_BYTES)
            lanes = _accumulate(builder, lanes, page, offset, stripe * SECRET_STEP)
        last = ir.Constant(_I64, PAGE_BYTES - STRIPE_BYTES)
        return _merge(builder, _accumulate(builder, lanes, page, last, LAST_SECRET))

    return types.uint64(types.int64), generate
