"""Goal: a client saved here and restored there has its pools and persistent pages, however they
were stored, and none that went meanwhile."""

from __future__ import annotations

import numpy as np
import pytest
from tmem_model import ZERO, page_of

from tmem import Code, PoolFlag, Tmem, TmemError
from tmem.migrate import Saving, restore

EPHEMERAL, PERSISTENT = PoolFlag.VERSION, PoolFlag.VERSION | PoolFlag.PERSISTENT
SHARED = PoolFlag.VERSION | PoolFlag.SHARED
UUID = (7, 2**64 - 1)


def pool() -> Tmem:
    return Tmem(pages=512, reserve_pages=0, dedup=True, compression=True)


def page(number: int) -> bytes:
    """By turns zero, the same as others, random, compressible."""
    if number % 4 == 0:
        return page_of(ZERO).tobytes()
    if number % 4 == 2:
        return np.random.default_rng(number).bytes(4096)
    return (b"%d " % (number // 16 if number % 4 == 1 else number) * 4096)[:4096]


@pytest.fixture
def source() -> Tmem:
    """Pools in slots 0 (shared), 1 and 3 (persistent); slot 2 is empty."""
    source = pool()
    source.open_client(4)
    source.authorise(4, UUID)
    for flags in (SHARED, PERSISTENT, EPHEMERAL, PERSISTENT):
        assert source.new_pool(4, flags, UUID) >= 0
    source.destroy_pool(4, 2)
    source.set_weight(4, 3)
    source.set_quota(4, 300)
    for index in range(60):
        for slot in (0, 1, 3):
            assert source.put(4, slot, (slot, 2**64 - 1, 0), index, page(index + 100 * slot)) == 1
    source.compress_step(50)
    assert source.statistics().packed_pages > 10
    return source


def restored(saving: Saving) -> Tmem:
    target = pool()
    assert restore(target, 9, saving.image) == 0
    for name, data in saving.pages():
        assert target.put(9, *name, data) == Code.DONE
    for name in saving.invalidations():
        assert target.flush_page(9, *name) == Code.DONE
    target.validate()
    return target


def contents(tmem: Tmem, client: int) -> dict[tuple[int, int], bytes]:
    found, data = {}, bytearray(4096)
    for slot in (1, 3):
        for index in range(60):
            if tmem.get(client, slot, (slot, 2**64 - 1, 0), index, data) == Code.DONE:
                found[slot, index] = bytes(data)
    return found


def test_a_saved_client_is_restored(source: Tmem) -> None:
    saving = Saving(source, 4)
    target = restored(saving)
    assert contents(target, 9) == contents(source, 4)
    assert len(contents(target, 9)) == 120
    ours, theirs = source.get_pools(4)[1], target.get_pools(9)[1]
    assert [(p.slot, p.flags, p.uuid_lo, p.uuid_hi) for p in ours] == [
        (p.slot, p.flags, p.uuid_lo, p.uuid_hi) for p in theirs
    ]
    client = target.statistics().clients[0]
    assert (client.weight, client.quota, client.is_frozen) == (3, 300, 0)
    assert source.put(4, 1, (9, 9, 9), 0, page(1)) == Code.EFROZEN
    saving.end()
    assert source.put(4, 1, (9, 9, 9), 0, page(1)) == Code.DONE
    assert restore(target, 9, saving.image) == Code.EEXIST


def test_pages_that_go_while_a_live_save_runs_go_there_too(source: Tmem) -> None:
    saving = Saving(source, 4, live=True)
    pages = saving.pages()
    target = pool()
    restore(target, 9, saving.image)
    for _ in range(70):
        name, data = next(pages)
        target.put(9, *name, data)
    oid = (1, 2**64 - 1, 0)
    assert source.flush_page(4, 1, oid, 3) == Code.EFROZEN
    assert source.put(4, 1, oid, 4, page(50)) == Code.ENOSPC
    assert source.put(4, 1, oid, 99, page(50)) == Code.EFROZEN
    assert source.put_fault(4, 1, oid, 5) == Code.ENOSPC
    source.validate()
    assert source.destroy_pool(4, 3) == Code.DONE
    source.validate()
    for name, data in pages:
        target.put(9, *name, data)
    gone = list(saving.invalidations())
    assert gone[:3] == [(1, oid, 3), (1, oid, 4), (1, oid, 5)]
    assert len(gone) == 63
    for name in gone:
        target.flush_page(9, *name)
    source.validate()
    assert contents(target, 9) == contents(source, 4)
    saving.end()
    source.flush_page(4, 1, oid, 6)
    assert not list(saving.invalidations())
    source.validate()


def test_a_client_that_dies_while_saved_leaves_no_log(source: Tmem) -> None:
    Saving(source, 4, live=True)
    source.flush_object(4, 1, (1, 2**64 - 1, 0))
    source.validate()
    source.close_client(4)
    source.validate()
    assert source.statistics().used_pages == 0


def test_what_cannot_be_saved(source: Tmem) -> None:
    source.open_client(5)
    for client in (5, 6, -1, 64):
        with pytest.raises(TmemError):
            Saving(source, client)
    saving = Saving(source, 4)
    with pytest.raises(TmemError):
        Saving(source, 4)
    saving.end()
    Saving(source, 4).end()
