"""The page of a bench's JSON: every row beside its rival on one axis, targets in words, the table.

Owns: what is drawn of the object that ``memcoord bench NAME --json`` prints and a run directory
keeps. A bench whose rows are not times has its tables only. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from hypervisor.public.documents import UNREADABLE
from memcoord.testbed.archive import page, svg
from memcoord.testbed.archive.columns import BadRunFile
from memcoord.testbed.archive.latencies import seconds

QUANTILES = ("p50", "p90", "p99", "p999")
ROW_HEADS = ("row", "samples", "p50", "95 % of the median", "p90", "p99", "p99.9", "most")
TARGET_HEADS = ("target", "measured", "must", "aims at", "outcome")
OUTCOMES = {
    "aim": ("reached what it aims at", "t good"),
    "must": ("keeps what it must", "t"),
    "missed": ("missed", "t bad"),
    "unmeasured": ("not measured", "t"),
}
PAIRS_MAX = 80
ROWS_MAX = 400
NS = 1e-9

Result = Mapping[str, Any]


def read_bench(path: Path) -> dict[str, Any]:
    """The JSON of a bench; BadRunFile when the file is none."""
    try:
        result = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except OSError as error:
        raise BadRunFile(f"{path}: {error.strerror or error}") from None
    except UNREADABLE as error:
        raise BadRunFile(f"{path}: {error}") from None
    if not isinstance(result.get("bench"), str):
        raise BadRunFile(f"{path}: not the JSON of a bench: it has no key 'bench'")
    return result


def document(result: Result) -> str:
    """The whole page."""
    title = f"bench {result.get('bench', '')}"
    return page.document(f"memcoord: {title}", page.article(title, _parts(result)))


def _parts(result: Result) -> Iterator[str]:
    yield page.verdict(verdict(result))
    targets = result.get("targets") or {}
    if isinstance(targets, Mapping) and targets:
        yield page.heading("Targets")
        yield page.table("Targets", TARGET_HEADS, list(_targets(targets)), words=1)
    rows = _timed(result)
    if rows:
        yield page.heading("Rows beside their rivals")
        yield page.note(
            "Dot: the median. Thick: to the 90th percentile. Thin: to the highest quantile that "
            "the count carries. Dotted: to the worst. Further left is quicker; x at the right: "
            "the median of the row over that of the row below."
        )
        yield svg.spans(_spans(result, rows), "Latency by row; the table has the numbers", _axis)
        yield page.table("Rows", ROW_HEADS, [_row(*one) for one in rows.items()][:ROWS_MAX])
    else:
        yield from _plain(result)
    yield page.heading("Where and when")
    yield page.listed(_machine(result.get("machine") or {}))


def verdict(result: Result) -> list[str]:
    """How many targets were reached, and which were missed."""
    targets = result.get("targets") or {}
    if not isinstance(targets, Mapping) or not targets:
        return [f"bench {result.get('bench', '')} has no targets; its rows are below."]
    by_outcome: dict[str, list[str]] = {}
    for key, target in targets.items():
        by_outcome.setdefault(target["reached"], []).append(key)
    measured = len(targets) - len(by_outcome.get("unmeasured", ()))
    kept = measured - len(by_outcome.get("missed", ()))
    said = [f"{kept} of {measured} targets are kept, {len(by_outcome.get('aim', ()))} in full."]
    if missed := by_outcome.get("missed"):
        said.append(f"Missed: {', '.join(missed)}.")
    warnings = (result.get("machine") or {}).get("warnings") or []
    return [*said, *(f"Careful: {text}." for text in warnings)]


def _targets(targets: Mapping[str, Any]) -> Iterator[list[page.Cell]]:
    for key, target in targets.items():
        than = "at least" if target.get("higher") else "at most"
        measured = target["measured"]
        yield [
            key,
            "-" if measured is None else f"x{measured:.3g}",
            f"{than} x{target['must']:g}",
            f"x{target['aim']:g}",
            OUTCOMES.get(target["reached"], (target["reached"], "t")),
        ]


def _timed(result: Result) -> dict[str, Mapping[str, Any]]:
    """The rows that are times in nanoseconds."""
    rows = result.get("rows")
    if not isinstance(rows, Mapping):
        return {}
    return {
        name: row
        for name, row in rows.items()
        if isinstance(row, Mapping) and row.get("unit") == "ns" and row.get("p50") is not None
    }


def _spans(result: Result, rows: Mapping[str, Mapping[str, Any]]) -> list[svg.Span]:
    """Each ratio's row above its rival; then the rows that no ratio names."""
    made: list[svg.Span] = []
    named: set[str] = set()
    pairs = [tuple(key.split("/")) for key in (result.get("ratios") or {})]
    for pair in [one for one in pairs if len(one) == 2 and set(one) <= set(rows)][:PAIRS_MAX]:
        ours, rival = pair
        ratio = rows[ours]["p50"] / rows[rival]["p50"] if rows[rival]["p50"] else None
        told = "" if ratio is None else f"x{ratio:.2g}"
        made += [_span(ours, rows[ours], 0, told, True), _span(rival, rows[rival], 4)]
        named |= set(pair)
    made += [_span(name, row, 1) for name, row in rows.items() if name not in named]
    return made[:ROWS_MAX]


