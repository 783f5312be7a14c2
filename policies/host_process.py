"""The process that runs a policy: ``python -P -m policies.host_process PARENT ROLE ...``.

Owns: the child's half of asking a policy for plans (ROLE ``serve``), and of the conformance kit
(ROLE ``check``). Started by ``policies.confine.start`` only. It gives up its powers first and loads
the policy then; it has no file but the connection to its parent, which ends with it.

``serve FD VIEW_FD PLAN_FD MEASURED TEXT``: the policy TEXT names, ready or refused, then an
``Answer`` to each ``Call``. ``check FD TEXT``: BEAT for every policy the kit makes, then the
verdict.
"""

from __future__ import annotations

import io
import os
import socket
import sys
import time
import warnings

import msgspec

from policies import loader
from policies.base import Policy, PolicyError, name_of, needs_of
from policies.checked import PlanError, describe_error
from policies.confine import FILES_MAX, confine
from policies.crossing import (
    HEADER_BYTES_MAX,
    TEXT_CHARACTERS_MAX,
    Answer,
    Call,
    Room,
    give,
    map_room,
    seen,
)

VERDICT_BYTES_MAX = 64 << 10
WORD_CHARACTERS_MAX = 2000
#: Added to what the kernel says, which cannot know.
REFUSED = " (a policy starts no process, signals nobody and opens no socket)"
#: Sent by ``check`` as a sign of life; no verdict is so short.
BEAT = b"."


class Overheard(io.TextIOBase):
    """Standard output of a policy: it has none, and what it prints there is told to the parent."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        """Keep the beginning of what is written."""
        self.text += str(text)[: TEXT_CHARACTERS_MAX - len(self.text)]
        return len(text)


class Verdict(msgspec.Struct, frozen=True):
    """What the kit found: ``error`` when the policy cannot be loaded; ``failures``: clause, what
    is broken, on which input; ``plan_ns`` of a plan, by the number of domains."""

    error: str = ""
    tried: tuple[str, ...] = ()
    failures: tuple[tuple[str, str, str], ...] = ()
    plan_ns: dict[int, int] = {}


def serve(
    channel: socket.socket,
    view_room: Room,
    plan_room: Room,
    text: str,
    *,
    measured: list[str],
    lacks: list[str],
) -> None:
    """Load the policy and answer calls until the parent closes ``channel``."""
    sys.stdout = sys.stderr
    try:
        policy = loader.load(text, measured=measured)
        needs = tuple(sorted(map(str, needs_of(policy))))
        ready = Answer(0, "ready", name_of(policy)[:TEXT_CHARACTERS_MAX], (), needs, tuple(lacks))
    except PolicyError as error:
        channel.send(msgspec.msgpack.encode(Answer(0, "refused", _fit(str(error)))))
        return
    channel.send(msgspec.msgpack.encode(ready))
    overheard = Overheard()
    names: tuple[str, ...] = ()
    sys.stdout = overheard
    while data := channel.recv(HEADER_BYTES_MAX):
        call = msgspec.msgpack.decode(data, type=Call)
        view = seen(view_room, call, names)
        names = view.names
        answer = _answer(policy, call.number, view, plan_room)
        if overheard.text:
            answer = Answer(call.number, "printed", _fit(overheard.text))
            overheard.text = ""
        channel.send(msgspec.msgpack.encode(answer))


def _answer(policy: Policy, number: int, view: object, room: Room) -> Answer:
    try:
        return give(room, number, policy.plan(view), view)  # type: ignore[arg-type]
    except PlanError as error:
        return Answer(number, "nonsense", _fit(str(error)))
    except BaseException as error:  # the author's code may raise anything
        refused = isinstance(error, PermissionError)
        return Answer(number, "raised", _fit(describe_error(error) + REFUSED * refused))


def check(channel: socket.socket, text: str) -> Verdict:
    """Try the policy ``text`` names; a message to the parent for every one that is made."""

    from policies.conformance import examine

    def make() -> Policy:
        channel.send(BEAT)
        return loader.load(text)

    sys.stdout = sys.stderr  # the author's file may print
    warnings.simplefilter("ignore", RuntimeWarning)  # numpy's, of what the kit then finds by itself
    try:
        report = examine(make, clock_ns=time.perf_counter_ns)
    except PolicyError as error:
        return Verdict(error=_word(str(error)))
    failures = [(one.clause, one.what, one.input) for one in report.failures]
    return Verdict(
        tried=report.tried,
        failures=tuple(
            (_word(clause), _word(what), _word(view)) for clause, what, view in failures
        ),
        plan_ns=report.plan_ns,
    )


def _word(text: str) -> str:
    """A text short enough for a verdict, in Unicode."""
    return text[:WORD_CHARACTERS_MAX].encode("utf-8", "replace").decode()


def _fit(text: str) -> str:
    """A line short enough for any message, in Unicode."""
    return " ".join(text.split())[:TEXT_CHARACTERS_MAX].encode("utf-8", "replace").decode()


def _one_line(kind: type[BaseException], error: BaseException, _: object) -> None:
    """What ends this process in place of a traceback, which means nothing to a policy's user."""
    sys.stderr.write(f"the policy's process ended: {kind.__name__}: {_fit(str(error))}\n")


def main(argv: list[str]) -> None:
    """Entry point of the process."""
    parent, role, channel_fd = int(argv[1]), argv[2], int(argv[3])
    sys.excepthook = _one_line
    lacks = confine(parent)
    channel = socket.socket(fileno=channel_fd)
    if role == "check":
        channel.send(msgspec.msgpack.encode(check(channel, argv[4])))
        return
    rooms = []
    for index, fd in enumerate(map(int, argv[4:6])):
        rooms.append(map_room(fd, writable=index == 1))
    os.closerange(3, channel_fd)  # the mappings have files of their own, which go as well
    os.closerange(channel_fd + 1, max(FILES_MAX, *map(int, argv[4:6])) + 1)
    serve(channel, rooms[0], rooms[1], argv[7], measured=argv[6].split(","), lacks=lacks)


if __name__ == "__main__":
    main(sys.argv)
