"""The fingerprint of a page, against values of the reference and against the reference itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import int64, njit, uint64

from tmem import xxh3
from tmem.layout import PAGE_BYTES

_call: Any = njit


@_call(uint64(int64))
def _hash(page: int) -> Any:
    return xxh3.hash_page(page)


def hash_of(page: bytes, misaligned: int = 0) -> int:
    memory = np.zeros(PAGE_BYTES + misaligned, np.uint8)
    memory[misaligned:] = np.frombuffer(page, np.uint8)
    return int(_hash(memory.ctypes.data + misaligned))


def counting() -> bytes:
    return np.arange(PAGE_BYTES // 8, dtype=np.uint64).tobytes()


# XXH3_64bits of xxHash 0.8.4.
@pytest.mark.parametrize(
    ("page", "value"),
    [
        (bytes(PAGE_BYTES), 0x93D76FE148C689BA),
        (b"\xff" * PAGE_BYTES, 0x074CFAC273851DD6),
        (counting(), 0xE1D6ED026A101DD8),
    ],
)
def test_known_pages_have_known_hashes(page: bytes, value: int) -> None:
    assert hash_of(page) == value


@given(st.integers(0, PAGE_BYTES * 8 - 1))
def test_every_bit_counts(bit: int) -> None:
    page = bytearray(counting())
    page[bit // 8] ^= 1 << bit % 8
    assert hash_of(bytes(page)) != hash_of(counting())


@given(st.integers(0, 2**32 - 1), st.integers(0, 63))
def test_the_reference_agrees_at_any_alignment(seed: int, misaligned: int) -> None:
    reference = pytest.importorskip("xxhash")
    page = np.random.default_rng(seed).bytes(PAGE_BYTES)
    assert hash_of(page, misaligned) == reference.xxh3_64_intdigest(page)
