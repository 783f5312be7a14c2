"""Goal: a pool can be recovered wherever its process is killed, at any instruction.

Method: an operation runs in a child, instruction by instruction. Wherever a word of the state has
changed, the memory is copied and recovered as if the child had been killed there: it validates, no
page is lost but the one the operation names, and the operation, executed again, gives the same as
without a kill.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
from restart_child import page_of, shared_array
from single_step import every_state, is_permitted

from tmem import Code, PoolFlag, Tmem, layout
from tmem.layout import AREA_BYTES
from tmem.recovery import recover_state

AREAS = 2
RECOVERY_SAMPLE = 3  # one of so many states of a recovery is looked at
FILLED = 700
ROOM = 1400  # pages it can describe: the state stays small, as it is compared at every step
P, Q, EPHEMERAL = range(3)  # slots
OID, OTHER = (1, 0, 0), (2, 0, 0)
ZERO, RAW, SAME, SMALL, LITTLE = 0, 101, 7001, 42, 50  # seeds of pages
BOTH = {"dedup": True, "compression": True}
Key = tuple[int, tuple[int, int, int], int]


class Case(NamedTuple):
    """Pages that are there, what is done, and the pages that may be lost or half written."""

    pages: dict[Key, int]
    act: Callable[[Tmem], object]
    named: tuple[Key, ...] = ()
    options: Mapping[str, Any] = MappingProxyType({})
    prepare: Callable[[Tmem], object] = lambda _: None


def put(slot: int, oid: tuple[int, int, int], index: int, seed: int) -> Callable[[Tmem], object]:
    return lambda tmem: tmem.put(0, slot, oid, index, page_of(seed))


def flush(slot: int, oid: tuple[int, int, int], index: int) -> Callable[[Tmem], object]:
    return lambda tmem: tmem.flush_page(0, slot, oid, index)


def pack(count: int) -> Callable[[Tmem], object]:
    return lambda tmem: tmem.compress_step(count)


def several(count: int, seed: int, step: int) -> dict[Key, int]:
    return {(P, OID, index): seed + step * index for index in range(count)}


def fill_with_ephemeral(tmem: Tmem) -> None:
    for index in range(AREAS * 512):
        tmem.put(0, EPHEMERAL, OTHER, index, page_of(2 * index + 1))


def leave_a_stale_cell(tmem: Tmem) -> None:
    """The cell taken next was an object, whose name is where a page would have its store."""
    taken = int(tmem._state.cells["page"]["store"][np.flatnonzero(tmem._state.kept)[0]])
    past = (5, 5, taken << 32)
    put(P, past, 0, RAW)(tmem)
    flush(P, past, 0)(tmem)


def make_holes(tmem: Tmem) -> None:
    """Fill the first area and a part of the second, and leave most in the second: the first is
    the one given up, with the pages that were there before."""
    for index in range(FILLED):
        tmem.flush_page(0, Q, OTHER, index)
    for index in range(FILLED):
        tmem.put(0, Q, OTHER, index, page_of(10_001 + 2 * index))
    for index in range(FILLED):
        if (Q, OTHER, index) not in HOLES:
            tmem.flush_page(0, Q, OTHER, index)


FEW = {**several(4, RAW, 2), (P, OTHER, 0): ZERO, (Q, OID, 0): SMALL}
TWINS = {(P, OID, 0): SAME, (P, OID, 1): SAME, (P, OID, 2): RAW}
SMALLS = several(4, SMALL, 2)
LEFT = (100, 300, *range(530, FILLED, 10))
HOLES: dict[Key, int] = {(Q, OTHER, index): 10_001 + 2 * index for index in LEFT}
CASES = {
    "a new object": Case(FEW, put(P, (9, 9, 9), 5, RAW)),
    "a new page": Case(FEW, put(P, OID, 9, SMALL)),
    "a new page in an old cell": Case(FEW, put(P, OID, 9, RAW), prepare=leave_a_stale_cell),
    "a new page of zeroes": Case(FEW, put(P, OID, 9, ZERO)),
    "over a page": Case(FEW, put(P, OID, 1, SMALL), ((P, OID, 1),)),
    "zeroes over a page": Case(FEW, put(P, OID, 1, ZERO), ((P, OID, 1),)),
    "over a page of zeroes": Case(FEW, put(P, OTHER, 0, RAW), ((P, OTHER, 0),)),
    "evicting": Case(FEW, put(P, OID, 9, SMALL), prepare=fill_with_ephemeral),
    "a flush": Case(FEW, flush(P, OID, 1), ((P, OID, 1),)),
    "a flush of the last": Case(FEW, flush(P, OTHER, 0), ((P, OTHER, 0),)),
    "a flush of an object": Case(
        FEW, lambda t: t.flush_object(0, P, OID), tuple((P, OID, k) for k in range(4))
    ),
    "a get": Case(FEW, lambda t: t.get(0, P, OID, 2, np.zeros(512, np.uint64))),
    "the same again": Case(FEW, put(P, OID, 9, RAW), options=BOTH),
    "the same a third time": Case(TWINS, put(P, OID, 9, SAME), options=BOTH),
    "over a twin": Case(TWINS, put(P, OID, 0, SMALL), ((P, OID, 0),), BOTH),
    "a flush of a twin": Case(TWINS, flush(P, OID, 0), ((P, OID, 0),), BOTH),
    "a flush of the last twin": Case(
        TWINS, flush(P, OID, 1), ((P, OID, 0), (P, OID, 1)), BOTH, flush(P, OID, 0)
    ),
    "compressing": Case(SMALLS, pack(1), options=BOTH),
    "compressing more": Case(SMALLS, pack(2), options=BOTH, prepare=pack(1)),
    "compressing a last twin": Case(
        {(P, OID, 0): SMALL, (P, OID, 1): SMALL}, pack(1), ((P, OID, 0),), BOTH, flush(P, OID, 0)
    ),
    "over a compressed page": Case(SMALLS, put(P, OID, 0, RAW), ((P, OID, 0),), BOTH, pack(2)),
    "a flush of a compressed page": Case(SMALLS, flush(P, OID, 0), ((P, OID, 0),), BOTH, pack(2)),
    "a flush of the last compressed": Case(SMALLS, flush(P, OID, 0), ((P, OID, 0),), BOTH, pack(1)),
    "moving pages": Case({**FEW, **HOLES}, lambda t: t.shrink(), prepare=make_holes),
    "moving twins and compressed pages": Case(
        {**TWINS, (P, OTHER, 3): SMALL, (P, OTHER, 4): SMALL + 2, **HOLES},
        lambda t: t.shrink(),
        options=BOTH,
        prepare=lambda t: (pack(5)(t), make_holes(t)),
    ),
    "another pool": Case(FEW, lambda t: t.new_pool(1, PoolFlag.VERSION | PoolFlag.PERSISTENT)),
    "another client": Case(FEW, lambda t: t.open_client(5)),
    "an area": Case(FEW, lambda t: t.grow(0), prepare=lambda t: t.shrink()),
    "a pool goes": Case(
        FEW, lambda t: t.destroy_pool(0, P), tuple(key for key in FEW if key[0] == P)
    ),
    "a client goes": Case(FEW, lambda t: t.close_client(0), tuple(FEW)),
}


class Bench:
    """A pool in shared memory, and a second place to recover copies of it."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.options = {"max_areas": AREAS, "max_pages": ROOM, **case.options}
        size = Tmem.state_bytes(**self.options)
        self.state, self.copy = (shared_array(size, np.uint8) for _ in range(2))
        slabs = [shared_array(AREAS * AREA_BYTES, np.uint8) for _ in range(2)]
        self.slab, self.slab_copy = slabs
        self.tmem = self.open(self.state, self.slab, recover=False)
        for area in range(AREAS):
            self.tmem.grow(area)
        for client in range(2):
            self.tmem.open_client(client)
        for flag in (PoolFlag.PERSISTENT, PoolFlag.PERSISTENT, PoolFlag.EPHEMERAL):
            self.tmem.new_pool(0, PoolFlag.VERSION | flag)
        for (slot, oid, index), seed in case.pages.items():
            put(slot, oid, index, seed)(self.tmem)
        case.prepare(self.tmem)

    def open(self, state: np.ndarray, slab: np.ndarray, *, recover: bool) -> Tmem:
        memory = (state.ctypes.data, state.nbytes)
        slab_address = slab.ctypes.data
        return Tmem(slab=slab_address, seed=1, state_memory=memory, recover=recover, **self.options)

    def recovered(self, state: np.ndarray) -> Tmem:
        """The pool as the next process finds it."""
        self.copy[:] = state
        self.slab_copy[:] = self.slab
        return self.open(self.copy, self.slab_copy, recover=True)

    def check(self, tmem: Tmem) -> None:
        """Every page is there, but those the operation names."""
        tmem.validate()
        page = np.zeros(512, np.uint64)
        for (slot, oid, index), seed in self.case.pages.items():
            if (slot, oid, index) not in self.case.named:
                assert tmem.peek(0, slot, oid, index, page) == Code.DONE
                assert np.array_equal(page, page_of(seed))


