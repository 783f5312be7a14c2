"""A domain that holds a secret and works on, with ZeroMQ doorbells. Run by ``test_isolation``."""

import json
import sys
import time
from pathlib import Path

import frontend
from memcoord.testbed.runs.launcher import end_with_parent

SECRET = b"the secret bytes"


def main(argv: list[str]) -> None:
    """Entry point of the process: prints its frame and address, then a line per round."""
    end_with_parent()
    told = json.loads(Path(argv[1]).read_text())
    domain = frontend.attach(told["run_dir"], "victim", doorbell="zmq", token=told["token"])
    frame = domain.alloc()
    domain.view(frame)[: len(SECRET)] = SECRET
    pool = domain.tmem.new_pool(persistent=True)
    sys.stdout.write(json.dumps([frame, domain.address + frame * 4096]) + "\n")
    while True:
        sys.stdout.flush()
        domain.tmem.put(pool, (1, 2, 3), 4, frame)
        domain.tmem.get(pool, (1, 2, 3), 4, frame)
        assert domain.view(frame)[: len(SECRET)] == SECRET
        sys.stdout.write("ok\n")
        time.sleep(0.05)


if __name__ == "__main__":
    main(sys.argv)
