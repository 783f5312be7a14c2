"""The compiled paging does what a plain model does, step by step, and loses no byte on the way."""

from __future__ import annotations

import itertools
import struct
import tempfile
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paging_model import Model

import frontend
from frontend._guest import ffi, lib
from frontend.domain import Domain
from frontend.paging.manager import GuestMemory
from frontend.paging.swapfile import SwapFile

STAMP = struct.Struct("<QQ")  # page and version, at both ends of a page
SMALL, LARGE = 40, 420  # pages
EXAMPLES = 25


class Program:
    """Stamps and verifies pages in the place of a program. Pages of its file are of version 1."""

    def __init__(self, program: list[int]) -> None:
        self.versions = dict.fromkeys(program, 1)
        self.wrong: list[str] = []
        self.callback = ffi.callback("mc_use_fn", self._use)
        self.address = int(ffi.cast("uintptr_t", self.callback))

    def _use(self, _: Any, address: int, own: Any, page: int, how: int) -> int:
        view = ffi.buffer(ffi.cast("char *", address), 4096)
        version = self.versions.get(page, 0)
        expected = STAMP.pack(page, version) if version else bytes(STAMP.size)
        if view[: STAMP.size] != expected or view[-STAMP.size :] != expected:
            self.wrong.append(f"page {page}, version {version}")
            return 1
        if bool(how & lib.MC_USE_FIRST) != (own[0] == 0 and not version):
            self.wrong.append(f"page {page}, how {how}")
            return 2
        own[0] += 1
        if how & lib.MC_USE_WRITE:
            self.versions[page] = version + 1
            view[: STAMP.size] = view[-STAMP.size :] = STAMP.pack(page, version + 1)
        return 0


class ProgramFile:
    def read(self, page: int, frame: memoryview) -> None:
        frame[:] = STAMP.pack(page, 1) * 256


class Both:
    """The memory and its model, driven alike and compared after each step."""

    def __init__(
        self, hypervisor: Any, memory: GuestMemory, model: Model, program: Program
    ) -> None:
        self.hypervisor, self.memory, self.model, self.program = hypervisor, memory, model, program
        self.seen = len(hypervisor.requests)
        self.cuts: list[int] = []  # of every stream that follows

    def refer(self, references: list[tuple[int, bool]]) -> None:
        """One stream, in parts for the memory and in one piece for the model."""
        ends = sorted({cut for cut in self.cuts if 0 < cut < len(references)} | {len(references)})
        for begin, end in itertools.pairwise([0, *ends]):
            pages = array("i", [page for page, _ in references[begin:end]])
            writes = bytes(write for _, write in references[begin:end])
            more = end < len(references)
            done = self.memory.run(pages, writes, self.program.address, more=more)
            assert self.program.wrong == []
            assert done == (end - begin, 0)
        self.model.refer(references)

    def step(self, kind: str, what: Any) -> None:
        if kind == "refer":
            self.refer(what)
        elif kind == "capacity":
            self.model.capacity = self.hypervisor.tmem_capacity = what
        elif kind == "resize":
            self.memory.resize(what)
            self.model.resize(what)
        else:
            assert self.memory.shrink_tmem(what) == self.model.shrink_tmem(what)
        self.compare()

    def compare(self) -> None:
        memory, model = self.memory, self.model
        memory.validate()
        counted = memory.statistics()
        names = [*model.counted, "faults", "swap_ins", "tmem_hits", "swap_outs", "ahead"]
        assert {name: getattr(counted, name) for name in names} == {
            name: model.counted[name] for name in names
        }
        assert self.hypervisor.requests[self.seen :] == model.requests
        self.seen += len(model.requests)
        model.requests.clear()
        assert len(self.hypervisor.pages) == len(model.stored)
        assert counted.resident_frames == len(model.lru)
        memory.balance()
        assert self.hypervisor.control.used_frames == len(model.lru) + model.spares


