"""Tables and figure of ``memcoord bench interference``, from its JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from memcoord.benchmarks.interference import bench
from memcoord.benchmarks.tables import MISSING, Table
from memcoord.testbed.report.figures import Axis, Figure, Line

#: Drawn: without help, and with all of it.
DRAWN = (bench.PLAIN.name, "together")


def tables(result: Mapping[str, Any]) -> Iterator[Table]:
    """p50 / p99 in microseconds: by neighbours, and by protection; then what these make of p99."""
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
    yield from _ratio_tables(result)


def _ratio_tables(result: Mapping[str, Any]) -> Iterator[Table]:
    """Ratios of p99 with their intervals: of the two designs, and without help to with it."""
    head = ["", *(f"{count}" for count in bench.COUNTS)]
    lines = [
        [kind, *(_ratio(result, bench.designs_key(kind, count)) for count in bench.COUNTS)]
        for kind in bench.ALWAYS
    ]
    yield Table("p99 of cmm dom0 over that of cmm hypervisor, by neighbours", head, lines)
    for kind in bench.ALWAYS[1:]:
        lines = [
            [
                path.name,
                *(_ratio(result, bench.helped_key(path.name, kind, n)) for n in bench.COUNTS),
            ]
            for path in bench.PATHS[1:]
        ]
        yield Table(f"p99 without over with {kind}, by neighbours", head, lines)


def _ratio(result: Mapping[str, Any], key: str) -> str:
    value = result["ratios"].get(key)
    if value is None:
        return MISSING
    low, high = result.get("ratio_intervals", {}).get(key, (value, value))
    return f"{value:.2f} [{low:.2f}, {high:.2f}]" if low < high else f"{value:.2f}"


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
        for protection in DRAWN:
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
