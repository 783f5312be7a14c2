"""Both ends of a ring, step by step in any order, against deques and unbounded integers."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

SLOTS = 64
WORD = 1 << 32


class RingMachine(RuleBasedStateMachine):
    """The model counts every record ever made; the ring's words are those counts modulo 2^32."""

    def __init__(self, loops: Any) -> None:
        super().__init__()
        self.ffi, self.lib = loops
        self.ring = self.ffi.new("struct mc_ring *")
        self.front = self.ffi.new("struct mc_front *")
        self.back = self.ffi.new("struct mc_back *")
        self.record = self.ffi.new("struct mc_record *")
        self.unsent: deque[int] = deque()
        self.requests: deque[int] = deque()
        self.serving: deque[int] = deque()
        self.unanswered: deque[int] = deque()
        self.answers: deque[int] = deque()
        self.next_id = 0

    @initialize(base=st.sampled_from([0, WORD - 1, WORD - 70, 2**31 - 10, 12345]))
    def start(self, base: int) -> None:
        self.lib.mc_ring_format(self.ring)
        self.lib.mc_front_bind(self.front, self.ring)
        self.lib.mc_back_bind(self.back, self.ring)
        self.ring.req_prod = self.ring.rsp_prod = base
        self.ring.req_event = self.ring.rsp_event = (base + 1) % WORD
        self.front.req_prod = self.front.req_published = self.front.rsp_cons = base
        self.back.req_cons = self.back.rsp_prod = self.back.rsp_published = base
        for index in range(base, base + SLOTS):
            self.ring.slots[index % SLOTS].seq = (index - SLOTS) % WORD
        # In all: published requests, consumed requests, published answers, consumed answers.
        self.req_prod = self.req_cons = self.rsp_prod = self.rsp_cons = base
        self.req_event = self.rsp_event = base + 1

    def outstanding(self) -> int:
        queues = (self.unsent, self.requests, self.serving, self.unanswered, self.answers)
        return sum(map(len, queues))

    @rule(count=st.integers(1, 70))
    def front_push(self, count: int) -> None:
        for _ in range(count):
            self.record.id = self.next_id
            full = self.outstanding() == SLOTS
            status = self.lib.mc_front_push(self.front, self.record)
            assert status == (self.lib.MC_EFULL if full else 0)
            if not full:
                self.unsent.append(self.next_id)
                self.next_id += 1

    @rule()
    def front_publish(self) -> None:
        old, self.req_prod = self.req_prod, self.req_prod + len(self.unsent)
        self.requests += self.unsent
        self.unsent.clear()
        due = old < self.req_event <= self.req_prod
        assert self.lib.mc_front_publish(self.front) == due

    @rule(count=st.integers(1, 70))
    def back_pop(self, count: int) -> None:
        for _ in range(count):
            there = len(self.requests) > 0
            assert self.lib.mc_back_pending(self.back) == there
            assert self.lib.mc_back_pop(self.back, self.record) == there
            if there:
                assert self.record.id == self.requests[0]
                self.serving.append(self.requests.popleft())
                self.req_cons += 1

    @rule(count=st.integers(1, 70), last_first=st.booleans())
    def back_push(self, count: int, last_first: bool) -> None:
        for _ in range(count):
            if not self.serving:
                assert self.lib.mc_back_push(self.back, self.record) == self.lib.MC_EFULL
                return
            ident = self.serving.pop() if last_first else self.serving.popleft()
            self.record.id, self.record.status = ident, -ident
            assert self.lib.mc_back_push(self.back, self.record) == 0
            self.unanswered.append(ident)

    @rule()
    def back_publish(self) -> None:
        old, self.rsp_prod = self.rsp_prod, self.rsp_prod + len(self.unanswered)
        self.answers += self.unanswered
        self.unanswered.clear()
        due = old < self.rsp_event <= self.rsp_prod
        assert self.lib.mc_back_publish(self.back) == due

    @rule(count=st.integers(1, 70))
    def front_pop(self, count: int) -> None:
        for _ in range(count):
            there = len(self.answers) > 0
            assert self.lib.mc_front_pop(self.front, self.record) == there
            if there:
                ident = self.answers.popleft()
                assert (self.record.id, self.record.status) == (ident, -ident)
                self.rsp_cons += 1

    @rule()
    def front_arm(self) -> None:
        self.rsp_event = self.rsp_cons + 1
        assert self.lib.mc_front_arm(self.front) == (len(self.answers) > 0)

    @rule()
    def back_arm(self) -> None:
        self.req_event = self.req_cons + 1
        assert self.lib.mc_back_arm(self.back) == (len(self.requests) > 0)

    @invariant()
    def words_are_the_counts(self) -> None:
        if not hasattr(self, "req_prod"):
            return
        assert self.lib.mc_front_outstanding(self.front) == self.outstanding()
        assert self.ring.req_prod == self.req_prod % WORD
        assert self.ring.rsp_prod == self.rsp_prod % WORD
        assert self.ring.req_event == self.req_event % WORD
        assert self.ring.rsp_event == self.rsp_event % WORD


@pytest.mark.slow
def test_ring_behaves_as_its_model(loops: Any) -> None:
    run_state_machine_as_test(
        lambda: RingMachine(loops),
        settings=settings(max_examples=100, stateful_step_count=60, deadline=None),
    )
