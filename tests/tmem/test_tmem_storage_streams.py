"""Goal: one copy of equal pages, and compression, show in no answer but in how much fits.

Method: on a roomy host a stream is answered as by the model, which stores nothing. On a full one a
witness who remembers only the last put of each page sees that no get ever gives anything else, and
that a persistent page is there until its client was told otherwise.
"""

from __future__ import annotations

from typing import Any

import pytest
from tmem_streams import Mix, Row, first_difference, stream
from xen_model import XenModel

from tmem.replay import Replay, ReplayConfig

ROWS = 15_000
CHECK_ROWS = 3_000
STORAGE = [(True, False), (False, True), (True, True)]
#: What tells how much memory is used.
MEMORY_ROWS = ("freeable_mb", "flush_kb", "relinquish", "host_take", "host_give")


@pytest.mark.parametrize(("dedup", "compression"), STORAGE)
def test_a_roomy_host_answers_as_if_pages_lay_raw(dedup: bool, compression: bool) -> None:
    config = ReplayConfig(6000, 256, dedup, compression)
    model, replay = XenModel(6000), Replay(config)
    rows = (row for row in stream(3, ROWS, Mix(shape=20)) if row[0] not in MEMORY_ROWS)

    def check() -> None:
        assert replay.answer(["lru", 0]) == model.answer(["lru", 0])
        replay.pool.validate()

    answers = {"model": model.answer, "pool": replay.answer}
    difference = first_difference(rows, answers, check, CHECK_ROWS)
    assert not difference, difference


class Witness:
    """The last put of every page of private pools."""

    def __init__(self) -> None:
        self.seeds: dict[tuple[Any, ...], int] = {}
        self.persistent: set[tuple[int, int]] = set()

    def hears(self, row: Row, answer: Row) -> None:
        """A row and its answer; AssertionError when they cannot be."""
        name, pool = row[0], tuple(row[1:3])
        if name in ("put", "put_fault", "get", "flush_page"):
            self._of_page(name, (*pool, *row[3], row[4]), row, answer)
        elif name == "new_pool" and row[2] & 1 and answer[0] >= 0:
            self.persistent.add((row[1], answer[0]))
        elif name == "flush_object":
            self._forget((*pool, *row[3]))
        elif name == "destroy_pool":
            self._forget(pool)
        elif name == "kill_client":
            self._forget(pool[:1])

    def _of_page(self, name: str, handle: tuple[Any, ...], row: Row, answer: Row) -> None:
        if name == "put" and answer == [1]:
            self.seeds[handle] = row[5]
        elif name == "flush_page" or (name != "get" and answer not in ([-1000], [-12])):
            self.seeds.pop(handle, None)  # refused before anything was looked at, it stays
        elif name == "get" and answer[0] == 1:
            assert self.seeds[handle] == answer[1], row
        elif name == "get" and handle[:2] in self.persistent:
            assert handle not in self.seeds, row

    def _forget(self, what: tuple[Any, ...]) -> None:
        size = len(what)
        self.seeds = {h: seed for h, seed in self.seeds.items() if h[:size] != what}
        self.persistent = {pool for pool in self.persistent if pool[:size] != what}


@pytest.mark.parametrize(("dedup", "compression"), [(False, False), *STORAGE])
def test_a_full_host_never_gives_another_page(dedup: bool, compression: bool) -> None:
    replay = Replay(ReplayConfig(150, 64, dedup, compression))
    witness = Witness()
    mix = Mix(private_only=True, shape=2, host=8, take_pages_max=6)
    for number, row in enumerate(stream(4, ROWS, mix)):
        answer = replay.answer(row)
        witness.hears(row, answer)
        if number % CHECK_ROWS == 0:
            replay.pool.validate()
    replay.pool.validate()
    assert replay.pool.statistics().evicted > ROWS // 100, "the host was to be full"
