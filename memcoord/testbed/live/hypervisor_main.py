"""The hypervisor process, which wires backend, policy, coordinator and control plane together.

``python -P -m memcoord.testbed.live.hypervisor_main RUN_DIR [WATCH_FD]`` reads ``hypervisor.json``
in RUN_DIR and serves until it is asked to shut down, gets SIGTERM or SIGINT, or WATCH_FD ends (its
parent died). Ready when ``control.ipc`` answers ``ping``. Events go to ``events.jsonl`` there.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypervisor.config import CONFIG_FILE, HypervisorConfig, check, read
from hypervisor.public.backend import BankSpec
from hypervisor.public.errors import ConfigError, MemcoordError
from hypervisor.run_dir import claim
from memcoord.testbed.runs import confine
from memcoord.testbed.runs.rundir import EVENTS

if TYPE_CHECKING:
    from backend.host import HostBackend

RUN_DIR_MODE = 0o700
NOFILE_MAX = 65536
#: Needs of policies (``policies.base.NEEDS``) that a real host measures: not the ages of pages.
MEASURED = ("mrc",)


def serve(config: HypervisorConfig, run_dir: Path, watch_fd: int = -1) -> int:
    """Run a hypervisor in ``run_dir`` until it is stopped; returns the exit status."""
    from backend.options import check_options
    from hypervisor.coordination.coordinator import Coordinator
    from hypervisor.coordination.policy_process import PolicyProcess
    from hypervisor.loop import Hypervisor
    from policies import PolicyError
    from policies.base import MRC_POINTS

    interrupted = False

    def interrupt(*_: object) -> None:
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    check(config)
    check_options(config.domains, "domains")
    _check_record(config.tmem_record)
    os.umask(0o077)  # the sockets are this user's, also in a directory opened to others
    run_dir.mkdir(mode=RUN_DIR_MODE, parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        stack.enter_context(claim(run_dir))
        run_dir.chmod(RUN_DIR_MODE)
        confine.hide()
        _raise_nofile()
        events = stack.enter_context((run_dir / EVENTS).open("a", encoding="utf-8"))

        def on_event(event: str, fields: dict[str, Any]) -> None:
            line = {"time_ns": time.time_ns(), "source": "hypervisor", "event": event, **fields}
            with contextlib.suppress(OSError):  # a full disk must not stop the memory
                events.write(json.dumps(line) + "\n")
                events.flush()

        policy = PolicyProcess(
            config.policy,
            deadline_s=config.policy_deadline_ms / 1000,
            measured=MEASURED,
            tell=lambda line: on_event("policy-said", {"policy": config.policy, "text": line}),
        )
        stack.callback(policy.close)
        try:
            policy.wait()
        except PolicyError as error:
            raise ConfigError("policy", str(error)) from None
        points = MRC_POINTS if "mrc" in policy.needs else 0
        backend = _backend(config, stack, mrc_points=points)
        coordinator = Coordinator(backend, policy, config=config)
        host = Hypervisor(config, run_dir, backend, coordinator, on_event, watch_fd=watch_fd)
        stack.callback(host.close)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: host.shutdown())
        if interrupted:  # code being imported or compiled has swallowed the exception
            host.shutdown()
        on_event("started", {"pid": os.getpid(), "policy": config.policy})
        host.run()
        on_event("stopped", {})
    return 0


def _check_record(path: str) -> None:
    """ConfigError unless operations can be recorded in ``path``, before anything is started."""
    try:
        if path:
            with Path(path).open("a", encoding="ascii"):
                pass
    except OSError as error:
        raise ConfigError("tmem_record", f"{path}: {error.strerror}") from None


def _raise_nofile() -> None:
    """As many file descriptors as this user may have, at most NOFILE_MAX."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = NOFILE_MAX if hard == resource.RLIM_INFINITY else min(hard, NOFILE_MAX)
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _backend(
    config: HypervisorConfig, stack: contextlib.ExitStack, *, mrc_points: int = 0
) -> HostBackend:
    """The host's memory, served from now until ``stack`` unwinds."""
    from backend.host import HostBackend

    entries = None
    if config.tmem_record:
        from memcoord.testbed.live.tmem_record import Recorder

        recorder = Recorder(Path(config.tmem_record), config.total_frames)
        entries = stack.enter_context(recorder).entries
    backend = HostBackend(
        total_frames=config.total_frames,
        slack_frames=config.slack_frames,
        tmem_max_frames=config.tmem_max_pages,
        spin_ns=config.spin_ns,
        error_budget=config.error_budget,
        tmem_entries=entries,
        tmem_dedup=config.tmem_dedup,
        tmem_compression=config.tmem_compression,
        mrc_points=mrc_points,
        backing=config.backing,
        huge_dir=config.huge_dir,
        stop_excess=config.on_violation != "report",
        banks=[BankSpec(bank.frames, bank.node, bank.remote) for bank in config.banks],
    )
    stack.callback(backend.stop)
    return backend


def main(argv: list[str]) -> int:
    """Entry point of the process."""
    if len(argv) not in (2, 3):
        sys.stderr.write(
            "usage: python -P -m memcoord.testbed.live.hypervisor_main RUN_DIR [WATCH_FD]\n"
        )
        return 2
    run_dir = Path(argv[1])
    try:
        return serve(read(run_dir / CONFIG_FILE), run_dir, int(argv[2]) if len(argv) == 3 else -1)
    except ConfigError as error:
        sys.stderr.write(f"hypervisor: {error}\n")
        return 2
    except MemcoordError as error:
        sys.stderr.write(f"hypervisor: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv))
