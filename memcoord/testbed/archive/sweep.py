"""The results of a sweep as columns: what a notebook and its page read.

Owns: ``SweepResults`` and ``open_sweep``, which ``import memcoord`` offers. The directory is only
read; ``memcoord.benchmarks.sweep`` writes it.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from hypervisor.public.errors import ConfigError
from memcoord.testbed.archive import page, sweep_page
from memcoord.testbed.archive.columns import Columns, length, read_csv

TABLE = "results.csv"


class SweepResults:
    """A sweep's directory: ``table`` has a row per run, every figure a column."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"<SweepResults of {length(self.table)} runs: {self.path}>"

    @cached_property
    def table(self) -> Columns:
        """A row per run; NaN where a run has no such figure. BadRunFile when it cannot be read."""
        return read_csv(self.path / TABLE)

    @property
    def verdict(self) -> list[str]:
        """Which policy is best how often, which is nowhere far from the best: sentences."""
        return sweep_page.verdict(sweep_page.cells_of(self.table))

    @property
    def title(self) -> str:
        """The sweep's name: that of its grid."""
        return self.path.name.removesuffix(".sweep")

    def document(self) -> str:
        """Its page, whole."""
        return page.document(f"memcoord: sweep {self.title}", self._repr_html_())

    def _repr_html_(self) -> str:
        """A notebook shows the page's body."""
        return sweep_page.body(self.table, self.title)


def open_sweep(path: str | Path) -> SweepResults:
    """The results below the directory ``path``; ConfigError when there are none."""
    where = Path(path).expanduser()
    if not (where / TABLE).is_file():
        raise ConfigError("SWEEP", f"{where}: no {TABLE} in it: name the directory of a sweep")
    return SweepResults(where)
