"""Start the processes of a run, watch them end, and leave none behind.

Owns: every child process of a run, how any child Python is started (``start_python``), and the
signals that end one early.
Rules: use ``Launcher`` as a context manager; leaving it ends what still runs. Each child
  - is a fresh interpreter (``python -P -m MODULE``), or forked by one that has loaded what it needs
    (``nursery``): nothing is forked with threads or ZeroMQ;
  - stands in a process group of its own, so that Ctrl-C reaches the parent only, which then stops
    the children in order;
  - has a pipe as stdin whose other end only the parent holds. The child calls ``end_with_parent``:
    when the parent dies, however it dies, the pipe closes and the child exits;
  - writes stdout and stderr to files in the run directory.
``Interrupts`` turns signals into a flag instead of an exception: an exception could fall between
the start of a child and the line that remembers it.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import IO, Any, NamedTuple, Protocol, Self

from memcoord.testbed.runs.confine import Rights, command, encoded
from memcoord.testbed.runs.hiding import ROOT

#: How long a child may take to end after being asked, after SIGTERM, and after SIGKILL.
ASK_S = 5.0
TERM_S = 2.0
KILL_S = 10.0
POLL_S = 0.01

STDERR_TAIL_BYTES = 8192
#: A domain may write what it likes; so much of it is read.
OUTPUT_BYTES_MAX = 1 << 20
CHECK_REPORT = "memcoord: check failed: "  # check.c
FOR_USER = "memcoord: note: "  # tmem.compiled_cache
EXIT_ORPHANED = 70
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def end_with_parent(fd: int = 0) -> None:
    """In a child: exit as soon as the other end of ``fd``, a pipe or a socket, is closed.

    A thread of its own watches ``fd`` and reads nothing from it.
    """

    def watch() -> None:
        poll = select.poll()
        poll.register(fd, 0)  # a hang-up is told unasked
        poll.poll()
        os._exit(EXIT_ORPHANED)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def start_python(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    """Start ``python -P ARGUMENTS...``, which finds this package where this process found it.

    ``options`` are those of ``subprocess.Popen``. OSError when there are no processes left.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.Popen([sys.executable, "-P", *arguments], env=environment, **options)


