"""The outcome of a run as columns: verdict, table, ticks, rates, decisions, latencies.

Owns: ``Outcome``, which pages, figures and traces read; ``archive.run`` makes it of
a directory, and a simulation of what it kept. A run directory is only read. Everything is loaded at
its first use and kept, so an outcome of an hour costs nothing yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from hypervisor.public.errors import ConfigError
from hypervisor.public.latency import bucket_low_ns
from memcoord.testbed.archive.columns import (
    Columns,
    in_real_units,
    length,
    of_rows,
    rate,
    read_csv,
    read_lines,
    rows_where,
)
from memcoord.testbed.report import series, verdict
from memcoord.testbed.report.results import RunReport
from memcoord.testbed.runs.rundir import Manifest
from memcoord.testbed.watch.kept import DECISIONS, LATENCY

REPORT = "report.json"
#: A guest writes its counters when it suits it; over less than this a share exceeds 100 %.
WINDOW_S = 2.0
SERIES_COLUMNS = ("policy", "round", "tick", "time_s", "domain")
DECISION_COLUMNS = ("policy", "round", "tick", "time_s", "domain", "kind", "rule", "clamp")
LATENCY_COLUMNS = ("policy", "round", "time_s", "domain", "path", "word", "low_s", "high_s")


class Outcome:
    """The outcome of ``memcoord run`` or of a simulation.

    Columns are numpy arrays under the names of real units (``memcoord.testbed.archive.columns``).
    ``policy`` in a call is a policy as it was given, or its name before the colon when one policy
    only is so called; None is all of them. ``round`` counts from 0.
    """

    def __init__(
        self,
        report: RunReport,
        *,
        path: Path | None = None,
        manifest: Manifest | None = None,
        recorded: Columns | None = None,
        decided: Sequence[dict[str, Any]] = (),
    ) -> None:
        """``recorded``, ``decided``: what a run without a directory has instead of files."""
        self.report, self.path, self.manifest = report, path, manifest
        self.recorded, self.decided = recorded or {}, decided

    def __repr__(self) -> str:
        where = str(self.path) if self.path is not None else self.report.world
        return f"<Run of {self.report.scenario} under {', '.join(self.policies)}: {where}>"

    @property
    def policies(self) -> list[str]:
        """The policies in their order."""
        return [one.policy for one in self.report.policies]

    @property
    def verdict(self) -> list[str]:
        """Who gained, who paid, pages from disk, how sure: sentences, the most important first."""
        return verdict.sentences(self.report)

    @cached_property
    def table(self) -> Columns:
        """A row per policy and domain: counts, seconds, slowdown, and ratios to greedy."""
        rows = []
        for policy in self.report.policies:
            for one in policy.domains:
                row = msgspec.to_builtins(one)
                against = row.pop("against_baseline")
                row = {"policy": policy.policy, **row, "disk_reads": one.swap_ins + one.file_reads}
                for figure in ("seconds", "disk_reads"):
                    known = against.get(figure, {})
                    row |= {
                        f"{figure}_against_greedy{suffix}": known.get(key)
                        for key, suffix in (("value", ""), ("low", "_low"), ("high", "_high"))
                    }
                rows.append(row)
        return of_rows(rows)

    @cached_property
    def _all_ticks(self) -> Columns:
        if self.recorded:
            return in_real_units(self.recorded)
        if self.path is None or not (self.path / series.FILE).exists():
            return {name: np.empty(0) for name in SERIES_COLUMNS}
        return in_real_units(read_csv(self.path / series.FILE))

    def series(self, policy: str | None = None, *, round: int | None = None) -> Columns:
        """A row per tick and domain: bytes held and wanted, counters, seconds of waiting."""
        return rows_where(self._all_ticks, policy=self._named(policy), round=round)

    def rate(
        self,
        column: str,
        policy: str | None = None,
        *,
        round: int | None = None,
        window_s: float = WINDOW_S,
    ) -> Columns:
        """How fast the counter ``column`` of ``series`` rises, as its column ``per_s``.

        A counter of seconds (``stall_s``) becomes the share of time, at most 1. ConfigError when
        there is no such column.
        """
        found = self.series(policy, round=round)
        if column not in found:
            raise ConfigError("column", f"no {column!r} here: {', '.join(found)}")
        per_s = np.full(length(found), np.nan)
        for own in _groups(found):
            per_s[own] = rate(found["time_s"][own], found[column][own], window_s)
        if column.endswith("_s"):
            per_s = np.minimum(per_s, 1.0)
        return {**{name: found[name] for name in SERIES_COLUMNS}, "per_s": per_s}

    @cached_property
    def _all_decisions(self) -> Columns:
        rows = self.decided if self.path is None else read_lines(self.path / DECISIONS)
        whole = [row for row in rows if "more" not in row]
        made = of_rows(whole, (*DECISION_COLUMNS, "old", "new", "asked"))
        return in_real_units(
            {f"{n}_target_pages" if n in ("old", "new", "asked") else n: v for n, v in made.items()}
        )

    def decisions(
        self, policy: str | None = None, domain: str | None = None, *, round: int | None = None
    ) -> Columns:
        """What was decided, in order: ``old_target_bytes``, ``new_target_bytes``, rule and clamp.

        A target without a limit is infinite. Without rows where the run kept no decisions.
        """
        return rows_where(
            self._all_decisions, policy=self._named(policy), domain=domain, round=round
        )

    @cached_property
    def _all_latencies(self) -> Columns:
        rows = []
        for row in [] if self.path is None else read_lines(self.path / LATENCY):
            if "more" in row:
                continue
            for bucket, count in row.pop("counts", {}).items():
                low, high = (bucket_low_ns(int(bucket) + at) / 1e9 for at in (0, 1))
                rows.append({**row, "low_s": low, "high_s": high, "count": count})
        return of_rows(rows, (*LATENCY_COLUMNS, "count"))

    def latencies(
        self, policy: str | None = None, domain: str | None = None, *, round: int | None = None
    ) -> Columns:
        """Grants counted by how long they took: a row per second, domain, path, word and bucket.

        ``word`` says whose clock it was: the guest's own, or the host's.
        """
        return rows_where(
            self._all_latencies, policy=self._named(policy), domain=domain, round=round
        )

    def _named(self, policy: str | None) -> str | None:
        """The policy in full; ConfigError when there is none, or more than one."""
        if policy is None or policy in self.policies:
            return policy
        found = [name for name in self.policies if name.partition(":")[0] == policy]
        if len(found) != 1:
            known = ", ".join(self.policies)
            raise ConfigError("policy", f"{policy!r} names {len(found)} policies of: {known}")
        return found[0]


def _groups(found: Columns) -> list[np.ndarray]:
    """The rows of each domain in each round under each policy, in order."""
    keys = [
        np.unique(found[name], return_inverse=True)[1] for name in ("policy", "round", "domain")
    ]
    number = (keys[0] * (keys[1].max(initial=0) + 1) + keys[1]) * (keys[2].max(initial=0) + 1)
    number = number + keys[2]
    order = np.argsort(number, kind="stable")
    cuts = np.flatnonzero(np.diff(number[order])) + 1
    return [own for own in np.split(order, cuts) if len(own)]
