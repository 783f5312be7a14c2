"""``memcoord top``: keys; one look into a pipe; a terminal that is as it was, whatever happens."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from published_feed import PublishedFeed

from memcoord.commands.top import Looking, TopOptions, top_command
from memcoord.testbed.runs import rundir

WAIT_S = 60.0


def test_a_pipe_gets_one_look(live: rundir.RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    with PublishedFeed(live.path):
        assert top_command(str(live.path), TopOptions()) == 0
    out = capsys.readouterr().out
    assert out.count("memcoord top") == 1
    assert "starved: vm2" in out
    assert "grow x" in out
    assert max(map(len, out.splitlines())) <= 80


def test_json_is_an_object_a_look(live: rundir.RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    with PublishedFeed(live.path):
        assert top_command(str(live.path), TopOptions(as_json=True, times=2, delay_s=0.1)) == 0
    looks = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(looks) == 2
    assert looks[0]["tick"] < looks[1]["tick"]
    assert {line["name"]: line["state"] for line in looks[0]["lines"]}["vm2"] == "STARVED"


def test_a_look_becomes_a_picture_that_loads_nothing(live: rundir.RunDir, short_path: Path) -> None:
    picture = short_path / "top.svg"
    with PublishedFeed(live.path):
        assert top_command(str(live.path), TopOptions(svg=str(picture))) == 0
    text = picture.read_text(encoding="utf-8")
    assert "STARVED" in text
    assert re.findall(r"(?:url\(|href=)[\"']?(?!#)[^\"')]+", text) == []
    assert text.startswith("<svg")


def test_a_run_that_never_ticked_is_an_error(short_path: Path) -> None:
    run = rundir.create("main", base=short_path)
    run.finish("failed")
    code = "from memcoord.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, "top", str(run.path)],
        capture_output=True, text=True, timeout=WAIT_S, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "no tick" in done.stderr


def test_keys_sort_choose_open_pause_and_quit() -> None:
    looking, names = Looking("starved"), ["a", "b", "c"]
    looking.press(b"s", names)
    assert looking.sort == "ram"
    looking.press(b"\n", names)
    assert looking.opened == "a"
    looking.press(b"\x1b[B", names)
    assert looking.opened == "b"
    looking.press(b"\x1b[A", names)
    looking.press(b"k", names)
    assert looking.opened == looking.chosen == "c"
    looking.press(b"\x1b", names)
    assert looking.opened == ""
    looking.press(b"j", [])
    looking.press(b"p", names)
    looking.press(b"?", names)
    assert (looking.is_paused, looking.has_help, looking.is_over) == (True, True, False)
    looking.press(b"q", names)
    assert looking.is_over


class Screen:
    """``memcoord top`` in a terminal of its own."""

    def __init__(self, place: Path) -> None:
        self.near, far = pty.openpty()
        self.before = termios.tcgetattr(far)
        termios.tcsetwinsize(far, (24, 100))
        code = "from memcoord.__main__ import main; main()"
        env = os.environ | {"TERM": "xterm", "COLUMNS": "", "LINES": ""}
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", code, "top", str(place), "-d", "0.1"],
            stdin=far, stdout=far, stderr=far, env=env, start_new_session=True,
        )  # fmt: skip
        self.far, self.text = far, ""

    def wait_for(self, done: Callable[[str], bool]) -> None:
        until = time.monotonic() + WAIT_S
        while not done(self.text):
            assert time.monotonic() < until, self.text[-2000:]
            if select.select([self.near], [], [], 0.1)[0]:
                self.text += os.read(self.near, 1 << 16).decode(errors="replace")

    def end(self) -> int:
        """Its exit code; the terminal is as it was."""
        until = time.monotonic() + WAIT_S
        while self.process.poll() is None and time.monotonic() < until:
            if select.select([self.near], [], [], 0.05)[0]:
                self.text += os.read(self.near, 1 << 16).decode(errors="replace")
        code = self.process.wait(1)
        while select.select([self.near], [], [], 0.05)[0]:
            self.text += os.read(self.near, 1 << 16).decode(errors="replace")
        assert termios.tcgetattr(self.far) == self.before
        assert self.text.rstrip().endswith("\x1b[?25h") or "\x1b[?1049l" in self.text
        os.close(self.near)
        os.close(self.far)
        return code


@pytest.mark.process
@pytest.mark.parametrize("how", ["q", "term", "silence"])
def test_a_terminal_is_as_it_was(live: rundir.RunDir, how: str) -> None:
    with PublishedFeed(live.path):
        screen = Screen(live.path)
        screen.wait_for(lambda text: "STARVED" in text and "vm2" in text)
        os.write(screen.near, b"\n")
        screen.wait_for(lambda text: "counters" in text)
    if how == "silence":  # the hypervisor is gone, as by kill -9
        screen.wait_for(lambda text: "NO DATA" in text)
    if how == "term":
        screen.process.send_signal(signal.SIGTERM)
    else:
        os.write(screen.near, b"q")
    assert screen.end() == (143 if how == "term" else 0)
