"""Goal: the pool, called from Python and called by records, answers what plain dicts answer.

Method: a hypothesis state machine drives two pools and the model with the same operations, on
capacities from nothing to a few pages and from no area to three. After every step all counters and
eviction orders agree and both pools validate; every page that is read is compared whole.
"""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from service_calls import NEED_SLAB, ServiceCalls
from tmem_model import ZERO, Model, page_of

from tmem import Tmem
from tmem.layout import AREA_PAGES, cells_for

# Mostly what exists: what does not is refused at once and changes nothing.
CLIENTS = st.sampled_from([0] * 8 + [1] * 5 + [63, 64, -1])
SLOTS = st.sampled_from([0] * 6 + [1] * 6 + [2, 16])
FLAGS = st.sampled_from([1 << 24, 1 << 24, 1 | 1 << 24, 1 | 1 << 24, 2 | 1 << 24, 3 | 1 << 24, 0])
OIDS = st.sampled_from([(0, 0, 0), (1, 0, 0), (0, 1, 0), (2**64 - 1, 2**64 - 1, 2**64 - 1)])
INDICES = st.sampled_from([0, 1, 2, 3, 0xFFFFFFFF])
SEEDS = st.one_of(st.just(ZERO), st.integers(0, 2**64 - 1))
FIRSTS, COUNTS = st.integers(0, 1500), st.sampled_from([3, 300, 600, 1200])
MAX_AREAS = 3


