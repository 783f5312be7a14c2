"""The keeper's process: it starts hypervisors for a run directory, one after the other.

``python -P -m memcoord.testbed.live.keeper_main RUN_DIR [WATCH_FD]`` keeps RUN_DIR served, as
``hypervisor.json`` there says, until the hypervisor is asked to shut down, this process gets
SIGTERM or SIGINT, or WATCH_FD ends. Ready when ``control.ipc`` answers ``ping``. Its exit code is
the hypervisor's: 0, 1 failed, 2 a wrong configuration. ``hypervisor.keeping`` has the rules.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from hypervisor.keeping.keeper import Installation, Keeper
from hypervisor.public.errors import ConfigError, MemcoordError
from memcoord.testbed.runs import confine

STANDBY = "memcoord.testbed.live.standby"


def here() -> Installation:
    """The installation that runs this."""
    return Installation(sys.executable, str(confine.ROOT))


def keep(run_dir: Path, watch_fd: int = -1) -> int:
    """Keep ``run_dir`` served; the exit status. Errors are the hypervisor's."""

    def start(where: Installation, channel_fd: int, lock_fd: int) -> subprocess.Popen[bytes]:
        path = os.pathsep.join(filter(None, [where.packages, os.environ.get("PYTHONPATH")]))
        # The standby is forked: numpy is to start no threads in it.
        environment = {**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"}
        return subprocess.Popen(
            [where.python, "-P", "-m", STANDBY, str(run_dir), str(channel_fd)],
            env=environment,
            stdin=subprocess.DEVNULL,
            pass_fds=(channel_fd, lock_fd),
            process_group=0,
        )

    confine.hide()
    confine.gain_nothing()
    confine.raise_files_limit()
    return Keeper(run_dir, start, here(), watch_fd=watch_fd).run()


def main(argv: list[str]) -> int:
    """Entry point of the process."""
    if len(argv) not in (2, 3):
        sys.stderr.write(f"usage: python -P -m {__spec__.name} RUN_DIR [WATCH_FD]\n")
        return 2
    try:
        return keep(Path(argv[1]), int(argv[2]) if len(argv) == 3 else -1)
    except MemcoordError as error:
        sys.stderr.write(f"hypervisor: {error}\n")
        return 2 if isinstance(error, ConfigError) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv))
