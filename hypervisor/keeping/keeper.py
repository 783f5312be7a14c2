"""The keeper: a small process that holds what must outlive a hypervisor, and starts the next one.

Owns: the file descriptors that hypervisors hand over, the standby (a process that has loaded
everything and from which hypervisors are forked), and the bounds of restarting. While a hypervisor
is dead, its domains' connections stay open here, and their memory stays where it is: a domain
notices a pause and nothing else.
Rules: one thread; nothing here looks into the memory it holds, nor believes a domain anything.

A hypervisor that was asked to end, or that says that none can serve, is the last; every other end
is followed by a next hypervisor, unless ends follow each other too fast. When the keeper ends, all
it holds ends with it, hypervisor and standby included.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hypervisor.keeping import channel
from hypervisor.keeping.channel import Channel, Failed
from hypervisor.keeping.processes import (
    SIGNALS_PER_READ,
    Running,
    how,
    is_held_by_the_kernel,
    signals,
    status_of,
)
from hypervisor.keeping.takeover import TakeOvers
from hypervisor.public.errors import ConfigError, MemcoordError

#: Most hypervisors that may be killed (by SIGKILL, which nobody can do to himself by a mistake),
#: and that may end by themselves, within WINDOW_S.
KILLS_MAX, CRASHES_MAX, WINDOW_S = 240, 5, 60.0
#: How often the keeper looks whether a hypervisor is dead but for a thread that the kernel holds.
LOOK_S = 0.2
#: What a hypervisor gets to end after it was asked to, before it is killed.
STOP_S = 60.0
EXIT_SIGNAL = 128
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Installation:
    """The Python that runs hypervisors, and the folder of its packages."""

    python: str
    packages: str


#: Start a standby of an installation, which inherits its channel and the lock; OSError.
Start = Callable[[Installation, int, int], Running]


@dataclass
class _Standby:
    process: Running
    line: Channel
    installation: Installation
    layout: str = ""  # empty until it is ready

    def end(self) -> None:
        """Kill it: it holds nothing."""
        self.line.close()
        self.process.kill()
        self.process.wait()


@dataclass
class _Life:
    """One hypervisor, from the moment in which it is asked for."""

    line: Channel
    pid: int = 0  # 0 until it was born
    is_ending: bool = False
    failed: Failed | None = None


class _Ends:
    """When hypervisors ended lately; ``add`` notes one and says whether there may be another."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._times: deque[float] = deque()

    def add(self, now_s: float) -> bool:
        self._times.append(now_s)
        while now_s - self._times[0] > WINDOW_S:
            self._times.popleft()
        return len(self._times) <= self._most


