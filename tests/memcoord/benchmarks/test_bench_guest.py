"""``bench guest``, run once with real processes: its shape and cleanness, never its times."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from bench_results import assert_left_clean, result_of

from memcoord.benchmarks.harness import Sheet
from memcoord.benchmarks.paging import bench as guest

pytestmark = [pytest.mark.timeout(120), pytest.mark.process]

ROWS = {
    "reference", "reference_alone", "touch", "tmem_hit_depth_1", "tmem_hit_depth_1_asleep",
    "tmem_hit_depth_16", "copy_twice_4k", "minor_fault_file", "minor_fault_zeroed",
    "disk_fault_depth_1", "disk_fault_depth_16", "disk_read_depth_1", "disk_read_depth_16",
}  # fmt: skip


def test_guest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HIT", "SINGLE", "BATCH", "ASLEEP", "DISK", "FAULT"):
        monkeypatch.setattr(guest, f"{name}_SAMPLES", 4)
    monkeypatch.setattr(guest, "DISK_BATCHES", 4)
    out = tmp_path / "g"
    result = result_of("guest", out, capsys)
    assert set(result["rows"]) == ROWS
    assert set(result["targets"]) == set(guest.PLAN.targets) <= set(result["ratios"])
    assert result["rows"]["tmem_hit_depth_16"]["ops_per_sample"] == guest.DEPTH
    assert result["rows"]["tmem_hit_depth_1"]["ops_per_sample"] == 1
    assert isinstance(result["machine"]["swap_file_direct"], bool)
    assert_left_clean(out)
    assert not (out / "swap").exists()


def test_the_figures_are_those_of_the_rows() -> None:
    sheet = Sheet(guest.PLAN)
    assert sheet.ratios() == {}
    for row, sample_ns in (
        ("reference", 8000), ("tmem_hit_depth_1", 5000), ("tmem_hit_depth_16", 3200),
        ("copy_twice_4k", 2000),
    ):  # fmt: skip
        ops = 1000 if row == "reference" else 1
        sheet.add(row, struct.pack("=QQ", sample_ns, sample_ns), ops)
    assert sheet.ratios() == {
        "reference_ns": 8.0,
        "references_per_s": 125e6,
        "tmem_hit_depth_1_beyond_copies_us": 3.0,
        "tmem_hit_depth_16_beyond_copies_us": 1.2,
    }
