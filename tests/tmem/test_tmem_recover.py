"""Goal: what a recovery keeps, drops, reports and refuses. Method: one pool, two ``Tmem`` on it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from restart_child import page_of, shared_array

from tmem import Code, PoolFlag, Tmem, TmemBroken, TmemError
from tmem.layout import AREA_BYTES, STATE
from tmem.migrate import Saving

AREAS = 3
OID = (1, 2, 3)
UUID = (5, 5)
PERSISTENT, SHARED = PoolFlag.VERSION | PoolFlag.PERSISTENT, PoolFlag.VERSION | PoolFlag.SHARED


class Kept:
    """Memory for a pool, and what opens it."""

    def __init__(self, **options: Any) -> None:
        self.options = {"max_areas": AREAS, **options}
        self.state = shared_array(Tmem.state_bytes(**self.options), np.uint8)
        self.slab = shared_array(AREAS * AREA_BYTES, np.uint8)

    def open(self, recover: bool = True, **options: Any) -> Tmem:
        memory = (self.state.ctypes.data, self.state.nbytes)
        at = {"slab": self.slab.ctypes.data, "state_memory": memory}
        return Tmem(**{**self.options, **at, **options}, seed=3, recover=recover)


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def tmem(kept: Kept) -> Tmem:
    """Two clients; client 1 has a persistent pool of some pages."""
    tmem = kept.open(recover=False)
    for area in range(AREAS):
        tmem.grow(area)
    for client in (1, 2):
        tmem.open_client(client)
        tmem.authorise(client, UUID)
    tmem.new_pool(1, PERSISTENT)
    for index in range(5):
        assert tmem.put(1, 0, OID, index, page_of(index)) == Code.DONE
    return tmem


def test_pages_settings_and_counters_stay_and_the_report_says_so(kept: Kept, tmem: Tmem) -> None:
    tmem.set_weight(1, 7)
    tmem.set_quota(1, 5)
    tmem.clients["mm_target"][1] = 9
    tmem.freeze(2)
    again = kept.open()
    again.validate()
    assert again.recovered is not None
    found = again.recovered
    assert (found.pages, found.ephemeral_pages, found.clients) == (5, 0, (1, 2))
    assert found.areas == (2,), "the only area with a page; the others may be given back"
    client = again.clients[1]
    wanted = {"weight": 7, "quota": 5, "mm_target": 9, "puts_succ": 5, "persistent_pages": 5}
    assert {name: int(client[name]) for name in wanted} == wanted
    assert again.clients["is_frozen"].tolist()[:3] == [0, 0, 1]
    page = np.zeros(512, np.uint64)
    for index in range(5):
        assert again.get(1, 0, OID, index, page) == Code.DONE
        assert np.array_equal(page, page_of(index))
    assert again.put(1, 0, OID, 5, page) == Code.ENOMEM, "the quota"
    assert again.grow(0) == again.grow(1) == 0


def test_ephemeral_pages_go_and_shared_pools_stay(kept: Kept, tmem: Tmem) -> None:
    slots = [tmem.new_pool(client, SHARED, UUID) for client in (1, 2)]
    tmem.put(1, slots[0], OID, 0, page_of(3))
    again = kept.open()
    again.validate()
    assert again.recovered is not None
    assert again.recovered.ephemeral_pages == 1
    assert again.put(1, slots[0], OID, 1, page_of(5)) == Code.DONE
    assert again.get(2, slots[1], OID, 1, page_of(0)) == Code.DONE, "they share it still"
    assert again.close_client(1) >= 0
    again.validate()


def test_a_save_under_way_is_given_up(kept: Kept, tmem: Tmem) -> None:
    for frozen in (0, 1):
        if frozen:
            tmem.freeze(1)
        saving = Saving(tmem, 1, live=True)
        tmem.flush_page(1, 0, OID, 4)
        again = kept.open()
        again.validate()
        assert int(again.clients["is_frozen"][1]) == frozen
        Saving(again, 1).end()
        del saving


def test_curves_start_anew(kept: Kept, tmem: Tmem) -> None:
    again = kept.open(mrc=True)
    assert again.miss_ratios(1, [0, 10]).tolist() == [1, 1]
    again.get(1, 0, OID, 0, page_of(0))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"max_areas": AREAS + 1}, "max_areas 3, not 4"),
        ({"dedup": True}, "dedup 0, not 1"),
        ({"max_pages": 100}, "page_bucket_count"),
        ({"state_memory": None}, "give the slab and the state_memory"),
        ({"slab": None}, "give the slab and the state_memory"),
    ],
)
def test_a_pool_of_other_options_is_refused_and_left_alone(
    kept: Kept, tmem: Tmem, options: dict[str, Any], why: str
) -> None:
    big = shared_array(2 * kept.state.nbytes, np.uint8)
    big[: kept.state.nbytes] = kept.state
    if "state_memory" not in options:
        options = {"state_memory": (big.ctypes.data, big.nbytes), **options}
    before = big.tobytes()
    with pytest.raises(TmemError, match=why):
        kept.open(**options)
    assert big.tobytes() == before
    tmem.validate()


def test_a_pool_of_another_layout_or_none_is_refused(kept: Kept, tmem: Tmem) -> None:
    tmem._state.header["layout"] = 12
    with pytest.raises(TmemError, match="go on with the version that made it"):
        kept.open()
    with pytest.raises(TmemError, match="layout 0x0"):
        Kept().open()


def test_memory_that_is_too_small_or_not_aligned_is_refused(kept: Kept) -> None:
    address, size = kept.state.ctypes.data, kept.state.nbytes
    for memory in ((address, size - 1), (address + 8, size)):
        with pytest.raises(TmemError, match=r"Tmem\.state_bytes"):
            kept.open(recover=False, state_memory=memory)


@pytest.mark.parametrize(
    ("field", "value"), [("store", 1 << 29), ("object", 0), ("object", 1 << 28)]
)
def test_damage_is_named(kept: Kept, tmem: Tmem, field: str, value: int) -> None:
    page = int(np.flatnonzero(tmem._state.kept)[-1])
    tmem._state.cells["page"][field][page] = value
    with pytest.raises(TmemBroken, match=f"cell {page} "):
        kept.open()


def test_two_pages_in_one_frame_are_damage(kept: Kept, tmem: Tmem) -> None:
    first, second = np.flatnonzero(tmem._state.kept)[-2:].tolist()
    places = tmem._state.cells["page"]["store"]
    places[second] = places[first]
    with pytest.raises(TmemBroken, match=f"cell {second} "):
        kept.open()


def test_the_state_holds_no_address_that_counts(kept: Kept, tmem: Tmem) -> None:
    other = Kept()
    other.state[:], other.slab[:] = kept.state, kept.slab
    fields = [name for name, (kind, *_) in (STATE.fields or {}).items() if kind.metadata]
    for name in (*fields, "slab", "scratch", "note", "shards", "hash_page"):
        other.state[: STATE.itemsize].view(STATE)[name] = 0
    again = other.open()
    again.validate()
    page = np.zeros(512, np.uint64)
    assert again.get(1, 0, OID, 3, page) == Code.DONE
    assert np.array_equal(page, page_of(3))
