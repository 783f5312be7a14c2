"""Goal: ``validate`` sees damage. Method: break one word of a healthy pool at a time."""

from __future__ import annotations

import numpy as np
import pytest
from tmem_model import ZERO, page_of

from tmem import Code, PoolFlag, Tmem, TmemBroken

COUNTERS = (
    "free_cells",
    "first_free_cell",
    "open_area",
    "held_areas",
    "held_frames",
    "free_frames",
    "pages",
    "objects",
    "zero_pages",
    "ephemeral_pages",
    "ephemeral_stored",
)


@pytest.fixture
def tmem() -> Tmem:
    """Both kinds of pages in both kinds of pools, and holes."""
    tmem = Tmem(reserve_pages=0, pages=1024, seed=3)
    tmem.open_client(0)
    for kind in (PoolFlag.EPHEMERAL, PoolFlag.PERSISTENT):
        slot = tmem.new_pool(0, PoolFlag.VERSION | kind)
        for index in range(12):
            seed = ZERO if index % 3 == 0 else index
            assert tmem.put(0, slot, (index // 4, 0, 0), index, page_of(seed)) == Code.DONE
        tmem.flush_page(0, slot, (1, 0, 0), 5)
        tmem.flush_object(0, slot, (2, 0, 0))
    tmem.validate()
    return tmem


@pytest.mark.parametrize("counter", COUNTERS)
def test_a_wrong_word_in_the_header(tmem: Tmem, counter: str) -> None:
    tmem._state.header[counter] += 1
    with pytest.raises(TmemBroken):
        tmem.validate()


@pytest.mark.parametrize("counter", ["used_pages", "ephemeral_pages", "puts", "puts_succ"])
def test_a_wrong_word_of_a_client(tmem: Tmem, counter: str) -> None:
    tmem.clients[counter][0] += 1
    with pytest.raises(TmemBroken):
        tmem.validate()


@pytest.mark.parametrize("counter", ["is_open", "is_persistent", "pages", "objects", "puts"])
def test_a_wrong_word_of_a_pool(tmem: Tmem, counter: str) -> None:
    tmem._state.pools[counter][0] ^= 1
    with pytest.raises(TmemBroken):
        tmem.validate()


def test_a_wrong_word_of_any_page(tmem: Tmem) -> None:
    page = int(tmem._state.page_buckets[np.flatnonzero(tmem._state.page_buckets)[0]])
    queue = tmem._state.cells["page"]["eviction"]["next"]
    persistent = page not in queue[:3].tolist()
    record = tmem._state.cells["page"][page]
    words = [(record, "chain"), (record, "object"), (record, "index"), (record, "store")]
    for links in ("mates", "of_client", "eviction"):
        if links != "eviction" or not persistent:
            words += [(record[links], "next"), (record[links], "previous")]
    for of, field in words:
        of[field] ^= 1
        with pytest.raises(TmemBroken):
            tmem.validate()
        of[field] ^= 1
    tmem.validate()


def test_a_wrong_frame_or_area(tmem: Tmem) -> None:
    state = tmem._state
    for array, at in ((state.frames, 511), (state.frames, 600), (state.areas["used"], 1)):
        array[at] ^= 2
        with pytest.raises(TmemBroken):
            tmem.validate()
        array[at] ^= 2
    tmem.validate()
