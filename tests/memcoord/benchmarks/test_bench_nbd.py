"""``bench nbd``, run once with real processes: its shape and cleanness, never its times."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench_results import assert_left_clean, result_of

from memcoord.benchmarks.nbd import bench as nbd
from memcoord.benchmarks.nbd import exports

pytestmark = [pytest.mark.timeout(120), pytest.mark.process]


def test_nbd(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nbd, "SIZE", 4 << 20)
    monkeypatch.setattr(nbd, "COUNTS", dict.fromkeys(nbd.SIZES, 4))
    for name in ("RESTED", "FILE"):
        monkeypatch.setattr(nbd, f"{name}_SAMPLES", 4)
    memory_files = set(exports.MEMORY_DIR.iterdir())
    out = tmp_path / "n"
    result = result_of("nbd", out, capsys)
    servers = [name for name in nbd.SERVERS if name not in result["skipped"]]
    rows = {f"{name}_{what}_{size}" for name in servers for what in ("read", "write")
            for size in nbd.SIZES}  # fmt: skip
    rows |= {f"{name}_read_4k_rested" for name in servers}
    assert set(result["rows"]) == rows | {"file_read_4k", "file_write_4k"}
    assert isinstance(result["machine"]["file_direct"], bool)
    for name in result["skipped"]:
        assert exports.why_missing(name)
    assert_left_clean(out)
    assert not (out / "files").exists()
    assert set(exports.MEMORY_DIR.iterdir()) <= memory_files