def content(tmem: Tmem) -> dict[Any, Any]:
    """Every persistent page there is, by name."""
    state, found = tmem._state, {}
    for cell in np.flatnonzero(state.kept).tolist():
        it = state.cells["page"][cell]
        owner = state.cells["object"][it["object"]]
        pool, oid = int(owner["pool"]), tuple(owner["oid"].tolist())
        page = np.zeros(512, np.uint64)
        assert tmem.peek(pool // 16, pool % 16, oid, int(it["index"]), page) == Code.DONE
        found[pool, oid, int(it["index"])] = page.tobytes()
    return found


@pytest.fixture(scope="module", autouse=True)
def _permitted() -> None:
    if not is_permitted():
        pytest.skip("this machine does not let a process trace its child")


@pytest.mark.parametrize("name", CASES)
def test_a_pool_is_recovered_wherever_its_process_is_killed(name: str) -> None:
    case = CASES[name]
    bench, seen = Bench(case), 0
    bench.check(bench.tmem)
    wanted = Bench(case)
    case.act(wanted.tmem)
    assert ("moving" in name) == (wanted.tmem.statistics().relocated > 0)
    expected = content(wanted.tmem)
    for state in every_state(bench.state, lambda: case.act(bench.tmem)):
        seen += 1
        tmem = bench.recovered(state)
        bench.check(tmem)
        for area in range(AREAS):
            tmem.grow(area)
        case.act(tmem)
        assert content(tmem) == expected
    assert seen > 0


def test_a_recovery_that_is_killed_is_begun_again() -> None:
    case = CASES["compressing more"]
    bench = Bench(case)
    header, pages = bench.tmem._state.header, bench.tmem._state.cells["page"]
    for _ in every_state(bench.state, lambda: case.act(bench.tmem)):
        if header["packing"] and pages[header["packing"]]["store"] & layout.STORE_PACKED:
            break  # the child is killed here
    assert header["packing"]
    looked = 0
    bench.check(bench.recovered(bench.state))
    recovering = every_state(bench.state, lambda: recover_state(bench.tmem._state))
    for number, state in enumerate(recovering):
        if number % RECOVERY_SAMPLE == 0:
            bench.check(bench.recovered(state))
            looked += 1
    assert looked > 50
    assert not header["packing"]
    bench.check(bench.tmem)
