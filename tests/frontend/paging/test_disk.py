"""Faults from disk wait together: every byte comes back, with io_uring and without."""

from __future__ import annotations

import os
import random
import resource
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import frontend
from frontend._guest import ffi
from frontend.domain import Domain
from frontend.paging.manager import GuestMemory
from frontend.paging.swapfile import SwapError, SwapFile

PAGES, RESIDENT, DEPTH = 2600, 1100, 16


@pytest.fixture
def domain(make_hypervisor: Any) -> Iterator[Domain]:
    with frontend.attach(make_hypervisor(areas=3, boot=3).path) as attached:
        yield attached


@contextmanager
def no_new_files() -> Iterator[None]:
    """The process may open no file, so that there is no io_uring."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    fd = os.open("/dev/null", os.O_RDONLY)
    os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (fd, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


class Program:
    """Writes the number of a page and of its version, and looks for it."""

    def __init__(self) -> None:
        self.versions: dict[int, int] = {}
        self.wrong: list[int] = []
        self._kept = ffi.callback("mc_use_fn", self._use)
        self.address = int(ffi.cast("uintptr_t", self._kept))

    def _use(self, _: Any, address: int, own: Any, page: int, how: int) -> int:
        words = ffi.cast("uint64_t *", address)
        version = self.versions.get(page, 0)
        if (words[0], words[511]) != ((page, version) if version else (0, 0)):
            self.wrong.append(page)
        if how & 1:
            self.versions[page] = version + 1
            words[0], words[511] = page, version + 1
        return 0


def run(memory: GuestMemory, program: Program, pages: list[int], write: int) -> None:
    memory.run(array("i", pages), bytes([write]) * len(pages), program.address)
    memory.validate()
    assert program.wrong == []


@pytest.mark.parametrize("ring", [True, False])
def test_reads_and_writes_of_a_batch_bring_every_byte(
    domain: Domain, tmp_path: Path, ring: bool
) -> None:
    program, rng = Program(), random.Random(7)
    with SwapFile(tmp_path / "swap", PAGES) as swap:
        if ring:
            memory = GuestMemory(domain, PAGES, RESIDENT, swap, tmem=False, depth=DEPTH)
        else:
            with no_new_files():
                memory = GuestMemory(domain, PAGES, RESIDENT, swap, tmem=False, depth=DEPTH)
        with memory:
            order = list(range(PAGES))
            for write in (1, 0, 1, 1, 0):
                rng.shuffle(order)
                run(memory, program, order, write)
            counted = memory.statistics()
            assert counted.swap_ins + counted.ahead >= counted.disk_reads > PAGES
            assert counted.swap_outs > PAGES


def test_a_read_that_fails_names_its_page_and_can_be_made_again(
    domain: Domain, tmp_path: Path
) -> None:
    program = Program()
    with (
        SwapFile(tmp_path / "swap", PAGES) as swap,
        GuestMemory(domain, PAGES, RESIDENT, swap, tmem=False, depth=DEPTH) as memory,
    ):
        run(memory, program, list(range(PAGES)), 1)
        order = [page * 37 % 1000 for page in range(500)]  # no two beside each other
        saved = swap.path.read_bytes()
        os.truncate(swap.path, 0)
        with pytest.raises(SwapError, match="read of page"):
            run(memory, program, order, 0)
        memory.validate()
        swap.path.write_bytes(saved)
        run(memory, program, order, 0)
