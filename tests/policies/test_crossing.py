"""A plan that comes from a process that may have been taken over: nothing in it is believed."""

from __future__ import annotations

import numpy as np
import pytest

from policies import Plan, PlanError, View
from policies.crossing import (
    Answer,
    Extent,
    Room,
    give,
    room_bytes,
    seen,
    show,
    taken,
)

VIEW = View.of(capacity=1000, used=[1, 2, 3], carry=[[1, 2], [3, 4], [np.nan, np.nan]])


@pytest.fixture
def room() -> Room:
    return np.zeros(room_bytes(len(VIEW)), dtype=np.uint8)


def test_a_view_crosses_whole(room: Room) -> None:
    call = show(room, 7, VIEW, None)
    assert call.number == 7
    there = seen(room, call, ())
    again = seen(room, show(room, 8, VIEW, VIEW.names), there.names)
    for view in (there, again):
        assert (view.capacity, view.names, view.mrc) == (1000, VIEW.names, None)
        assert np.array_equal(view.carry, VIEW.carry, equal_nan=True)
        assert view.used.tolist() == [1, 2, 3]


def test_a_plan_crosses_whole(room: Room) -> None:
    texts = ["one", "two\ud800", "x" * 1000]
    plan = Plan(tmem=[1, 2, Plan.UNLIMITED], ram=np.arange(3), why=texts, carry=np.ones((3, 0)))
    back = taken(room, give(room, 1, plan, VIEW), VIEW)
    assert np.asarray(back.tmem).tolist() == [1, 2, Plan.UNLIMITED]
    assert np.asarray(back.ram).tolist() == [0, 1, 2]
    assert back.carry is not None
    assert back.carry.shape == (3, 0)
    assert back.why is not None
    assert [str(text) for text in back.why] == ["one", "two?", "x" * 200]


@pytest.mark.parametrize(
    "extent",
    [
        ("tmem", "<f8", (2,)),
        ("tmem", "<f8", (3, 1 << 40)),
        ("tmem", "<f8", (3, -1)),
        ("tmem", "<f4", (3,)),
        ("tmem", "|O", (3,)),
        ("tmem", "<f8,<f8", (3,)),
        ("tmem", "<f8", ()),
        ("carry", "<f8", (3, 1 << 62)),
        ("why", "<U0", (3,)),
        ("why", "<U1000", (3,)),
        ("why", "<U999", (3, 1 << 30)),
        ("secret", "<f8", (3,)),
    ],
)
def test_an_extent_that_is_none_is_refused(room: Room, extent: Extent) -> None:
    with pytest.raises(ValueError, match=r"no plan has|not within"):
        taken(room, Answer(1, "plan", extents=(extent,)), VIEW)


def test_texts_that_are_no_text_are_refused(room: Room) -> None:
    room[:] = 0xFF
    with pytest.raises(ValueError, match="no text"):
        taken(room, Answer(1, "plan", extents=(("why", "<U8", (3,)),)), VIEW)


def test_what_was_taken_does_not_change_any_more(room: Room) -> None:
    back = taken(room, give(room, 1, Plan(tmem=[1, 2, 3]), VIEW), VIEW)
    room[:] = 0
    assert np.asarray(back.tmem).tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    "plan",
    [
        None,
        Plan(tmem="x"),
        Plan(ram=[[1, 2, 3]]),
        Plan(carry=[1, 2]),
        Plan(why="abc"),
        Plan(tmem=[[], [], 1]),
    ],
)
def test_what_is_no_plan_is_refused_where_it_is_made(room: Room, plan: object) -> None:
    with pytest.raises(PlanError):
        give(room, 1, plan, VIEW)