class TmemMachine(RuleBasedStateMachine):
    """Two pools and the model, in step."""

    def start(self, pages: int, max_areas: int) -> None:
        """Begin with ``pages`` pages; ``max_areas`` 0: a part of one area that never changes."""
        self.part_areas = 0 if max_areas else -(-pages // AREA_PAGES)
        areas = set(range(pages // AREA_PAGES)) if max_areas else set()
        cells = cells_for((max_areas or self.part_areas) * AREA_PAGES)
        self.model = Model(pages, areas, max_areas, cells)
        self.make = {"pages": pages, "max_areas": max_areas or None, "seed": 7, "reserve_pages": 0}
        self.direct = Tmem(**self.make)
        self.served = Tmem(**self.make)
        self.service = ServiceCalls(self.served)
        for client in (0, 1):
            self.open_client(client)
            self.new_pool(client, 1 << 24)
            self.new_pool(client, 1 | 1 << 24)

    @rule(client=CLIENTS)
    def open_client(self, client: int) -> None:
        code = self.model.open_client(client)
        assert self.direct.open_client(client) == code
        assert self.service.open_client(client) == code

    @rule(client=st.sampled_from([1, 2, 63, 64]))
    def close_client(self, client: int) -> None:
        code = self.model.close_client(client)
        assert self.direct.close_client(client) == code
        assert self.service.close_client(client) == code

    @rule(client=CLIENTS, flags=FLAGS)
    def new_pool(self, client: int, flags: int) -> None:
        code = self.model.new_pool(client, flags)
        assert self.direct.new_pool(client, flags) == code
        assert self.service.new_pool(client, flags) == code

    @rule(client=st.sampled_from([0, 1]), slot=st.sampled_from([1, 2, 3, 16]))
    def destroy_pool(self, client: int, slot: int) -> None:
        code = self.model.destroy_pool(client, slot)
        assert self.direct.destroy_pool(client, slot) == code
        assert self.service.destroy_pool(client, slot) == code

    @rule(client=CLIENTS, slot=SLOTS, oid=OIDS, index=INDICES, seed=SEEDS)
    def put(
        self, client: int, slot: int, oid: tuple[int, int, int], index: int, seed: int | None
    ) -> None:
        page = page_of(seed)
        if self.model.needs_slab((client, slot, oid, index), seed):
            before = self.served.statistics()
            assert self.service.put(client, slot, oid, index, page, may_ask=1) == NEED_SLAB
            assert self.served.statistics() == before
            may_ask = 0
        else:
            may_ask = 1
        code = self.model.put(client, slot, oid, index, seed)
        assert self.direct.put(client, slot, oid, index, page) == code
        assert self.service.put(client, slot, oid, index, page, may_ask) == code

    @rule(which=st.integers(0, 2**32), seed=SEEDS)
    def put_again(self, which: int, seed: int | None) -> None:
        if self.model.pages:
            self.put(*list(self.model.pages)[which % len(self.model.pages)], seed)

    @rule(slot=st.sampled_from([0, 1]), seed=SEEDS, first=FIRSTS, count=COUNTS)
    def put_many(self, slot: int, seed: int | None, first: int, count: int) -> None:
        """A run of pages, so that areas fill; two to an object."""
        page = page_of(seed)
        for number in range(first, first + count):
            oid, index = (9, number // 2, 0), number % 2
            code = self.model.put(0, slot, oid, index, seed)
            assert self.direct.put(0, slot, oid, index, page) == code
            assert self.service.put(0, slot, oid, index, page) == code

    @rule(first=st.integers(0, 3), step=st.integers(2, 3))
    def flush_many(self, first: int, step: int) -> None:
        """Holes everywhere, so that a shrink finds pages to move."""
        for handle in list(self.model.pages)[first::step]:
            self.flush_page(*handle)

    @rule(client=CLIENTS, slot=SLOTS, oid=OIDS, index=INDICES)
    def get(self, client: int, slot: int, oid: tuple[int, int, int], index: int) -> None:
        self.compare_get(client, slot, oid, index)

    def compare_get(self, client: int, slot: int, oid: tuple[int, int, int], index: int) -> None:
        code, seed = self.model.get(client, slot, oid, index)
        untouched = np.full(512, 0xAA, np.uint64)
        expected = page_of(seed) if code == 1 else untouched
        for pool in (self.direct, self.service):
            page = untouched.copy()
            assert pool.get(client, slot, oid, index, page) == code
            assert np.array_equal(page, expected)

    @rule(client=CLIENTS, slot=SLOTS, oid=OIDS, index=INDICES)
    def flush_page(self, client: int, slot: int, oid: tuple[int, int, int], index: int) -> None:
        code = self.model.flush(client, slot, oid, index)
        assert self.direct.flush_page(client, slot, oid, index) == code
        assert self.service.flush_page(client, slot, oid, index) == code

    @rule(client=CLIENTS, slot=SLOTS, oid=OIDS)
    def flush_object(self, client: int, slot: int, oid: tuple[int, int, int]) -> None:
        code = self.model.flush(client, slot, oid)
        assert self.direct.flush_object(client, slot, oid) == code
        assert self.service.flush_object(client, slot, oid) == code

    @rule(client=st.sampled_from([0, 1]), pages=st.sampled_from([-1, 0, 1, 3, 100]))
    def set_target(self, client: int, pages: int) -> None:
        if client in self.model.targets:
            self.model.targets[client] = pages
            for tmem in (self.direct, self.served):
                tmem.clients["mm_target"][client] = pages

    @rule(area=st.integers(-1, MAX_AREAS))
    def grow(self, area: int) -> None:
        code = self.model.grow(area)
        assert self.direct.grow(area) == code
        assert self.service.grow(area) == code

    @rule()
    def flush_and_shrink(self) -> None:
        self.flush_many(0, 2)
        self.shrink()

    @rule()
    def shrink(self) -> None:
        if not self.model.can_shrink():
            assert self.direct.shrink() == -1
            assert self.service.shrink() == -1
            return
        area = self.direct.shrink()
        assert area in self.model.areas
        assert self.service.shrink() == area
        self.model.shrink(area)

    @invariant()
    def agree(self) -> None:
        if not hasattr(self, "model"):
            return
        self.served.validate()
        now, model = self.direct.statistics(), self.model
        assert self.served.statistics() == now
        assert now.held_pages == model.frames
        assert now.held_areas == len(model.areas) + self.part_areas
        assert now.free_pages == model.free_frames
        assert now.used_pages == len(model.pages)
        assert now.objects == model.objects
        assert now.evicted == model.evicted
        assert {c.client: c.used_pages for c in now.clients} == {
            client: model.used(client) for client in model.targets
        }
        assert {(p.client, p.slot): p.is_persistent for p in now.pools} == model.pools
        assert self.served.eviction_order() == model.order()

    def teardown(self) -> None:
        """Every page the model still has can be read, and is the last that was put."""
        if hasattr(self, "model"):
            for handle in list(self.model.pages):
                self.compare_get(*handle)
            self.agree()
            self.direct.validate()
            assert self.direct.eviction_order() == self.model.order()


class FewPages(TmemMachine):
    """Everything evicts, or fails."""

    @initialize(pages=st.sampled_from([2, 3, 1, 5, 40, 0]))
    def begin(self, pages: int) -> None:
        self.start(pages, 0)


class FewAreas(TmemMachine):
    """Areas come and go."""

    @initialize(areas=st.sampled_from([2, 3, 1, 0]))
    def begin(self, areas: int) -> None:
        self.start(areas * AREA_PAGES, MAX_AREAS)


_SETTINGS = settings(
    max_examples=50,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestFewPages, TestFewAreas = FewPages.TestCase, FewAreas.TestCase
TestFewPages.settings = TestFewAreas.settings = _SETTINGS
