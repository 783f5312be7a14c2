"""Goal: whatever tmem, the file and the hypervisor do, a read is the last write, zeroes, or EIO.

A model without tmem or file: what each block holds. A write that failed leaves its blocks either
written or unreadable, never as they were. Beside every answer, the invariants of the pool and the
file: tmem has no page of a block that was discarded, and the counts agree.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nbd_client import NbdClient, NbdError

import frontend
from frontend._guest import ffi, lib
from frontend.blocks import BlockDevice

BLOCK, BLOCKS = 4096, 96
SHORT_NS = 20_000_000
WAIT_S = 60.0

RANGES = st.tuples(st.integers(0, BLOCKS - 1), st.integers(1, BLOCKS)).map(
    lambda pair: (pair[0], min(pair[1], BLOCKS - pair[0]))
)
STEPS = st.one_of(
    st.tuples(st.sampled_from(("write", "read", "trim", "zero")), RANGES),
    st.tuples(st.sampled_from(("late write", "late read", "late trim")), RANGES),
    st.tuples(st.just("full write"), RANGES),
    st.tuples(st.sampled_from(("capacity", "keeps old")), st.sampled_from((0, 10, 50, 1 << 30))),
)


class World:
    """A device, its client, and what its blocks should hold: bytes, or several possible ones."""

    def __init__(self, hypervisor: Any, guest: Any, device: BlockDevice, client: NbdClient) -> None:
        self.hypervisor, self.guest = hypervisor, guest
        self.device, self.client = device, client
        self.blocks: list[bytes | None] = [bytes(BLOCK)] * BLOCKS  # None: a failed write's
        self.maybe: list[bytes] = [b""] * BLOCKS  # and what it would have been
        self.number = 0
        self._put = hypervisor._put

    def step(self, what: str, where: Any) -> None:
        if what == "capacity":
            self.hypervisor.tmem_capacity = where
            self.hypervisor._put = self._put
        elif what == "keeps old":  # as tmem with a reserve: a refused put changes nothing
            self.hypervisor.tmem_capacity = where
            self.hypervisor._put = self._put_or_keep
        elif what.startswith("late "):
            with self._late():
                self._do(what.removeprefix("late "), *where)
        elif what.startswith("full "):
            limits = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (BLOCK * BLOCKS // 2, limits[1]))
            try:
                self._do("write", *where)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        else:
            self._do(what, *where)

    def _put_or_keep(self, key: tuple[int, ...], start: int) -> int:
        if len(self.hypervisor.pages) >= self.hypervisor.tmem_capacity:
            return -12
        return int(self._put(key, start))

    @contextmanager
    def _late(self) -> Iterator[None]:
        ring = self.guest.rings[1].ring
        self.guest.timeout_ns, self.hypervisor.ill = SHORT_NS, "mute"
        try:
            yield
        finally:
            self.guest.timeout_ns, self.hypervisor.ill = lib.MC_CALL_TIMEOUT_NS, ""
            until = time.monotonic() + WAIT_S
            while ring.rsp_prod != ring.req_prod:
                assert time.monotonic() < until
                time.sleep(0.001)

    def _do(self, what: str, first: int, count: int) -> None:
        at, size, blocks = first * BLOCK, count * BLOCK, range(first, first + count)
        if what == "read":
            self._read(first, count)
        elif what == "write":
            self.number += 1
            pages = [self.number.to_bytes(4, "big") + bytes([k % 251]) * 4092 for k in blocks]
            try:
                self.client.write(at, b"".join(pages))
            except NbdError:
                for block, page in zip(blocks, pages, strict=True):
                    self.blocks[block], self.maybe[block] = None, page
            else:
                self.blocks[first : first + count] = pages
        else:
            clear = self.client.trim if what == "trim" else self.client.write_zeroes
            clear(at, size)
            self.blocks[first : first + count] = [bytes(BLOCK)] * count

    def _read(self, first: int, count: int) -> None:
        blocks = range(first, first + count)
        try:
            data = self.client.read(first * BLOCK, count * BLOCK)
        except NbdError:
            late = self.hypervisor.ill == "mute"
            assert late or any(self.blocks[block] is None for block in blocks)
            return
        for place, block in enumerate(blocks):
            page = data[place * BLOCK : (place + 1) * BLOCK]
            expected = self.blocks[block]
            assert page == (self.maybe[block] if expected is None else expected), block

    def check(self) -> None:
        for first in range(0, BLOCKS):
            self._read(first, 1)
        counted = self.device.statistics()
        assert counted.tmem_blocks + counted.file_blocks <= BLOCKS
        self.client.trim(0, BLOCKS * BLOCK)
        assert self.client.read(0, BLOCKS * BLOCK) == bytes(BLOCKS * BLOCK)
        assert self.hypervisor.pages == {}
        counted = self.device.statistics()
        assert (counted.tmem_blocks, counted.file_blocks) == (0, 0)
        self.blocks = [bytes(BLOCK)] * BLOCKS


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=st.lists(STEPS, min_size=1, max_size=25))
def test_any_order_of_requests_refusals_and_failures(world: World, steps: list[Any]) -> None:
    world.step("capacity", 1 << 30)
    world.step("trim", (0, BLOCKS))
    for what, where in steps:
        world.step(what, where)
    world.check()


@pytest.fixture
def world(make_hypervisor: Any) -> Iterator[World]:
    hypervisor = make_hypervisor()
    with (
        tempfile.TemporaryDirectory(prefix="mc-") as where,
        frontend.attach(hypervisor.path) as domain,
        BlockDevice(domain, BLOCKS * BLOCK, Path(where) / "file", connections=1) as device,
    ):
        device.serve(Path(where) / "sock")
        with NbdClient(Path(where) / "sock", structured=True) as client:
            guest = ffi.cast("struct mc_guest *", domain.guest_address)
            yield World(hypervisor, guest, device, client)
