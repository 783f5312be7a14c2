"""The content hash that the kernels call by address is xxHash's, for any page at any alignment."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from numba import int64, njit

from tmem import Tmem, TmemError, dedup
from tmem.layout import PAGE_BYTES, STATE
from tmem.raw_memory import record_at

_state_at = record_at(STATE)
_call: Any = njit


@_call(int64(int64, int64, int64))
def _tag(state: int, scope: int, page: int) -> Any:
    return dedup.tag_of(_state_at(state), scope, page)


@given(st.integers(0, 2**32 - 1), st.integers(0, 63), st.integers(0, 5))
def test_the_tag_of_a_page_is_its_xxh3_and_its_scope(seed: int, shift: int, scope: int) -> None:
    tmem = Tmem(pages=0, dedup=True)
    memory = np.random.default_rng(seed).integers(0, 256, PAGE_BYTES + shift, dtype=np.uint8)
    expected = xxhash.xxh3_64_intdigest(memory[shift:].tobytes()) ^ (scope * dedup.SCOPE_MIX)
    tag = _tag(tmem.state_address, scope, int(memory.ctypes.data) + shift)
    assert tag == expected & 0xFFFFFFFF


def test_a_library_without_the_function_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda file: object())
    with pytest.raises(TmemError, match=r"_xxhash.* lacks: pip install -U xxhash"):
        Tmem(pages=0, dedup=True)
    Tmem(pages=0)
