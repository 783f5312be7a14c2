"""``memcoord plot`` and ``memcoord trace perfetto``: a run as a figure, and as a trace.

Owns: where the files go.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from hypervisor.public.errors import ConfigError
from memcoord.testbed.archive import perfetto
from memcoord.testbed.archive.bench_page import read_bench
from memcoord.testbed.archive.plots import plot, plot_figure
from memcoord.testbed.archive.run import open_run
from memcoord.testbed.report.figures import Figure

TRACE = "trace.json"


def plot_command(run: str | None, out: str, what: str) -> tuple[dict[str, Any], list[str]]:
    """Draw a run, or the figure of a bench by its JSON; the files written, and as lines."""
    if run is not None and Path(run).suffix == ".json":
        made = plot_figure(_figure_of(Path(run)), Path(out))
    else:
        made = plot(open_run(run), Path(out), what)
    written = [str(path) for path in made]
    return {"files": written}, written


def _figure_of(path: Path) -> Figure:
    from memcoord.commands.bench import bench_of

    result = read_bench(path)
    figure = bench_of(result["bench"]).figure(result)
    if figure is None or not figure.lines:
        raise ConfigError("RUN", f"{path}: bench {result['bench']} has no figure of this result")
    return figure


def perfetto_command(run: str | None, out: str | None, round: int) -> tuple[dict[str, Any], str]:
    """Write the trace, beside the run unless told; what was written, and what to do with it."""
    found = open_run(run)
    assert found.path is not None
    path = Path(out) if out is not None else found.path / TRACE
    made = perfetto.trace(found, round)
    if not made["traceEvents"]:
        raise ConfigError("--round", f"{round}: no ticks of such a round were recorded")
    try:
        path.write_bytes(msgspec.json.encode(made))
    except OSError as error:
        raise ConfigError("--out", f"{path}: {error.strerror or error}") from None
    line = f"{path}: open it at ui.perfetto.dev, or in chrome://tracing"
    return {"file": str(path), "events": len(made["traceEvents"])}, line
