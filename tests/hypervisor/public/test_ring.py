"""One ring in one process: order, bounds, event thresholds, and what a hostile peer can write."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

SLOTS = 64
WORD = 1 << 32
BASES = [0, WORD - 1, WORD - SLOTS, WORD - 40, (1 << 31) - 3]


class Ends:
    """A ring whose indices stand at ``base``, as after that many records, and both its ends."""

    def __init__(self, loops: Any, base: int = 0) -> None:
        self.ffi, self.lib = loops
        self.ring = self.ffi.new("struct mc_ring *")
        self.front = self.ffi.new("struct mc_front *")
        self.back = self.ffi.new("struct mc_back *")
        self.lib.mc_ring_format(self.ring)
        self.lib.mc_front_bind(self.front, self.ring)
        self.lib.mc_back_bind(self.back, self.ring)
        self._move_to(base)

    def _move_to(self, base: int) -> None:
        ring, front, back = self.ring, self.front, self.back
        ring.req_prod = ring.rsp_prod = base
        ring.req_event = ring.rsp_event = (base + 1) % WORD
        front.req_prod = front.req_published = front.rsp_cons = base
        back.req_cons = back.rsp_prod = back.rsp_published = base
        for index in range(base, base + SLOTS):
            ring.slots[index % SLOTS].seq = (index - SLOTS) % WORD

    def record(self, ident: int = 0, **fields: Any) -> Any:
        record = self.ffi.new("struct mc_record *")
        record.id = ident
        for name, value in fields.items():
            setattr(record, name, value)
        return record

    def send(self, count: int) -> None:
        for ident in range(count):
            assert self.lib.mc_front_push(self.front, self.record(ident)) == 0
        self.lib.mc_front_publish(self.front)

    def serve(self, count: int) -> None:
        """Pop ``count`` requests and publish an answer to each."""
        record = self.record()
        for _ in range(count):
            assert self.lib.mc_back_pop(self.back, record) == 1
            assert self.lib.mc_back_push(self.back, record) == 0
        self.lib.mc_back_publish(self.back)


@pytest.fixture(params=BASES, ids=hex)
def ends(loops: Any, request: pytest.FixtureRequest) -> Ends:
    return Ends(loops, request.param)


def test_a_record_arrives_as_it_was_sent_and_its_answer_too(ends: Ends) -> None:
    sent = ends.record(7, op=3, flags=5, status=0, arg=[1, 2, 3, 4, WORD * WORD - 1])
    assert ends.lib.mc_front_push(ends.front, sent) == 0
    assert ends.lib.mc_back_pending(ends.back) == 0, "pushed is not yet published"
    ends.lib.mc_front_publish(ends.front)
    assert ends.lib.mc_back_pending(ends.back) == 1

    got = ends.record()
    assert ends.lib.mc_back_pop(ends.back, got) == 1
    assert (got.id, got.op, got.flags, list(got.arg)) == (7, 3, 5, list(sent.arg))
    got.status = -9
    assert ends.lib.mc_back_push(ends.back, got) == 0
    answer = ends.record()
    assert ends.lib.mc_front_pop(ends.front, answer) == 0, "pushed is not yet published"
    ends.lib.mc_back_publish(ends.back)
    assert ends.lib.mc_front_pop(ends.front, answer) == 1
    assert (answer.id, answer.status) == (7, -9)
    assert ends.lib.mc_front_outstanding(ends.front) == 0


def test_answers_may_come_out_of_order(ends: Ends) -> None:
    ends.send(3)
    requests = [ends.record() for _ in range(3)]
    for request in requests:
        assert ends.lib.mc_back_pop(ends.back, request) == 1
    for request in reversed(requests):
        assert ends.lib.mc_back_push(ends.back, request) == 0
    ends.lib.mc_back_publish(ends.back)
    answer = ends.record()
    order = []
    while ends.lib.mc_front_pop(ends.front, answer) == 1:
        order.append(answer.id)
    assert order == [2, 1, 0]


def test_a_full_ring_refuses_until_an_answer_was_taken(ends: Ends) -> None:
    ends.send(SLOTS)
    assert ends.lib.mc_front_push(ends.front, ends.record()) == ends.lib.MC_EFULL
    ends.serve(SLOTS)
    assert ends.lib.mc_front_push(ends.front, ends.record()) == ends.lib.MC_EFULL
    assert ends.lib.mc_front_pop(ends.front, ends.record()) == 1
    assert ends.lib.mc_front_push(ends.front, ends.record()) == 0
    assert ends.lib.mc_front_outstanding(ends.front) == SLOTS


def test_a_backend_cannot_answer_what_was_not_asked(ends: Ends) -> None:
    assert ends.lib.mc_back_push(ends.back, ends.record()) == ends.lib.MC_EFULL
    ends.send(2)
    assert ends.lib.mc_back_push(ends.back, ends.record()) == ends.lib.MC_EFULL, "not consumed"
    ends.serve(2)
    assert ends.lib.mc_back_push(ends.back, ends.record()) == ends.lib.MC_EFULL


def test_the_first_record_of_a_fresh_ring_rings_and_the_next_does_not(ends: Ends) -> None:
    ends.lib.mc_front_push(ends.front, ends.record())
    assert ends.lib.mc_front_publish(ends.front) == 1
    ends.lib.mc_front_push(ends.front, ends.record())
    assert ends.lib.mc_front_publish(ends.front) == 0
    assert ends.lib.mc_front_publish(ends.front) == 0, "nothing new to tell"


def test_an_armed_end_is_rung_once_for_a_batch(ends: Ends) -> None:
    ends.send(3)
    assert ends.lib.mc_back_arm(ends.back) == 1, "work is there: no sleep"
    ends.serve(3)
    assert ends.lib.mc_back_arm(ends.back) == 0
    for _ in range(5):
        ends.lib.mc_front_push(ends.front, ends.record())
    assert ends.lib.mc_front_publish(ends.front) == 1

    assert ends.lib.mc_front_arm(ends.front) == 1
    for _ in range(3):
        assert ends.lib.mc_front_pop(ends.front, ends.record()) == 1
    assert ends.lib.mc_front_arm(ends.front) == 0
    record = ends.record()
    for _ in range(2):
        ends.lib.mc_back_pop(ends.back, record)
        ends.lib.mc_back_push(ends.back, record)
    assert ends.lib.mc_back_publish(ends.back) == 1
    assert ends.lib.mc_back_publish(ends.back) == 0


RUNAWAYS = [SLOTS + 1, SLOTS + 5, 1 << 31, (1 << 31) + 1, WORD - 1, WORD - SLOTS]


@pytest.mark.parametrize("step", RUNAWAYS, ids=hex)
def test_a_request_index_no_frontend_can_have_is_runaway(ends: Ends, step: int) -> None:
    ends.ring.req_prod = (ends.back.req_cons + step) % WORD
    assert ends.lib.mc_back_pending(ends.back) == ends.lib.MC_ERUNAWAY
    assert ends.lib.mc_back_pop(ends.back, ends.record()) == ends.lib.MC_ERUNAWAY
    assert ends.lib.mc_back_arm(ends.back) == 1, "a broken ring is no reason to sleep"
    assert ends.back.req_cons == ends.back.rsp_prod


@pytest.mark.parametrize("step", [1, SLOTS - 1, SLOTS])
def test_a_request_index_that_goes_back_is_runaway(ends: Ends, step: int) -> None:
    ends.send(SLOTS)
    record = ends.record()
    for _ in range(SLOTS):
        ends.lib.mc_back_pop(ends.back, record)
    ends.ring.req_prod = (ends.ring.req_prod - step) % WORD
    assert ends.lib.mc_back_pop(ends.back, record) == ends.lib.MC_ERUNAWAY


@pytest.mark.parametrize("consumed", [1, 10, SLOTS])
def test_requests_beyond_the_unanswered_ones_are_runaway(ends: Ends, consumed: int) -> None:
    """Consumed and not answered still fills a slot: a 65th outstanding request has none."""
    ends.send(SLOTS)
    record = ends.record()
    for _ in range(consumed):
        ends.lib.mc_back_pop(ends.back, record)
    ends.ring.req_prod = (ends.ring.req_prod + 1) % WORD
    assert ends.lib.mc_back_pop(ends.back, record) == ends.lib.MC_ERUNAWAY
    assert ends.back.req_cons == (ends.front.rsp_cons + consumed) % WORD


@pytest.mark.parametrize("count", [1, 2, SLOTS])
def test_a_request_published_before_it_was_written_is_torn(ends: Ends, count: int) -> None:
    ends.ring.req_prod = (ends.ring.req_prod + count) % WORD
    assert ends.lib.mc_back_pop(ends.back, ends.record()) == ends.lib.MC_ETORN
    assert ends.lib.mc_back_pop(ends.back, ends.record()) == ends.lib.MC_ETORN, "stays so"


@pytest.mark.parametrize("change", [1, WORD - 1, SLOTS, WORD - SLOTS, 1 << 31])
def test_a_wrong_sequence_is_torn_and_not_consumed(ends: Ends, change: int) -> None:
    ends.send(2)
    slot = ends.ring.slots[ends.back.req_cons % SLOTS]
    slot.seq = (slot.seq + change) % WORD
    assert ends.lib.mc_back_pop(ends.back, ends.record()) == ends.lib.MC_ETORN
    assert ends.back.req_cons == ends.back.rsp_prod

    ends.ring.slots[ends.back.req_cons % SLOTS].seq = ends.back.req_cons
    ends.serve(2)
    slot.seq = (slot.seq + change) % WORD
    assert ends.lib.mc_front_pop(ends.front, ends.record()) == ends.lib.MC_ETORN
    assert ends.lib.mc_front_outstanding(ends.front) == 2


@pytest.mark.parametrize("asked", [0, 1, 5])
@pytest.mark.parametrize("extra", [1, SLOTS, 1 << 31, WORD - 6])
def test_answers_nobody_asked_for_are_runaway(ends: Ends, asked: int, extra: int) -> None:
    ends.send(asked)
    ends.ring.rsp_prod = (ends.ring.rsp_prod + asked + extra) % WORD
    assert ends.lib.mc_front_pop(ends.front, ends.record()) == ends.lib.MC_ERUNAWAY
    assert ends.lib.mc_front_outstanding(ends.front) == asked


def test_an_answer_to_an_unpublished_request_is_runaway(ends: Ends) -> None:
    ends.lib.mc_front_push(ends.front, ends.record())
    ends.ring.rsp_prod = (ends.ring.rsp_prod + 1) % WORD
    assert ends.lib.mc_front_pop(ends.front, ends.record()) == ends.lib.MC_ERUNAWAY


def test_a_popped_record_is_a_copy(ends: Ends) -> None:
    ends.send(1)
    record = ends.record()
    ends.lib.mc_back_pop(ends.back, record)
    ends.ring.slots[(ends.back.req_cons - 1) % SLOTS].arg[4] = 666
    assert record.arg[4] == 0


def test_the_backend_does_not_read_back_its_own_words(ends: Ends) -> None:
    """The frontend can write them as well: that must not move the backend."""
    ends.send(3)
    ends.ring.rsp_prod = (ends.ring.rsp_prod + 1000) % WORD
    ends.ring.req_event = 12345
    first = ends.front.rsp_cons
    ends.serve(3)
    assert ends.ring.rsp_prod == (first + 3) % WORD
    assert ends.lib.mc_back_arm(ends.back) == 0
    assert ends.ring.req_event == (first + 4) % WORD


@given(
    header=st.binary(min_size=128, max_size=128),
    record=st.binary(min_size=64, max_size=64),
    req_prod=st.integers(0, SLOTS + 2) | st.integers(0, WORD - 1),
    torn=st.sets(st.integers(0, SLOTS - 1), max_size=2),
)
def test_garbage_in_the_whole_ring_yields_only_whole_records_in_order(
    loops: Any, header: bytes, record: bytes, req_prod: int, torn: set[int]
) -> None:
    ends = Ends(loops)
    memory = ends.ffi.buffer(ends.ring)
    memory[:] = header + record * SLOTS
    ends.ring.req_prod = req_prod
    for index in range(SLOTS):
        ends.ring.slots[index].seq = index + (index in torn)
    got, popped = ends.record(), 0
    while (status := ends.lib.mc_back_pop(ends.back, got)) == 1:
        popped += 1
        assert bytes(ends.ffi.buffer(got))[8:] == record[8:]

    if req_prod > SLOTS:
        assert (popped, status) == (0, ends.lib.MC_ERUNAWAY)
    else:
        whole = min([req_prod, *torn])
        assert (popped, status) == (whole, ends.lib.MC_ETORN if whole < req_prod else 0)
    assert ends.back.req_cons == popped


def test_format_makes_a_used_ring_fresh(loops: Any) -> None:
    ends = Ends(loops)
    ends.send(SLOTS)
    ends.lib.mc_ring_format(ends.ring)
    ends.lib.mc_front_bind(ends.front, ends.ring)
    ends.lib.mc_back_bind(ends.back, ends.ring)
    assert ends.lib.mc_back_pending(ends.back) == 0
    ends.ring.req_prod = 1
    assert ends.lib.mc_back_pop(ends.back, ends.record()) == ends.lib.MC_ETORN
