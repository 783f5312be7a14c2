"""Goal: every example does what it says. Method: run each as its reader would, in this process."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

#: What each prints, as a pattern.
SAYS = {
    "agent": r"the sum of its rewards.*: -\d",
    "compare_policies": r"Under fallow, compared with greedy: ",
    "eight_lines": r"\{'a': \d+.0, 'b': \d+.0\}\n[1-9]\d* areas came from the other domain",
    "one_policy_everywhere": r"Under .*one_policy_everywhere\.py:NeedFirst, compared with greedy",
    "own_policy": r"Under .*own_policy\.py:MostMisses:floor=128, compared with greedy",
    "page_pool": r"put answers 1\nget answers 1 with b'xxxx'",
    "pages_of_a_domain": r"put answers 1\nget answers 1 b'hello'\n4096 bytes of tmem",
    "read_a_run": r"rows of \d+ columns\nvm\d waited most: \d+% of its time\n[1-9]\d* decisions",
    "sweep": r"Least worst slowdown on 1 of 1 scenarios",
}


@pytest.fixture
def own_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory of its own, whose path is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="mc-") as path:
        monkeypatch.setenv("XDG_STATE_HOME", path)
        monkeypatch.chdir(path)
        yield Path(path)
        os.chdir("/")


def test_every_example_is_run(checkout: Path) -> None:
    found = {path.stem for path in (checkout / "examples").glob("*.py")}
    assert found == set(SAYS)
    shown = (checkout / "examples" / "README.md").read_text(encoding="utf-8")
    assert {f"`{name}.py`" for name in found} <= set(re.findall(r"`\w+\.py`", shown))


@pytest.mark.process
@pytest.mark.usefixtures("own_folder")
@pytest.mark.parametrize("name", sorted(SAYS))
def test_an_example_does_what_it_says(
    name: str, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "agent":
        pytest.importorskip("gymnasium")
    path = checkout / "examples" / f"{name}.py"
    code = compile(path.read_text(encoding="utf-8"), str(path), "exec")
    exec(code, {"__name__": "__main__", "__file__": str(path)})
    assert re.search(SAYS[name], capsys.readouterr().out)


def test_eight_lines_are_eight(checkout: Path) -> None:
    lines = (checkout / "examples" / "eight_lines.py").read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if line and not line.startswith('"""')]) <= 8
