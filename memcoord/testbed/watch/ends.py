"""How domains ended, by the word of the process that started them.

Owns: reading ``events.jsonl`` of a run directory for it, while it grows and afterwards. A
hypervisor only knows that a domain is gone; a run knows that it was killed, and by which signal.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from hypervisor.public.documents import UNREADABLE
from hypervisor.public.run_files import EVENTS

#: Events that say how a process ended: the states of a domain in a report.
STATES = ("done", "crashed as told", "killed", "failed", "stopped")
#: What is wrong when nobody had it done.
BAD = ("killed", "failed")
#: Read at once; the rest at the next call.
BYTES_MAX = 1 << 20


@dataclass(frozen=True)
class End:
    """How one domain ended: one of STATES, and by what."""

    state: str
    how: str


class Ends:
    """The domains that have ended in what a run is doing now."""

    def __init__(self, place: Path) -> None:
        self._path = place / EVENTS
        self._offset = 0
        self.found: dict[str, End] = {}

    def read(self) -> dict[str, End]:
        """Take what was written since the last call; every end so far, by domain."""
        with suppress(OSError), self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read(BYTES_MAX)
            whole = data[: data.rfind(b"\n") + 1]
            self._offset += len(whole)
            for event in _events(whole):
                _hear(event, self.found)
        return self.found


def ends_of(place: Path, policy: str, round_index: int) -> dict[str, End]:
    """How the domains ended in one policy's run of a run that is over."""
    found: dict[str, End] = {}
    begun, data = 0, b""
    with suppress(OSError):
        data = (place / EVENTS).read_bytes()
    for event in _events(data):
        if event.get("source") == policy:
            begun += event.get("event") == "step"
            if begun == round_index + 1:
                _hear(event, found)
    return found


def _events(data: bytes) -> Iterator[dict[str, Any]]:
    for line in data.splitlines():
        with suppress(*UNREADABLE):
            yield msgspec.json.decode(line, type=dict[str, Any])


def _hear(event: dict[str, Any], found: dict[str, End]) -> None:
    name, what = str(event.get("process", "")), event.get("event")
    if what == "started":  # under the next policy it begins anew
        found.pop(name, None)
    elif what in STATES:
        found[name] = End(what, str(event.get("how", "")))