@contextmanager
def both(
    hypervisor: Any,
    domain: Domain,
    pages: int,
    resident: int,
    *,
    program: list[int],
    tmem: bool,
    depth: int = 1,
) -> Iterator[Both]:
    hypervisor.pools, hypervisor.tmem_capacity = 0, 0
    work = Program(program)
    with (
        tempfile.TemporaryDirectory() as directory,
        SwapFile(Path(directory) / "swap", pages) as swap,
        GuestMemory(
            *(domain, pages, resident, swap),
            program=ProgramFile() if program else None,
            program_pages=program,
            cluster_pages=8,
            ahead_pages=8,
            tmem=tmem,
            depth=depth,
        ) as memory,
    ):
        model = Model(pages, resident, 8, 8, program, tmem, depth)
        yield Both(hypervisor, memory, model, work)


def references(pages: int, count: int) -> st.SearchStrategy[list[tuple[int, bool]]]:
    """Sweeps and scattered references, read and written."""
    page = st.integers(0, pages - 1)
    scattered = st.lists(st.tuples(page, st.booleans()), min_size=1, max_size=count)
    swept = st.builds(
        lambda first, length, write: [((first + at) % pages, write) for at in range(length)],
        page,
        st.integers(1, count),
        st.booleans(),
    )
    return scattered | swept


def steps(pages: int, resident: int, count: int) -> st.SearchStrategy[list[tuple[str, Any]]]:
    """What may happen to a guest, in any order."""
    refer = st.tuples(st.just("refer"), references(pages, count))
    others = {
        "capacity": st.integers(0, pages),
        "resize": st.integers(1, resident),
        "shrink": st.integers(0, pages),
    }
    rest = [st.tuples(st.just(kind), values) for kind, values in others.items()]
    return st.lists(st.one_of(refer, refer, refer, *rest), min_size=1, max_size=12)


@pytest.fixture
def hypervisor(make_hypervisor: Any) -> Any:
    return make_hypervisor(areas=2, boot=2)


@pytest.fixture
def domain(hypervisor: Any) -> Iterator[Domain]:
    with frontend.attach(hypervisor.path) as attached:
        yield attached


# Each example makes a GuestMemory of its own and leaves nothing behind in the hypervisor.
HERE = settings(max_examples=EXAMPLES, suppress_health_check=list(settings().suppress_health_check))


@pytest.mark.parametrize("tmem", [True, False])
def test_a_small_guest_does_what_the_model_does(
    domain: Domain, hypervisor: Any, tmem: bool
) -> None:
    @HERE
    @given(steps(SMALL, 20, 60), st.integers(1, 20), st.lists(st.integers(0, SMALL - 1)))
    def check(todo: list[tuple[str, Any]], resident: int, program: list[int]) -> None:
        with both(hypervisor, domain, SMALL, resident, program=program, tmem=tmem) as pair:
            pair.step("capacity", 10)
            for kind, what in todo:
                pair.step(kind, what)

    check()


@pytest.mark.parametrize(("tmem", "depth"), [(True, 1), (True, 16), (False, 16)])
def test_clusters_pages_read_ahead_and_faults_under_way_are_those_of_the_model(
    domain: Domain, hypervisor: Any, tmem: bool, depth: int
) -> None:
    @HERE
    @given(
        steps(LARGE, 300, 200),
        st.integers(0, LARGE),
        st.integers(0, 100),
        st.lists(st.integers(1, LARGE), max_size=4),
    )
    def check(todo: list[tuple[str, Any]], capacity: int, file_pages: int, cuts: list[int]) -> None:
        program = list(range(file_pages))
        with both(hypervisor, domain, LARGE, 300, program=program, tmem=tmem, depth=depth) as pair:
            pair.cuts = cuts
            pair.step("capacity", capacity)
            for _ in range(2):
                pair.step("refer", [(page, page % 3 > 0) for page in range(LARGE)])
            for kind, what in todo:
                pair.step(kind, what)

    check()


def test_a_sweep_over_the_disk_is_read_ahead_and_written_in_clusters(
    domain: Domain, hypervisor: Any
) -> None:
    with both(hypervisor, domain, LARGE, 256, program=[], tmem=False) as pair:
        for _ in range(3):
            pair.step("refer", [(page, True) for page in range(LARGE)])
        counted = pair.memory.statistics()
        assert counted.disk_writes * 2 < counted.swap_outs
        assert counted.disk_reads * 2 < counted.swap_ins + counted.ahead
        assert counted.ahead_hits > 0
