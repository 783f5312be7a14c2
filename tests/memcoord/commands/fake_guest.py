"""Stands in for a domain: passes its gates and answers, or misbehaves as its name says."""

import json
import os
import pathlib
import sys
import time

from memcoord.testbed.guests.gates import MADE, READY, held_at, stand_at
from memcoord.testbed.runs.launcher import end_with_parent


def main(argv: list[str]) -> None:
    """Entry point of the process."""
    end_with_parent()
    config = json.loads(pathlib.Path(argv[1]).read_text())
    name = config["name"]
    pathlib.Path(config["swap_file"]).touch()
    if name == "slow":
        time.sleep(600)
    stand_at(MADE)
    stand_at(READY)
    begin_s = time.monotonic()
    if name == "wrong":
        sys.stderr.write("Traceback\n\nwrong content: domain wrong, page 3\n")
        raise SystemExit(1)
    garbled = {
        "cut": b"{",
        "nested": b'{"x":' + b"[" * 100_000,
        "binary": b'{"x": "\xff"}',
        "endless": b" " * (2 << 20) + b"{}",
    }
    if name in garbled:
        sys.stdout.buffer.write(garbled[name])
        raise SystemExit(0)
    if name == "sleeper":
        time.sleep(600)
    if name == "vm1" and os.environ["FAKE_MODE"] == "vm1 is to crash":
        time.sleep(600)
    is_quick = name == "vm1" and os.environ["FAKE_MODE"] == "vm1 is over at once"
    for references in () if is_quick else config["holds"]:
        stand_at(held_at(references))
    while not is_quick and not pathlib.Path(config["directory"], "published").exists():
        time.sleep(0.01)
    time.sleep(0 if is_quick else 0.1)  # a few ticks of its own
    answer = {
        **{"references": 4, "faults": 3, "tmem_hits": 2, "swap_ins": 1, "swap_outs": 1},
        **{"failed_puts": 1, "pages_verified": 2, "begin_s": begin_s},
        "run_s": time.monotonic() - begin_s if is_quick else 0.25,
    }
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main(sys.argv)
