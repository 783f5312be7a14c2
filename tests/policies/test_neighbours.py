"""Goal: a policy's file may import what lies beside it, wherever the file is loaded."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hypervisor.coordination.policy_process import probe
from memcoord.benchmarks.sweep.cell import policy_of, run_cell
from memcoord.benchmarks.sweep.grid import cross, scenario_text
from memcoord.benchmarks.sweep.local import run_local
from policies import PolicyError, View, load
from policies.neighbours import TooMany, files_beside

POLICY = """from policies import Plan, PolicyParams, View
from mc_helper import SHARE
class Mine:
    def __init__(self): ...
    def plan(self, view: View) -> Plan:
        from mc_package.inner import rounded
        return Plan(tmem=rounded(view.target * SHARE))
"""
INNER = (
    "import numpy as np\nfrom mc_deep import one\ndef rounded(of): return np.floor(of * one())\n"
)

Write = Callable[..., str]


def view() -> View:
    return View.of(capacity=1000, used=[300, 300], target=[400, 400], failed_puts=[0, 0])


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def do(folder: str, share: float) -> str:
        files = {
            "mine.py": POLICY,
            "mc_helper.py": f"SHARE = {share}\n",
            "mc_package/__init__.py": "",
            "mc_package/inner.py": INNER,
            "mc_deep.py": "def one(): return 1.0\n",
            "unrelated.py": "raise SystemExit\n",
        }
        for name, text in files.items():
            file = tmp_path / folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return f"{tmp_path / folder / 'mine.py'}:Mine"

    return do


def test_each_file_gets_the_modules_beside_it(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    half, quarter = write("a", 0.5), write("b", 0.25)
    before = [*sys.path]
    for text, share in ((half, 0.5), (quarter, 0.25), (half, 0.5)):
        assert load(text).plan(view()).tmem.tolist() == [400 * share] * 2
    write("b", 0.75)
    assert load(quarter).plan(view()).tmem.tolist() == [300, 300]
    assert len({*sys.path} - {*before}) == 1
    assert not list(tmp_path.glob("*/__pycache__"))


def test_what_is_installed_is_not_hidden(write: Write, tmp_path: Path) -> None:
    text = write("a", 0.5)
    for name in ("numpy", "random", "policies"):
        (tmp_path / "a" / f"{name}.py").write_text("raise SystemExit\n")
    assert load(text).plan(view()).tmem.tolist() == [200, 200]
    assert not {"numpy.py", "policies.py"} & {*files_beside(tmp_path / "a" / "mine.py")}


def test_a_path_that_the_file_set_is_not_kept_for_the_next(write: Write, tmp_path: Path) -> None:
    text, other = write("a", 0.5), write("b", 0.25)
    mine = tmp_path / "a" / "mine.py"
    mine.write_text(f"import sys\nsys.path.insert(0, {str(tmp_path / 'a')!r})\n{POLICY}")
    assert load(text).plan(view()).tmem.tolist() == [200, 200]
    assert load(other).plan(view()).tmem.tolist() == [100, 100]


def test_the_files_a_policy_needs_are_listed(write: Write, tmp_path: Path) -> None:
    write("a", 0.5)
    found = files_beside(tmp_path / "a" / "mine.py")
    assert [*found] == [
        "mc_deep.py",
        "mc_helper.py",
        "mc_package/__init__.py",
        "mc_package/inner.py",
    ]
    assert found["mc_helper.py"] == "SHARE = 0.5\n"


def test_a_folder_full_of_modules_is_refused(write: Write, tmp_path: Path) -> None:
    write("a", 0.5)
    for number in range(101):
        (tmp_path / "a" / "mc_package" / f"m{number}.py").touch()
    with pytest.raises(TooMany, match="an installed package"):
        files_beside(tmp_path / "a" / "mine.py")


def test_a_neighbour_that_fails_is_named(write: Write, tmp_path: Path) -> None:
    text = write("a", 0.5)
    (tmp_path / "a" / "mc_helper.py").write_text("import no_such_thing")
    with pytest.raises(PolicyError, match=r"mine\.py: ModuleNotFoundError: .*no_such_thing"):
        load(text)


def test_the_confined_process_finds_them(write: Write) -> None:
    said: list[str] = []
    probe(write("a", 0.5), ["mrc"], said.append)
    assert said == []


def test_a_cell_brings_them_along(write: Write, tmp_path: Path) -> None:
    """Goal: on a machine where the policy's folder is not: a worker, a cluster."""
    text = write("a", 0.5)
    scenarios = {"usemem": scenario_text("usemem")}
    cells = cross([(text, ())], scenarios, [()], [1], ["sim"])
    other = cross([(text, ())], scenarios, [()], [1], ["sim"])
    (cell,) = (one for one in cells if one.policy_file)
    assert [one.key for one in cells] == [one.key for one in other]
    (tmp_path / "a").rename(tmp_path / "moved")
    (outcome,) = run_local([cell], 1)
    assert outcome.error == ""
    assert outcome.result == run_cell(cell)


@pytest.mark.parametrize("folder", ["a.py.d", "a.python", "mine.py.d"])
def test_a_folder_may_be_called_like_a_file(write: Write, folder: str) -> None:
    text = write(folder, 0.5)
    assert load(text).plan(view()).tmem.tolist() == [200, 200]
    cells = cross([(text, ())], {"usemem": scenario_text("usemem")}, [()], [1], ["sim"])
    (cell,) = (one for one in cells if one.policy_file)
    with policy_of(cell) as copy:
        assert load(copy).plan(view()).tmem.tolist() == [200, 200]


def test_a_changed_neighbour_is_another_cell(write: Write) -> None:
    text = write("a", 0.5)
    keys = []
    for share in (0.5, 0.25):
        write("a", share)
        cells = cross([(text, ())], {"loop": scenario_text("loop")}, [()], [1], ["sim"])
        keys += [cell.key for cell in cells if cell.policy_file]
    assert len({*keys}) == 2


def test_the_check_finds_them(write: Write) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "memcoord", "policy", "check", write("a", 0.5)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "ModuleNotFoundError" not in done.stdout + done.stderr
    assert "clauses" in done.stdout or "keeps the contract" in done.stdout
