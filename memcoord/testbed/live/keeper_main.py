"""The keeper's process: it starts hypervisors for a run directory, one after the other.

``python -P -m memcoord.testbed.live.keeper_main RUN_DIR [WATCH_FD]`` keeps RUN_DIR served, as
``hypervisor.json`` there says, until the hypervisor is asked to shut down, this process gets
SIGTERM or SIGINT, or WATCH_FD ends. Ready when ``control.ipc`` answers ``ping``. Its exit code is
the hypervisor's: 0, 1 failed, 2 a wrong configuration. ``hypervisor.keeping`` has the rules.
Rules: what is imported at the top is imported before the standby is started, on which everybody
waits. The first standby is forked and goes on from there; those that follow are started anew, since
another installation may be asked for. The keeper itself is imported while the standby loads.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from hypervisor.public.errors import ConfigError, MemcoordError
from hypervisor.run_dir import claim
from memcoord.testbed.runs import hiding

if TYPE_CHECKING:
    from hypervisor.keeping.processes import Forked

STANDBY = "memcoord.testbed.live.standby"
#: What is imported once the standby is started.
LATER = (STANDBY, "hypervisor.keeping.keeper", "hypervisor.keeping.takeover")
EXIT_CRASHED = 70


def keep(run_dir: Path, watch_fd: int = -1, meanwhile: Callable[[], object] = lambda: None) -> int:
    """Keep ``run_dir`` served; the exit status. Errors are the hypervisor's.

    ``meanwhile`` is called once, while the first standby loads.
    """
    hiding.hide()
    hiding.gain_nothing()
    hiding.raise_files_limit()
    with claim(run_dir) as lock:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                standby = _forked(run_dir, ours, theirs)
            except OSError as error:
                raise MemcoordError(f"no process could be started: {error.strerror}") from None

        from hypervisor.keeping.keeper import Installation, Keeper

        meanwhile()

        def start(where: Installation, channel_fd: int, lock_fd: int) -> subprocess.Popen[bytes]:
            return _start(run_dir, where.python, where.packages, channel_fd, lock_fd)

        installation, first = Installation(*here()), (standby, ours)
        keeper = Keeper(run_dir, start, installation, lock=lock, first=first, watch_fd=watch_fd)
        return keeper.run()


def here() -> tuple[str, str]:
    """The installation that runs this: its Python, and the folder of its packages."""
    return sys.executable, str(hiding.ROOT)


def _forked(run_dir: Path, ours: socket.socket, theirs: socket.socket) -> Forked:
    """The first standby: this process once more, which has loaded a part already; OSError."""
    pid = os.fork()
    if pid:
        from hypervisor.keeping.processes import Forked

        return Forked(pid)
    status = EXIT_CRASHED
    try:  # nothing of the caller's may be undone here: it is the keeper's
        os.setpgid(0, 0)
        ours.close()
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, sys.stdin.fileno())
        os.close(nothing)
        os.environ.update(hiding.SINGLE_THREADED)
        from hypervisor.keeping.channel import channel_of

        status = import_module(STANDBY).wait(run_dir, channel_of(theirs.detach()))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _start(
    run_dir: Path, python: str, packages: str, channel_fd: int, lock_fd: int
) -> subprocess.Popen[bytes]:
    """Start a standby of an installation; OSError."""
    path = os.pathsep.join(filter(None, [packages, os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, **hiding.SINGLE_THREADED}
    return subprocess.Popen(
        [python, "-P", "-m", STANDBY, str(run_dir), str(channel_fd)],
        env=environment,
        stdin=subprocess.DEVNULL,
        pass_fds=(channel_fd, lock_fd),
        process_group=0,
    )


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
