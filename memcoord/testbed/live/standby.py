"""The standby: it has loaded what a hypervisor needs, and forks one whenever the keeper says so.

``python -P -m memcoord.testbed.live.standby RUN_DIR CHANNEL_FD``, by the keeper only, which forks
the first one. Loading takes a fifth of a second; a fork takes milliseconds, and the standby is as
ready for the next as before. The first hypervisor is forked as soon as all is imported. When that
one has started its domains in peace, the standby rehearses what will be wanted when it dies.
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
from memcoord.testbed.runs import hiding

#: The host that is made once so that all of its code is loaded.
REHEARSAL_FRAMES = 16 * AREA_FRAMES
#: A rehearsal takes a hundredth of a second, which those that start now need themselves.
REHEARSE_AFTER_S = 2.0


def wait(run_dir: Path, keeper: Channel) -> int:
    """Load, then fork hypervisors until the keeper ends; the exit code, also a hypervisor's."""
    try:
        config = read(run_dir / CONFIG_FILE)
        check(config)
        hypervisor_main.load(config)
        layout = hypervisor_main.layout()
    except MemcoordError as error:
        keeper.send(failed(error))
        return EXIT_FAILED
    timeout_s: float | None = 0.0
    waiting = _waiting(keeper)
    if waiting:
        if _fork(waiting):
            return _serve(config, run_dir, keeper, waiting)
        keeper.send(Ready(layout))  # now, so that it can be compared with who wants to take over
        timeout_s = REHEARSE_AFTER_S
    while True:
        try:
            heard = keeper.receive(timeout_s)
        except (BlockingIOError, TimeoutError):
            timeout_s = None
            try:
                rehearse(config)
            except MemcoordError as error:
                if not waiting:
                    keeper.send(failed(error))
                else:  # that hypervisor serves, and the keeper starts another standby
                    sys.stderr.write(f"standby: {error}\n")
                return EXIT_FAILED
            gc.collect()
            if not waiting:
                keeper.send(Ready(layout))
            continue
        if heard is None:
            return 0
        message, fds = heard
        if isinstance(message, Fork) and _fork(fds):
            return _serve(config, run_dir, keeper, fds)


def _waiting(keeper: Channel) -> list[int]:
    """What came with a ``Fork`` that is there already; empty without."""
    try:
        heard = keeper.receive(0.0)
    except BlockingIOError:
        return []
    return heard[1] if heard is not None and isinstance(heard[0], Fork) else []


def _serve(config: HypervisorConfig, run_dir: Path, keeper: Channel, fds: list[int]) -> int:
    """Be the hypervisor that was forked; its exit code."""
    keeper.close()
    return hypervisor_main.serve_kept(config, run_dir, channel_of(fds[0]))


def rehearse(config: HypervisorConfig) -> None:
    """Run everything once, on a host that nobody attaches to."""
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


def _fork(fds: list[int]) -> bool:
    """True in the new process, which is no child of this one; ``fds`` are closed in this one."""
    if threading.active_count() > 1:
        raise InternalError(f"a standby has threads: {threading.enumerate()}")
    gc.freeze()  # what is loaded stays shared with those that are forked
    between = os.fork()
    if between:
        os.waitpid(between, 0)
        for fd in fds:
            os.close(fd)
        return False
    if os.fork():
        os._exit(0)
    return True


def main(argv: list[str]) -> int:
    """Entry point of the process."""
    hiding.hide()
    return wait(Path(argv[1]), channel_of(int(argv[2])))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
