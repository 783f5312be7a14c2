"""Goal: what docs/tmem.md and the README show of the pool is so. Method: run it as it stands."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tmem import Code

NOT_ANSWERS = {Code.NEED_SLAB, Code.BAD_INDEX, Code.BAD_BUFFER}


@pytest.fixture(scope="module")
def page(checkout: Path) -> str:
    return (checkout / "docs" / "tmem.md").read_text(encoding="utf-8")


def test_every_code_is_in_the_table_under_its_name(page: str) -> None:
    table = dict(re.findall(r"^\| (-?\d+) \| (\w+) \|", page, re.MULTILINE))
    assert table == {str(int(code)): code.name for code in Code if code not in NOT_ANSWERS}


def test_the_embedded_pool_works_as_shown(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    use, move = re.findall(r"```python\n(from tmem.*?)```", page, re.DOTALL)
    shown: dict[str, Any] = {}
    exec(compile(use, "docs/tmem.md", "exec"), shown)
    assert capsys.readouterr().out == "1\n"
    exec(compile(move, "docs/tmem.md", "exec"), shown)
    assert shown["other"].get(1, 0, (7, 0, 0), 3, bytearray(4096)) == Code.DONE


def test_the_pool_in_the_readme_works_as_shown(checkout: Path) -> None:
    readme = (checkout / "README.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"```python\n(from tmem .*?)```", readme, re.DOTALL)
    shown: dict[str, Any] = {}
    exec(compile(source, "README.md", "exec"), shown)
    assert shown["pages"].statistics().ephemeral_pages == 1


def test_the_stream_shown_is_answered_as_shown(page: str, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from memcoord.cli import app

    (stream,) = re.findall(r'```\n(\{"total_pages.*?)```', page, re.DOTALL)
    lines = [line.partition("►") for line in stream.splitlines()]
    file = tmp_path / "stream"
    file.write_text("".join(f"{row.rstrip()}\n" for row, _, _ in lines), encoding="ascii")
    printed = CliRunner().invoke(app, ["tmem-replay", str(file)]).output.splitlines()
    shown = [re.findall(r"\[.*?\]", answer)[0] for _, _, answer in lines if answer]
    assert [json.loads(line) for line in printed] == [json.loads(answer) for answer in shown]


def test_every_command_shown_exists(page: str) -> None:
    from typer.testing import CliRunner

    from memcoord.cli import app

    listed = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output
    for verb in set(re.findall(r"memcoord ([a-z][a-z-]+)", page)):
        assert f" {verb} " in listed, verb
