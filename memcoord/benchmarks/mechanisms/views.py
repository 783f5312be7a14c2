"""The tables of ``memcoord bench mechanisms``, from its JSON. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from statistics import median
from typing import Any

from hypervisor.public.units import AREA_BYTES
from memcoord.benchmarks.mechanisms.bench import BACKINGS, LOOPS, NAMES
from memcoord.benchmarks.mechanisms.kernel import KERNEL
from memcoord.benchmarks.tables import MISSING, Table, short

GIB = float(1 << 30)
TITLE = (
    "Mechanisms, pages of {pages}: medians; throughput while memory is moved, as a share of that "
    f"undisturbed, the worse of {' and '.join(LOOPS)}"
)

Cell = Callable[[Mapping[str, Any], str, str], str]


def _of_row(what: str, key: str, shown: Callable[[float], float]) -> Cell:
    """A fact of a row, or what ``shown`` makes of it; of several values, the median."""

    def cell(result: Mapping[str, Any], name: str, pages: str) -> str:
        value = result["rows"].get(f"{name} {what} {pages}", {}).get(key)
        if value is None:
            return MISSING
        return short(shown(median(value) if isinstance(value, list) else value))

    return cell


def _rate(what: str) -> Cell:
    return _of_row(what, "p50", lambda ns: AREA_BYTES / GIB / (ns / 1e9))


def _us(what: str, quantile: str = "p50") -> Cell:
    return _of_row(what, quantile, lambda ns: ns / 1e3)


def _in_all(what: str) -> Cell:
    """The time of the whole resize: what does not depend on its size is not divided by it."""

    def cell(result: Mapping[str, Any], name: str, pages: str) -> str:
        row = result["rows"].get(f"{name} {what} {pages}")
        return MISSING if row is None else short(row["p50"] * row["ops_per_sample"] / 1e3)

    return cell


def _ms_per_gib(what: str) -> Cell:
    return _of_row(f"cpu {what}", "p50", lambda ns: ns / 1e6 * GIB / AREA_BYTES)


def _extra(what: str, key: str, scale: float = 1.0) -> Cell:
    return _of_row(what, key, lambda value: scale * value)


def _share(role: str, part: str = "") -> Cell:
    """Throughput while memory is moved, of that undisturbed."""

    def cell(result: Mapping[str, Any], name: str, pages: str) -> str:
        ratio = result["ratios"].get(f"{name} {role} resizing/undisturbed{part} {pages}")
        return MISSING if ratio is None else f"{ratio:.2f}"

    return cell


LINES: dict[str, Cell] = {
    "shrink touched, GiB/s": _rate("shrink touched"),
    "  us per 2 MiB": _us("shrink touched"),
    "shrink untouched, us in all": _in_all("shrink untouched"),
    "grow, us in all": _in_all("grow"),
    "grow and touch, GiB/s": _rate("grow and touch"),
    "  us per 2 MiB ": _us("grow and touch"),
    "  share in huge pages": _extra("grow and touch", "huge_share"),
    "first usable frame, us": _us("first frame"),
    "transfer 2 MiB p50, us": _us("transfer"),
    "  p99": _us("transfer", "p99"),
    "  p99.9": _us("transfer", "p999"),
    "CPU shrinking, ms/GiB": _ms_per_gib("shrink touched"),
    "CPU grow, touch, ms/GiB": _ms_per_gib("grow and touch"),
    "granule, KiB": _extra("shrink touched", "granule_kib"),
    "donor's throughput": _share("donor"),
    "  1st percentile": _share("donor", " p1"),
    "bystander's throughput": _share("bystander"),
    "  1st percentile ": _share("bystander", " p1"),
}


def tables(result: Mapping[str, Any]) -> Iterator[Table]:
    """Per kind of pages, a line per figure and a column per mechanism that was measured."""
    for pages in BACKINGS:
        names = [
            name for name in (*NAMES, KERNEL) if f"{name} shrink touched {pages}" in result["rows"]
        ]
        if names:
            lines = [
                [head, *(cell(result, name, pages) for name in names)]
                for head, cell in LINES.items()
            ]
            yield Table(TITLE.format(pages=pages), ["", *names], lines)
