"""``bench bank``, run once against two hypervisors: its rows, and what an added latency does."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench_results import assert_left_clean, result_of

from memcoord.benchmarks.bank import bench as bank
from memcoord.benchmarks.bank.bench import ADDED_US, CLASSES, FAR_PERCENT, row_name

pytestmark = [pytest.mark.timeout(180), pytest.mark.process]


def test_every_class_is_measured_and_an_added_latency_is_in_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bank, "AREAS", 5)
    monkeypatch.setattr(bank, "MIX_SAMPLES", 5)
    result = result_of("bank", tmp_path / "b", capsys)
    rows = result["rows"]
    for one in CLASSES:
        assert row_name(one, "near", 0) in rows
        assert row_name(one, "near", 1) not in rows
        for added in ADDED_US:
            assert rows[row_name(one, "bank", added)]["min"] >= 1000 * added
    for far in FAR_PERCENT[1:]:
        assert {row_name(f"{far} %", "far", added) for added in ADDED_US} <= set(rows)
    assert set(bank.PLAN.also) <= set(result["ratios"])
    for what in ("plug", "give back"):
        assert rows[f"{what} bank"]["ops_per_sample"] == 4
    assert_left_clean(tmp_path / "b")
