"""The processes of a chaos run: a hypervisor that may be killed, the fork server, the guests.

Owns: ``ChaosHost``, their life and every wait for them. The hypervisor's configuration, sockets and
process are the product's; whoever starts the hypervisor again after a kill is the product too.
Rules: one thread. Every wait has a bound; what does not happen within it is ``Stuck``.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from pathlib import Path
from typing import Any, Self

import msgspec

from hypervisor.config import HypervisorConfig, check
from hypervisor.public.errors import ConfigError, MemcoordError, PeerGone
from memcoord.benchmarks.chaos.plan import Life
from memcoord.testbed.live import hypervisor as live
from memcoord.testbed.runs import control_client
from memcoord.testbed.runs.launcher import Launcher

READY_S, SPAWN_S, END_S = 300.0, 30.0, 10.0
ASK_MS, LOOK_MS = 10_000, 50
ZYGOTE = "memcoord.benchmarks.chaos.zygote"
CONFIG_EXIT = 2  # of a hypervisor whose configuration this machine cannot have


class Stuck(MemcoordError):
    """Something did not happen within its bound; the run cannot go on."""


class Process:
    """A guest's process, known by its pidfd."""

    def __init__(self, pidfd: int) -> None:
        self._pidfd = pidfd

    def signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    def has_ended(self, within_s: float = 0.0) -> bool:
        """Whether the process has ended, or does within so many seconds."""
        return bool(select.select([self._pidfd], [], [], within_s)[0])

    def kill(self) -> None:
        """End the process; Stuck when it stays."""
        self.signal(signal.SIGKILL)
        if not self.has_ended(END_S):
            raise Stuck(f"a killed domain has not ended after {END_S:.0f} s")
        self.forget()

    def forget(self) -> None:
        """Let go of a process that has ended."""
        os.close(self._pidfd)


class ChaosHost:
    """A hypervisor with ``config`` in ``run_dir``, and a fork server for its domains.

    Entering raises ConfigError when this machine cannot have ``config``, Stuck when it never
    serves.
    """

    def __init__(self, run_dir: Path, config: HypervisorConfig) -> None:
        self.run_dir, self._config = run_dir, config
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        check(self._config)
        with contextlib.ExitStack() as stack:
            launcher = stack.enter_context(Launcher(self.run_dir))
            self._child = live.start(launcher, self.run_dir, self._config)
            self._await_ready()
            stack.callback(live.end, launcher, self._child, self.run_dir)
            self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            stack.callback(self._line.close)
            self._line.settimeout(SPAWN_S)
            with theirs:
                launcher.start("zygote", ZYGOTE, str(self.run_dir), stdin=theirs.fileno())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *raised: object) -> None:
        self._stack.close()

    def _await_ready(self) -> None:
        until = time.monotonic() + READY_S
        while not live.answers(self.run_dir):
            if self._child.process.poll() == CONFIG_EXIT:
                raise ConfigError("host", self._child.last_stderr_line())
            if self._child.process.poll() is not None:
                raise Stuck(f"the hypervisor: {self._child.how_it_ended()}")
            if time.monotonic() > until:
                raise Stuck(f"the hypervisor was not ready after {READY_S:.0f} s")

    def spawn(self, life: Life) -> Process:
        """A process that becomes the domain ``life``; Stuck without an answer."""
        try:
            self._line.send(msgspec.msgpack.encode(life))
            data, fds, _, _ = socket.recv_fds(self._line, 1, 1)
        except OSError as error:
            raise Stuck(f"the fork server: {error}") from None
        if not data:
            raise Stuck("the fork server has ended")
        return Process(fds[0])

    def ask(self, op: str, **arguments: Any) -> Any:
        """One operation of the control plane; errors as ``control_client.call``."""
        return control_client.call(self.run_dir, op, ASK_MS, **arguments)

    def hypervisor_pid(self) -> int:
        """The pid of the hypervisor that serves now; 0 when none answers at once."""
        try:
            pid: int = control_client.call(self.run_dir, "ping", LOOK_MS)["pid"]
        except PeerGone:
            return 0
        return pid

    def kill_hypervisor(self, delay_s: float) -> int:
        """SIGKILL to the hypervisor, so long after it has answered; the pid it had. Stuck."""
        try:
            pid = int(self.ask("ping")["pid"])
        except PeerGone as error:
            raise Stuck(f"the hypervisor that is to be killed: {error}") from None
        time.sleep(delay_s)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return pid

    def how_it_ended(self) -> str:
        """Empty while the process that was started to serve the host runs, else how it ended."""
        return "" if self._child.process.poll() is None else self._child.how_it_ended()
