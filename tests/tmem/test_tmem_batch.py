"""Goal: a batch answers what the same calls one by one answer, on the caller's own memory."""

from __future__ import annotations

import numpy as np
import pytest
from tmem_model import page_of

from tmem import Code, PoolFlag, Tmem, TmemError

OID = (1, 2, 3)


@pytest.fixture
def tmem() -> Tmem:
    tmem = Tmem(pages=8, reserve_pages=0)
    tmem.open_client(0)
    tmem.new_pool(0, PoolFlag.VERSION)
    tmem.new_pool(0, PoolFlag.VERSION | PoolFlag.PERSISTENT)
    return tmem


def pages(*seeds: int) -> np.ndarray:
    return np.stack([page_of(seed) for seed in seeds])


def test_what_is_put_is_got(tmem: Tmem) -> None:
    assert tmem.put_many(0, 1, OID, [5, 7, 9], pages(1, 2, 3)).tolist() == [1, 1, 1]
    tmem.validate()
    filled = pages(8, 8, 8, 8)
    assert tmem.get_many(0, 1, OID, np.array([9, 6, 5, 7]), filled).tolist() == [1, 0, 1, 1]
    assert np.array_equal(filled, pages(3, 8, 1, 2))
    one = bytearray(4096)
    assert tmem.get(0, 1, OID, 7, one) == Code.DONE
    assert one == page_of(2).tobytes()


def test_an_oid_for_each_page(tmem: Tmem) -> None:
    oids = np.array([(1, 0, 0), (2, 0, 0), (2**64 - 1, 0, 0)], dtype=np.uint64)
    assert tmem.put_many(0, 0, oids, [0, 0, 0], pages(1, 2, 3).tobytes()).tolist() == [1, 1, 1]
    filled = bytearray(3 * 4096)
    assert tmem.get_many(0, 0, oids[::-1], [0, 0, 0], filled).tolist() == [1, 1, 1]
    assert filled == pages(3, 2, 1).tobytes()
    assert tmem.get_many(0, 0, oids, [0, 0, 0], filled).tolist() == [Code.EEMPTY] * 3


def test_each_page_has_its_code(tmem: Tmem) -> None:
    codes = tmem.put_many(0, 1, OID, range(10), pages(*range(1, 11)))
    assert codes.tolist() == [Code.DONE] * 8 + [Code.ENOMEM] * 2
    assert tmem.put_many(0, 9, OID, [1], pages(1)).tolist() == [Code.ENODEV]
    assert tmem.put_many(2**70, -1, OID, [1], pages(1)).tolist() == [Code.ENODEV]
    assert tmem.put_many(0, 1, OID, [], b"").tolist() == []
    tmem.validate()


def test_what_is_no_batch_is_refused_whole(tmem: Tmem) -> None:
    before = tmem.statistics()
    for wrong in (pages(1), pages(1, 2, 3), b""):
        with pytest.raises(TmemError):
            tmem.put_many(0, 1, OID, [1, 2], wrong)
    for indices in ([-1, 0], [0, 2**32], np.array([0, 2**40])):
        with pytest.raises(OverflowError):
            tmem.put_many(0, 1, OID, indices, pages(1, 2))
    for indices in ([[0, 1]], [0.5, 1.0], ["a", "b"]):
        with pytest.raises(TmemError):
            tmem.put_many(0, 1, OID, indices, pages(1, 2))
    with pytest.raises(TmemError):
        tmem.put_many(0, 1, (1, 2), [1, 2], pages(1, 2))
    with pytest.raises(BufferError):
        tmem.get_many(0, 1, OID, [1, 2], bytes(8192))
    assert tmem.statistics() == before
