"""Run every fuzz target for a while, from the corpus that is kept here.

``python fuzz/run.py SECONDS``; 1 when a target found something. What it found lies in the working
directory, and ``python fuzz/fuzz_ring.py FILE`` repeats it. Where atheris has no wheel for this
Python, a line says so and nothing is fuzzed.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
TARGETS = ("fuzz_feed.py", "fuzz_replay.py", "fuzz_ring.py")
ATHERIS = "atheris>=2.3"
INPUT_S = 60  # an input that takes longer is a finding; much longer than any takes under load


def have_atheris() -> bool:
    """Whether it is here, or could be installed as a wheel; to build it needs clang."""
    if importlib.util.find_spec("atheris"):
        return True
    pip = [sys.executable, "-m", "pip", "install", "-q", "--only-binary", ":all:", ATHERIS]
    return subprocess.run(pip, stderr=subprocess.DEVNULL, check=False).returncode == 0


def main(seconds: str) -> int:
    """The exit code."""
    if not have_atheris():
        sys.stdout.write(f"fuzz: skipped: {ATHERIS} has no wheel for {sys.version.split()[0]}\n")
        return 0
    options = [f"-max_total_time={seconds}", f"-timeout={INPUT_S}", "-print_final_stats=1"]
    if "TOX_ENV_NAME" in os.environ:  # the same inputs each time: a change is blamed for its own
        options.append("-seed=1")
    failed = {}
    for target in TARGETS:
        with tempfile.TemporaryDirectory() as new_inputs:
            command = [sys.executable, str(HERE / target), new_inputs, *options]
            if code := subprocess.run(command, check=False).returncode:
                failed[target] = code
    sys.stdout.write(f"fuzz: failed, with their exit codes: {failed}\n" if failed else "")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
