"""Goal: no guest hurts anybody but itself, whatever resizes it. Method: a real process that cheats
in every way there is, beside real neighbours whose memory is checked, on a host whose ledger is
validated at every tick. Nothing here asserts a time.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from hypervisor.public.backend import EXCESS
from hypervisor.public.settings import MECHANISMS
from memcoord.benchmarks.hostile.cheats import CHEATS, CheatRow, corrupt, try_cheat
from memcoord.benchmarks.hostile.lab import AREA, MAX_AREAS, CheatLab

pytestmark = pytest.mark.process

FOR_S = 0.15
#: Of those that corrupt every word: a few hundred words of each part, others each time.
WORD_STEP = 17
CORRUPTIONS = 1_000_000


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_no_cheat_hurts_anybody_else(mechanism: str, short_path: Path) -> None:
    seed = random.randrange(1 << 32) if "TOX_ENV_NAME" not in os.environ else 1
    with CheatLab(mechanism, short_path, seed=seed, word_step=WORD_STEP) as lab:
        rows = {cheat: try_cheat(lab, cheat, FOR_S) for cheat in CHEATS}
    assert {cheat: row.damage for cheat, row in rows.items() if row.damage} == {}, f"seed {seed}"
    taken = rows["uses more than its grant"]
    assert taken.noticed
    assert taken.stopped
    assert 0 < taken.beyond_frames < MAX_AREAS * AREA
    assert rows["keeps its memory when thrown out"].noticed
    assert rows["passes its files on and ends"].noticed
    assert rows["ignores a shrink"].noticed
    assert rows["abuses its files"].did["shrink ram"] == "EPERM"
    assert rows["abuses its files"].did["forbid to write ram"] == "EPERM"
    assert rows["corrupts allocator: ones"].did["corruptions"] > 100


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_million_random_corruptions_hurt_nobody_else(mechanism: str, short_path: Path) -> None:
    with CheatLab(mechanism, short_path, seed=7, error_budget=1 << 30) as lab:
        row = corrupt(lab, CORRUPTIONS)
    assert row.damage == []
    assert row.did["corruptions"] == CORRUPTIONS
    assert row.did["lives"] > 1


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
