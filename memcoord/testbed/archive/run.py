"""A run as a program or a notebook has it: its outcome, and how to draw and show it.

Owns: ``Run``, ``open_run`` and ``find_run``; ``import memcoord`` offers the first two.

    run = memcoord.open_run("~/.local/state/memcoord/runs/...")
    run.verdict                      # sentences
    run.table                        # a row per policy and domain
    run.series("fallow")             # a row per tick and domain
    run.rate("disk_reads", "fallow") # how fast a counter rises
    pandas.DataFrame(run.table)      # polars takes them as well
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from hypervisor.public.documents import UNREADABLE
from hypervisor.public.errors import ConfigError
from memcoord.testbed.archive.columns import BadRunFile
from memcoord.testbed.archive.outcome import REPORT, Outcome
from memcoord.testbed.report.results import RunReport
from memcoord.testbed.runs import rundir


class Run(Outcome):
    """An outcome that draws and shows itself; ``Outcome`` says what can be asked of it."""

    def plot(self, out: str | Path, what: str = "") -> list[Path]:
        """Draw it to a file (.pdf, .svg, .png), the data as CSV beside it; the files written.

        As ``memcoord plot``: ``what`` is one of ``memcoord.testbed.archive.plots.KINDS``.
        """
        from memcoord.testbed.archive.plots import plot

        return plot(self, Path(out), what)

    def _repr_html_(self) -> str:
        """A notebook shows the report."""
        from memcoord.testbed.archive.run_page import body

        return body(self)


def open_run(path: str | Path | None = None) -> Run:
    """The run in a directory, or so called below the user's runs; the newest one without ``path``.

    ConfigError when there is no such run, BadRunFile when it is none that has finished.
    """
    where = find_run(path)
    try:
        report = msgspec.json.decode((where / REPORT).read_bytes(), type=RunReport)
    except FileNotFoundError:
        manifest = rundir.read_manifest(where)
        raise BadRunFile(
            f"{where}: no {REPORT}: the {manifest.scenario} run is {manifest.state}"
        ) from None
    except OSError as error:
        raise BadRunFile(f"{where / REPORT}: {error.strerror or error}") from None
    except UNREADABLE as error:
        raise BadRunFile(f"{where / REPORT}: {error}") from None
    return Run(report, path=where, manifest=rundir.read_manifest(where))


def find_run(path: str | Path | None) -> Path:
    """The directory that ``path`` names, also by its last part alone; ConfigError without one."""
    if path is None:
        found = [one for one in rundir.runs() if (one / REPORT).is_file()]
        if not found:
            raise ConfigError("RUN", f"no finished run below {rundir.default_base()}")
        return found[0]
    wanted = Path(path).expanduser()
    for one in (wanted, rundir.default_base() / wanted):
        if one.is_dir():
            return one
    raise ConfigError("RUN", f"{path}: no such directory, nor a run of that name (memcoord ls)")
