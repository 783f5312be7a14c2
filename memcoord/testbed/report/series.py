"""A run over time: one row per domain and tick.

Owns: ``series.csv`` of a run directory and the samples for the chart. It is fed with the
hypervisor's publications; every number is copied from them, none is computed here. A row has the
time of its tick, whenever the tick was read.
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from memcoord.testbed.watch.publications import Publication

FILE = "series.csv"
#: Samples kept in memory for the chart; only the disk bounds the file.
SAMPLES_MAX = 200_000
#: Of one policy in one round: so many ticks are written whole, of those that follow one in so many.
#: 64 domains at ten ticks a second would fill 370 MB an hour.
WHOLE_TICKS, THIN = 10_000, 10

_RAM = ("current_frames", "target_frames", "resident_frames")
_TMEM = ("tmem_used_pages", "tmem_target_pages")
_CALLS = ("puts", "puts_failed", "gets", "gets_hit", "flushes")
_WORK = ("guest_references", "guest_faults", "guest_swap_ins", "guest_swap_outs")
_NEED = ("guest_committed_frames", "guest_stall_ns", "guest_idle_permille")
_PATHS = ("grants_credit", "grants_ring", "grants_transfer", "reclaimed_areas")
DOMAIN_COLUMNS = (*_RAM, *_TMEM, *_CALLS, *_WORK, *_NEED, *_PATHS)
HOST_COLUMNS = ("free_frames", "installed_frames", "tmem_frames", "tmem_used_pages")


@dataclass(frozen=True)
class Sample:
    """One domain's tmem and RAM at one tick; a target of -1 means no limit."""

    policy: str
    time_s: float
    domain: str
    used_pages: int
    target_pages: int
    ram_frames: int = 0
    ram_target_frames: int = 0


class Series:
    """The file and the samples of one run, all policies. Use as a context manager."""

    def __init__(self, directory: Path) -> None:
        self.samples: list[Sample] = []
        self.capacity_pages = 0  # most that tmem could hold at any tick seen
        self._ticks: dict[tuple[str, int], int] = {}  # seen so far, by policy and round
        self._file = (directory / FILE).open("w", newline="", encoding="ascii")
        self._writer = csv.writer(self._file)
        header = ["policy", "round", "tick", "time_s", "domain", *DOMAIN_COLUMNS]
        self._writer.writerow([*header, *(f"host_{column}" for column in HOST_COLUMNS)])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(
        self, policy: str, publication: Publication, time_s: float, round_index: int = 0
    ) -> None:
        """Append one tick, ``time_s`` after the start of the policy's run; charts show round 0.

        A tick of the time before the start is in no series, and of a long run only a part is.
        """
        where = policy, round_index
        seen = self._ticks.get(where, 0)
        if time_s < 0 or (seen >= WHOLE_TICKS and publication.tick % THIN):
            return
        self._ticks[where] = seen + 1
        host = [publication.host.get(column, "") for column in HOST_COLUMNS]
        capacity = publication.host.get("tmem_capacity_pages", 0)
        self.capacity_pages = max(self.capacity_pages, capacity)
        for domain in publication.domains:
            name = str(domain.get("name", "?"))
            values = [_number(domain, column) for column in DOMAIN_COLUMNS]
            row = [policy, round_index, publication.tick, f"{time_s:.4f}", name, *values, *host]
            self._writer.writerow(row)
            if round_index == 0 and len(self.samples) < SAMPLES_MAX:
                tmem = domain.get("tmem_used_pages", 0), domain.get("tmem_target_pages", -1)
                ram = domain.get("current_frames", 0), domain.get("target_frames", 0)
                self.samples.append(Sample(policy, time_s, name, *tmem, *ram))
        self._file.flush()  # a reader of the file during the run sees whole ticks


def _number(domain: dict[str, Any], column: str) -> int | str:
    value = domain.get(column, "")
    return value if isinstance(value, int) else ""
