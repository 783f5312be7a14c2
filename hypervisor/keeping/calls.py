"""Calls of the control plane that changed something, so that none is carried out twice.

Owns: the answers of the last ``CALLS_MAX`` such calls, by the number that the client gave the call.
A client whose hypervisor died while it waited sends the call again under the same number. When the
call was carried out, the next hypervisor answers what the one before would have.
Rules: main thread only. An answer is saved before it is sent. A call that was carried out and not
saved is carried out again: setting a value twice is setting it. What cannot be done twice (to
detach a domain) notes its answer in the same save that makes it count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

CALLS_MAX = 64


class DoneCall(msgspec.Struct):
    """A call that was carried out, and its result; a refused one changed nothing."""

    number: int
    op: str
    result: Any


class Calls:
    """The last calls that were carried out; ``kept``: by the hypervisor before."""

    def __init__(self, kept: Sequence[DoneCall] = ()) -> None:
        self._done = {call.number: call for call in kept}
        self._now = (0, "")

    def find(self, number: int, op: str) -> DoneCall | None:
        """The call of this number for ``op``, when it was carried out already."""
        found = self._done.get(number)
        return found if found is not None and found.op == op else None

    def begin(self, number: int, op: str) -> None:
        """A call is being carried out."""
        self._now = number, op

    def done(self, result: Any) -> None:
        """The call that was begun last counts from the next save on."""
        number, op = self._now
        self._done.pop(number, None)
        self._done[number] = DoneCall(number, op, result)
        if len(self._done) > CALLS_MAX:
            del self._done[next(iter(self._done))]

    def keep(self) -> list[DoneCall]:
        """What the next hypervisor must know."""
        return list(self._done.values())
