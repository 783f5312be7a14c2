"""Goal: each rule of Xen's tmem that is easily got wrong, by itself, and the Python face."""

from __future__ import annotations

import mmap
import subprocess
import sys

import numpy as np
import pytest
from tmem_model import ZERO, page_of

from tmem import Code, PoolFlag, Tmem, TmemError
from tmem.layout import KEY_COUNT
from tmem.state import State

EPHEMERAL, PERSISTENT = PoolFlag.VERSION, PoolFlag.VERSION | PoolFlag.PERSISTENT
OID = (1, 2, 3)


@pytest.fixture
def tmem() -> Tmem:
    """Four pages; client 0 with an ephemeral pool in slot 0 and a persistent one in slot 1."""
    return with_pools(Tmem(reserve_pages=0, pages=4))


def with_pools(tmem: Tmem) -> Tmem:
    assert tmem.open_client(0) == 0
    assert tmem.new_pool(0, EPHEMERAL) == 0
    assert tmem.new_pool(0, PERSISTENT) == 1
    return tmem


def put(tmem: Tmem, pool: int, index: int, seed: int | None, client: int = 0) -> int:
    code = tmem.put(client, pool, OID, index, page_of(seed))
    tmem.validate()
    return code


def get(tmem: Tmem, pool: int, index: int, client: int = 0) -> tuple[int, bytes]:
    page = bytearray(b"?" * 4096)
    code = tmem.get(client, pool, OID, index, page)
    tmem.validate()
    return code, bytes(page)


def test_ephemeral_gets_are_exclusive_and_persistent_ones_are_not(tmem: Tmem) -> None:
    for pool, again in ((0, Code.EEMPTY), (1, Code.DONE)):
        assert put(tmem, pool, 7, 5) == Code.DONE
        assert get(tmem, pool, 7) == (Code.DONE, page_of(5).tobytes())
        assert get(tmem, pool, 7)[0] == again


def test_a_miss_leaves_the_page_as_it_was(tmem: Tmem) -> None:
    assert get(tmem, 1, 0) == (Code.EEMPTY, b"?" * 4096)
    put(tmem, 1, 1, 5)
    assert get(tmem, 1, 0) == (Code.ABSENT, b"?" * 4096)
    assert tmem.statistics().pools[1].gets == 1, "a get of an empty pool is not counted"


def test_a_duplicate_put_keeps_its_place_in_the_eviction_order(tmem: Tmem) -> None:
    for index in range(4):
        assert put(tmem, 0, index, index) == Code.DONE
    assert put(tmem, 0, 0, 99) == Code.DONE
    assert put(tmem, 0, 4, 4) == Code.DONE
    assert get(tmem, 0, 0)[0] == Code.ABSENT, "the oldest page went, fresh data or not"
    assert [handle[3] for handle in tmem.eviction_order()] == [1, 2, 3, 4]
    assert tmem.statistics().clients[0].evicted == 1


def test_a_put_may_evict_the_last_page_of_its_own_object() -> None:
    tmem = with_pools(Tmem(reserve_pages=0, pages=1))
    for index in range(3):
        assert put(tmem, 0, index, index) == Code.DONE
    assert get(tmem, 0, 2) == (Code.DONE, page_of(2).tobytes())
    assert tmem.statistics().objects == 0


def test_persistent_pages_are_never_evicted(tmem: Tmem) -> None:
    for index in range(4):
        assert put(tmem, 1, index, index) == Code.DONE
    assert put(tmem, 1, 4, 4) == Code.ENOMEM
    assert put(tmem, 0, 0, 0) == Code.ENOMEM
    assert [get(tmem, 1, index)[1] == page_of(index).tobytes() for index in range(4)] == [True] * 4
    client = tmem.statistics().clients[0]
    assert (client.puts, client.puts_succ, client.puts_failed_nomem) == (6, 4, 2)


def test_a_failed_duplicate_put_leaves_no_old_data(tmem: Tmem) -> None:
    assert put(tmem, 1, 9, ZERO) == Code.DONE
    for index in range(4):
        assert put(tmem, 1, index, index) == Code.DONE
    assert put(tmem, 1, 9, 1) == Code.ENOSPC
    assert get(tmem, 1, 9)[0] == Code.ABSENT
    now = tmem.statistics()
    assert now.pools[1].puts_dropped == now.clients[0].puts_failed_nospc == 1


