"""Goal: exit codes, one line per error, one object per --json. Method: call the console script."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from hypervisor.public.errors import ConfigError, MemcoordError, PeerGone
from hypervisor.public.messages import OPS
from memcoord import __main__
from memcoord.commands import packages
from memcoord.commands.control import VERBS
from policies.base import PolicyError

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def memcoord(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Command:
    """Run the command in this process: exit code, stdout, stderr."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["memcoord", *arguments])
        with pytest.raises(SystemExit) as caught:
            __main__.main()
        out, err = capsys.readouterr()
        code = caught.value.code
        return (code if isinstance(code, int) else 0), out, err

    return call


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["ls", "--json"], "runs"),
        (["doctor", "--json"], "checks"),
        (["clean", "--json"], "removed"),
        (["policy", "list", "--json"], "policies"),
    ],
)
def test_json_is_one_object_and_nothing_else(
    memcoord: Command, arguments: list[str], key: str
) -> None:
    code, out, err = memcoord(*arguments)
    assert (code, err) == (0, "")
    assert key in json.loads(out)


@pytest.mark.parametrize("arguments", [["ls"], ["doctor"], ["clean"], ["policy", "list"]])
def test_without_json_it_prints_lines(memcoord: Command, arguments: list[str]) -> None:
    code, out, _ = memcoord(*arguments)
    assert code == 0
    assert out.endswith("\n")
    assert not out.startswith("{")


@pytest.mark.parametrize("arguments", [["ls"], ["policy", "list"], ["tmem-list", "--help"]])
def test_a_pipe_gets_no_more_than_80_columns(memcoord: Command, arguments: list[str]) -> None:
    _, out, _ = memcoord(*arguments)
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["top"], "no run is below"),
        (["top", "--sort", "beauty"], "--sort"),
        (["top", "nowhere"], "no run is called so"),
        (["why", "vm1"], "no run is live"),
        (["mem-set", "vm1", "lots"], "SIZE"),
        (["tmem-set", "vm1", "lots"], "SIZE"),
        (["tmem-set", "vm1", "9" * 400 + " MiB"], "SIZE"),
        (["clean", "--run-dir", "/nonexistent"], "--run-dir"),
        (["tmem-list"], "no run is live"),
        (["tmem-freeze"], "VM"),
        (["tmem-thaw", "vm1", "--all"], "VM"),
    ],
)
def test_the_callers_mistake_is_one_line_and_exit_2(
    memcoord: Command, arguments: list[str], words: str
) -> None:
    code, out, err = memcoord(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("memcoord: ")
    assert words in err
    assert err.count("\n") == 1


def test_a_number_no_message_can_carry_is_refused(memcoord: Command, tmp_path: Path) -> None:
    (tmp_path / "control.ipc").touch()
    code, out, err = memcoord("tmem-set", "vm1", "9" * 30, "--run-dir", str(tmp_path))
    assert (code, out) == (2, "")
    assert "SIZE" in err


def test_a_hypervisor_that_is_gone_is_exit_1(memcoord: Command, tmp_path: Path) -> None:
    code, _, err = memcoord("why", "vm1", "--run-dir", str(tmp_path))
    assert code == 1
    assert "no hypervisor serves" in err


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConfigError("domain[1].ram", "is missing"), 2),
        (PolicyError("no policy 'x'"), 2),
        (PeerGone("gone"), 1),
        (MemcoordError("two\nlines"), 1),
        (OSError(errno.EMFILE, "Too many open files"), 1),
        (MemoryError(), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_become_exit_codes(
    memcoord: Command, monkeypatch: pytest.MonkeyPatch, error: BaseException, expected: int
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("memcoord.commands.runs.list_runs", fail)
    code, out, err = memcoord("ls", "--json")
    assert (code, out) == (expected, "")
    assert err.count("\n") <= 1
    assert "Traceback" not in err


def test_a_defect_of_ours_is_one_line_and_its_trace_is_kept(
    memcoord: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail() -> None:
        raise ValueError("ours\nindeed")

    monkeypatch.setattr("memcoord.commands.runs.list_runs", fail)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, out, err = memcoord("ls")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "unexpected ValueError: ours indeed" in err
    trace = Path(err.split()[-1]).read_text()
    assert "Traceback" in trace
    assert "in fail" in trace
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    assert memcoord("ls")[2].count("\n") == 1


@pytest.mark.process
@pytest.mark.parametrize("out", ["/dev/full", "a pipe nobody reads"])
@pytest.mark.parametrize("arguments", [["policy", "list", "--json"], ["--help"], ["doctor"]])
def test_output_that_cannot_be_written_is_at_most_one_line(
    tmp_path: Path, out: str, arguments: list[str]
) -> None:
    if out == "/dev/full":
        stdout = os.open(out, os.O_WRONLY)
    else:
        read, stdout = os.pipe()
        os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "memcoord", *arguments],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(sys.path),
                "XDG_STATE_HOME": str(tmp_path),
            },
        )
    finally:
        os.close(stdout)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == (out == "/dev/full")


