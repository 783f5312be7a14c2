"""Every check of the core of the host half fires when the fault it looks for is injected."""

from __future__ import annotations

import pytest
from check_lab import AREA, CheckLab, Fault, assert_seen, outcome_of

from backend._service import ffi, lib


def free_below_an_area(lab: CheckLab) -> None:
    lab.open()
    lab.lock()
    lab.host.free_frames = AREA - 1
    lib.mc_area_set(lab.host, lab.pointer(), 7, lib.MC_A_INSTALLED)


def answers_beyond_the_ring(lab: CheckLab) -> None:
    domain = lab.open()
    domain.answer_count = lib.MC_RING_SLOTS
    lab.lock()
    lib.mc_answer(lab.host, lab.pointer(), ffi.new("struct mc_record *"))
    domain.answer_count = 0
    lab.unlock()


FAULTS = [
    Fault("free below an area", "ledger.c", "ledger_move", free_below_an_area),
    Fault("answers beyond the ring", "reach.c", "mc_answer", answers_beyond_the_ring, True),
]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_the_check_fires(fault: Fault) -> None:
    assert_seen(fault, outcome_of(fault))
