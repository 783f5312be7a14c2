"""What a run keeps of its feed beside the ticks: decisions, and how long grants took.

Owns: ``decisions.jsonl`` and ``latency.jsonl`` of a run directory, their columns and their bounds:
one writer, the process of the run, and what reads them back. One JSON object a line. Times are
seconds since the start of the policy's run, as in ``series.csv``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self

import msgspec

from hypervisor.public.documents import UNREADABLE
from hypervisor.public.feed import DecisionRow, Latencies, LatencyRow, Why
from memcoord.testbed.watch.latencies import since

DECISIONS, LATENCY = "decisions.jsonl", "latency.jsonl"
#: Of each file. A policy that moves 64 targets ten times a second fills it in ten minutes.
FILE_BYTES_MAX = 64 << 20


class KeptDecision(msgspec.Struct, frozen=True, kw_only=True):
    """A line of ``decisions.jsonl``: one decision under ``policy``. Pages and frames of 4 KiB."""

    policy: str  # under which
    round: int  # from 0
    tick: int  # of the policy's run
    time_s: float  # since the start of the policy's run
    domain: str  # whose target
    kind: str  # tmem, ram, policy or operator
    old: int  # the target before; -1: no limit
    new: int  # the target after
    rule: str  # why, in the policy's words
    asked: int | None = None  # what the plan wanted; none: not told
    clamp: str = ""  # what the coordinator made of it: scaled, clamped, lowered


class KeptLatency(msgspec.Struct, frozen=True, kw_only=True):
    """A line of ``latency.jsonl``: requests for memory that were answered since the line before.

    ``counts``: by the number of the bucket (``hypervisor/public/latency.py``).
    """

    policy: str  # under which
    round: int  # from 0
    time_s: float  # since the start of the policy's run
    domain: str  # who waited
    path: str  # ring or transfer
    word: str  # guest or host: whose clock
    counts: dict[int, int]  # how many by bucket: docs/watching.md says where each begins


class _Lines:
    """A file of lines that stops to grow at a bound, and says so in its last line."""

    def __init__(self, path: Path) -> None:
        self._file: IO[bytes] = path.open("wb")
        self._bytes = 0
        self._is_full = False

    def add(self, policy: str, rows: list[msgspec.Struct]) -> None:
        if self._is_full or not rows:
            return
        data = b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
        if self._bytes + len(data) > FILE_BYTES_MAX:
            self._is_full = True
            data = msgspec.json.encode({"policy": policy, "more": True}) + b"\n"
        self._bytes += len(data)
        self._file.write(data)
        self._file.flush()  # a reader of the file during the run sees whole lines

    def close(self) -> None:
        self._file.close()


class Kept:
    """Both files of one run, all policies. Use as a context manager; OSError as files give it."""

    def __init__(self, directory: Path) -> None:
        self._decisions = _Lines(directory / DECISIONS)
        self._latency = _Lines(directory / LATENCY)
        self._before: dict[tuple[str, int, str, str, str], dict[int, int]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._decisions.close()
        self._latency.close()

    def decided(self, policy: str, round_index: int, begin_s: float, why: Why) -> None:
        """Append the decisions of a tick, of a run that began at ``begin_s`` of the clock."""
        at_s = round(why.monotonic_ns / 1e9 - begin_s, 4)
        kept = [_kept(policy, round_index, why.tick, at_s, row) for row in why.rows]
        self._decisions.add(policy, [*kept])

    def took(self, policy: str, round_index: int, begin_s: float, told: Latencies) -> None:
        """Append what was counted since the last call."""
        at_s = round(told.monotonic_ns / 1e9 - begin_s, 4)
        self._latency.add(
            policy,
            [
                KeptLatency(
                    policy=policy,
                    round=round_index,
                    time_s=at_s,
                    domain=row.domain,
                    path=row.path,
                    word=row.word,
                    counts=counts,
                )
                for row in told.rows
                if (counts := self._new(policy, round_index, row))
            ],
        )

    def _new(self, policy: str, round_index: int, row: LatencyRow) -> dict[int, int]:
        key = (policy, round_index, row.domain, row.path, row.word)
        before, self._before[key] = self._before.get(key, {}), row.counts
        return since(row.counts, before)


def _kept(policy: str, round_index: int, tick: int, at_s: float, row: DecisionRow) -> KeptDecision:
    return KeptDecision(
        policy=policy,
        round=round_index,
        tick=tick,
        time_s=at_s,
        **{name: getattr(row, name) for name in DecisionRow.__struct_fields__},
    )


def decisions(directory: Path) -> Iterator[KeptDecision]:
    """The decisions kept in a run directory, in their order; none where there is no file."""
    return _read(directory / DECISIONS, KeptDecision)


def latencies(directory: Path) -> Iterator[KeptLatency]:
    """The latencies kept in a run directory, in their order; none where there is no file."""
    return _read(directory / LATENCY, KeptLatency)


def _read(path: Path, kind: type[Any]) -> Iterator[Any]:
    decoder = msgspec.json.Decoder(kind)
    with suppress(FileNotFoundError), path.open("rb") as file:
        for line in file:
            # The last line of a run that was killed, and the one that says that there were more.
            with suppress(*UNREADABLE):
                yield decoder.decode(line)