def test_pages_of_zeroes_hold_no_memory_and_outlive_eviction_for_memory(tmem: Tmem) -> None:
    for index in range(10):
        assert put(tmem, 0, index, ZERO) == Code.DONE
    assert tmem.statistics().free_pages == 4
    for index in range(10, 16):
        assert put(tmem, 0, index, 1) == Code.DONE
    assert tmem.statistics().zero_pages == 10
    assert get(tmem, 0, 3) == (Code.DONE, bytes(4096))


def test_at_mm_target_only_a_new_page_is_refused(tmem: Tmem) -> None:
    put(tmem, 1, 0, 1)
    put(tmem, 0, 0, 1)
    tmem.clients["mm_target"][0] = 1  # below what is used: nothing is pulled back
    assert tmem.statistics().used_pages == 2
    assert put(tmem, 1, 1, 1) == Code.TARGET
    assert put(tmem, 1, 0, 2) == Code.DONE
    assert get(tmem, 1, 0) == (Code.DONE, page_of(2).tobytes())
    tmem.clients["mm_target"][0] = 3
    assert put(tmem, 1, 1, 1) == Code.DONE
    assert tmem.clients["puts_failed_target"][0] == 1
    assert tmem.clients["puts"][0] == 5


def test_a_target_binds_its_own_client_only(tmem: Tmem) -> None:
    tmem.clients["mm_target"][0] = 0
    tmem.open_client(1)
    tmem.new_pool(1, PERSISTENT)
    assert put(tmem, 0, 0, 1) == Code.TARGET
    assert put(tmem, 0, 0, 1, client=1) == Code.DONE


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (0x01000000, 2),
        (0x01000008, 2),  # bit 3 is not checked
        (0x01000002, 2),  # shared, not authorised: silently private
        (0x00000000, Code.EPERM),
        (0x02000000, Code.EPERM),
        (0x01000003, Code.EPERM),  # shared and persistent
        (0x01000004, Code.EPERM),  # precompressed
        (0x01000010, Code.EPERM),  # another page size
        (0x01000100, Code.EPERM),
        (0x01800000, Code.EPERM),
        (0x101000000, Code.EPERM),
        (-1, Code.EPERM),
    ],
)
def test_flags_of_a_new_pool(tmem: Tmem, flags: int, code: int) -> None:
    assert tmem.new_pool(0, flags) == code


def test_a_new_pool_takes_the_lowest_of_sixteen_slots(tmem: Tmem) -> None:
    assert [tmem.new_pool(0, EPHEMERAL) for _ in range(15)] == [*range(2, 16), Code.EPERM]
    put(tmem, 0, 0, 1)
    assert tmem.destroy_pool(0, 5) == tmem.destroy_pool(0, 0) == Code.DONE
    assert tmem.destroy_pool(0, 5) == Code.ABSENT
    assert [tmem.new_pool(0, PERSISTENT) for _ in range(2)] == [0, 5]
    assert get(tmem, 0, 0)[0] == Code.EEMPTY, "a slot's new pool has nothing of the old"


def test_flushes_succeed_whatever_was_there(tmem: Tmem) -> None:
    put(tmem, 1, 0, 1)
    put(tmem, 1, 1, 1)
    assert tmem.flush_page(0, 1, OID, 5) == tmem.flush_page(0, 1, OID, 0) == Code.DONE
    assert tmem.flush_object(0, 1, (0, 0, 0)) == tmem.flush_object(0, 1, OID) == Code.DONE
    assert tmem.statistics().used_pages == 0
    pool = tmem.statistics().pools[1]
    assert (pool.page_flushes, pool.page_flushes_hit) == (2, 1)
    assert (pool.object_flushes, pool.object_flushes_hit) == (2, 1)
    assert tmem.flush_page(0, 3, OID, 0) == tmem.flush_object(0, 16, OID) == Code.ENODEV


