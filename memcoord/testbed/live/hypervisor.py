"""A hypervisor process, seen from the process that starts it: start, ready, control, end.

Owns: ``Hypervisor``, which ``import memcoord`` offers, and its three steps, which a run of several
policies (``memcoord.testbed.live.session``) takes by itself. The child's side is
``keeper_main``, which starts ``hypervisor_main`` again when it dies.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec

from hypervisor.config import DomainConfig, HypervisorConfig, check, write
from hypervisor.public.errors import ConfigError, MemcoordError, PeerGone
from hypervisor.public.messages import SOCKETS, TOKEN_FILE
from hypervisor.public.units import AREA_FRAMES, FRAME_BYTES, parse_bytes
from memcoord.testbed.runs import control_client, rundir
from memcoord.testbed.runs.launcher import ASK_S, Child, Launcher
from memcoord.testbed.watch.reader import FeedReader

if TYPE_CHECKING:
    from frontend.domain import Domain
    from memcoord.testbed.archive.columns import Columns
    from memcoord.testbed.archive.run import Run
    from memcoord.testbed.live.recording import Recording

MODULE = "memcoord.testbed.live.keeper_main"
#: The first start on a machine compiles the kernels of tmem.
READY_S = 300.0
PING_MS = 500
FEED_MS = 30_000
POLL_S = 0.01


def start(launcher: Launcher, run_dir: Path, config: HypervisorConfig) -> Child:
    """Start a hypervisor that serves ``run_dir`` and ends with this process.

    OSError when the configuration cannot be written or no process can be started.
    """
    write(run_dir, config)
    return launcher.start("hypervisor", MODULE, str(run_dir), "0")


def answers(run_dir: Path) -> bool:
    """Whether the hypervisor of ``run_dir`` answers a ping; sleeps a little when it does not."""
    try:
        control_client.call(run_dir, "ping", timeout_ms=PING_MS)
    except PeerGone:
        time.sleep(POLL_S)
        return False
    return True


def end(launcher: Launcher, child: Child, run_dir: Path) -> str:
    """Ask the hypervisor to shut down, make sure of it; empty, or the fault of its end."""
    try:
        control_client.call(run_dir, "shutdown")
    except MemcoordError:
        launcher.stop([child])
    launcher.stop([child], ask_s=ASK_S)
    return f"the hypervisor did not end well: {child.how_it_ended()}" if child.returncode else ""


class Hypervisor:
    """A hypervisor of one's own, from ``with`` to the end of the block, never longer.

    ``memory``: the host's memory, as ``"256 MiB"`` or in bytes, a whole number of 4 KiB frames; 4
    MiB of it are kept as slack. ``policy``: a name, ``"smart-alloc:P=6"`` or ``"file.py:Class"``.
    ``interval_ms``: between two of the policy's decisions. ``domains``: the only ones that may
    attach; without any, every process of this user may, under any name. ``run_dir``: where sockets
    and logs are to be; without, a new directory that ``memcoord ls`` lists.

    Entering waits until the hypervisor serves; the first start on a machine compiles first.
    Raises ConfigError when an argument is wrong, RunDirError when the directory cannot be written,
    MemcoordError when the hypervisor ends instead of serving, or has ended badly by the time the
    block is left.
    """

    def __init__(
        self,
        memory: str | int = "256 MiB",
        *,
        policy: str = "greedy",
        interval_ms: int = 1000,
        domains: Sequence[DomainConfig] = (),
        run_dir: str | Path | None = None,
    ) -> None:
        self._config = HypervisorConfig(
            total_frames=_frames(memory),
            policy=policy,
            interval_ms=interval_ms,
            domains=tuple(domains),
            open_attach=not domains,
        )
        check(self._config)
        self._wanted_dir = run_dir
        self._recording: Recording | None = None

    def __enter__(self) -> Self:
        config = msgspec.to_builtins(self._config)
        self._run = rundir.create(
            "hypervisor", path=self._wanted_dir, config=config, described=False
        )
        self._launcher, self._feed = Launcher(self._run.path), FeedReader(self._run.path)
        try:
            self._run.record_files([*SOCKETS, TOKEN_FILE])
            self._child = start(self._launcher, self._run.path, self._config)
            self._run.record_process("hypervisor", self._child.pid)
            self._run.describe()
            deadline_s = time.monotonic() + READY_S
            while not answers(self._run.path):
                if self._child.process.poll() is not None:
                    raise MemcoordError(f"the hypervisor ended: {self._child.how_it_ended()}")
                if time.monotonic() > deadline_s:
                    raise PeerGone(f"the hypervisor was not ready after {READY_S:.0f} s")
            self._feed.__enter__()
            if not self._feed.subscribe_now(FEED_MS):
                raise PeerGone(f"the hypervisor's feed took no reader within {FEED_MS} ms")
            self._begin_ns = time.monotonic_ns()
        except BaseException:
            self._leave("failed")
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._feed.__exit__()
        problem = end(self._launcher, self._child, self._run.path)
        self._leave("failed" if problem else "finished")
        if problem and kind is None:
            raise MemcoordError(problem)

    def _leave(self, state: str) -> None:
        self._launcher.stop(list(self._launcher.children))
        for name in (*SOCKETS, TOKEN_FILE):
            (self._run.path / name).unlink(missing_ok=True)
        self._run.finish(state)

    @property
    def run_dir(self) -> Path:
        """Where it serves: what ``attach`` and ``control`` take, and where its logs are."""
        return self._run.path

    def attach(self, name: str = "", maxmem: str | int = 0, **options: Any) -> Domain:
        """Make this process a domain of it: ``memcoord.attach``, with a size as ``"16 MiB"``.

        Without ``maxmem`` it may have the whole host. Errors as of ``memcoord.attach``.
        """
        from frontend.attach import attach

        frames = _frames(maxmem) if maxmem else self._config.total_frames
        return attach(self.run_dir, name, frames // AREA_FRAMES * AREA_FRAMES, **options)

    def statistics(self) -> Columns:
        """What every domain has now, as columns in bytes and seconds, a row per domain."""
        from memcoord.testbed.archive.columns import in_real_units, of_rows

        return in_real_units(of_rows(self.control("statistics")["domains"], ("name",)))

    def history(self) -> Run:
        """Every tick and decision so far, as ``memcoord.open_run`` gives them of a finished run.

        Ask once in a thousand ticks or more often: what waits longer is lost.
        """
        if self._recording is None:
            from memcoord.testbed.live.recording import Recording

            where = self._run.path, self._config.policy, self._begin_ns
            self._recording = Recording(self._feed, *where)
        return self._recording.run()

    def control(
        self, op: str, *, timeout_ms: int = control_client.TIMEOUT_MS, **arguments: Any
    ) -> Any:
        """The answer to one control operation: ``memcoord.control`` of this hypervisor."""
        return control_client.call(self.run_dir, op, timeout_ms, **arguments)


def _frames(memory: str | int) -> int:
    try:
        size = memory if isinstance(memory, int) else parse_bytes(memory)
    except ValueError as error:
        raise ConfigError("memory", str(error)) from None
    if size <= 0 or size % FRAME_BYTES:
        raise ConfigError("memory", f"{memory!r}: a whole number of frames of {FRAME_BYTES} bytes")
    return size // FRAME_BYTES
