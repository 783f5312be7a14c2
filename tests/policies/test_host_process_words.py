"""Goal: what a policy's process says to a user is a line, whatever bytes are in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process
RAISES = (
    "class X:\n    def __init__(self): raise ValueError(chr(0xDCFF))\n    def plan(self, v): ...\n"
)


@pytest.mark.parametrize("name", ["missing\udcff.py:X", "raises.py:X"])
def test_a_text_that_is_no_unicode_is_no_traceback(tmp_path: Path, name: str) -> None:
    (tmp_path / "raises.py").write_text(RAISES)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "memcoord", "policy", "check", os.fsencode(name)],
        capture_output=True,
        timeout=120,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1), done.stderr
    assert b"Traceback" not in done.stderr
