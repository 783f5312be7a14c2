"""Goal: a verdict follows from figures, and no claim is lost. Method: sources that only print."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from hypervisor.public.errors import ConfigError
from memcoord.benchmarks import tables
from memcoord.benchmarks.claims import claim as c
from memcoord.benchmarks.claims import probes, sources, views
from memcoord.benchmarks.claims.bench import ClaimsRun, chosen
from memcoord.benchmarks.claims.catalogue import CLAIMS
from memcoord.benchmarks.claims.sources import SOURCES, Source
from memcoord.benchmarks.runner import fill_page, run_bench


def figure(key: str = "a", **options: Any) -> c.Figure:
    given: dict[str, Any] = {"expected": "2", "holds": (2, math.inf), "part": (1, 2)}
    return c.Figure("a figure", "bench", c.ratio(key), **{**given, **options})


def judged(*figures: c.Figure, ratios: dict[str, float], **options: Any) -> dict[str, Any]:
    claim = c.Claim("X1", "somebody", "Something holds.", figures, "a command", **options)
    return c.judge(claim, {"bench": {"ratios": ratios}})


@pytest.mark.parametrize(
    ("value", "verdict"),
    [(2.0, c.HOLDS), (9.0, c.HOLDS), (1.5, c.IN_PART), (0.5, c.DOES_NOT), (math.nan, "")],
)
def test_a_figure_is_judged_by_what_was_expected(value: float, verdict: str) -> None:
    told = judged(figure(), ratios={"a": value})
    assert told["verdict"] == (verdict or c.NOT_MEASURED)
    assert told["figures"][0]["expected"] == "2"


def test_figures_that_differ_make_a_claim_hold_in_part() -> None:
    both = figure(), figure("b")
    assert judged(*both, ratios={"a": 3, "b": 3})["verdict"] == c.HOLDS
    assert judged(*both, ratios={"a": 3, "b": 0.1})["verdict"] == c.IN_PART
    assert judged(*both, ratios={"a": 0.1, "b": 0.1})["verdict"] == c.DOES_NOT


def test_a_missing_key_is_not_measured_and_never_a_guess() -> None:
    told = judged(figure(), figure("b"), ratios={"a": 3})
    assert told["verdict"] == c.IN_PART
    assert told["why"] == "1 of 2 figures not measured"
    assert told["figures"][1]["verdict"] == c.NOT_MEASURED
    nothing = judged(figure(), ratios={})
    assert (nothing["verdict"], nothing["why"]) == (c.NOT_MEASURED, "the bench has no such key")
    failed = c.judge(c.Claim("X", "w", "s", (figure(),)), {"bench": {"missing": "took too long"}})
    assert (failed["verdict"], failed["why"]) == (c.NOT_MEASURED, "took too long")


def test_a_reservation_keeps_a_claim_from_holding_and_no_test_is_said_so() -> None:
    told = judged(figure(), ratios={"a": 3}, but="no device")
    assert (told["verdict"], told["why"]) == (c.IN_PART, "no device")
    told = judged(figure(), ratios={"a": 0.1}, but="no device")
    assert told["verdict"] == c.DOES_NOT
    told = judged(figure(), ratios={"a": 3}, untestable=lambda _: "one node")
    assert (told["verdict"], told["why"], told["figures"]) == (c.CANNOT, "one node", [])


def test_figures_are_read_by_key_with_their_intervals() -> None:
    rows = {
        "a": {"p50": 30, "p50_low": 20, "p50_high": 40, "gib": 8},
        "b": {"p50": 10, "p50_low": 8, "p50_high": 16, "gib": 10},
    }
    found = {"rows": rows, "ratios": {"k": 2}, "ratio_intervals": {"k": [1, 3]}, "n": {"m": 5}}
    assert c.ratio("k")(found) == (2, 1, 3)
    assert c.of_rows("a", "b")(found) == (3, 20 / 16, 40 / 8)
    assert c.of_rows("a", "b", "gib")(found) == pytest.approx(
        (0.8, math.nan, math.nan), nan_ok=True
    )
    assert c.entry("n", "m")(found) == pytest.approx((5, math.nan, math.nan), nan_ok=True)
    assert c.entry("v")({"v": {"value": 1, "low": 0, "high": 2}}) == (1, 0, 2)


def test_a_single_round_has_no_interval() -> None:
    row = {"p50": 30, "p50_low": 28, "p50_high": 28}
    found = {"rows": {"a": row, "b": row}, "ratios": {"k": 2}, "ratio_intervals": {"k": [3, 3]}}
    for read in (c.ratio("k"), c.of_rows("a", "b")):
        assert math.isnan(read(found)[1])
        assert math.isnan(read(found)[2])


def test_every_claim_is_there_once_with_what_is_expected() -> None:
    ids = [claim.id for claim in CLAIMS]
    assert len(set(ids)) == len(ids)
    counted = {letter: sum(name.startswith(letter) for name in ids) for letter in "MTVHB"}
    assert counted == {"M": 6, "T": 6, "V": 5, "H": 5, "B": 4}
    for claim in CLAIMS:
        assert set(claim.sources) <= set(SOURCES)
        assert claim.command.startswith("memcoord ")
        assert claim.figures or claim.untestable({})
        for each in claim.figures:
            assert each.expected
            assert each.holds[0] <= each.holds[1]


def test_nothing_measured_leaves_no_claim_out() -> None:
    told = [c.judge(claim, {}) for claim in CLAIMS]
    assert {each["verdict"] for each in told} <= {c.NOT_MEASURED, c.CANNOT}
    assert len(told) == len(CLAIMS)


def test_claims_are_chosen_by_id_or_by_work() -> None:
    assert [claim.id for claim in chosen("h3")] == ["H3"]
    assert [claim.id for claim in chosen("B")] == ["B1", "B2", "B3", "B4"]
    with pytest.raises(ConfigError, match="'Z' is no claim: there are M1,"):
        chosen("Z")


def prints(text: str, **options: Any) -> Source:
    command = ("-c", text)
    return Source(command, command, **{"quick_s": 60.0, "full_s": 60.0, **options})


def test_sources_run_once_and_failures_are_told(capfd: pytest.CaptureFixture[str]) -> None:
    known = {
        "good": prints("print('a line'); print('{\"ratios\": {\"a\": 2}}')"),
        "bad": prints("import sys; sys.exit('no such thing')"),
        "mute": prints("pass"),
        "slow": prints("import time; time.sleep(600)", quick_s=0.1, full_s=0.1),
    }
    told: list[str] = []
    found = sources.measure([*known, "good"], True, lambda *step: told.append(step[2]), known)
    assert found["good"]["ratios"] == {"a": 2}
    assert found["bad"] == {"missing": "bad failed: no such thing"}
    assert "exit code 0" in found["mute"]["missing"]
    assert "slow took more than" in found["slow"]["missing"]
    assert [each.partition(",")[0] for each in told] == ["good", "bad", "mute", "slow", "done"]
    capfd.readouterr()


def test_the_command_prints_a_table_and_fills_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {name: prints("print('{}')") for name in SOURCES}
    known["host"] = prints('print(\'{"nodes": 1, "machine": "x86_64"}\')')
    known["kit"] = prints('print(\'{"count": {"sections": 0}}\')')
    known["arm"] = prints('print(\'{"missing": "needs a compiler"}\')')
    known["bank"] = prints('print(\'{"ratios": {"plug bank/plug near": 1}}\')')
    page = tmp_path / "claims.md"
    page.write_text(f"{tables.begin('claims')}\n{tables.end('claims')}\n", encoding="utf-8")
    for as_json in (True, False):
        run = ClaimsRun("B", True, known)
        assert run_bench(run, as_json, str(tmp_path / f"out{as_json}"), str(page)) == 0
    out = capsys.readouterr().out
    first, rest = out.split("\n", 1)
    verdicts = {each["id"]: each["verdict"] for each in json.loads(first)["claims"]}
    assert verdicts == {"B1": c.IN_PART, "B2": c.IN_PART, "B3": c.IN_PART, "B4": c.CANNOT}
    assert "4 claims: 3 in part, 1 cannot be tested here" in rest
    assert "64-bit ARM needs a compiler" in page.read_text(encoding="utf-8")


def test_the_page_has_a_line_for_every_claim(checkout: Path) -> None:
    path = checkout / "docs" / "claims.md"
    fill_page(ClaimsRun(None, True), None, path)
    page = path.read_text(encoding="utf-8")
    missing = [claim.id for claim in CLAIMS if f"| {claim.id} |" not in page]
    assert missing == [], "run memcoord claims --markdown docs/claims.md"


def test_expected_times_of_a_quick_run_fit() -> None:
    assert sum(source.quick_s for source in SOURCES.values()) <= sources.QUICK_S


@pytest.mark.parametrize("name", ["host", "refusals"])
def test_probes_that_start_nothing(name: str) -> None:
    found = probes.PROBES[name](True)
    if name == "host":
        assert found["nodes"] >= 1
    else:
        assert found["domains_refused"] == 3


@pytest.mark.process
def test_fragmented_domains_give_back_by_their_granule() -> None:
    percent = probes.unplug(True)["percent"]
    assert set(percent) == set(probes.UNPLUGGED)
    assert all(0 <= value <= 100 for value in percent.values())
    assert percent["balloon"] > 0


def test_a_verdict_without_interval_is_shown_without() -> None:
    told = judged(figure(unit="ms"), ratios={"a": 2.5})
    assert views.shown(json.loads(json.dumps(told["figures"][0]))) == "2.5 ms"