def test_a_dead_client_leaves_nothing(tmem: Tmem) -> None:
    tmem.open_client(1)
    tmem.new_pool(1, EPHEMERAL)
    put(tmem, 0, 0, 1, client=1)
    put(tmem, 0, 0, 1)
    put(tmem, 1, 0, 1)
    assert tmem.close_client(0) == 2
    tmem.validate()
    assert tmem.statistics().used_pages == 1
    assert tmem.put(0, 0, OID, 0, page_of(1)) == tmem.new_pool(0) == Code.ENODEV
    assert tmem.close_client(0) == Code.ENODEV
    assert tmem.open_client(0) == 0
    assert tmem.clients["puts"][0] == 0
    assert get(tmem, 0, 0, client=1)[0] == Code.DONE


def test_shrink_moves_what_must_stay() -> None:
    tmem = with_pools(Tmem(reserve_pages=0, pages=1024))
    for index in range(600):
        assert tmem.put(0, 1, OID, index, page_of(index)) == Code.DONE
    for index in range(0, 600, 2):
        tmem.flush_page(0, 1, OID, index)
    tmem.validate()
    area = tmem.shrink()
    tmem.validate()
    now = tmem.statistics()
    assert (now.held_pages, now.used_pages, now.evicted) == (512, 300, 0)
    assert now.relocated == 44, "the emptier area had half of the last 88 pages"
    for index in range(1, 600, 2):
        assert get(tmem, 1, index) == (Code.DONE, page_of(index).tobytes())
    assert tmem.shrink() == -1
    assert tmem.grow(area) == 0
    assert tmem.grow(area) == tmem.grow(2) == tmem.grow(-1) == Code.EPERM


@pytest.mark.parametrize("emptiest", [0, 1, 2])
def test_shrink_takes_the_area_with_the_fewest_pages(emptiest: int) -> None:
    tmem = with_pools(Tmem(reserve_pages=0, pages=3 * 512))
    for index in range(3 * 512):
        assert tmem.put(0, 1, OID, index, page_of(index)) == Code.DONE
    filled = [2, 1, 0].index(emptiest)  # the area held last is filled first
    for index in range(3 * 512):
        if index % 512 < (400 if index // 512 == filled else 60):
            tmem.flush_page(0, 1, OID, index)
    assert tmem.shrink() == emptiest
    tmem.validate()
    assert tmem.statistics().relocated == 112
    for index in range(3 * 512):
        kept = index % 512 >= (400 if index // 512 == filled else 60)
        page = page_of(0).copy()
        assert tmem.get(0, 1, OID, index, page) == kept
        assert not kept or np.array_equal(page, page_of(index))
    tmem.put(0, 1, OID, 9999, page_of(1))
    tmem.validate()


def test_shrink_evicts_the_oldest_and_no_more_than_needed() -> None:
    tmem = with_pools(Tmem(reserve_pages=0, pages=1024))
    for index in range(1000):
        tmem.put(0, 0, OID, index, page_of(index))
    assert tmem.shrink() >= 0
    tmem.validate()
    assert [handle[3] for handle in tmem.eviction_order()] == list(range(488, 1000))
    assert get(tmem, 0, 999) == (Code.DONE, page_of(999).tobytes())
    assert tmem.shrink() >= 0
    assert tmem.statistics().held_pages == tmem.statistics().used_pages == 0
    assert put(tmem, 0, 0, 1) == Code.ENOMEM


@pytest.mark.parametrize("pages", [1, 511, 512])
def test_descriptors_do_not_run_out_before_memory_with_one_page_per_object(pages: int) -> None:
    tmem = with_pools(Tmem(reserve_pages=0, pages=pages))
    codes = [tmem.put(0, 1, (number, 0, 0), 0, page_of(1)) for number in range(pages + 1)]
    assert codes == [Code.DONE] * pages + [Code.ENOMEM]
    tmem.validate()


@pytest.mark.parametrize("dedup", [False, True])
def test_metadata_is_at_most_64_bytes_a_page_and_40_an_object(dedup: bool) -> None:
    def size(areas: int) -> int:
        pages = areas * 512 * (2 if dedup else 1)
        state = State(areas * 512, 0, [0] * KEY_COUNT, max_pages=pages, hash_page=dedup)
        assert len(state.page_buckets) == pages
        return state.block.nbytes

    # There is room for an object per page; what is not used is never touched.
    assert size(1001) - size(1) <= (64 + 40) * 1000 * 512 * (2 if dedup else 1)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, np.array, mmap.mmap])