@pytest.mark.process
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_standard_file_may_be_closed(tmp_path: Path, closed: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'"$0" -P -m memcoord policy list --json {closed}', sys.executable],
        capture_output=True,
        text=True,
        timeout=120,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "XDG_STATE_HOME": str(tmp_path),
        },
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("{") == (closed == "2>&-")


def test_the_files_of_a_closed_output_are_not_written_to(tmp_path: Path) -> None:
    code = f"""
import os, sys
os.close(1); os.close(2); sys.stdout = sys.stderr = None
from memcoord.ending import open_missing_files
open_missing_files()
file = os.open({str(tmp_path / "f")!r}, os.O_RDWR | os.O_CREAT)
print("x", flush=True); print("y", file=sys.stderr, flush=True)
sys.exit(file <= 2)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
    assert (tmp_path / "f").read_bytes() == b""


def test_a_directory_that_is_not_utf_8_is_one_line(memcoord: Command, tmp_path: Path) -> None:
    code, _, err = memcoord("hypervisor", "--run-dir", f"{tmp_path}/x\udcff")
    assert (code, err.count("\n")) == (2, 1)
    assert "not UTF-8" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["frob"], ["ls", "--frob"], ["why"], ["bench"]])
def test_usage_errors_are_exit_2(memcoord: Command, arguments: list[str]) -> None:
    assert memcoord(*arguments)[0] == 2


@pytest.mark.parametrize(
    ("arguments", "op", "args"),
    [
        (["why", "vm1"], "why", {"domain": "vm1"}),
        (["mem-set", "vm1", "4 MiB"], "mem-set", {"domain": "vm1", "target_frames": 1024}),
        (["tmem-set", "vm1", "300"], "tmem-set", {"domain": "vm1", "target_pages": 300}),
        (["tmem-set", "vm1", "1 MiB"], "tmem-set", {"domain": "vm1", "target_pages": 256}),
        (["tmem-set", "vm1", "auto"], "tmem-set", {"domain": "vm1", "target_pages": -1}),
        (["mem-set", "vm1", "auto"], "mem-set", {"domain": "vm1", "target_frames": -1}),
        (["tmem-freeze", "vm1"], "tmem-freeze", {"domain": "vm1"}),
        (["tmem-thaw", "vm1"], "tmem-thaw", {"domain": "vm1"}),
        (["tmem-weight", "vm1", "3"], "tmem-weight", {"domain": "vm1", "weight": 3}),
        (["tmem-quota", "vm1", "8 KiB"], "tmem-quota", {"domain": "vm1", "pages": 2}),
        (["tmem-quota", "vm1", "none"], "tmem-quota", {"domain": "vm1", "pages": -1}),
        (
            ["tmem-shared-auth", "vm1", "ab", "--revoke"],
            "tmem-shared-auth",
            {"domain": "vm1", "uuid": "ab", "allow": False},
        ),
    ],
)
def test_control_verbs_ask_the_named_run(
    memcoord: Command,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
    op: str,
    args: dict[str, Any],
) -> None:
    asked: list[tuple[Path, str, Mapping[str, Any]]] = []

    def call(run_dir: Path, op: str, **args: Any) -> list[object]:
        asked.append((run_dir, op, args))
        return []

    monkeypatch.setattr("memcoord.testbed.runs.control_client.call", call)
    code, out, _ = memcoord(*arguments, "--run-dir", str(tmp_path), "--json")
    assert code == 0
    assert asked == [(tmp_path, op, args)]
    assert json.loads(out)["domain"] == "vm1"


def test_help_names_every_verb_and_loads_nothing_heavy(memcoord: Command) -> None:
    _, out, _ = memcoord("--help")
    for verb in ("run", "bench", "hypervisor", "policy", "ls", "doctor", "clean", "why"):
        assert verb in out
    code = (
        "import sys, memcoord.cli; "
        "print([name for name in ('numba', 'numpy', 'zmq') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_the_version_is_printed(memcoord: Command) -> None:
    assert memcoord("--version") == (0, "memcoord 0.1.0\n", "")


def test_every_verb_of_the_table_is_an_operation_of_the_hypervisor(memcoord: Command) -> None:
    assert {*VERBS} < {*OPS}
    for verb in VERBS:
        code, out, _ = memcoord(verb, "--help")
        assert (code, "--run-dir" in out, "--json" in out) == (0, True, True)


def test_our_own_packages_are_found_and_no_other_distribution_claims_one(checkout: Path) -> None:
    homes = {root: packages.locate(root) for root in packages.ROOTS}
    assert {home.name for home in homes.values()} == {*packages.ROOTS}
    assert len({home.parent for home in homes.values()}) == 1
    packages.check_packages()
    assert sorted(packages.ROOTS) == [
        path.parent.name
        for path in sorted(checkout.glob("*/__init__.py"))
        if path.parent.name != "tests"
    ]


def test_a_shadowed_package_is_named(tmp_path: Path) -> None:
    def locate(root: str) -> Path:
        return (tmp_path / "theirs" if root == "policies" else tmp_path / "ours") / root

    with pytest.raises(packages.Shadowed) as caught:
        packages.check_packages(locate, dict)
    assert caught.value.root == "policies"
    assert str(tmp_path / "theirs") in str(caught.value)


def test_a_second_distribution_with_our_package_is_named(tmp_path: Path) -> None:
    def locate(root: str) -> Path:
        return tmp_path / root

    ours = {root: ["memcoord", "memcoord"] for root in packages.ROOTS}
    packages.check_packages(locate, lambda: ours)
    with pytest.raises(packages.Shadowed, match="other-dist") as caught:
        packages.check_packages(locate, lambda: ours | {"backend": ["memcoord", "other-dist"]})
    assert caught.value.root == "backend"


def test_who_ships_a_package_is_read_from_its_names_or_its_files(tmp_path: Path) -> None:
    for name, file, text in (
        ("Theirs-1.0.dist-info", "RECORD", "backend/x.py,sha256=abc,1\nother/policies/y.py,,\n"),
        ("also_theirs-2.dist-info", "top_level.txt", "tmem\n"),
        ("memcoord-0.1.0.egg-info", "top_level.txt", "backend\nmemcoord\n"),
        ("empty-3.dist-info", "INSTALLER", "pip"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(text)
    found = packages.owners([str(tmp_path), str(tmp_path / "missing")])
    assert {root: sorted(names) for root, names in found.items()} == {
        "backend": ["memcoord", "theirs"],
        "memcoord": ["memcoord"],
        "tmem": ["also_theirs"],
    }


def test_a_missing_package_is_named() -> None:
    with pytest.raises(packages.Shadowed, match="not found"):
        packages.locate("memcoord_no_such_package")


def test_a_shell_completes_verbs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_MEMCOORD_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "memcoord trace im")
    monkeypatch.setenv("COMP_CWORD", "2")
    monkeypatch.setattr(sys, "argv", ["memcoord"])
    with pytest.raises(SystemExit):
        __main__.main()
    assert capsys.readouterr().out.split() == ["import"]
