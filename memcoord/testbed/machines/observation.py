"""What is known of a virtual machine at one time, and how old it is.

Owns: ``Observation``, and ``Observer``, which makes one of what QEMU answered and remembers just
enough to tell differences, ages and reboots. Pure: the caller gives the times. Every number comes
from a guest that nobody trusts. One that cannot be is unknown, NaN, and never 0: a size of 0, of
2^64 - 1 or beyond what the machine can have, a part larger than its whole. Statistics that are
older than two of their intervals are stale: a guest that is paused keeps its last ones readable.
Counters count from the machine's boot; after a fall the guest has booted again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

#: The balloon reports once in so many whole seconds; its statistics are fresh for two of them.
STATISTICS_EVERY_S, FRESH_INTERVALS = 1, 2
#: What a device answers where it knows nothing.
UNKNOWN_WORD = (1 << 64) - 1
#: Counters of a guest: bytes swapped, faults. A larger one is no count.
COUNT_MAX = 1 << 56
NAN = math.nan


class Guest(StrEnum):
    """What a virtual machine is at, as far as its QEMU says."""

    RUNNING = "running"
    PAUSED = "paused"
    CRASHED = "crashed"
    MOVED = "migrated away"
    SILENT = "QEMU does not answer"
    ENDED = "ended"


#: QEMU's words for the state of a machine.
_STATES = {
    "running": Guest.RUNNING,
    "paused": Guest.PAUSED,
    "prelaunch": Guest.PAUSED,
    "suspended": Guest.PAUSED,
    "watchdog": Guest.PAUSED,
    "debug": Guest.PAUSED,
    "save-vm": Guest.PAUSED,
    "restore-vm": Guest.PAUSED,
    "inmigrate": Guest.PAUSED,
    "io-error": Guest.PAUSED,
    "colo": Guest.PAUSED,
    "finish-migrate": Guest.MOVED,
    "postmigrate": Guest.MOVED,
    "guest-panicked": Guest.CRASHED,
    "internal-error": Guest.CRASHED,
    "shutdown": Guest.ENDED,
}


def guest_of(status: str) -> Guest:
    """What QEMU's ``status`` means; a word nobody knows is no running guest."""
    return _STATES.get(status, Guest.PAUSED)


@dataclass(frozen=True)
class Observation:
    """One machine at ``at_s``. Bytes, and counts since the machine's boot; NaN is not known.

    ``current_bytes`` is what the guest may use: base less balloon and what is plugged.
    ``resident_bytes`` is the host memory behind all of the guest's memory.
    """

    at_s: float
    guest: Guest
    current_bytes: float = NAN
    kept_bytes: float = NAN  # of the base, not in the balloon
    plugged_bytes: tuple[float, ...] = ()  # by virtio-mem device
    resident_bytes: float = NAN
    age_s: float = math.inf  # of the statistics
    is_fresh: bool = False
    total_bytes: float = NAN  # what the guest's kernel manages
    free_bytes: float = NAN
    available_bytes: float = NAN
    cache_bytes: float = NAN
    swapped_in_bytes: float = NAN
    swapped_out_bytes: float = NAN
    major_faults: float = NAN
    reboots: int = 0

    @property
    def used_bytes(self) -> float:
        """What the guest uses of what it may use, its kernel's own part included."""
        return max(self.current_bytes - self.available_bytes, 0.0)


class Observer:
    """Observations of one machine that can have ``max_bytes``, and boots with ``base_bytes``."""

    def __init__(self, base_bytes: int, max_bytes: int) -> None:
        self.base_bytes, self._max_bytes = base_bytes, max_bytes
        self._updated = 0  # the time stamp of the statistics before
        self._changed_s = -math.inf  # when it was seen to change, less its age then
        self._counted: dict[str, float] = {}
        self._values: dict[str, float] = {}
        self._reboots = 0

    def note_reset(self) -> None:
        """The guest boots again; its counters begin anew."""
        self._reboots += 1
        self._counted, self._values, self._changed_s = {}, {}, -math.inf

    def note_statistics(
        self, now_s: float, wall_s: float, updated: int, values: Mapping[str, int]
    ) -> None:
        """Take what the balloon device last heard of its guest, at ``updated`` since 1970."""
        if updated <= 0 or updated == self._updated:
            return
        is_first = not self._updated
        self._updated = updated
        # Only at first sight can it be old already: a machine that was paused before we came.
        self._changed_s = now_s - (max(wall_s - updated, 0.0) if is_first else 0.0)
        read = _checked(values, self._max_bytes)
        if any(read[name] < self._counted.get(name, -math.inf) for name in _COUNTERS):
            self._reboots += 1
        self._counted.update({name: read[name] for name in _COUNTERS if read[name] == read[name]})
        self._values = read

    def observe(
        self,
        now_s: float,
        guest: Guest,
        *,
        kept_bytes: float = NAN,
        plugged_bytes: tuple[float, ...] = (),
        resident_bytes: float = NAN,
    ) -> Observation:
        """What is known at ``now_s``, with the sizes of the devices as QEMU has just told them."""
        age_s = now_s - self._changed_s
        is_fresh = age_s <= FRESH_INTERVALS * STATISTICS_EVERY_S and guest is Guest.RUNNING
        kept_bytes = kept_bytes if 0 <= kept_bytes <= self.base_bytes else NAN
        return Observation(
            at_s=now_s,
            guest=guest,
            current_bytes=kept_bytes + sum(plugged_bytes),
            kept_bytes=kept_bytes,
            plugged_bytes=plugged_bytes,
            resident_bytes=resident_bytes,
            age_s=age_s,
            is_fresh=is_fresh,
            reboots=self._reboots,
            **self._values,
        )


_COUNTERS = ("swapped_in_bytes", "swapped_out_bytes", "major_faults")
_WORDS = {
    "total_bytes": "stat-total-memory",
    "free_bytes": "stat-free-memory",
    "available_bytes": "stat-available-memory",
    "cache_bytes": "stat-disk-caches",
    "swapped_in_bytes": "stat-swap-in",
    "swapped_out_bytes": "stat-swap-out",
    "major_faults": "stat-major-faults",
}


def _checked(values: Mapping[str, int], max_bytes: int) -> dict[str, float]:
    """By field of an ``Observation``: what a guest may have said, NaN for what it cannot have."""
    read = {name: float(values.get(word, UNKNOWN_WORD)) for name, word in _WORDS.items()}
    total = read["total_bytes"]
    if not 0 < total <= max_bytes:
        return dict.fromkeys(_WORDS, NAN)  # the driver is not there yet, or all of it is invented
    parts = {
        name: read[name] if read[name] <= total else NAN
        for name in ("free_bytes", "available_bytes", "cache_bytes")
    }
    counts = {name: read[name] if read[name] < COUNT_MAX else NAN for name in _COUNTERS}
    return {"total_bytes": total, **parts, **counts}
