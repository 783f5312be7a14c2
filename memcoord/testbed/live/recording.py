"""What a hypervisor of one's own published so far, as a run: ticks and decisions.

Owns: the rows that come of a subscription. Nobody reads in between: the socket holds so many
messages, and rows come off it when they are asked for. Called by
``memcoord.testbed.live.hypervisor``, which has subscribed, from one thread.
"""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from typing import Any

import msgspec

from hypervisor.public.feed import Why
from memcoord.testbed.archive.columns import of_rows
from memcoord.testbed.archive.run import Run
from memcoord.testbed.report.results import PolicyResult, RunReport
from memcoord.testbed.report.series import DOMAIN_COLUMNS, HOST_COLUMNS
from memcoord.testbed.watch.publications import Publication
from memcoord.testbed.watch.reader import FeedReader

#: The oldest rows go when there are more.
ROWS_MAX = 200_000


class Recording:
    """The feed of the hypervisor in ``run_dir``, read since ``begin_ns``, CLOCK_MONOTONIC."""

    def __init__(self, feed: FeedReader, run_dir: Path, policy: str, begin_ns: int) -> None:
        self._feed, self._run_dir, self._policy = feed, run_dir, policy
        self._begin_ns = begin_ns
        self._ticks: deque[dict[str, Any]] = deque(maxlen=ROWS_MAX)
        self._decided: deque[dict[str, Any]] = deque(maxlen=ROWS_MAX)

    def run(self) -> Run:
        """All that has come; BadStatistics when it cannot be read."""
        for message in self._feed.read():
            at_s = (message.monotonic_ns - self._begin_ns) / 1e9
            told = {"policy": self._policy, "round": 0, "time_s": at_s}
            if isinstance(message, Publication):
                self._note(message, told)
            elif isinstance(message, Why):
                told["tick"] = message.tick
                self._decided += [told | msgspec.structs.asdict(row) for row in message.rows]
        return Run(self._report(), recorded=of_rows(self._ticks), decided=list(self._decided))

    def _note(self, tick: Publication, told: dict[str, Any]) -> None:
        host = {f"host_{name}": tick.host.get(name) for name in HOST_COLUMNS}
        for domain in tick.domains:
            own = {name: domain.get(name) for name in DOMAIN_COLUMNS}
            whose = {"tick": tick.tick, "domain": domain.get("name", "?")}
            self._ticks.append({**told, **whose, **own, **host})

    def _report(self) -> RunReport:
        wall_s = (time.monotonic_ns() - self._begin_ns) / 1e9
        return RunReport(
            scenario="hypervisor",
            run_dir=str(self._run_dir),
            exit_code=0,
            wall_s=wall_s,
            tmem_capacity_pages=0,
            policies=[PolicyResult(policy=self._policy, domains=[], wall_s=wall_s)],
        )