def without_ours(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process as it was before ``start_python``."""
    path = environ.get("PYTHONPATH", "").split(os.pathsep)
    outer = {name: value for name, value in environ.items() if name != "PYTHONPATH"}
    if path[0] == str(ROOT):
        path = path[1:]
    return {**outer, "PYTHONPATH": os.pathsep.join(path)} if any(path) else outer


class Process(Protocol):
    """A child as ``subprocess.Popen`` is one, which was executed, or forked by a nursery."""

    @property
    def pid(self) -> int:
        """Its process id."""

    @property
    def stdin(self) -> IO[bytes] | None:
        """The end of its standard input that is ours."""

    @property
    def returncode(self) -> int | None:
        """As ``poll`` has last found it."""

    def poll(self) -> int | None:
        """Its exit status, below 0 for a signal; None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """The same, once it has ended; subprocess.TimeoutExpired."""

    def send_signal(self, number: int, /) -> None:
        """Signal it, unless it has ended."""

    def kill(self) -> None:
        """SIGKILL, unless it has ended."""


class Files(NamedTuple):
    """The standard files of a new process, as ``subprocess.Popen`` takes them."""

    stdin: int
    stdout: int
    stderr: int


class Forks(Protocol):
    """What forks processes for a launcher: ``nursery.Nursery``."""

    def fork(
        self, module: str, arguments: Sequence[str], rights: str, files: Files
    ) -> Process | None:
        """A new process that runs ``module``; None where it must be executed. OSError."""


@dataclass
class Child:
    """One process of a run; the paths are those of its output, if that is kept."""

    name: str
    process: Process
    stdout_path: Path = Path(os.devnull)
    stderr_path: Path = Path(os.devnull)

    @property
    def pid(self) -> int:
        """Its process id, meaningful until the child was reaped."""
        return self.process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs (as last looked at), negative when a signal ended it."""
        return self.process.returncode

    def output(self) -> bytes:
        """What it wrote to stdout; of more than OUTPUT_BYTES_MAX, one byte more than that."""
        with self.stdout_path.open("rb") as file:
            return file.read(OUTPUT_BYTES_MAX + 1)

    def last_stderr_line(self) -> str:
        """The last line it wrote to stderr that is not blank, or an empty string."""
        with self.stderr_path.open("rb") as file:
            file.seek(max(0, self.stderr_path.stat().st_size - STDERR_TAIL_BYTES))
            lines = file.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def notices(self) -> list[str]:
        """The lines of its stderr that are for the user, each once."""
        with self.stderr_path.open(encoding="utf-8", errors="replace") as file:
            lines = file.read(STDERR_TAIL_BYTES).splitlines()
        told = (line.removeprefix(FOR_USER) for line in lines if line.startswith(FOR_USER))
        return list(dict.fromkeys(told))

    def how_it_ended(self) -> str:
        """For people: ``killed by SIGKILL``, ``exit code 1: <last line of stderr>``, ``ended``.

        A process that ended itself by a check in C is shown with the report of that check.
        """
        code = self.returncode
        if code is None:
            return "still runs"
        if code == 0:
            return "ended"
        line = self.last_stderr_line()
        if code == -signal.SIGABRT and line.startswith(CHECK_REPORT):
            return line
        if code < 0:
            try:
                return f"killed by {signal.Signals(-code).name}"
            except ValueError:
                return f"killed by signal {-code}"
        return f"exit code {code}" + (f": {line}" if line else "")


class Launcher:
    """The children of one run, in order of their start; their files go to ``directory``.

    ``forks``: by module, who forks processes that run it.
    """

    def __init__(self, directory: Path, forks: Mapping[str, Forks] = MappingProxyType({})) -> None:
        self._directory, self._forks = directory, forks
        self._children: list[Child] = []
        self._running: list[Child] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(self._running)

    @property
    def children(self) -> tuple[Child, ...]:
        """Every child ever started, ended ones included."""
        return tuple(self._children)

    def start(
        self,
        name: str,
        module: str,
        *arguments: str,
        stdin: int = subprocess.PIPE,
        rights: Rights | None = None,
        pass_fds: Sequence[int] = (),
    ) -> Child:
        """Run ``python -P -m module arguments...``; OSError when there are no processes left.

        With ``rights`` the child is confined to them before it runs ``module``.
        """
        stdout_path = self._directory / f"{name}.out"
        stderr_path = self._directory / f"{name}.err"
        with stdout_path.open("wb") as stdout, stderr_path.open("wb") as stderr:
            files = Files(stdin, stdout.fileno(), stderr.fileno())
            process: Process | None = None
            if module in self._forks and not pass_fds:
                given = "" if rights is None else encoded(rights)
                process = self._forks[module].fork(module, arguments, given, files)
            if process is None:
                process = _executed(module, arguments, rights, files, pass_fds)
        child = Child(name, process, stdout_path, stderr_path)
        self._children.append(child)
        self._running.append(child)
        return child

    def reap(self) -> list[Child]:
        """The children that ended since the last call; never waits."""
        ended = [child for child in self._running if child.process.poll() is not None]
        for child in ended:
            self._forget(child)
        return ended

    def wait(self, children: list[Child], limit_s: float) -> bool:
        """Wait until all of ``children`` ended, at most ``limit_s``; False when time ran out."""
        deadline = time.monotonic() + limit_s
        while any(child.process.poll() is None for child in children):
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_S)
        return True

    def stop(self, children: list[Child], ask_s: float = 0.0) -> None:
        """End ``children``: wait ``ask_s`` for those already asked, then SIGTERM, then SIGKILL."""
        children = list(children)
        for action, limit_s in (
            (None, ask_s),
            (signal.SIGTERM, TERM_S),
            (signal.SIGKILL, KILL_S),
        ):
            alive = [child for child in children if child.process.poll() is None]
            for child in alive:
                if action is not None:
                    child.process.send_signal(action)
            if self.wait(alive, limit_s):
                break
        for child in children:
            self._forget(child)

    def _forget(self, child: Child) -> None:
        if child in self._running:
            self._running.remove(child)
        if child.process.stdin is not None:
            child.process.stdin.close()


def _executed(
    module: str,
    arguments: Sequence[str],
    rights: Rights | None,
    files: Files,
    pass_fds: Sequence[int],
) -> Process:
    line = ["-m", module, *arguments]
    if rights is not None:
        line = command(rights, module, *arguments)
    return start_python(*line, **files._asdict(), process_group=0, pass_fds=pass_fds)


class Interrupts:
    """While entered, SIGINT, SIGTERM and SIGHUP only set ``received``; main thread only.

    One that is ignored, as under ``nohup``, stays ignored.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
