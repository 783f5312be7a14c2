"""The standby: it has loaded what a hypervisor needs, and forks one whenever the keeper says so.

``python -P -m memcoord.testbed.live.standby RUN_DIR CHANNEL_FD``, by the keeper only. Loading takes
a second; a fork takes milliseconds, and the standby is as ready for the next as before.
Rules: one thread, no memory of a run, no ZeroMQ, before each fork and after it. A hypervisor is
forked twice over, so that the keeper becomes its parent, which hears how it ended.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
from pathlib import Path

import msgspec

from hypervisor.config import CONFIG_FILE, HypervisorConfig, check, read
from hypervisor.keeping.channel import Channel, Fork, Ready, channel_of, failed
from hypervisor.public.errors import InternalError, MemcoordError
from hypervisor.public.units import AREA_FRAMES
from memcoord.testbed.live import hypervisor_main
from memcoord.testbed.live.hypervisor_main import EXIT_FAILED
from memcoord.testbed.runs import confine

#: The host that is made once so that all of its code is loaded.
REHEARSAL_FRAMES = 16 * AREA_FRAMES


def wait(run_dir: Path, keeper: Channel) -> int:
    """Load, then fork hypervisors until the keeper ends; the exit code, also a hypervisor's."""
    try:
        config = read(run_dir / CONFIG_FILE)
        load(config)
        layout = hypervisor_main.layout()
    except MemcoordError as error:
        keeper.send(failed(error))
        return EXIT_FAILED
    if threading.active_count() > 1:
        raise InternalError(f"a standby has threads: {threading.enumerate()}")
    gc.collect()
    gc.freeze()  # what is loaded stays shared with those that are forked
    keeper.send(Ready(layout))
    while (heard := keeper.receive()) is not None:
        message, fds = heard
        if isinstance(message, Fork):
            if _fork():
                keeper.close()
                return hypervisor_main.serve_kept(config, run_dir, channel_of(fds[0]))
            os.close(fds[0])
    return 0


def load(config: HypervisorConfig) -> None:
    """Import everything, and run every kernel once, on a host that nobody attaches to.

    Kernels that no cache has yet are compiled: minutes, the first time on a machine.
    """
    check(config)
    hypervisor_main.rehearse(
        msgspec.structs.replace(
            config,
            total_frames=REHEARSAL_FRAMES,
            slack_frames=AREA_FRAMES,
            tmem_max_pages=min(config.tmem_max_pages, REHEARSAL_FRAMES),
            spin_ns=0,
            tmem_record="",
            domains=(),
            banks=(),
        )
    )


def _fork() -> bool:
    """True in the new process, which is no child of this one."""
    between = os.fork()
    if between:
        os.waitpid(between, 0)
        return False
    if os.fork():
        os._exit(0)
    return True


def main(argv: list[str]) -> int:
    """Entry point of the process."""
    confine.hide()
    return wait(Path(argv[1]), channel_of(int(argv[2])))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
