"""The LZ4 codec: round trips, the reference codec, and blocks nobody compressed."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import int64, njit

from tmem import lz4
from tmem.layout import PAGE_BYTES

GUARD = 64  # bytes around every buffer that nobody may write
GUARD_BYTE = 0xA5
MOST = PAGE_BYTES + PAGE_BYTES // 255 + 16  # what LZ4 needs for a page that does not compress

_call: Any = njit


@_call(int64(int64, int64, int64))
def _compress(page: int, target: int, capacity: int) -> Any:
    return lz4.compress(page, target, capacity)


@_call(int64(int64, int64, int64))
def _decompress(source: int, length: int, page: int) -> Any:
    return lz4.decompress(source, length, page)


class Guarded:
    """A buffer between two guards."""

    def __init__(self, size: int, content: bytes = b"") -> None:
        self._all = np.full(size + 2 * GUARD, GUARD_BYTE, np.uint8)
        self.view: npt.NDArray[np.uint8] = self._all[GUARD : GUARD + size]
        self.view[: len(content)] = np.frombuffer(content, np.uint8)
        self.address = int(self.view.ctypes.data)

    def check(self) -> None:
        assert (self._all[:GUARD] == GUARD_BYTE).all()
        assert (self._all[-GUARD:] == GUARD_BYTE).all()


def compressed(page: bytes, capacity: int = MOST) -> bytes | None:
    source, target = Guarded(PAGE_BYTES, page), Guarded(capacity)
    length = _compress(source.address, target.address, capacity)
    target.check()
    assert 0 <= length <= capacity
    assert source.view.tobytes() == page
    return target.view[:length].tobytes() if length else None


def decompressed(block: bytes) -> bytes | None:
    source, target = Guarded(len(block), block), Guarded(PAGE_BYTES)
    length = _decompress(source.address, len(block), target.address)
    target.check()
    assert length in (PAGE_BYTES, -1)
    return target.view.tobytes() if length > 0 else None


@st.composite
def pages(draw: st.DrawFn) -> bytes:
    """Pages as memory has them: pieces repeated, noise, runs, copies from further back."""
    seed = draw(st.integers(0, 2**32 - 1))
    alphabet = draw(st.sampled_from([1, 2, 4, 16, 256]))
    source = np.random.default_rng(seed)
    page = bytearray()
    while len(page) < PAGE_BYTES:
        kind, size = source.integers(3), int(source.integers(1, 400))
        if kind == 0 or not page:
            page += source.integers(0, alphabet, size, dtype=np.uint8).tobytes()
        elif kind == 1:
            start = int(source.integers(len(page)))
            page += page[start : start + size]
        else:
            page += bytes([int(source.integers(256))]) * size
    return bytes(page[:PAGE_BYTES])


def named_pages() -> dict[str, bytes]:
    source = np.random.default_rng(5)
    noise = source.integers(0, 256, PAGE_BYTES, dtype=np.uint8).tobytes()
    return {
        "zero": bytes(PAGE_BYTES),
        "noise": noise,
        "count": np.arange(PAGE_BYTES // 8, dtype=np.uint64).tobytes(),
        "pairs": b"ab" * (PAGE_BYTES // 2),
        "noise then run": noise[:4000] + bytes(96),
        "run then noise": bytes(4000) + noise[:96],
        "halves": noise[:2048] * 2,
        "late match": noise[:4084] + noise[:12],
    }


@pytest.mark.parametrize("name", named_pages())
def test_what_is_compressed_comes_back(name: str) -> None:
    page = named_pages()[name]
    block = compressed(page)
    assert block is not None
    assert decompressed(block) == page


@given(pages())
def test_any_page_comes_back(page: bytes) -> None:
    block = compressed(page)
    assert block is not None
    assert decompressed(block) == page


def test_what_repeats_gets_small() -> None:
    sizes = {name: len(compressed(page) or b"") for name, page in named_pages().items()}
    assert sizes["zero"] < 32
    assert sizes["pairs"] < 32
    assert sizes["halves"] < 2048 + 64
    assert sizes["noise"] > PAGE_BYTES


@given(pages(), st.integers(0, MOST))
def test_a_capacity_is_kept_exactly(page: bytes, capacity: int) -> None:
    whole = compressed(page)
    assert whole is not None
    limited = compressed(page, capacity)
    assert limited in (None, whole)
    if capacity >= len(whole) + 16:
        assert limited == whole


@given(st.binary(max_size=200))
def test_bytes_that_are_no_block_are_refused_or_fill_a_page(block: bytes) -> None:
    decompressed(block)


@given(pages(), st.data())
def test_a_damaged_block_stays_within_its_page(page: bytes, data: st.DataObject) -> None:
    block = bytearray(compressed(page) or b"")
    for _ in range(data.draw(st.integers(1, 4))):
        block[data.draw(st.integers(0, len(block) - 1))] = data.draw(st.integers(0, 255))
    decompressed(bytes(block))


@given(pages(), st.data())
def test_a_block_cut_short_is_refused(page: bytes, data: st.DataObject) -> None:
    block = compressed(page) or b""
    assert decompressed(block[: data.draw(st.integers(0, len(block) - 1))]) is None
    assert decompressed(block + b"\0") is None


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"\x10a\x00\x00",  # offset 0
        b"\x10a\x02\x00",  # before the page
        b"\xf0" + b"\xff" * 40,  # a length without an end
        b"\xf0\xff\xff\xff",
        b"\x1fa\x01\x00" + b"\xff" * 17 + b"\x00",  # a match beyond the page
        b"\x1fa\x01\x00",  # a match length that is not there
        b"\x10a\x01",  # half an offset
    ],
)
def test_each_kind_of_malformed_block_is_refused(block: bytes) -> None:
    assert decompressed(block) is None


@given(pages())
def test_the_reference_codec_agrees(page: bytes) -> None:
    reference = pytest.importorskip("lz4.block")
    block = compressed(page)
    assert reference.decompress(block, uncompressed_size=PAGE_BYTES) == page
    for mode in ("fast", "high_compression"):
        theirs = reference.compress(page, mode=mode, store_size=False)
        assert decompressed(theirs) == page
