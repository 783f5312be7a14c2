"""``bench unplug``: what comes back of a guest that works, with small domains and short tries."""

from __future__ import annotations

from pathlib import Path

import pytest

from hypervisor.public.errors import ConfigError
from memcoord.benchmarks import tables
from memcoord.benchmarks.runner import fill_page, measured
from memcoord.benchmarks.unplug import bench as unplug
from memcoord.benchmarks.unplug.bench import UnplugBench, UnplugOptions
from memcoord.commands.bench import bench_of

pytestmark = [pytest.mark.timeout(180), pytest.mark.process]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """128 MiB, of which half is asked back; tries of seconds."""
    for name, value in (("FULL_AREAS", 64), ("LOW_AREAS", 32), ("CLUSTERS", 8)):
        monkeypatch.setattr(unplug, name, value)
    monkeypatch.setattr(unplug, "QUICK_AFTER_S", (0.5, 4.0))
    monkeypatch.setattr(unplug, "CALM_S", 0.1)
    chosen = [one for one in unplug.VARIANTS if one.name in WANTED]
    chosen += [unplug.Variant("whole", "sections", {"section_areas": 16}, step_areas=16)]
    monkeypatch.setattr(unplug, "VARIANTS", tuple(chosen))
    monkeypatch.setattr(unplug, "QUICK", (*WANTED, "whole"))


WANTED = ("balloon", "virtio-mem 2 MiB")


def test_fine_blocks_come_back_whole_and_a_block_in_use_does_not(
    small: None, tmp_path: Path
) -> None:
    result, _ = measured(UnplugBench(UnplugOptions(quick=True)), str(tmp_path / "u"))
    rows = result["rows"]
    assert set(rows) == {*WANTED, "whole"}
    for name in WANTED:
        assert rows[name]["percent"]["4"]["value"] == 100, name
        assert rows[name]["all_ms"] > 0
    whole = rows["whole"]
    assert whole["percent"]["4"]["value"] <= 50  # a cluster stays in three of the four
    assert (whole["all_ms"], whole["rounds"]) == (None, 1)
    assert whole["why"]
    for row in rows.values():
        counts = row["tries"][0]["counts"]
        assert counts["references"] > 0
        assert counts["stayed"] == unplug.CLUSTERS * unplug.CLUSTER_FRAMES
    page = tmp_path / "p.md"
    page.write_text(f"{tables.begin('unplug')}\n{tables.end('unplug')}\n")
    fill_page(UnplugBench(), result, page)
    assert "| whole | " in page.read_text()


def test_quick_is_its_option_and_others_are_not() -> None:
    assert isinstance(bench_of("unplug", 1, {"quick": True}), UnplugBench)
    with pytest.raises(ConfigError, match="only for bench"):
        bench_of("unplug", None, {"scale": "small"})


def test_medians_have_the_bounds_of_their_rounds() -> None:
    tries = [
        {"percent": {"1": value}, "all_ms": ms, "speed": 1.0, "why": why}
        for value, ms, why in ((100.0, 5.0, ""), (40.0, None, "in use"), (60.0, None, "in use"))
    ]
    found = unplug._summary(tries, (1.0,))
    assert found["percent"]["1"] == {"value": 60.0, "low": 40.0, "high": 100.0}
    assert (found["all_ms"], found["why"]) == (None, "in use")
