"""Tables and figure of ``memcoord bench interference``, from its JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from memcoord.benchmarks.interference import bench
from memcoord.benchmarks.tables import MISSING, Table
from memcoord.testbed.report.figures import Axis, Figure, Line


def tables(result: Mapping[str, Any]) -> Iterator[Table]:
    """p50 / p99 in microseconds: by neighbours, and by protection."""
    for protection in bench.ALWAYS:
        head = ["", *(f"{count}" for count in bench.COUNTS)]
        lines = [
            [path.name, *(_cell(result, path.name, protection, count) for count in bench.COUNTS)]
            for path in bench.PATHS
        ]
        yield Table(f"{protection}: us, p50 / p99, by CPU-bound neighbours", head, lines)
    kinds = [kind.name for kind in bench.PROTECTIONS]
    lines = [
        [path.name, *(_cell(result, path.name, kind, bench.COMPARED) for kind in kinds)]
        for path in bench.PATHS
    ]
    yield Table(f"{bench.COMPARED} neighbours: us, p50 / p99", ["", *kinds], lines)


def _cell(result: Mapping[str, Any], path: str, protection: str, count: int) -> str:
    row = result["rows"].get(bench.row_name(path, protection, count))
    if row is None:
        return MISSING
    return " / ".join(_us(row[quantile]) for quantile in ("p50", "p99"))


def _us(value_ns: float | None) -> str:
    if value_ns is None:  # more than the samples can carry
        return MISSING
    value = value_ns / 1e3
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def figure(result: Mapping[str, Any]) -> Figure:
    """p99 by neighbours: a line per path, dashed with every protection."""
    lines = []
    for number, path in enumerate(bench.PATHS):
        for protection in bench.ALWAYS:
            found = [
                (index, result["rows"].get(bench.row_name(path.name, protection, count)))
                for index, count in enumerate(bench.COUNTS)
            ]
            points = [(index, row["p99"] / 1e3) for index, row in found if row and row["p99"]]
            if points:
                name = path.name if protection == "plain" else f"{path.name}, {protection}"
                lines.append(Line(name, points, number, protection != "plain"))
    counts = tuple(str(count) for count in bench.COUNTS)
    x_axis = Axis("CPU-bound neighbours", names=counts)
    return Figure(lines, x_axis, Axis("p99, us", is_log=True))
