"""Goal: what the README promises is so. Method: run what it shows, in the same words."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from policies import loader
from policies.base import View

TEST_COMMAND = "python -m pip install tox && tox run-parallel -p 2 -o"
RUN_COMMAND = "python -m pip install . && memcoord run"


@pytest.fixture(scope="module")
def readme(checkout: Path) -> str:
    return (checkout / "README.md").read_text(encoding="utf-8")


def test_both_commands_stand_alone_on_a_line(readme: str) -> None:
    lines = readme.splitlines()
    assert lines.count(TEST_COMMAND) == 1
    assert lines.count(RUN_COMMAND) == 1


def test_ci_runs_the_same_command(checkout: Path) -> None:
    assert TEST_COMMAND in (checkout / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_the_policy_shown_works_as_shown(readme: str, tmp_path: Path) -> None:
    source = re.search(r"```python\n(.*?)```", readme, re.DOTALL)
    assert source is not None
    file = tmp_path / "floor.py"
    file.write_text(source[1], encoding="utf-8")
    policy = loader.load(f"{file}:FloorThenDemand:floor=100")
    plan = policy.plan(View.of(capacity=1000, used=[300, 100], failed_puts=[0, 0]))
    assert list(plan.tmem) == [700, 300]  # type: ignore[arg-type]


@pytest.mark.process
def test_the_api_shown_works_as_shown(readme: str, short_path: Path) -> None:
    source = re.search(r"```python\n(import memcoord\n.*?)```", readme, re.DOTALL)
    assert source is not None
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{source[1]}"],
        env={**os.environ, "XDG_STATE_HOME": str(short_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "'name': 'vm1'" in done.stdout


def test_every_shown_option_of_the_command_exists(readme: str) -> None:
    from typer.testing import CliRunner

    from memcoord.cli import app

    helps = {
        verb: CliRunner().invoke(app, [*verb.split(), "--help"], env={"COLUMNS": "200"}).output
        for verb in ("run", "ls", "doctor", "clean", "policy list", "bench")
    }
    shown = re.findall(r"memcoord (run|ls|doctor|clean|policy list|bench)\b([^`\n]*)", readme)
    assert shown
    for verb, rest in shown:
        assert "Usage" in helps[verb]
        for option in re.findall(r"--[a-z-]+", rest):
            assert option in helps[verb]


def test_the_python_the_readme_wants_is_the_one_declared(readme: str, checkout: Path) -> None:
    project = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    least = project["requires-python"].removeprefix(">=")
    assert f"Python {least} or newer" in readme
