"""The table of cheats: its shape and its exit code, on one mechanism and for a moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from hypervisor.public.settings import MECHANISMS
from memcoord.benchmarks import tables
from memcoord.benchmarks.hostile import bench as cheats
from memcoord.benchmarks.hostile.cheats import CHEATS, CheatRow
from memcoord.commands.bench import bench

BAD = "holder: 3 pages changed"


def plain(*rows: CheatRow) -> dict[str, Any]:
    found: dict[str, Any] = {"rows": msgspec.to_builtins(list(rows))}
    return found


def test_a_line_shows_the_worst_of_its_cheats() -> None:
    rows = [
        CheatRow(
            "direct",
            "corrupts rings: zero",
            noticed="ring",
            noticed_ms=4.0,
            p99_ratio=1.0,
            p99_put_ratio=1.5,
        ),
        CheatRow("direct", "corrupts rings: ones", noticed="ring", noticed_ms=9.0, p99_ratio=3.0),
        CheatRow("cmm", "corrupts rings: ones", p99_ratio=2.0, excess_frames=512),
        CheatRow(
            "balloon", "corrupts rings: ones", damage=[BAD], noticed="ring", beyond_frames=256
        ),
    ]
    (table,) = cheats.CheatsBench().tables(plain(*rows))
    header, _, line = tables.markdown(table)[2:]
    cells = dict(zip(header.split(" | "), line.split(" | "), strict=True))
    assert cells["direct"] == "9 ms"
    assert cells["cmm"] == "harmless"
    assert cells["balloon"] == BAD
    assert cells["virtio-mem"] == "-"
    assert (cells["beyond its grant"], cells["host excess"]) == ("1.0 MiB", "2.0 MiB")
    assert line.endswith("| 2.0 x | 1.5 x |")


def test_a_neighbour_that_waits_too_long_is_a_failure() -> None:
    slow = [CheatRow("direct", "floods the bell", p99_ratio=1.0, p99_put_ratio=3.1)]
    bench_ = cheats.CheatsBench()
    assert bench_.status(plain(*slow)) == 1
    assert "p99 of put is 3.1 times" in bench_.lines(plain(*slow))[0]
    calm = CheatRow("cmm", "floods the bell", p99_ratio=1.0, p99_put_ratio=1.0)
    assert bench_.status(plain(*slow, calm)) == 0  # the median over the mechanisms


def test_a_cheat_that_this_machine_does_not_give_is_told() -> None:
    rows = plain(CheatRow("direct", "keeps its file: leave", skipped="uffd: no"))
    bench_ = cheats.CheatsBench()
    (table,) = bench_.tables(rows)
    assert "skipped" in tables.markdown(table)[-1]
    assert bench_.lines(rows) == ["keeps its file: skipped: uffd: no"]
    assert bench_.status(rows) == 0


@pytest.mark.parametrize(("damage", "code"), [([], 0), ([BAD], 1)])
def test_damage_is_a_failure(
    damage: list[str],
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def report(mechanism: str, run_dir: Path, **_: Any) -> list[CheatRow]:
        return [CheatRow(mechanism, cheat, damage=damage) for cheat in CHEATS]

    monkeypatch.setattr(cheats, "cheat_report", report)
    assert bench("cheats", True, None, str(tmp_path / "c")) == code
    result = msgspec.json.decode(capsys.readouterr().out)
    assert result["bench"] == "cheats"
    assert len(result["rows"]) == len(MECHANISMS) * len(CHEATS)
    assert (tmp_path / "c" / "cheats.json").exists()
    assert bench("cheats", False, None, str(tmp_path / "d")) == code
    assert "busy" in capsys.readouterr().out
