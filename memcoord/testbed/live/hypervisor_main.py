"""The hypervisor process, which wires backend, policy, coordinator and control plane together.

``python -P -m memcoord.testbed.live.hypervisor_main RUN_DIR [WATCH_FD]`` reads ``hypervisor.json``
in RUN_DIR and serves until it is asked to shut down, gets SIGTERM or SIGINT, or WATCH_FD ends (its
parent died). Ready when ``control.ipc`` answers ``ping``. Events go to ``events.jsonl`` there.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypervisor.config import CONFIG_FILE, HypervisorConfig, check, read
from hypervisor.keeping import saved
from hypervisor.keeping.channel import Channel
from hypervisor.keeping.held import Held
from hypervisor.public.backend import BankSpec
from hypervisor.public.errors import ConfigError, MemcoordError
from hypervisor.public.run_files import EVENTS
from hypervisor.public.units import DomId
from hypervisor.run_dir import claim
from memcoord.testbed.live.compiling import compile_first
from memcoord.testbed.runs import hiding

if TYPE_CHECKING:
    from backend.books import Books, KeptDomain
    from backend.host import HostBackend
    from hypervisor.coordination.feed import OnEvent
    from hypervisor.coordination.policy_process import Begin, PolicyProcess
    from hypervisor.loop import Hypervisor

RUN_DIR_MODE = 0o700
EXIT_FAILED, EXIT_CONFIG, EXIT_CRASHED = 1, 2, 70
#: What a hypervisor is made of, and the process of its policy.
PARTS = (
    *("backend.books", "backend.host", "backend.options", "hypervisor.loop", "policies.forked"),
    *("hypervisor.coordination.coordinator", "hypervisor.coordination.policy_process"),
)
#: The pool of tmem; its import compiles what the cache has not.
POOL = "tmem.pool"
#: Needs of policies (``policies.base.NEEDS``) that a real host measures: not the ages of pages.
MEASURED = ("mrc",)


def serve(
    config: HypervisorConfig,
    run_dir: Path,
    watch_fd: int = -1,
    held: Held | None = None,
    policy: PolicyProcess | None = None,
) -> int:
    """Run a hypervisor in ``run_dir`` until it is stopped; returns the exit status.

    With a keeper (``held``) whatever goes wrong ends this process at once, so that what is kept
    stays as it is. ``policy``: the process of its policy, if that was started already.
    """
    from backend.options import check_options

    held = held or Held()
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
        if not held.is_kept:  # a keeper has claimed it
            stack.enter_context(claim(run_dir))
        run_dir.chmod(RUN_DIR_MODE)
        hiding.hide()
        hiding.raise_files_limit()
        events = stack.enter_context((run_dir / EVENTS).open("a", encoding="utf-8"))

        def on_event(event: str, fields: dict[str, Any]) -> None:
            line = {"time_ns": time.time_ns(), "source": "hypervisor", "event": event, **fields}
            with contextlib.suppress(OSError):  # a full disk must not stop the memory
                events.write(json.dumps(line) + "\n")
                events.flush()

        with _sudden_death(held):
            policy = policy or start_policy(config)
            policy.tell = lambda line: on_event(
                "policy-said", {"policy": config.policy, "text": line}
            )
            stack.callback(policy.close)
            host = _compose(config, run_dir, stack, on_event, watch_fd, held, policy)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: host.shutdown())
            if interrupted:  # code being imported or compiled has swallowed the exception
                host.shutdown()
            _tell_start(config, held, on_event)
            host.run()
        held.ending()
        on_event("stopped", {})
    return 0


def start_policy(config: HypervisorConfig, begin: Begin | None = None) -> PolicyProcess:
    """The process of the policy that ``config`` names; ``begin`` starts the first one."""
    from hypervisor.coordination.policy_process import PolicyProcess

    deadline_s = config.policy_deadline_ms / 1000
    return PolicyProcess(config.policy, deadline_s=deadline_s, measured=MEASURED, begin=begin)


def _compose(
    config: HypervisorConfig,
    run_dir: Path,
    stack: contextlib.ExitStack,
    on_event: OnEvent,
    watch_fd: int,
    held: Held,
    policy: PolicyProcess,
) -> Hypervisor:
    """A hypervisor that is ready to run, closed when ``stack`` unwinds."""
    from hypervisor.coordination.coordinator import Coordinator
    from hypervisor.loop import Hypervisor
    from policies import PolicyError
    from policies.base import MRC_POINTS

    if held.saved is None:
        try:
            policy.wait()
        except PolicyError as error:
            raise ConfigError("policy", str(error)) from None
    else:  # domains wait, and the last valid plan stands
        policy.needs = held.saved.coordination.needs
    points = MRC_POINTS if "mrc" in policy.needs else 0
    books, kept = _books(held)
    if books is not None:
        stack.callback(books.close)
    entries = _recorded(config, stack, held)
    backend = _backend(config, stack, entries, mrc_points=points, books=books, kept=kept)
    coordinator = Coordinator(backend, policy, config=config)
    host = Hypervisor(config, run_dir, backend, coordinator, on_event, watch_fd=watch_fd, held=held)
    stack.callback(host.close)
    return host


def _tell_start(config: HypervisorConfig, held: Held, on_event: OnEvent) -> None:
    """Say that the hypervisor serves: in the log, and to the keeper."""
    begin, told = held.begin, {"pid": os.getpid(), "policy": config.policy}
    if begin.restarts:
        domains = 0 if held.saved is None else len(held.saved.domains)
        pause_ms = round((time.monotonic_ns() - begin.died_ns) / 1e6, 3)
        why = f"the hypervisor {begin.died}; the next one serves its {domains} domains"
        more = {"restarts": begin.restarts, "pause_ms": pause_ms, "domains": domains, "why": why}
        on_event("restarted", {**told, **more})
    else:
        on_event("started", told)
    held.serving()


@contextlib.contextmanager
def _sudden_death(held: Held) -> Iterator[None]:
    """With a keeper: let an exception in the block close nothing that is kept."""
    try:
        yield
    except BaseException as error:
        if not held.is_kept:
            raise
        if isinstance(error, MemcoordError) and not held.is_serving:
            if isinstance(error, ConfigError) or not held.begin.restarts:
                held.failed(error)
                os._exit(EXIT_CONFIG if isinstance(error, ConfigError) else EXIT_FAILED)
            # A kernel that refuses memory now may give it to the next one.
            sys.stderr.write(f"hypervisor: {error}\n")
        else:
            traceback.print_exc()
        os._exit(EXIT_CRASHED)


def serve_kept(config: HypervisorConfig, run_dir: Path, channel: Channel) -> int:
    """Be a hypervisor of the keeper at the other end of ``channel``; returns the exit status."""
    from policies import forked

    # The policy's process is forked while there is nothing of a run in this one.
    policy = start_policy(config, forked.start)
    held = Held(channel)
    try:
        return serve(config, run_dir, held.watch_fd, held, policy)
    finally:
        held.close()


def layout() -> str:
    """What must be the same for another installation to take over from this one."""
    from backend._service import lib
    from tmem.layout import LAYOUT

    return f"{saved.LAYOUT}.{lib.mc_books_layout():x}.{LAYOUT:x}"


def load(config: HypervisorConfig) -> None:
    """Import all that a hypervisor of ``config`` and its policy run; kernels of tmem that no cache
    has are compiled."""
    for name in PARTS:
        importlib.import_module(name)
    if config.tmem_max_pages:
        compile_first(lambda line: sys.stderr.write(f"memcoord: {line}\n"))
        importlib.import_module(POOL)


def rehearse(config: HypervisorConfig) -> None:
    """Run what a start and a restart of ``config`` run: make its memory, recover it, give it up."""
    from backend.books import Books

    made = Books()
    with contextlib.closing(made):
        with contextlib.ExitStack() as stack:
            _backend(config, stack, books=made)
        again = Books({name: os.dup(fd) for name, fd in made.fds.items()})
        with contextlib.closing(again), contextlib.ExitStack() as stack:
            _backend(config, stack, books=again, kept={})


def _books(held: Held) -> tuple[Books | None, dict[DomId, KeptDomain] | None]:
    """Where the host's memory is to lie, and which domains it has already; None without a keeper.

    What a hypervisor left that died before it was ready is not gone on with: it had no domains.
    """
    from backend.books import FILES, Books, KeptDomain

    if not held.is_kept:
        return None, None
    files = {name: fd for name in FILES if (fd := held.take(name)) >= 0}
    kept: dict[DomId, dict[str, int]] = {}
    for name, fd in held.take_below("domain").items():
        domid, _, what = name.partition("/")
        kept.setdefault(DomId(int(domid)), {})[what] = fd
    ghosts = held.take_below("ghost")
    if held.saved is None:
        for fd in (*files.values(), *ghosts.values()):
            os.close(fd)
        files.clear()
        ghosts.clear()
    books = Books(
        files,
        ghosts=ghosts,
        keep=held.keep,
        drop=held.drop,
        on_domain=lambda domid, fds: held.keep_below(f"domain/{domid}", fds),
        on_gone=lambda domid: held.drop(f"domain/{domid}"),
    )
    if held.saved is None:
        return books, None
    names = held.saved.leaving | {one.domid: one.config.name for one in held.saved.domains}
    return books, {
        domid: KeptDomain(names.get(domid, f"domain {domid}"), fds) for domid, fds in kept.items()
    }


def _check_record(path: str) -> None:
    """ConfigError unless operations can be recorded in ``path``, before anything is started."""
    try:
        if path:
            with Path(path).open("a", encoding="ascii"):
                pass
    except OSError as error:
        raise ConfigError("tmem_record", f"{path}: {error.strerror}") from None


def _recorded(config: HypervisorConfig, stack: contextlib.ExitStack, held: Held) -> Any:
    """The entries of tmem that record its operations, or None when they are not recorded."""
    if not config.tmem_record:
        return None
    from memcoord.testbed.live.tmem_record import Recorder

    kept_fd = held.take("record")
    recorder = Recorder(Path(config.tmem_record), config.total_frames, kept_fd)
    if kept_fd < 0:
        held.keep("record", recorder.fd)
    return stack.enter_context(recorder).entries


def _backend(
    config: HypervisorConfig,
    stack: contextlib.ExitStack,
    entries: Any = None,
    *,
    mrc_points: int = 0,
    books: Books | None = None,
    kept: dict[DomId, KeptDomain] | None = None,
) -> HostBackend:
    """The host's memory, served from now until ``stack`` unwinds."""
    from backend.host import HostBackend

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
        books=books,
        kept=kept,
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
        return EXIT_CONFIG
    except MemcoordError as error:
        sys.stderr.write(f"hypervisor: {error}\n")
        return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv))