def test_a_page_is_any_contiguous_buffer(tmem: Tmem, kind: type) -> None:
    data = page_of(3)
    if kind is mmap.mmap:
        page = mmap.mmap(-1, 4096)
        page[:] = data.tobytes()
    else:
        page = data if kind is np.array else kind(data.tobytes())
    assert tmem.put(0, 1, OID, 0, page) == Code.DONE
    assert get(tmem, 1, 0)[1] == data.tobytes()


def test_what_is_no_page_is_a_typed_error_and_changes_nothing(tmem: Tmem) -> None:
    put(tmem, 0, 0, 1)
    before = tmem.statistics()
    for size in (0, 4095, 4097):
        with pytest.raises(TmemError, match=str(size)):
            tmem.put(0, 0, OID, 0, bytes(size))
        with pytest.raises(TmemError, match=str(size)):
            tmem.get(0, 0, OID, 0, bytearray(size))
    with pytest.raises(BufferError):
        tmem.get(0, 0, OID, 0, bytes(4096))
    with pytest.raises(ValueError, match="contiguous"):
        tmem.put(0, 0, OID, 0, np.zeros((4096, 2), np.uint8)[:, 0])
    with pytest.raises(TypeError):
        tmem.put(0, 0, OID, 0, "x" * 4096)
    assert tmem.statistics() == before


def test_integers_out_of_range_are_errors_or_codes(tmem: Tmem) -> None:
    page = page_of(1)
    for index in (-1, 2**32, 2**64):
        with pytest.raises(OverflowError):
            tmem.put(0, 0, OID, index, page)
        with pytest.raises(OverflowError):
            tmem.flush_page(0, 0, OID, index)
    for word in (-1, 2**64):
        with pytest.raises(OverflowError):
            tmem.put(0, 0, (0, word, 0), 0, page)
    for client, pool in (
        (0, 2),
        (0, 16),
        (0, -1),
        (1, 0),
        (64, 0),
        (-1, 0),
        (2**62, 0),
        (0, 2**62),
    ):
        assert tmem.put(client, pool, OID, 0, page) == Code.ENODEV
        assert tmem.get(client, pool, OID, 0, page.copy()) == Code.ENODEV
    assert tmem.open_client(2**64) == tmem.open_client(64) == tmem.open_client(-1) == Code.EPERM
    tmem.validate()


@pytest.mark.parametrize("pages", [0, 1, 2, 3, 513])
def test_a_pool_of_any_size_holds_that_many_pages(pages: int) -> None:
    tmem = with_pools(Tmem(reserve_pages=0, pages=pages))
    codes = [tmem.put(0, 1, OID, index, page_of(index)) for index in range(pages + 2)]
    assert codes == [Code.DONE] * pages + [Code.ENOMEM] * 2
    tmem.validate()


@pytest.mark.parametrize(
    "wrong",
    [
        {"pages": -1},
        {"pages": 513, "max_areas": 1},
        {"pages": 5, "max_areas": 3},
        {"max_areas": 32769},
    ],
)
def test_sizes_that_cannot_be(wrong: dict[str, int]) -> None:
    with pytest.raises(TmemError):
        Tmem(**wrong)


def test_pages_live_in_the_slab_of_the_caller() -> None:
    slab = np.frombuffer(mmap.mmap(-1, 2 * 512 * 4096), np.uint64)
    with pytest.raises(TmemError, match="page"):
        Tmem(slab=slab.ctypes.data + 64, max_areas=1)
    tmem = with_pools(Tmem(slab=slab.ctypes.data, max_areas=2))
    assert put(tmem, 1, 0, 3) == Code.ENOMEM
    assert tmem.grow(1) == 0
    assert put(tmem, 1, 0, 3) == Code.DONE
    assert np.array_equal(slab[512 * 512 :][:512], page_of(3))
    assert not slab[: 512 * 512].any()


def test_importing_the_package_is_cheap() -> None:
    code = "import sys, tmem; sys.exit('numba' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_a_pool_whose_memory_is_refused_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("tmem.pool.mmap.mmap", refuse)
    with pytest.raises(TmemError, match="Cannot allocate memory; ask for less"):
        Tmem(512)
