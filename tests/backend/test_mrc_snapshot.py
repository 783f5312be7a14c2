"""Goal: a snapshot has each domain's miss-ratio curve, from its ring's requests, when asked for."""

from __future__ import annotations

import pytest
from guest_double import GuestDouble

from backend_steps import close_domain

from backend.host import HostBackend
from frontend._guest import lib
from hypervisor.public.backend import DomainSpec
from hypervisor.public.units import AREA_FRAMES, DomId
from tmem.codes import PoolFlag

POINTS = 5
PAGES = 300


@pytest.mark.parametrize("points", [0, POINTS])
def test_a_snapshot_has_the_curves_that_were_asked_for(points: int) -> None:
    backend = HostBackend(
        total_frames=5 * AREA_FRAMES,
        slack_frames=AREA_FRAMES,
        tmem_max_frames=AREA_FRAMES,
        spin_ns=0,
        mrc_points=points,
    )
    specs = [DomainSpec(name, AREA_FRAMES, AREA_FRAMES, AREA_FRAMES) for name in ("vm1", "vm2")]
    guests = [GuestDouble(backend.open(DomId(at), spec)) for at, spec in enumerate(specs)]
    guest = guests[0]
    frame = guest.alloc()

    def ask(op: int, *words: int) -> int:
        return guest.send(op, *words, tmem=True)[0]

    slot = ask(lib.MC_OP_NEW_POOL, int(PoolFlag.VERSION | PoolFlag.PERSISTENT), 0, 0)
    for op in (lib.MC_OP_PUT, lib.MC_OP_GET):
        for page in range(PAGES):
            assert ask(op, slot | page << 32, 7, 0, 0, frame) == 1
    first, second = backend.snapshot().domains
    capacity = backend.snapshot().tmem_capacity_pages
    if not points:
        assert first.mrc is second.mrc is None
    else:
        # Page p was put PAGES - 1 - p pages before the last, so x pages hold x of them.
        expected = [1 - min(at * capacity / (POINTS - 1) / PAGES, 1) for at in range(POINTS)]
        assert first.mrc == pytest.approx(expected)
        assert second.mrc == (1.0,) * POINTS
    for domid, each in enumerate(guests):
        each.close()
        close_domain(backend, DomId(domid))
    backend.validate()
    backend.stop()