def _span(
    name: str, row: Mapping[str, Any], colour: int, note: str = "", is_bold: bool = False
) -> svg.Span:
    known = [row[q] for q in QUANTILES if row.get(q) is not None]
    ends = [row[q] for q in ("p50", "p90") if row.get(q) is not None]
    most = max([*known, *(row[q] for q in ("max",) if row.get(q) is not None)])
    return svg.Span(name, row["p50"], ends[-1], max(known), most, colour, note, is_bold)


def _axis(value_ns: float, digits: int = 3) -> str:
    return seconds(value_ns * NS, digits) if value_ns > 0 else "0"


def _row(name: str, row: Mapping[str, Any]) -> list[page.Cell]:
    bounds = [row.get(key) for key in ("p50_low", "p50_high")]
    known = [one for one in bounds if one is not None]
    between = " to ".join(map(_axis, known)) if len(known) == 2 else "-"
    found = ["too few" if row.get(q) is None else _axis(row[q]) for q in QUANTILES]
    most = "-" if row.get("max") is None else _axis(row["max"])
    return [name, f"{row.get('count', 0):,}", found[0], between, *found[1:], most]


def _plain(result: Result) -> Iterator[str]:
    """Every list of like objects of the result as a table; single values as a list."""
    lines = []
    for key, value in result.items():
        if key in ("bench", "machine", "targets"):
            continue
        rows = value if isinstance(value, list) else None
        if (
            isinstance(value, Mapping)
            and value
            and all(isinstance(v, Mapping) for v in value.values())
        ):
            rows = [{"name": name, **inner} for name, inner in value.items()]
        if rows and all(isinstance(row, Mapping) for row in rows):
            yield page.heading(key.replace("_", " "))
            yield _table(key, rows[:ROWS_MAX])
        else:
            lines.append(f"{key}: {_shown(value)}")
    yield page.listed(lines)


def _table(key: str, rows: Sequence[Mapping[str, Any]]) -> str:
    heads = list(dict.fromkeys(name for row in rows for name in row))
    words = next((at for at, name in enumerate(heads) if _is_number(rows[0].get(name))), len(heads))
    cells = [[_shown(row.get(name)) for name in heads] for row in rows]
    return page.table(key, heads, cells, words=max(words, 1))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_shown(inner)}" for key, inner in value.items())
    return str(value)


def _machine(machine: Mapping[str, Any]) -> list[str]:
    return [f"{key.replace('_', ' ')}: {_shown(value)}" for key, value in machine.items()]