class Keeper:
    """Keep ``run_dir`` served by hypervisors that ``start`` makes possible, of ``installation``.

    ``lock``: that of the directory (``hypervisor.run_dir.claim``), which the caller holds.
    ``first``: a standby of ``installation`` that the caller has started, and the end of its
    channel; both are the keeper's from now on. ``run`` returns the exit status of the last
    hypervisor; ConfigError and MemcoordError are what the last one failed by. The end of
    ``watch_fd`` and STOP_SIGNALS ask the hypervisor to end.
    """

    def __init__(
        self,
        run_dir: Path,
        start: Start,
        installation: Installation,
        *,
        lock: int,
        first: tuple[Running, socket.socket] | None = None,
        watch_fd: int = -1,
    ) -> None:
        self._run_dir, self._start, self._watch_fd = run_dir, start, watch_fd
        self._lock = lock
        self._installation = installation
        self._previous: Installation | None = None  # until the first life of a new one serves
        self._held: dict[str, int] = {}
        self._life: _Life | None = None
        self._standby: _Standby | None = None
        if first is not None:
            self._standby = _Standby(first[0], Channel(first[1]), installation)
        self._newcomer: _Standby | None = None  # of an installation that is to take over
        self._ends = {True: _Ends(KILLS_MAX), False: _Ends(CRASHES_MAX)}
        self._restarts = 0
        self._has_served = False
        self._stop_s = 0.0  # when the hypervisor is killed that was asked to end; 0: it was not
        self._status: int | None = None  # of the last hypervisor, once there is to be no other

    def run(self) -> int:
        """Serve until the last hypervisor has ended."""
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # the standby forks for us
        with contextlib.ExitStack() as stack:
            stack.callback(self._let_go)
            wake_fd = stack.enter_context(signals())
            self._takeovers = TakeOvers(self._run_dir)
            stack.callback(self._takeovers.close)
            self._begin("")
            while self._status is None:
                self._round(wake_fd)
            return self._status

    def _round(self, wake_fd: int) -> None:
        poller = select.poll()
        for fd in (wake_fd, self._watch_fd, *self._takeovers.poll_fds()):
            if fd >= 0:
                poller.register(fd, select.POLLIN)
        for one in (self._life, self._standby, self._newcomer):
            if one is not None:
                poller.register(one.line.fileno(), select.POLLIN)
        for fd, _ in poller.poll(LOOK_S * 1000):
            self._dispatch(fd, wake_fd)
        self._reap()
        self._takeovers.expire()
        life = self._life
        if life is not None and life.pid and is_held_by_the_kernel(life.pid):
            self._hear_the_rest(life)
            self._ended(life, -signal.SIGKILL)
        if self._stop_s and time.monotonic() > self._stop_s:
            self._signal(signal.SIGKILL)

    def _dispatch(self, fd: int, wake_fd: int) -> None:
        life, standby, newcomer = self._life, self._standby, self._newcomer
        if life is not None and fd == life.line.fileno():
            self._hear(life)
        elif standby is not None and fd == standby.line.fileno():
            self._hear_standby(standby)
        elif newcomer is not None and fd == newcomer.line.fileno():
            self._hear_newcomer(newcomer)
        elif fd in (wake_fd, self._watch_fd):
            if fd == wake_fd:
                os.read(wake_fd, SIGNALS_PER_READ)
            else:
                self._watch_fd = -1
            self._ask_to_end()
        else:
            asked = self._takeovers.handle(fd)
            if asked is not None:
                self._newcomer = self._new_standby(Installation(asked.python, asked.packages))

    # The hypervisor there is.

    def _hear(self, life: _Life) -> None:
        heard = life.line.receive()
        if heard is None:
            self._ended(life, status_of(life.pid))
        else:
            self._heed(life, *heard)

    def _hear_the_rest(self, life: _Life) -> None:
        """What it has sent by now."""
        with contextlib.suppress(BlockingIOError):
            while (heard := life.line.receive(0.0)) is not None:
                self._heed(life, *heard)

    def _heed(self, life: _Life, message: channel.Message, fds: list[int]) -> None:
        match message:
            case channel.Keep(names):
                self._keep(names, fds)
            case channel.Drop(name):
                for held in [one for one in self._held if f"{one}/".startswith(f"{name}/")]:
                    self._drop(held)
            case channel.Born(pid):
                life.pid = pid
                if self._stop_s:
                    self._signal(signal.SIGTERM)
            case channel.Serving():
                self._has_served = True
                if self._previous is not None:
                    self._previous = None
                    self._takeovers.answer("", life.pid)
            case channel.Ending():
                life.is_ending = True
            case Failed():
                life.failed = message

    def _keep(self, names: tuple[str, ...], fds: list[int]) -> None:
        """All of them, or none where this process has no file descriptors left."""
        if len(fds) == len(names):
            for name, fd in zip(names, fds, strict=True):
                self._drop(name)
                self._held[name] = fd
            return
        for fd in fds:
            os.close(fd)
        sys.stderr.write(
            f"memcoord: note: the keeper has no file descriptors left (ulimit -n), so {names[0]} "
            "ends with the hypervisor\n"
        )

    def _drop(self, name: str) -> None:
        fd = self._held.pop(name, -1)
        if fd >= 0:
            os.close(fd)

    def _ended(self, life: _Life, status: int) -> None:
        """There is no hypervisor any more: begin the next, or end."""
        life.line.close()
        self._life = None
        died = how(status)
        if life.is_ending or (self._stop_s and life.failed is None):
            self._status = status if status >= 0 else EXIT_SIGNAL - status
            return
        if self._previous is not None and (life.failed is not None or status != -signal.SIGKILL):
            self._go_back(died if life.failed is None else life.failed.why)
        elif life.failed is not None:
            key, why = life.failed.key, life.failed.why
            raise ConfigError(key, why) if key else MemcoordError(why)
        if not self._has_served and status != -signal.SIGKILL:
            raise MemcoordError(f"the hypervisor {died} before it served")
        if not self._ends[status == -signal.SIGKILL].add(time.monotonic()):
            raise MemcoordError(
                f"the hypervisor {died}, as others did within {WINDOW_S:.0f} s: it is not started "
                "again; start another run"
            )
        self._restarts += 1
        self._begin(died)

    def _begin(self, died: str) -> None:
        """Have the standby fork a hypervisor, and give it all that is held."""
        died_ns = time.monotonic_ns() if died else 0
        if self._standby is None:
            self._standby = self._new_standby(self._installation)
        ours, theirs = channel.pair()
        self._life = _Life(ours)
        names = tuple(self._held)
        with contextlib.closing(theirs), contextlib.suppress(OSError):
            # Where the standby is gone, the channel ends: a hypervisor that died before its birth.
            self._standby.line.send(channel.Fork(), [theirs.fileno()])
            for at in range(0, len(names), channel.FDS_PER_MESSAGE_MAX):
                some = names[at : at + channel.FDS_PER_MESSAGE_MAX]
                ours.send(channel.Keep(some), [self._held[name] for name in some])
            ours.send(channel.Begin(self._restarts, died, died_ns))

    def _ask_to_end(self) -> None:
        if not self._stop_s:
            if self._life is not None:  # it may have been born, and serve, since it was heard last
                self._hear_the_rest(self._life)
            self._stop_s = time.monotonic() + STOP_S
            self._signal(signal.SIGTERM)
            if self._life is not None and not self._life.pid and not self._has_served:
                self._status = 0  # it is being loaded still, which may take minutes

    def _signal(self, number: signal.Signals) -> None:
        if self._life is not None and self._life.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._life.pid, number)

    # Those that hypervisors are forked from.

    def _new_standby(self, installation: Installation) -> _Standby:
        ours, theirs = channel.pair()
        with contextlib.closing(theirs):
            try:
                process = self._start(installation, theirs.fileno(), self._lock)
            except OSError as error:
                ours.close()
                raise MemcoordError(f"no process could be started: {error.strerror}") from None
        return _Standby(process, ours, installation)

    def _hear_standby(self, standby: _Standby) -> None:
        heard = standby.line.receive()
        message = None if heard is None else heard[0]
        if isinstance(message, channel.Ready):
            standby.layout = message.layout
        elif isinstance(message, Failed) and self._life is not None:
            self._life.failed = self._life.failed or message  # it can fork none
        elif message is None:
            standby.end()
            self._standby = None
            if self._has_served and self._ends[False].add(time.monotonic()):
                self._standby = self._new_standby(standby.installation)

    def _hear_newcomer(self, newcomer: _Standby) -> None:
        """The standby of an installation that is to take over is ready, or is not to be had."""
        heard = newcomer.line.receive()
        message = None if heard is None else heard[0]
        self._newcomer = None
        refusal = self._refusal(newcomer, message)
        if refusal:
            self._takeovers.answer(refusal)
            newcomer.end()
            return
        if self._standby is not None:
            self._standby.end()
        self._previous = self._installation
        self._standby, self._installation = newcomer, newcomer.installation
        self._signal(signal.SIGKILL)

    def _refusal(self, newcomer: _Standby, message: channel.Message | None) -> str:
        if isinstance(message, Failed):
            return message.why
        if not isinstance(message, channel.Ready):
            return f"{newcomer.installation.python} cannot serve: see its standard error"
        newcomer.layout = message.layout
        ours = "" if self._standby is None else self._standby.layout
        if not ours:
            return "the present installation is not ready to be compared with: ask again"
        if newcomer.layout != ours:
            return (
                f"it lays memory out as {newcomer.layout}, what it would take over is {ours}: "
                "end the run, and start another with it"
            )
        return ""

    def _go_back(self, why: str) -> None:
        """The installation that took over cannot serve: the one before it does."""
        assert self._previous is not None
        self._takeovers.answer(why)
        if self._standby is not None:
            self._standby.end()
        self._standby, self._installation, self._previous = None, self._previous, None

    # The end of processes.

    def _reap(self) -> None:
        """Wait for orphans, whose next of kin we are, and for those that the kernel let go of."""
        ours = {one.process.pid for one in (self._standby, self._newcomer) if one is not None}
        if self._life is not None:
            ours.add(self._life.pid)
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        with contextlib.suppress(ChildProcessError):
            while (dead := os.waitid(os.P_ALL, 0, flags)) is not None and dead.si_pid not in ours:
                os.waitpid(dead.si_pid, 0)

    def _let_go(self) -> None:
        self._signal(signal.SIGKILL)  # where there is one, this process failed
        for one in (self._standby, self._newcomer):
            if one is not None:
                one.end()
        if self._life is not None:
            self._life.line.close()
        for name in list(self._held):
            self._drop(name)
