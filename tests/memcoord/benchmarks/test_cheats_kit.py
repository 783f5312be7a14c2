"""The kit of ``bench cheats``: what a host does about a cheat is its setting; damage would be seen.

Every cheat on every mechanism is tried by ``tests/cheats``, which takes minutes.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from hypervisor.public.backend import EXCESS
from memcoord.benchmarks.hostile.cheats import CheatRow, try_cheat
from memcoord.benchmarks.hostile.lab import AREA, CheatLab

pytestmark = pytest.mark.process

FOR_S = 0.15


def test_a_host_that_only_reports_lets_it_live(short_path: Path) -> None:
    with CheatLab("direct", short_path, on_violation="report") as lab:
        row = try_cheat(lab, "uses more than its grant", FOR_S)
        reasons = [f["reason"] for _, e, f in lab.events if e == "detached"]
    assert row.noticed
    assert not row.stopped
    assert row.did > 0
    assert EXCESS not in reasons


def test_a_host_that_stops_it_leaves_the_process_alone(short_path: Path) -> None:
    with CheatLab("direct", short_path, on_violation="stop") as lab:
        row = try_cheat(lab, "uses more than its grant", FOR_S)
        reasons = [f["reason"] for _, e, f in lab.events if e == "detached"]
    assert row.did > 0
    assert EXCESS in reasons


def test_the_kit_sees_a_neighbour_whose_memory_changed(short_path: Path) -> None:
    with CheatLab("direct", short_path) as lab:
        domain = next(d for d in lab.backend._host.domains if d.areas and d.domid == 0)
        from backend._service import lib

        assert lib.mc_punch(domain.ram_fd, 0, domain.areas * AREA * 4096) == 0
        assert any("pages changed" in text for text in lab.damage())


def test_the_kit_sees_a_ledger_that_does_not_add_up(short_path: Path) -> None:
    with CheatLab("direct", short_path) as lab:
        lab.backend._host.installed_frames += 1
        until = time.monotonic() + 60
        while lab.failed is None and time.monotonic() < until:
            time.sleep(0.01)
        assert "the hypervisor ended" in lab.damage()[0]
        lab.backend._host.installed_frames -= 1


def test_a_verdict_is_one_of_three() -> None:
    assert CheatRow("direct", "busy").verdict == "harmless"
    assert CheatRow("direct", "x", noticed="silent").verdict == "detected: silent"
    assert CheatRow("direct", "x", noticed="silent", damage=["holder: 1"]).verdict == "holder: 1"
