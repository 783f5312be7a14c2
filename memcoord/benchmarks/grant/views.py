"""The tables of ``memcoord bench grant``, from its JSON. Pure.

The first one says what a reader wants to know: what memory costs inside the domain, from the host,
from another domain, and from malloc. The others hold every row the first one is made of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from memcoord.benchmarks.grant.plan import (
    BUSY_SHARES,
    CELLS,
    FRESH,
    HUGE,
    NAMES,
    PAUSES_MS,
    SMALL,
    malloc,
    recycled,
    transfer,
)  # fmt: skip
from memcoord.benchmarks.tables import MISSING, Table, span_of, time_of

FIRST = (
    "What memory costs: median of the rounds' medians [its interval] / p99 of single operations, "
    "each of which contains one read of the clock"
)
PLACES = ("inside the domain", "from the host", "from another domain", "malloc, recycled",
          "malloc, fresh")  # fmt: skip
SPAN = "median of the rounds' medians [its interval]"

Result = Mapping[str, Any]


def tables(result: Result) -> Iterator[Table]:
    """The overview, then recycled memory, fresh memory, transfers, CPU and the rest."""
    yield _overview(result)
    yield _recycled(result)
    yield _fresh(result)
    yield _transfers(result)
    yield _rest(result)


def _row(result: Result, name: str) -> Mapping[str, Any] | None:
    found: Mapping[str, Any] | None = result["rows"].get(name)
    return found


def _tail(row: Mapping[str, Any]) -> str:
    return time_of(row["p99"]) if row["p99"] is not None else MISSING


def _cell(result: Result, many: str, single: str = "") -> str:
    """The median of ``many``, and the p99 of single operations."""
    row, alone = _row(result, many), _row(result, single or many)
    if row is None or alone is None:
        return MISSING
    return f"{span_of(row)} / {_tail(alone)}"


def _quickest(result: Result, what: str) -> str:
    """The allocator whose row ``what`` has the least median; "" when none was measured."""
    rows = {name: row for name in NAMES if (row := _row(result, malloc(what, name)))}
    return min(rows, key=lambda name: rows[name]["median"]) if rows else ""


def _of_quickest(result: Result, what: str, many: str = "") -> str:
    best = _quickest(result, what)
    if not best:
        return MISSING
    row = malloc(what, best)
    return f"{best}: {_cell(result, many.format(best) or row, row)}"


def _overview(result: Result) -> Table:
    fresh = {pages: malloc("fresh_2m", FRESH[pages]) for pages in FRESH}
    small = recycled("grant_local", *CELLS[0])
    rival = recycled("malloc {}", *CELLS[0])
    lines = [[
        "4 KiB", _cell(result, small, "grant_local_4k single"),
        _cell(result, "grant_credit_4k", "grant_credit_4k single"), _cell(result, "transfer_4k"),
        _of_quickest(result, "single_4k", rival),
        f"glibc: {_cell(result, malloc('fresh_4k', 'glibc'), malloc('fresh_4k_single', 'glibc'))}",
    ]]  # fmt: skip
    for pages, title in ((SMALL, "2 MiB, pages of 4 KiB"), (HUGE, "2 MiB, one page")):
        lines.append([
            title, _cell(result, f"grant_local_2m {pages}"), _cell(result, f"host_2m {pages}"),
            _cell(result, transfer(pages)), _of_quickest(result, "recycled_2m"),
            f"{FRESH[pages]}: {_cell(result, fresh[pages])}",
        ])  # fmt: skip
    return Table(FIRST, ["", *PLACES], lines)


def _median(result: Result, name: str) -> str:
    row = _row(result, name)
    return MISSING if row is None else span_of(row)


def _recycled(result: Result) -> Table:
    head = [f"{threads} thr., {live} live" for threads, live in CELLS]
    lines = [
        [who, *(_median(result, recycled(who, *cell)) for cell in CELLS)]
        for who in ("grant_local", *(f"malloc {name}" for name in NAMES))
    ]
    return Table(f"4 KiB recycled, 64 operations a sample: {SPAN}", ["", *head], lines)


def _fresh(result: Result) -> Table:
    lines = [
        [name, *(_median(result, malloc(what, name))
                 for what in ("prefaulted_4k", "fresh_4k", "fresh_2m", "256k")),
         _faults(result, name)]
        for name in NAMES
    ]  # fmt: skip
    ours = [_median(result, name) for name in ("grant_credit_4k", "transfer_4k", transfer(SMALL))]
    lines.insert(0, ["grant", *ours, _median(result, "grant_batch64_4k"), MISSING])
    head = ["", "ahead of need / prefaulted, a page", "fresh, a page", "fresh, 2 MiB",
            "64 at a time / 256 KiB, a page", "faults a page when fresh"]  # fmt: skip
    title = "Memory not used before (512 pages a sample, 2 MiB: 1 operation; all held)"
    return Table(f"{title}: {SPAN}", head, lines)


def _faults(result: Result, name: str) -> str:
    row = _row(result, malloc("fresh_4k", name))
    return MISSING if row is None else f"{row.get('page_faults_per_page', 0):.3g}"


def _transfers(result: Result) -> Table:
    cells = [(pause_ms, 0.0) for pause_ms in PAUSES_MS] + [(0.0, share) for share in BUSY_SHARES]
    lines = []
    for pause_ms, share in cells:
        names = [transfer(pages, pause_ms, share) for pages in (SMALL, HUGE)]
        rows = [_row(result, name) for name in names]
        refused = [_row(result, f"{name} refused") for name in names]
        lines.append([
            names[0].replace(f"transfer_2m {SMALL} ", ""),
            *(text for row, no in zip(rows, refused, strict=True) for text in _moved(row, no)),
        ])  # fmt: skip
    head = [""]
    for pages in (SMALL, HUGE):
        head += [f"{pages}: median [interval]", "p99", "mean", "n", "refused after"]
    title = "2 MiB from another domain, touched; the pause before each; one operation a sample"
    return Table(title, head, lines)


def _moved(row: Mapping[str, Any] | None, refused: Mapping[str, Any] | None) -> list[str]:
    no = MISSING if refused is None else time_of(refused["p50"])
    if row is None:
        return [MISSING] * 4 + [no]
    return [span_of(row), _tail(row), time_of(row["mean"]), f"{row['count']}", no]


def _rest(result: Result) -> Table:
    shown = ("grant_cpu_4k", "malloc_fresh_cpu_4k", "kernel_populate_2m", "kernel_map_2m",
             "kernel_punch_2m", "python_grant_4k", "python_free_list_4k", "python_bytearray_4k",
             "python_numpy_4k", "import_nothing", "import_frontend", "import_zmq_msgpack",
             "clock")  # fmt: skip
    lines = [
        [name, span_of(row), f"{row['ops_per_sample']}", f"{row['count']}", row.get("note", "")]
        for name in shown
        if (row := _row(result, name))
    ]
    return Table("CPU, the kernel's part, Python", ["", SPAN, "ops/sample", "samples", ""], lines)
