"""Files of a run as columns of numpy in real units: bytes and seconds, never pages and -1.

Owns: the conversion, in one place, so that a page, a figure and a notebook show the same number.
The rules: a column in frames or pages becomes bytes, ``_ns`` becomes ``_s``, ``_permille`` a share
of 0 to 1; a negative number was "not known", which is NaN, or of a target "no limit", which is
infinite. Counts stay counts. pandas and polars take such a dict as it is. Pure but for reading.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from hypervisor.public.documents import UNREADABLE
from hypervisor.public.errors import MemcoordError
from hypervisor.public.units import FRAME_BYTES

Columns = dict[str, NDArray[Any]]

CHUNK_ROWS = 50_000
NS_PER_S = 1e9
#: What columns of a recording are called here; ``guest_`` goes from the others.
NAMES = {
    "current_frames": "ram_frames",
    "target_frames": "ram_target_frames",
    "resident_frames": "ram_resident_frames",
    "tmem_used_pages": "tmem_pages",
    "puts": "tmem_puts",
    "puts_failed": "tmem_puts_refused",
    "gets": "tmem_gets",
    "gets_hit": "tmem_gets_hit",
    "flushes": "tmem_flushes",
    "guest_idle_permille": "idle_share_permille",
}
#: Suffix of a column, of what it becomes, and the factor between them.
UNITS = (
    ("_frames", "_bytes", float(FRAME_BYTES)),
    ("_pages", "_bytes", float(FRAME_BYTES)),
    ("_ns", "_s", 1 / NS_PER_S),
    ("_permille", "", 1 / 1000),
)


class BadRunFile(MemcoordError):
    """A file of a run cannot be read; the text says which and why."""


def read_csv(path: Path) -> Columns:
    """The columns of a CSV file with a header, text where a cell is no number.

    A last row that was cut off is left out. BadRunFile when there is no such file.
    """
    parts: dict[str, list[NDArray[Any]]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.reader(file)
            header = next(rows, [])
            parts = {name: [] for name in header}
            while chunk := list(islice(rows, CHUNK_ROWS)):
                whole = [row for row in chunk if len(row) == len(header)]
                for name, cells in zip(header, zip(*whole, strict=True), strict=False):
                    parts[name].append(_column(cells))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadRunFile(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    return {name: np.concatenate(found or [np.empty(0)]) for name, found in parts.items()}


def _column(cells: Sequence[str]) -> NDArray[Any]:
    try:
        return np.array([cell or "nan" for cell in cells], dtype=np.float64)
    except ValueError:
        return np.array(cells, dtype=np.str_)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file with one JSON object per line, a cut last line left out; [] without."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise BadRunFile(f"{path}: {error.strerror or error}") from None
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(msgspec.json.decode(line, type=dict[str, Any]))
        except UNREADABLE as error:
            if number < len(lines):
                raise BadRunFile(f"{path}, line {number}: {error}") from None
    return found


def of_rows(rows: Sequence[Mapping[str, Any]], names: Iterable[str] = ()) -> Columns:
    """Columns of rows with the same keys; NaN, or no text, where a row lacks one.

    ``names`` are there in any case, and first.
    """
    wanted = dict.fromkeys([*names, *(name for row in rows for name in row)])
    return {name: _cells([row.get(name) for row in rows]) for name in wanted}


def _cells(values: Sequence[Any]) -> NDArray[Any]:
    if all(value is None or isinstance(value, int | float) for value in values):
        return np.array([np.nan if value is None else value for value in values], np.float64)
    return np.array(["" if value is None else str(value) for value in values], np.str_)


def in_real_units(raw: Mapping[str, NDArray[Any]]) -> Columns:
    """The columns of a recording under the names and in the units that this module promises."""
    made: Columns = {}
    for source, values in raw.items():
        name = NAMES.get(source, source.removeprefix("guest_"))
        if values.dtype.kind not in "if":
            made[name] = values
            continue
        known = values.astype(np.float64)
        if source not in ("time_s", "time_ns"):
            unknown = np.inf if "target" in name else np.nan
            known = np.where(known < 0, unknown, known)
        for suffix, becomes, factor in UNITS:
            if name.endswith(suffix):
                name, known = name.removesuffix(suffix) + becomes, known * factor
                break
        made[name] = known
    if "swap_ins" in made:
        files = made.get("file_reads", np.zeros(len(made["swap_ins"])))
        made["disk_reads"] = made["swap_ins"] + np.nan_to_num(files)
    return made


def length(columns: Columns) -> int:
    """How many rows there are."""
    return len(next(iter(columns.values()), ()))


def rows_where(columns: Columns, **equal: str | int | None) -> Columns:
    """The rows whose columns have these values; None stands for any value."""
    if not length(columns):
        return columns
    chosen = np.ones(length(columns), dtype=bool)
    for name, value in equal.items():
        if value is not None:
            chosen &= columns[name] == value
    return {name: values[chosen] for name, values in columns.items()}


def by_domain(columns: Columns) -> dict[str, Columns]:
    """The rows of each domain, in the order in which domains first came; of one policy's round."""
    if not length(columns):
        return {}
    names, key = np.unique(columns["domain"], return_inverse=True)
    order = np.argsort(key, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(key))[:-1])
    found = dict(zip(names.tolist(), parts, strict=True))
    return {
        name: {column: values[found[name]] for column, values in columns.items()}
        for name in sorted(found, key=lambda one: int(found[one][0]))
    }


def in_order(values: NDArray[Any]) -> list[str]:
    """The different values of a column of text, as they first came."""
    return list(dict.fromkeys(values.tolist()))


def rate(
    time_s: NDArray[np.float64], counter: NDArray[np.float64], window_s: float
) -> NDArray[np.float64]:
    """How fast a counter rises, per second over the last ``window_s`` up to each sample.

    NaN where nothing came before. Never negative: a counter that fell was started anew. A guest
    writes its counters when it suits it, so a window shorter than about two seconds shows jumps.
    """
    if not len(time_s):
        return np.empty(0)
    before = np.searchsorted(time_s, time_s - window_s, side="right") - 1
    before = np.maximum(before, 0)
    span = time_s - time_s[before]
    risen = np.maximum(counter - counter[before], 0.0)
    return np.where(span > 0, risen / np.where(span > 0, span, 1.0), np.nan)


def joined(parts: Sequence[Columns]) -> Columns:
    """The rows of all parts, which have the same columns, one after the other."""
    if not parts:
        return {}
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def write_csv(columns: Columns, path: Path) -> None:
    """Write them as ``read_csv`` reads them; BadRunFile when that cannot be."""
    cells = [
        [text if isinstance(text, str) else f"{text:.12g}" for text in values.tolist()]
        for values in columns.values()
    ]
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(zip(*cells, strict=True))
    except OSError as error:
        raise BadRunFile(f"{path}: {error.strerror or error}") from None
