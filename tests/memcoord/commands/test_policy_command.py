"""Goal: from a name to a checked policy. Method: call the console script, as a newcomer does."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from memcoord.__main__ import main
from memcoord.commands import policy
from policies.conformance import CLAUSES
from policies.loader import BUILT_IN

Command = Callable[..., tuple[int, str, str]]

BROKEN = """
print("here I am")
class Broken:
    name = "broken"
    settles = True
    def plan(self, view):
        from policies import Plan
        return Plan(tmem=view.used / view.interval_s * 0)
"""


BAD = """
import ctypes, os, sys
import numpy as np
from policies import Plan
class Bad:
    def plan(self, view):
        {body}
        return Plan(tmem=np.zeros(len(view)))
"""


@pytest.fixture
def memcoord(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Command:
    """Run the command in this process and in a directory of its own: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["memcoord", "policy", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capfd.readouterr()
        code = caught.value.code
        return (code if isinstance(code, int) else 0), out, err

    return call


def test_list_has_every_policy_with_summary_and_parameters(memcoord: Command) -> None:
    code, out, _ = memcoord("list")
    assert code == 0
    assert all(f"\n{name} " in f"\n{out}" for name in BUILT_IN)
    assert "P=2.0, threshold=64" in out
    found = json.loads(memcoord("list", "--json")[1])["policies"]
    assert found["smart-alloc"]["parameters"] == {"P": 2.0, "threshold": 64}
    assert found["greedy"]["source"] == "built in"
    assert found["smart-alloc"]["summary"].startswith("additive increase")


def test_a_policy_that_cannot_be_imported_is_listed_as_such(
    memcoord: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "gone-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gone\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[memcoord.policies]\ngone = no_such_module:Mine\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    code, out, _ = memcoord("list")
    assert code == 0
    assert "gone           cannot be used: gone: cannot import no_such_module:Mine" in out


def test_the_template_is_a_policy_that_keeps_the_contract(
    memcoord: Command, checkout: Path
) -> None:
    file = checkout / "memcoord/templates/new_policy.py"
    assert memcoord("check", f"{file}:NewPolicy")[0] == 0


@pytest.mark.process
def test_new_writes_a_policy_that_keeps_the_contract_and_a_test_that_passes(
    memcoord: Command, tmp_path: Path, checkout: Path
) -> None:
    code, out, _ = memcoord("new", "my-first")
    assert code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my_first.py", "test_my_first.py"]
    assert "memcoord policy check my_first.py:MyFirst" in out
    written = "".join(path.read_text(encoding="utf-8") for path in tmp_path.iterdir()).lower()
    assert not re.search(r"new.?policy", written)
    assert "memcoord sim --policy greedy --policy my_first.py:MyFirst" in out
    code, out, _ = memcoord("check", "my_first.py:MyFirst")
    assert code == 0
    assert out.endswith("next:\n  memcoord sim --policy greedy --policy my_first.py:MyFirst\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_first.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(checkout), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


def test_new_writes_where_it_is_told_and_never_over_anything(
    memcoord: Command, tmp_path: Path
) -> None:
    code, out, _ = memcoord("new", "mine", "--dir", "a/b", "--json")
    assert code == 0
    told = json.loads(out)
    assert told["policy"] == str(Path("a/b/mine.py")) + ":Mine"
    assert all((tmp_path / file).is_file() for file in told["files"])
    (tmp_path / "a/b/mine.py").unlink()
    code, _, err = memcoord("new", "mine", "--dir", "a/b")
    assert code == 2
    assert "test_mine.py is there already" in err
    assert not (tmp_path / "a/b/mine.py").exists()


@pytest.mark.parametrize("name", ["", "Mine", "1st", "a b", "../up", "x" * 41, "random", "class"])
def test_a_name_that_makes_no_good_file_is_refused(
    memcoord: Command, tmp_path: Path, name: str
) -> None:
    code, _, err = memcoord("new", name)
    assert code == 2
    assert err.startswith("memcoord: NAME: ")
    assert list(tmp_path.iterdir()) == []


def test_check_lists_every_clause(memcoord: Command) -> None:
    code, out, _ = memcoord("check", "greedy")
    assert code == 0
    verdicts = [line.split()[:2] for line in out.splitlines()[: len(CLAUSES)]]
    assert [name for _, name in verdicts] == list(CLAUSES)
    assert {verdict for verdict, _ in verdicts} == {"pass", "-"}
    assert " 10000 domains: " in out


def test_check_names_the_clause_and_the_input(memcoord: Command, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    code, out, err = memcoord("check", "broken.py:Broken")
    assert code == 1
    assert "here I am" in err
    assert "here I am" not in out
    lines = out.splitlines()
    failing = next(index for index, line in enumerate(lines) if line.startswith("FAIL"))
    assert lines[failing].split()[:2] == ["FAIL", "nonsense"]
    assert "on no time has passed: View.of(" in lines[failing + 1]
    assert lines[-1] == "broken.py:Broken breaks 1 of 12 clauses"


def test_check_answers_one_json_object(memcoord: Command, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    code, out, _ = memcoord("check", "broken.py:Broken", "--json")
    assert code == 1
    told = json.loads(out)
    assert told["passed"] is False
    assert told["clauses"]["nonsense"] == "FAIL"
    assert told["clauses"]["settles"] == "pass"
    assert told["clauses"]["vectors"] == "not declared"
    assert [failure["clause"] for failure in told["failures"]] == ["nonsense"]
    assert set(told["plan_ns"]) == {"100", "10000"}


@pytest.mark.process
@pytest.mark.parametrize(
    ("body", "clause", "named"),
    [
        ("os._exit(0)", "alive", "its process ended with status 0 before the verdict"),
        ("os.kill(os.getpid(), 9)", "alive", "its process was killed by SIGKILL"),
        ("while True: pass", "alive", "it was not heard of for"),
        ("ctypes.PyDLL(None).sleep(1000)", "alive", "it was not heard of for"),
        ("sys.exit(0)", "valid", "raised SystemExit: 0"),
        ("os.fork()", "valid", "raised PermissionError"),
        ("return Plan(tmem=np.ones(10**12))", "valid", "raised MemoryError"),
        ("print('hello')", "quiet", "prints 'hello"),
    ],
)
def test_there_is_always_a_verdict(
    memcoord: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    body: str,
    clause: str,
    named: str,
) -> None:
    (tmp_path / "bad.py").write_text(BAD.format(body=body))
    if "heard" in named:  # it would be true after the product's own time as well
        monkeypatch.setattr(policy, "QUIET_S", 5.0)
    code, out, _ = memcoord("check", "bad.py:Bad", "--json")
    assert code == 1
    told = json.loads(out)
    assert told["passed"] is False
    assert told["clauses"][clause] == "FAIL"
    assert named in {failure["clause"]: failure["what"] for failure in told["failures"]}[clause]


@pytest.mark.process
def test_a_file_that_ends_the_process_when_it_is_loaded_fails(
    memcoord: Command, tmp_path: Path
) -> None:
    (tmp_path / "bad.py").write_text("import os; os._exit(0)")
    code, out, _ = memcoord("check", "bad.py:Bad")
    assert code == 1
    assert "FAIL alive        its process ended with status 0 before the verdict" in out


def test_what_cannot_be_loaded_is_the_callers_mistake(memcoord: Command) -> None:
    code, out, err = memcoord("check", "nobody")
    assert (code, out) == (2, "")
    assert "no policy 'nobody'" in err


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            policy.new_policy("mine", str(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
    policy.new_policy("mine", str(tmp_path))
