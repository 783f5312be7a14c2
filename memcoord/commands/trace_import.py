"""``memcoord trace import``: a trace in any form, written in ours.

Owns: the verb, its options, what is printed of a trace that was written. Called by
``memcoord.commands.trace_verbs``.
"""

from pathlib import Path
from typing import Any

import msgspec

from hypervisor.public.errors import ConfigError
from memcoord.testbed.scenarios.trace_files import TraceForm
from memcoord.testbed.traces.converted import (
    PHASE_PAGES_MAX,
    Converted,
    check_name,
    convert,
)
from memcoord.testbed.traces.table import read_table

OUT, EXACT_FROM = "--out", "--exact-from"
#: What a trace is packed with when no name is given.
SUFFIX = ".csv.xz"

Told = tuple[dict[str, Any], list[str]]


def import_trace(file: str, form: TraceForm, out: str | None, exact_from: int) -> Told:
    """Write the trace in ``file`` to ``out``: what the verb prints. ConfigError."""
    path = Path(out or _name_for(file, exact_from))
    check_options(path, exact_from)
    if path.exists() and Path(file).exists() and path.samefile(file):
        raise ConfigError(OUT, f"{str(path)!r} is the file itself")
    table = read_table(file, "FILE", form)
    return told(convert(table, path, phase_pages=exact_from), exact_from)


def check_options(path: Path, exact_from: int) -> None:
    """ConfigError when no trace can be written so."""
    check_name(path, OUT)
    if not 0 <= exact_from <= PHASE_PAGES_MAX:
        raise ConfigError(EXACT_FROM, f"must be 0 to {PHASE_PAGES_MAX} pages")


def told(done: Converted, exact_from: int) -> Told:
    """What is printed of a trace that was written."""
    rows = f"{done.rows:,} rows"
    if exact_from:
        rows += f", whose LRU misses are exact for memories of {exact_from:,} pages and more"
    lines = [
        f"{done.path}: {done.references:,} references to {done.pages:,} pages in {rows}",
        f"memcoord sim --trace {done.path}",
        f'workload = {{ kind = "page-trace", trace = "{done.path}", resident = "1 MiB" }}',
    ]
    return msgspec.to_builtins(done), lines


def _name_for(file: str, exact_from: int) -> str:
    """A name in this folder: that of the file without its endings, and what it is exact for."""
    stem = Path(file).name
    for suffix in (".gz", ".xz", ".zst", ".csv", ".txt", ".bin", ".out", ".log"):
        stem = stem.removesuffix(suffix)
    return f"{stem}_k{exact_from}{SUFFIX}" if exact_from else f"{stem}_imported{SUFFIX}"
