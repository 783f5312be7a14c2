"""The processes of a bench: real hypervisors, and the processes that are measured.

Owns: starting the processes in the bench's directory, and ending all of them. The process of the
bench uses ``Lab`` as a context manager; leaving it ends everything that it started.
Rules: every wait has a limit. While a measured process works, the bench sleeps in poll and uses no
CPU.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec

from hypervisor.config import HypervisorConfig, check
from hypervisor.public.errors import MemcoordError, PeerGone
from memcoord.testbed.runs.control_client import call
from memcoord.testbed.runs.launcher import Child, Launcher
from memcoord.testbed.runs.remote import Remote
from memcoord.testbed.runs.rundir import LONGEST_SOCKET, RunDir, check_socket_path

HYPERVISOR = "memcoord.testbed.live.hypervisor_main"
SERVER = "memcoord.benchmarks.server"
STDIN = "0"  # fd the hypervisor watches; it ends with our process
START_S = 300.0  # a loaded machine takes minutes to compile the kernels of tmem
PING_MS = 500
POLL_S = 0.02

Entered = TypeVar("Entered")


class BenchError(MemcoordError):
    """A process of the bench failed; the text is its own account of it."""


class Host:
    """One hypervisor process."""

    def __init__(self, run_dir: Path, child: Child) -> None:
        self.run_dir, self.pid, self._child = run_dir, child.pid, child

    def await_ready(self) -> None:
        """Wait until it answers on its control socket; BenchError if it ended, PeerGone if late."""
        deadline = time.monotonic() + START_S
        while True:
            try:
                call(self.run_dir, "ping", timeout_ms=PING_MS)
                return
            except PeerGone:
                if self._child.process.poll() is not None:
                    raise BenchError(f"hypervisor: {self._child.how_it_ended()}") from None
                if time.monotonic() > deadline:
                    raise
            time.sleep(POLL_S)

    def domain(self, name: str) -> dict[str, Any]:
        """The statistics of one domain; BenchError when it is not attached."""
        for entry in call(self.run_dir, "statistics")["domains"]:
            if entry["name"] == name:
                return dict(entry)
        raise BenchError(f"the hypervisor knows no domain {name}")


class Lab:
    """All processes of one bench; they and their files are named in the manifest of ``run``."""

    def __init__(self, run: RunDir) -> None:
        self._run = run
        self._launcher = Launcher(run.path)
        self._remotes: list[Remote] = []
        self._files = contextlib.ExitStack()  # which removes them
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        with self._files, contextlib.ExitStack() as last:
            last.callback(self._end)
            last.push(self._stack)

    def _end(self) -> None:
        for remote in self._remotes:
            remote.hang_up()
        self._launcher.stop(list(self._launcher.children))
        for remote in self._remotes:
            remote.close()

    def host(self, name: str, config: HypervisorConfig) -> Host:
        """Start a hypervisor in a run directory of its own and wait until it serves."""
        check(config)
        run_dir = self._run.path / name
        check_socket_path(run_dir / LONGEST_SOCKET)
        run_dir.mkdir(mode=0o700)
        (run_dir / "hypervisor.json").write_bytes(msgspec.json.encode(config))
        child = self._launcher.start(name, HYPERVISOR, str(run_dir), STDIN)
        self._run.record_process(name, child.pid)
        host = Host(run_dir, child)
        host.await_ready()
        return host

    def enter(self, resource: AbstractContextManager[Entered]) -> Entered:
        """Enter a context manager that is left with the lab, before the processes are ended."""
        return self._stack.enter_context(resource)

    def scratch(self, name: str) -> Path:
        """A directory for the files of a rival, removed with the lab."""
        path = self._run.path / name
        path.mkdir(mode=0o700)
        self._files.callback(shutil.rmtree, path, ignore_errors=True)
        return path

    def server(self, name: str, command: list[str]) -> Child:
        """Start a rival's server; it ends with the bench, however that ends."""
        child = self._launcher.start(name, SERVER, *command)
        self._run.record_process(name, child.pid)
        return child

    def socket_path(self, name: str) -> Path:
        """Where a process of this lab may bind a socket."""
        path = self._run.path / name
        check_socket_path(path)
        self._run.record_files([name])
        self._files.callback(path.unlink, missing_ok=True)
        return path

    def remote(self, name: str, module: str, *options: str) -> Remote:
        """Start a process to be measured: the ``guest.py`` of a bench."""
        remote = Remote(name, module, *options, launcher=self._launcher)
        self._run.record_process(name, remote.pid)
        self._remotes.append(remote)
        return remote
