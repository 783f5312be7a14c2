"""The policy, in a process of its own, as the coordinator sees it.

Owns: that process, its two rooms and its connection. The first process may be started in a way of
the caller's (``begin``), all others execute a Python of their own. Called by the composition root
(start, close) and the coordinator (``plan``), on the hypervisor's main thread only.

``plan`` waits for an answer for one deadline and no longer. Whatever the policy does, ``plan`` then
raises ``Failed`` with the reason; ``Stalled`` when no answer came in time. A process that is late
may still come back within GRACE_S (START_S for its first plan, which may have to compile); its late
answer is dropped. A process that ended, stalled for longer or answered what no policy's process
answers is killed and started again, at once the first time, after at most BACKOFF_MAX_S when that
goes on. Starting does not hold up the ticks. The new process knows what the last valid plan
carried, because the view says so.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

import msgspec
import numpy as np

from hypervisor.coordination.policy_runner import Failed, Loading, Stalled
from hypervisor.public.constants import MAX_DOMAINS
from hypervisor.public.documents import UNREADABLE
from policies import confine, crossing
from policies.base import NEEDS, Plan, PolicyError, View
from policies.forked import Forked
from policies.loader import is_built_in, load

#: Until a process has loaded its policy, and until it has answered its first call.
START_S = 30.0
#: How late an answer may be, after the deadline, before its process is killed.
GRACE_S = 2.0
BACKOFF_MIN_S, BACKOFF_MAX_S = 0.1, 5.0
#: Time for a process whose connection ended to end as well, so that it can be said how; and for
#: one that was killed to be gone, when the hypervisor stops.
EXIT_S, GONE_S = 0.2, 10.0
#: What the policy writes on standard error that is passed on, in all.
SAID_BYTES_MAX = 64 << 10
READ_BYTES = 4096
LOADING = "it is not loaded yet"

#: Gets a line that the policy wrote, or that is to be known of its process.
Tell = Callable[[str], object]
Process = subprocess.Popen[bytes] | Forked
#: Start a process with arguments and files, as ``policies.confine.start``; OSError.
Begin = Callable[[list[str], list[int]], Process]


@dataclass
class _Child:
    process: Process
    channel: socket.socket
    born_s: float
    until_s: float  # when it must have answered what it was asked, or have started
    pending: int | None = 0  # number of the call it has not answered
    names: tuple[str, ...] | None = None  # of the last view it was shown
    answered: bool = False  # a call, ever


class PolicyProcess:
    """``text`` names the policy, as ``policies.load`` reads it; so does ``measured``.

    ``domains``: the most in a view. ``tell`` may be replaced at any time.

    Made, it starts to load; ``name`` and ``needs`` are known after ``wait``.
    """

    def __init__(
        self,
        text: str,
        *,
        deadline_s: float,
        domains: int = MAX_DOMAINS,
        measured: Collection[str] = tuple(NEEDS),
        tell: Tell = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        begin: Begin | None = None,
    ) -> None:
        self.name = text
        self.needs: tuple[str, ...] = ()
        self.tell = tell
        self._text, self._deadline_s, self._clock = text, deadline_s, clock
        self._measured = ",".join(measured)
        length = crossing.room_bytes(domains)
        self._fds = [crossing.make_room(name, length) for name in ("view", "plan")]
        self._number = 0
        self._child: _Child | None = None
        self._dying: list[Process] = []
        self._why = LOADING  # or how the last process ended
        self._refused = False
        self._said_bytes = 0
        self._backoff_s = self._next_start_s = 0.0
        self._start(begin or _execute)
        # After the start: a process that is forked maps its rooms by itself.
        self._views = crossing.map_room(self._fds[0], writable=True)
        self._plans = crossing.map_room(self._fds[1], writable=False)

    def wait(self) -> None:
        """Wait for the policy to be loaded; PolicyError when it is refused or takes START_S."""
        while True:
            child = self._child
            if child is None:
                self.close()
                raise PolicyError(self._why if self._refused else f"{self._text}: {self._why}")
            if child.pending is None:
                return
            with contextlib.suppress(Failed):
                self._hear(child, child.until_s)

    def plan(self, view: View) -> Plan:
        """The policy's plan, not checked yet; Failed or Stalled when there is none.

        PlanError when ``view`` is of more domains than the process was made for.
        """
        self._dying = [process for process in self._dying if process.poll() is None]
        child = self._free_child()
        self._number += 1
        try:
            call = crossing.show(self._views, self._number, view, child.names)
            self._send(child, call)
        except OSError:
            raise self._gone(child) from None
        child.names, child.pending = view.names, self._number
        now = self._clock()
        child.until_s = now + self._deadline_s + (GRACE_S if child.answered else START_S)
        answer = self._hear(child, now + self._deadline_s)
        if answer is None:
            raise Stalled(f"stalled: no plan within {self._deadline_s * 1000:.0f} ms")
        return self._plan_of(child, answer, view)

    def close(self) -> None:
        """End the process; the object is of no use afterwards."""
        if self._child is not None:
            self._drop(self._child, "closed")
        for process in self._dying:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GONE_S)
        for fd in self._fds:
            os.close(fd)
        self._fds = []
        self._views = self._plans = np.empty(0, dtype=np.uint8)  # unmaps them

    @property
    def pid(self) -> int | None:
        """The number of the process there is now."""
        return None if self._child is None else self._child.process.pid

    def _start(self, begin: Begin) -> None:
        self._backoff_s = min(max(2 * self._backoff_s, BACKOFF_MIN_S), BACKOFF_MAX_S)
        self._next_start_s = self._clock() + self._backoff_s
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        fds = [theirs.fileno(), *self._fds]
        with theirs:
            try:
                process = begin(["serve", *map(str, fds), self._measured, self._text], fds)
            except OSError as error:
                ours.close()
                self._why = f"no process could be started: {error.strerror}"
                return
        ours.setblocking(False)
        if process.stderr is not None:
            os.set_blocking(process.stderr.fileno(), False)
        now = self._clock()
        self._child = _Child(process, ours, now, now + START_S)

    def _free_child(self) -> _Child:
        """The process, when it can be asked; Failed says why not, Stalled that it is late."""
        if self._child is None and self._clock() >= self._next_start_s:
            self._start(_execute)
        child = self._child
        if child is None:
            raise Failed(f"{self._why}; it is started again")
        self._hear_all(child)
        if child.pending is not None:
            if child.pending == 0:
                if self._why == LOADING:
                    raise Loading(LOADING)
                raise Failed(f"{self._why}; it is started again")
            raise Stalled("stalled: an earlier call has not come back")
        return child

    def _hear_all(self, child: _Child) -> None:
        """Take what came since the last call, and end ``child`` if it ran out of time."""
        if child.pending is None:
            if self._poll(child, 0.0):
                with contextlib.suppress(OSError):
                    if child.channel.recv(1):
                        raise self._fail(child, "its process spoke without having been asked")
                raise self._gone(child)
        elif self._hear(child, self._clock()) is None and self._clock() >= child.until_s:
            raise self._late(child)

    def _hear(self, child: _Child, until_s: float) -> crossing.Answer | None:
        """The answer to what is pending, if it comes in time. Failed when ``child`` is no more."""
        while not self._poll(child, max(until_s - self._clock(), 0.0)):
            if self._clock() >= child.until_s:
                raise self._late(child)
            if self._clock() >= until_s:
                return None
        try:
            data = child.channel.recv(crossing.HEADER_BYTES_MAX + 1)
            if not data:
                raise self._gone(child)
            answer = msgspec.msgpack.decode(data, type=crossing.Answer)
        except OSError:
            raise self._gone(child) from None
        except UNREADABLE:
            raise self._fail(child, "its process answered no message of ours") from None
        if answer.number != child.pending:
            raise self._fail(child, "its process answered what it was not asked")
        child.answered = child.pending != 0
        child.pending = None
        if answer.number == 0:
            self._started(child, answer)
        return answer

    def _started(self, child: _Child, answer: crossing.Answer) -> None:
        if answer.kind != "ready":
            self._refused = True
            raise self._fail(child, _line(answer.text))
        self.name, self.needs = _line(answer.text), answer.needs
        if answer.lacks and not self._number:
            self.tell(f"not taken from the policy: {_line(', '.join(answer.lacks))}")

    def _plan_of(self, child: _Child, answer: crossing.Answer, view: View) -> Plan:
        text = _line(answer.text)
        match answer.kind:
            case "plan":
                try:
                    plan = crossing.taken(self._plans, answer, view)
                except (ValueError, TypeError, ArithmeticError, MemoryError) as error:
                    raise self._fail(
                        child, f"its process answered no plan: {_line(str(error))}"
                    ) from None
                if self._clock() - child.born_s > BACKOFF_MAX_S:
                    self._backoff_s = self._next_start_s = 0.0
                return plan
            case "nonsense":
                raise Failed(f"answered nonsense: {text}")
            case "raised":
                raise Failed(f"raised {text}")
            case "printed":
                raise Failed(f"printed {text!r}, and a policy has no output")
        raise self._fail(child, "its process answered no message of ours")

    def _poll(self, child: _Child, timeout_s: float) -> bool:
        """Wait for ``child``'s connection; pass on what comes on its standard error meanwhile."""
        poller = select.poll()
        poller.register(child.channel, select.POLLIN)
        said = child.process.stderr
        if said is not None and not said.closed:
            poller.register(said, select.POLLIN)
        ready = [fd for fd, _ in poller.poll(timeout_s * 1000)]
        if said is not None and not said.closed and said.fileno() in ready:
            self._overhear(child)
        return child.channel.fileno() in ready

    def _overhear(self, child: _Child) -> None:
        said = child.process.stderr
        data = said.read(READ_BYTES) if said is not None else None
        if said is not None and data == b"":
            said.close()
        elif data and self._said_bytes < SAID_BYTES_MAX:
            self._said_bytes += len(data)
            for line in data.decode("utf-8", "replace").splitlines():
                self.tell(_line(line))
            if self._said_bytes >= SAID_BYTES_MAX:
                self.tell("what it writes from now on is not shown")

    def _send(self, child: _Child, call: crossing.Call) -> None:
        child.channel.send(msgspec.msgpack.encode(call))

    def _late(self, child: _Child) -> Failed:
        if not child.pending:
            return self._fail(child, f"it was not loaded within {START_S:.0f} s")
        gone = self._fail(child, "stalled: its process did not come back and was ended")
        return Stalled(str(gone))

    def _gone(self, child: _Child) -> Failed:
        """Say how ``child`` ended, whose connection has."""
        try:
            how = confine.ending(child.process.wait(EXIT_S))
        except subprocess.TimeoutExpired:
            how = "closed its connection"
        return self._fail(child, f"its process {how}")

    def _fail(self, child: _Child, why: str) -> Failed:
        self._drop(child, why)
        return Failed(f"{why}; it is started again")

    def _drop(self, child: _Child, why: str) -> None:
        self._why, self._child = why, None
        confine.kill(child.process)
        child.channel.close()
        if child.process.stderr is not None:
            with contextlib.suppress(OSError):
                self._overhear_last(child)
            child.process.stderr.close()
        if child.process.poll() is None:
            self._dying.append(child.process)

    def _overhear_last(self, child: _Child) -> None:
        """What it said last, as far as it is there already."""
        for _ in range(SAID_BYTES_MAX // READ_BYTES):
            said = child.process.stderr
            if said is None or said.closed or not select.select([said], [], [], 0)[0]:
                return
            self._overhear(child)


def _execute(arguments: list[str], fds: list[int]) -> Process:
    return confine.start(arguments, fds=fds, stderr=subprocess.PIPE)


def probe(text: str, measured: Collection[str], tell: Tell) -> None:
    """PolicyError when a hypervisor that measures ``measured`` could not load policy ``text``.

    ``tell`` gets each line that the policy's file prints meanwhile. A policy of ours is loaded in
    this process.
    """
    if is_built_in(text):
        load(text, measured=measured)
        return
    process = PolicyProcess(text, deadline_s=0.0, measured=measured, tell=tell)
    try:
        process.wait()
    finally:
        process.close()


def _line(text: str) -> str:
    """A line fit for a log, of what a policy's process said."""
    line = "".join(one if one.isprintable() else " " for one in text)
    return " ".join(line.split())[: crossing.TEXT_CHARACTERS_MAX]
