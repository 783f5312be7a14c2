"""The run of ``memcoord claims``: the sources that the claims asked for need, each once.

Owns: the choice of claims, and the object that ``--json`` prints. A claim whose sources gave
nothing is in it too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hypervisor.public.errors import ConfigError
from memcoord.benchmarks.claims import sources, views
from memcoord.benchmarks.claims.catalogue import CLAIMS
from memcoord.benchmarks.claims.claim import Claim, judge
from memcoord.benchmarks.claims.sources import SOURCES, Source
from memcoord.benchmarks.runner import Bench, Result
from memcoord.benchmarks.tables import Table
from memcoord.testbed.report.progress import Progress
from memcoord.testbed.runs import facts
from memcoord.testbed.runs.rundir import RunDir


def chosen(which: str | None, claims: Sequence[Claim] = CLAIMS) -> tuple[Claim, ...]:
    """The claim ``which``, those whose ids begin so, or all; ConfigError when there is none."""
    if which is None:
        return tuple(claims)
    exact = [claim for claim in claims if claim.id.lower() == which.lower()]
    found = exact or [claim for claim in claims if claim.id.lower().startswith(which.lower())]
    if not which or not found:
        known = ", ".join(claim.id for claim in claims)
        raise ConfigError("claims", f"{which!r} is no claim: there are {known}")
    return tuple(found)


class ClaimsRun(Bench):
    """The claims ``which``; ``known`` are sources in place of the project's."""

    name = "claims"

    def __init__(
        self, which: str | None, is_quick: bool, known: Mapping[str, Source] = SOURCES
    ) -> None:
        self._claims, self._is_quick, self._sources = chosen(which), is_quick, known

    @property
    def expected_s(self) -> float:
        """About how long it takes on two quiet cores."""
        needed = {name for claim in self._claims for name in claim.sources}
        return sum(self._sources[name].expected_s(self._is_quick) for name in needed)

    def measure(self, where: RunDir | Path, progress: Progress) -> dict[str, Any]:
        """Run the sources; judge the claims."""
        del where
        machine = facts.describe()
        names = list(dict.fromkeys(name for claim in self._claims for name in claim.sources))
        progress.begin("claims", len(names))
        results = sources.measure(names, self._is_quick, progress.advance, self._sources)
        told = {
            name: {"took_s": found.get("took_s"), "missing": found.get("missing", "")}
            for name, found in results.items()
        }
        return {
            "bench": self.name,
            "quick": self._is_quick,
            "machine": {**machine, "versions": facts.versions()},
            "sources": told,
            "claims": [judge(claim, results) for claim in self._claims],
            "ratios": {},
        }

    def tables(self, result: Result) -> Iterator[Table]:
        """A line per figure."""
        yield views.table(result)

    def lines(self, result: Result) -> list[str]:
        """Why, and the sum of verdicts."""
        return views.closing_lines(result)

    def parts(self, result: Result) -> dict[str, str]:
        """The table for docs/claims.md."""
        return {"claims": views.markdown(result) if result else ""}
