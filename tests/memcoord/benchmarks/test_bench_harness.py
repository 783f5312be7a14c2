"""The arithmetic of the benches: quantiles, ratios, verdicts and what is written down."""

from __future__ import annotations

from array import array
from pathlib import Path

import numpy as np
import pytest

from memcoord.benchmarks.harness import BenchPlan, Sheet, Target, verdict

PLAN = BenchPlan(
    bench="sample",
    targets={"ours/theirs": Target(0.6, 0.3), "ours/nobody": Target(2.0, 1.0)},
    also=("theirs/ours",),
    notes={"ours": "a note"},
)


def ns(*values: int) -> bytes:
    return array("Q", values).tobytes()


def sheet_of(ours: list[bytes], theirs: list[bytes]) -> Sheet:
    sheet = Sheet(PLAN)
    for mine, other in zip(ours, theirs, strict=True):
        sheet.add("ours", mine, 1)
        sheet.add("theirs", other, 1)
    return sheet


def test_a_sample_is_divided_by_its_operations() -> None:
    sheet = Sheet(PLAN)
    row = sheet.add("ours", ns(640, 1280), 64).summary()
    assert (row["min"], row["max"], row["ops_per_sample"], row["count"]) == (10.0, 20.0, 64, 2)


def test_quantiles_are_samples_that_were_measured() -> None:
    row = Sheet(PLAN).add("ours", ns(*range(1, 1001)), 1).summary()
    figures = [row[name] for name in ("min", "p50", "p90", "p99", "p999", "max")]
    assert figures == [1, 500, 900, 990, 999, 1000]


@pytest.mark.parametrize(("count", "shown"), [(9, 0), (10, 1), (99, 1), (100, 2), (1000, 3)])
def test_a_quantile_needs_a_sample_beyond_it(count: int, shown: int) -> None:
    row = Sheet(PLAN).add("ours", ns(*range(count)), 1).summary()
    quantiles = [row[name] for name in ("p90", "p99", "p999")]
    assert [value is not None for value in quantiles] == [index < shown for index in range(3)]


def test_medians_and_ratios_have_intervals_out_of_the_rounds() -> None:
    sheet = sheet_of([ns(10), ns(20), ns(30)], [ns(10), ns(10), ns(10)])
    row = sheet.rows["ours"].summary()
    assert (row["p50_low"], row["p50"], row["p50_high"]) == (10, 20, 30)
    assert sheet.ratio_intervals()["ours/theirs"] == (1.0, 3.0)


def test_a_ratio_is_of_medians_of_round_medians() -> None:
    # Round medians 10, 20, 30 -> 20, and 40, 40, 1000 -> 40. Pooled samples would say 20 / 40 only
    # by chance: the last round of "theirs" has most of all samples.
    sheet = sheet_of(
        [ns(10, 10, 99), ns(20, 20, 20), ns(30, 30, 1)],
        [ns(40), ns(40), ns(*[1000] * 50)],
    )
    assert sheet.ratio("ours/theirs") == 0.5
    assert sheet.ratios() == {"ours/theirs": 0.5, "theirs/ours": 2.0}


def test_a_ratio_to_nothing_is_an_error() -> None:
    sheet = sheet_of([ns(10)], [ns(0)])
    with pytest.raises(ValueError, match="too short for the clock"):
        sheet.ratio("ours/theirs")
    with pytest.raises(KeyError):
        sheet.ratio("ours/nobody")


def test_a_row_is_sampled_the_same_way_in_every_round() -> None:
    sheet = sheet_of([ns(10)], [ns(10)])
    with pytest.raises(ValueError, match="64 operations a sample, before 1"):
        sheet.add("ours", ns(10), 64)
    with pytest.raises(ValueError, match="without a sample"):
        sheet.add("ours", b"", 1)


@pytest.mark.parametrize(
    ("ratio", "word"),
    [(0.3, "aim"), (0.30001, "must"), (0.6, "must"), (0.60001, "missed"), (None, "unmeasured")],
)
def test_a_verdict_counts_the_limit_as_reached(ratio: float | None, word: str) -> None:
    assert verdict(ratio, Target(0.6, 0.3)) == word


def test_the_result_has_the_documented_shape() -> None:
    result = sheet_of([ns(50)], [ns(100)]).result({"cpu": "none"})
    shape = ["bench", "machine", "rows", "ratios", "ratio_intervals", "targets"]
    assert list(result) == shape
    assert result["bench"] == "sample"
    assert result["rows"]["ours"] == {
        "unit": "ns", "count": 1, "min": 50, "p50": 50, "p90": None, "p99": None, "p999": None,
        "max": 50, "mean": 50, "median": 50, "p50_low": 50, "p50_high": 50,
        "ops_per_sample": 1, "rounds": 1, "note": "a note",
    }  # fmt: skip
    assert result["targets"]["ours/theirs"] == {
        "must": 0.6, "aim": 0.3, "measured": 0.5, "reached": "must",
    }  # fmt: skip
    assert result["targets"]["ours/nobody"]["reached"] == "unmeasured"


def test_samples_are_kept_round_by_round(tmp_path: Path) -> None:
    sheet = sheet_of([ns(1, 2), ns(3)], [ns(4), ns(5)])
    sheet.rows["ours"].extra["slept"] = 0.5
    sheet.save(tmp_path)
    table = np.load(tmp_path / "sample-ours.npy")
    np.testing.assert_array_equal(table, [[1, 2], [3, np.nan]])
    assert sheet.result({})["rows"]["ours"]["slept"] == 0.5
