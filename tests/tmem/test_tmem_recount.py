"""Goal: a recount of a pool in use sees damage, and none where there is none.

Method: random streams of operations with a recount under way; then one broken word at a time.
"""

from __future__ import annotations

import random

import numpy as np
import pytest
from tmem_model import ZERO, page_of

from tmem import PoolFlag, Tmem, TmemBroken
from tmem.recount import Recount

COUNTERS = ("pages", "objects", "held_frames", "free_frames")


def walked(recount: Recount) -> Recount:
    while recount.step():
        pass
    return recount


def operate(tmem: Tmem, pools: list[int], rng: random.Random) -> None:
    slot, index = rng.choice(pools), rng.randrange(300)
    oid = (index // 40, 0, 1)
    what = rng.randrange(8)
    if what < 5:
        tmem.put(0, slot, oid, index, page_of(rng.choice((ZERO, index, 7))))
    elif what < 6:
        tmem.get(0, slot, oid, index, bytearray(4096))
    elif what < 7:
        tmem.flush_page(0, slot, oid, index)
    elif rng.random() < 0.1:
        tmem.flush_object(0, slot, oid)


def filled(seed: int, **options: bool) -> tuple[Tmem, list[int], random.Random]:
    tmem = Tmem(reserve_pages=0, pages=1024, seed=seed, **options)
    tmem.open_client(0)
    kinds = (PoolFlag.EPHEMERAL, PoolFlag.PERSISTENT)
    pools = [tmem.new_pool(0, PoolFlag.VERSION | kind) for kind in kinds]
    rng = random.Random(seed)
    for _ in range(800):
        operate(tmem, pools, rng)
    return tmem, pools, rng


@pytest.mark.parametrize("options", [{}, {"dedup": True}, {"compression": True}])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_healthy_pool_is_in_order_while_it_is_used(seed: int, options: dict[str, bool]) -> None:
    tmem, pools, rng = filled(seed, **options)
    if options.get("compression"):
        tmem.compress_step(100)
    recount = tmem.recount()
    while recount.step():
        operate(tmem, pools, rng)
    assert not recount.is_exact
    tmem.validate()
    exact = walked(tmem.recount())
    assert exact.is_exact
    assert exact.pages == int(tmem._state.header["pages"]) > 0


@pytest.mark.parametrize("counter", COUNTERS)
def test_a_wrong_counter_is_seen(counter: str) -> None:
    tmem, _, _ = filled(3)
    tmem._state.header[counter] += 1
    with pytest.raises(TmemBroken):
        walked(tmem.recount())


def test_every_wrong_word_of_a_page_is_seen() -> None:
    tmem, _, _ = filled(4)
    state = tmem._state
    page = int(state.page_buckets[np.flatnonzero(state.page_buckets)[0]])
    record = state.cells["page"][page]
    words = [(record, "object"), (record, "index"), (record, "store")]
    words += [
        (record[links], way)
        for links in ("mates", "of_client")
        for way in record[links].dtype.names
    ]
    for of, field in words:
        of[field] ^= 1
        with pytest.raises(TmemBroken):
            walked(tmem.recount())
        of[field] ^= 1
    walked(tmem.recount())


def test_a_chain_that_never_ends_is_seen() -> None:
    tmem, _, _ = filled(5)
    state = tmem._state
    page = int(state.page_buckets[np.flatnonzero(state.page_buckets)[0]])
    state.cells["chain"][page] = page
    with pytest.raises(TmemBroken, match="never ends"):
        walked(tmem.recount())


def test_a_frame_of_nobody_is_seen() -> None:
    tmem, _, _ = filled(6)
    frame = int(np.flatnonzero(tmem._state.frames < 1 << 29)[0])
    tmem._state.frames[frame] ^= 3
    with pytest.raises(TmemBroken):
        walked(tmem.recount())
