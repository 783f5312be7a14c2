"""The tables of ``memcoord bench mechanisms``, from its JSON. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from statistics import median
from typing import Any

from hypervisor.public.units import AREA_BYTES
from memcoord.benchmarks.mechanisms.bench import BACKINGS, LOOPS, NAMES
from memcoord.benchmarks.tables import MISSING, Table, short

GIB = float(1 << 30)
TITLE = (
    "Mechanisms, pages of {pages}: medians; throughput while memory is moved, as a share of that "
    f"undisturbed, the worse of {' and '.join(LOOPS)}"
)

Cell = Callable[[Mapping[str, Any], str, str], str]


def _rate(what: str) -> Cell:
    """GiB/s, of the median."""

    def cell(result: Mapping[str, Any], name: str, pages: str) -> str:
        row = result["rows"].get(f"{name} {what} {pages}")
        if row is None:
            return MISSING
        return short(AREA_BYTES / GIB / (row["p50"] / 1e9))

    return cell


def _us(what: str, quantile: str) -> Cell:
    def cell(result: Mapping[str, Any], name: str, pages: str) -> str:
        row = result["rows"].get(f"{name} {what} {pages}")
        return MISSING if row is None else short(row[quantile] / 1e3)

    return cell


def _cpu(what: str) -> Cell:
    """Milliseconds per GiB."""

    def cell(result: Mapping[str, Any], name: str, pages: str) -> str:
        row = result["rows"].get(f"{name} cpu {what} {pages}")
        return MISSING if row is None else short(row["p50"] / 1e6 * GIB / AREA_BYTES)

    return cell


def _extra(what: str, key: str, scale: float = 1.0) -> Cell:
    """A fact of a row besides its times; of several values, the median."""

    def cell(result: Mapping[str, Any], name: str, pages: str) -> str:
        value = result["rows"].get(f"{name} {what} {pages}", {}).get(key)
        if value is None:
            return MISSING
        return short(scale * (median(value) if isinstance(value, list) else value))

    return cell


def _share(role: str, part: str = "") -> Cell:
    """Throughput while memory is moved, of that undisturbed."""

    def cell(result: Mapping[str, Any], name: str, pages: str) -> str:
        ratio = result["ratios"].get(f"{name} {role} resizing/undisturbed{part} {pages}")
        return MISSING if ratio is None else f"{ratio:.2f}"

    return cell


LINES: dict[str, Cell] = {
    "shrink touched, GiB/s": _rate("shrink touched"),
    "  us per 2 MiB": _us("shrink touched", "p50"),
    "shrink untouched, GiB/s": _rate("shrink untouched"),
    "  us per 2 MiB ": _us("shrink untouched", "p50"),
    "grow, GiB/s": _rate("grow"),
    "  us per 2 MiB  ": _us("grow", "p50"),
    "grow and touch, GiB/s": _rate("grow and touch"),
    "  us per 2 MiB   ": _us("grow and touch", "p50"),
    "  share in huge pages": _extra("grow and touch", "huge_share"),
    "first usable frame, us": _us("first frame", "p50"),
    "transfer 2 MiB p50, us": _us("transfer", "p50"),
    "  p99": _us("transfer", "p99"),
    "  p99.9": _us("transfer", "p999"),
    "CPU shrinking, ms/GiB": _cpu("shrink touched"),
    "CPU grow, touch, ms/GiB": _cpu("grow and touch"),
    "granule, KiB": _extra("shrink touched", "granule_kib"),
    "donor's throughput": _share("donor"),
    "  1st percentile": _share("donor", " p1"),
    "bystander's throughput": _share("bystander"),
    "  1st percentile ": _share("bystander", " p1"),
    "job, MiB x min": _extra("job", "gib_min", 1024),
    "  that it used": _extra("job", "gib_min_used", 1024),
    "  in a fixed size": _extra("job", "gib_min_static", 1024),
}


def tables(result: Mapping[str, Any]) -> Iterator[Table]:
    """Per kind of pages, a line per figure and a column per mechanism that was measured."""
    for pages in BACKINGS:
        names = [name for name in NAMES if f"{name} shrink touched {pages}" in result["rows"]]
        if names:
            lines = [
                [head, *(cell(result, name, pages) for name in names)]
                for head, cell in LINES.items()
            ]
            yield Table(TITLE.format(pages=pages), ["", *names], lines)
