"""Goal: domains on real rings are answered as plain dicts answer.

Method: a random stream, answered by the model and an embedded pool as well. What a guest may say
goes through the ring of its domain to the service thread, what the host does goes to the pool. The
others have all of tmem's memory from the beginning; this pool gets its area when it asks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from guest_double import GuestDouble
from tmem_streams import Mix, Row, first_difference, stream
from xen_model import XenModel

from backend_steps import close_domain

from backend.host import HostBackend
from frontend._guest import lib
from hypervisor.public.backend import DomainSpec
from hypervisor.public.units import AREA_FRAMES, DomId
from tmem.replay import Replay, ReplayConfig

CHECK_ROWS = 2_000
LOW = 0xFFFFFFFF
#: Here the host is the backend's: its memory is not the pool's to give.
NOT_THIS_HOST = ("host_take", "host_give", "relinquish", "flush_kb", "freeable_mb")


class RingPool:
    """A ``Tmem`` as ``Replay`` drives it, whose clients are domains."""

    def __init__(self, backend: HostBackend) -> None:
        self._backend = backend
        self._guests: dict[int, tuple[GuestDouble, int]] = {}

    def __getattr__(self, name: str) -> Any:
        # Nobody waits for an answer, so the service is not in the pool.
        return getattr(self._backend.tmem, name)

    def open_client(self, client: int) -> int:
        spec = DomainSpec(f"vm{client}", AREA_FRAMES, AREA_FRAMES, AREA_FRAMES)
        guest = GuestDouble(self._backend.open(DomId(client), spec))
        self._guests[client] = guest, guest.alloc()
        return 0

    def close_client(self, client: int) -> None:
        self._guests.pop(client)[0].close()
        close_domain(self._backend, DomId(client))

    def _send(self, op: int, client: int, *words: int) -> int:
        return self._guests[client][0].send(op, *words, tmem=True)[0]

    def new_pool(self, client: int, flags: int, uuid: tuple[int, int]) -> int:
        return self._send(lib.MC_OP_NEW_POOL, client, flags, *uuid)

    def destroy_pool(self, client: int, slot: int) -> int:
        return self._send(lib.MC_OP_DESTROY_POOL, client, slot & LOW)

    def put(self, client: int, slot: int, oid: Any, index: int, page: np.ndarray) -> int:
        guest, frame = self._guests[client]
        guest.bytes_of(frame)[:] = page.tobytes()
        return self._send(lib.MC_OP_PUT, client, slot & LOW | index << 32, *oid, frame)

    def get(self, client: int, slot: int, oid: Any, index: int, page: np.ndarray) -> int:
        guest, frame = self._guests[client]
        code = self._send(lib.MC_OP_GET, client, slot & LOW | index << 32, *oid, frame)
        page[:] = np.frombuffer(guest.bytes_of(frame), np.uint64)
        return code

    def flush_page(self, client: int, slot: int, oid: Any, index: int) -> int:
        return self._send(lib.MC_OP_FLUSH_PAGE, client, slot & LOW | index << 32, *oid)

    def flush_object(self, client: int, slot: int, oid: Any) -> int:
        return self._send(lib.MC_OP_FLUSH_OBJECT, client, slot & LOW, *oid)

    def close(self) -> None:
        for client in list(self._guests):
            self.close_client(client)


@pytest.fixture
def ring_pool() -> Iterator[RingPool]:
    """Room for three domains of an area, and for an area of tmem."""
    backend = HostBackend(
        total_frames=5 * AREA_FRAMES,
        slack_frames=AREA_FRAMES,
        tmem_max_frames=AREA_FRAMES,
        spin_ns=0,
    )
    pool = RingPool(backend)
    yield pool
    pool.close()
    backend.validate()
    backend.stop()


@pytest.mark.parametrize("rows", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_a_stream_over_rings_is_answered_as_by_the_model(ring_pool: RingPool, rows: int) -> None:
    mix = Mix(objects=4, indices=150, put_part=0.8, faults=0, shape=1)
    chosen = (row for row in stream(5, rows, mix) if row[0] not in NOT_THIS_HOST)
    model = XenModel(AREA_FRAMES, 0)
    pool = Replay(ReplayConfig(AREA_FRAMES, 0))
    ring = Replay(ReplayConfig(), ring_pool)
    order: Row = ["lru", 0]

    def check() -> None:
        assert ring.answer(order) == pool.answer(order) == model.answer(order)
        ring_pool.validate()

    answers = {"model": model.answer, "pool": pool.answer, "ring": ring.answer}
    difference = first_difference(chosen, answers, check, CHECK_ROWS)
    assert not difference, difference
    assert ring_pool.statistics().evicted > rows // 100, "the stream is to fill tmem"
