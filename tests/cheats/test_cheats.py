"""Goal: no guest hurts anybody but itself, whatever resizes it. Method: a real process that cheats
in every way there is, beside real neighbours whose memory is checked, on a host whose ledger is
validated at every tick. Nothing here asserts a time.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from hypervisor.public.settings import MECHANISMS
from memcoord.benchmarks.hostile.cheats import CHEATS, CheatRow, corrupt, malformed, try_cheat
from memcoord.benchmarks.hostile.lab import AREA, MAX_AREAS, CheatLab

pytestmark = pytest.mark.process

FOR_S = 0.15
#: Cheats that the host must notice. It looks every few milliseconds: on a busy machine a cheat may
#: be over before the host has looked once. It is then tried again for twice the time.
NOTICED = (
    "uses more than its grant",
    "keeps its memory when thrown out",
    "passes its files on and ends",
    "ignores a shrink",
)
TRIES_MAX = 8
#: Of those that corrupt every word: a few hundred words of each part, others each time.
WORD_STEP = 17
CORRUPTIONS = 1_000_000
RECORDS = 200_000


def tried(lab: CheatLab, cheat: str) -> list[CheatRow]:
    """The cheat; one that must be noticed until it is, and ended over it if it is to be."""
    rows = [try_cheat(lab, cheat, FOR_S)]
    while cheat in NOTICED and len(rows) < TRIES_MAX:
        if rows[-1].noticed and (rows[-1].stopped or cheat != NOTICED[0]):
            break
        rows.append(try_cheat(lab, cheat, FOR_S * 2 ** len(rows)))
    return rows


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_no_cheat_hurts_anybody_else(mechanism: str, short_path: Path) -> None:
    seed = random.randrange(1 << 32) if "TOX_ENV_NAME" not in os.environ else 1
    with CheatLab(mechanism, short_path, seed=seed, word_step=WORD_STEP) as lab:
        tries = {cheat: tried(lab, cheat) for cheat in CHEATS}
    damage = {cheat: [row.damage for row in rows if row.damage] for cheat, rows in tries.items()}
    assert {cheat: found for cheat, found in damage.items() if found} == {}, f"seed {seed}"
    rows = {cheat: tries[cheat][-1] for cheat in CHEATS}
    taken = rows["uses more than its grant"]
    assert taken.stopped
    assert 0 < taken.beyond_frames < MAX_AREAS * AREA
    assert [cheat for cheat in NOTICED if not rows[cheat].noticed] == []
    assert rows["abuses its files"].did["shrink ram"] == "EPERM"
    assert rows["abuses its files"].did["forbid to write ram"] == "EPERM"
    assert rows["abuses its files"].did["punch meta"] == "done"  # and its zeroes hurt nobody
    assert rows["corrupts allocator: ones"].did["corruptions"] > 100


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_million_random_corruptions_hurt_nobody_else(mechanism: str, short_path: Path) -> None:
    with CheatLab(mechanism, short_path, seed=7, error_budget=1 << 30) as lab:
        row = corrupt(lab, CORRUPTIONS)
    assert row.damage == []
    assert row.did["corruptions"] == CORRUPTIONS
    assert row.did["lives"] > 1


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_malformed_records_hurt_nobody_else(mechanism: str, short_path: Path) -> None:
    settings = {"error_budget": 1 << 30, "on_violation": "report"}
    with CheatLab(mechanism, short_path, seed=9, tmem_areas=4, **settings) as lab:
        row = malformed(lab, RECORDS)
    assert row.damage == []
    assert row.did["answered"] == RECORDS
    assert row.did["unanswered"] == 0
