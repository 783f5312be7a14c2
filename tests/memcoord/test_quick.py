"""Verbs that are read without the app are read as the app reads them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from memcoord.cli import app
from memcoord.quick import VERBS, command_of


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the verbs were called with: they do nothing else."""
    found: list[tuple[Any, ...]] = []

    def note(*arguments: Any) -> int:
        found.append(tuple(one for one in arguments if not callable(one)))
        return 7

    monkeypatch.setattr("memcoord.commands.exec_program.exec_command", note)
    monkeypatch.setattr("memcoord.commands.serve.host_command", note)
    return found


@pytest.mark.parametrize(
    "line",
    [
        "exec true",
        "exec -- true",
        "exec true --name x --json",
        "exec --json --name=vm7 --ram 1GiB --max= --swap-dir /tmp -- sh -c --help",
        "exec --run-dir DIR --run-dir OTHER true -- --json",
        "exec --memory 1GiB --json true =",
        "hypervisor",
        "hypervisor main",
        "hypervisor main --run-dir DIR",
        "hypervisor --run-dir=DIR -- main.toml",
    ],
)
def test_both_call_the_verb_alike(line: str, called: list[tuple[Any, ...]]) -> None:
    command = command_of(line.split())
    assert command is not None
    with pytest.raises(SystemExit) as ended:
        command()
    assert ended.value.code == 7
    assert CliRunner().invoke(app, line.split()).exit_code == 7
    one, other = called
    assert one == other


@pytest.mark.parametrize(
    "line",
    [
        *("", "exec", "exec --help", "exec -h true", "exec --name", "exec --nome vm1 true"),
        *("exec --json=1 true", "hypervisor one two", "hypervisor --recover DIR", "run main"),
        *("--version --help", "--help", "hypervisor - --frob", "why vm1"),
    ],
)
def test_what_is_not_plain_is_left_to_the_app(line: str) -> None:
    assert command_of(line.split()) is None


@pytest.mark.parametrize("verb", VERBS)
def test_the_app_has_every_option(verb: str) -> None:
    group: Any = typer.main.get_command(app)
    options = {name: one for one in group.commands[verb].params for name in one.opts}
    words = VERBS[verb]
    assert {*words.valued, *words.flags} <= {*options}
    assert all(options[name].is_flag == (name in words.flags) for name in options if name[0] == "-"
               if name in (*words.valued, *words.flags))  # fmt: skip


def test_the_version_is_that_of_the_app(capsys: pytest.CaptureFixture[str]) -> None:
    command: Callable[[], None] | None = command_of(["--version"])
    assert command is not None
    command()
    assert capsys.readouterr().out == CliRunner().invoke(app, ["--version"]).output
