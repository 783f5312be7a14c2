"""Goal: the Tab key completes verbs, options and names. Method: ask as the shell's script does."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from memcoord import __main__
from memcoord.commands.bench import bench_of
from memcoord.commands.completing import BENCHES, policies, runs, scenarios
from memcoord.testbed.runs import rundir
from memcoord.testbed.scenarios.schema import all_shipped
from policies.loader import available

Complete = Callable[[str], list[str]]


@pytest.fixture
def complete(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Complete:
    """What bash would offer behind the words of a line."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    def ask(line: str) -> list[str]:
        words = line.split(" ")
        monkeypatch.setenv("_MEMCOORD_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
        monkeypatch.setattr(sys, "argv", ["memcoord"])
        with pytest.raises(SystemExit) as ended:
            __main__.main()
        assert ended.value.code in (0, None)
        return capsys.readouterr().out.split()

    return ask


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("memcoord sw", ["sweep"]),
        ("memcoord trace im", ["import"]),
        ("memcoord run --rep", ["--repeat"]),
        ("memcoord run usem", ["usemem"]),
        ("memcoord sim unseen/p", ["unseen/pair", "unseen/pauses"]),
        ("memcoord run --policy smart", ["smart-alloc"]),
        ("memcoord policy check fall", ["fallow"]),
        ("memcoord bench int", ["interference"]),
        ("memcoord report nothing-is-called-so", []),
    ],
)
def test_the_tab_key_completes(complete: Complete, line: str, offered: list[str]) -> None:
    assert complete(line) == offered


def test_it_offers_all_there_is() -> None:
    assert set(scenarios("")) == set(all_shipped())
    assert policies("") == list(available())
    assert [name for name in BENCHES if bench_of(name) is None] == []


def test_runs_are_offered_by_name(monkeypatch: pytest.MonkeyPatch, short_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(short_path))
    run = rundir.create("main", described=False)
    run.finish("finished")
    assert runs("") == [run.path.name]
    assert runs("nothing") == []


def test_completion_can_be_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("_MEMCOORD_COMPLETE", raising=False)
    monkeypatch.setattr(sys, "argv", ["memcoord", "--help"])
    with pytest.raises(SystemExit):
        __main__.main()
    assert "--install-completion" in capsys.readouterr().out
