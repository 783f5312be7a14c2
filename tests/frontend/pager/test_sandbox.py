"""Goal: a program in a sandbox computes, forks and is paged, and reaches nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from frontend.pager import meeting
from memcoord.testbed.runs import sandbox
from memcoord.testbed.runs.sandbox import Sandbox, helper_of

Words = Callable[[list[str], str], list[str]]

RUN_S = 120
#: A sandbox: it reads what it was given, writes where it may, runs and pages forked children.
TRIES = """
cat "$1/given"
cat "$1/other" 2> /dev/null || echo no other
echo x > "$1/made" 2> /dev/null || echo made nothing
kill -0 $2 2> /dev/null || echo knows nobody
echo mine > "$TMPDIR/mine" && cat "$TMPDIR/mine"
"$3" -c '
import os
pages = [bytes([i % 251]) * 4096 for i in range(8000)]
child = os.fork()
right = all(page[7] == i % 251 for i, page in enumerate(pages))
if child == 0:
    os._exit(50 if right else 1)
print(os.waitstatus_to_exitcode(os.wait()[1]), right)
'
echo x > "/dev/shm/mine$2"
"$3" -c '
import multiprocessing
with multiprocessing.get_context("fork").Pool(2) as pool:
    print(sum(pool.map(abs, range(10))))
'
trap 'echo told; exit 7' TERM
echo ready
sleep 100 & wait
"""


@pytest.fixture
def boxed(words: Words) -> Words:
    """The words of ``memcoord exec --sandbox``."""
    if problem := sandbox.obstacle():
        pytest.skip(problem)

    def of(argv: list[str], given: str) -> list[str]:
        found = words(argv, "small")
        at = found.index("exec") + 1
        return [*found[:at], "--sandbox", "--read", given, *found[at:]]

    return of


def test_a_sandbox_has_what_it_is_given_and_no_more(boxed: Words, tmp_path: Path) -> None:
    for name in ("given", "other"):
        (tmp_path / name).write_text(f"{name}\n")
    argv = ["sh", "-c", TRIES, "sh", str(tmp_path), str(os.getpid()), sys.executable]
    pipe = subprocess.PIPE
    child = subprocess.Popen(
        boxed(argv, str(tmp_path / "given")), stdin=pipe, stdout=pipe, stderr=pipe, text=True
    )
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.close()  # its end is not the sandbox's
    said = []
    while line := child.stdout.readline():
        said.append(line.strip())
        if said[-1] == "ready":
            child.send_signal(signal.SIGTERM)
    child.stdin = None
    _, errors = child.communicate(timeout=RUN_S)
    wanted = ["given", "no other", "made nothing", "knows nobody", "mine", "50 True", "45"]
    assert said == [*wanted, "ready", "told"], errors
    assert not Path(f"/dev/shm/mine{os.getpid()}").exists()
    assert child.returncode == 7, errors
    figures = json.loads(errors.strip().splitlines()[-1])["figures"]
    assert figures["forks"] >= 1
    assert figures["tmem_pages_out"] + figures["disk_pages_out"] > 0


def test_a_sandbox_enables_nothing_but_userfaultfds(tmp_path: Path) -> None:
    with Sandbox(str(tmp_path)) as box, (tmp_path / "file").open("w") as file:
        assert helper_of(box.fds).enable(file.fileno()) < 0
        directory = box.directory
        assert Path(directory).is_dir()
    assert not Path(directory).exists()


def test_what_a_killed_command_left_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, strange = tmp_path / "memcoord-left", tmp_path / "memcoord-strange"
    for path in (left, strange):
        path.mkdir()
    (strange / "file").touch()
    first = meeting.fresh(parent=str(tmp_path))
    assert left.exists()  # it may be starting
    monkeypatch.setattr(meeting, "ABANDONED_S", -1.0)
    meeting.fresh(parent=str(tmp_path))
    assert not left.exists()
    assert strange.exists()
    assert not Path(first).exists()
