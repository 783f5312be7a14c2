"""``memcoord report``: one HTML page of a run, a bench, a sweep, or of two runs.

Owns: finding out what is to be shown, and where the page goes: beside what it shows, unless told.
"""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Any

from hypervisor.public.errors import ConfigError
from memcoord.testbed.archive import bench_page, run_page, two_page
from memcoord.testbed.archive.columns import BadRunFile
from memcoord.testbed.archive.outcome import REPORT
from memcoord.testbed.archive.run import find_run, open_run
from memcoord.testbed.archive.sweep import TABLE, open_sweep

PAGE = "report.html"


def report_command(whats: list[str], out: str | None, is_shown: bool) -> tuple[dict[str, Any], str]:
    """Write the page; what was written, for ``--json`` and as a line.

    ConfigError or BadRunFile when there is nothing that can be shown, or the page cannot be
    written. ``is_shown``: also open it in the browser.
    """
    if len(whats) > 2:
        raise ConfigError("RUN", "one, or two to set against each other")
    text, beside = _made(whats)
    path = Path(out) if out is not None else beside
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError("--out", f"{path}: {error.strerror or error}") from None
    line = str(path)
    if is_shown and not webbrowser.open(path.resolve().as_uri()):
        line += ": no browser is to be found here, open it yourself"
    return {"page": str(path), "bytes": len(text.encode())}, line


def _made(whats: list[str]) -> tuple[str, Path]:
    """The page, and where it lies unless told."""
    if len(whats) == 2:
        first, second = (open_run(one) for one in whats)
        assert first.path is not None
        return two_page.document(first, second), first.path / "against.html"
    what = whats[0] if whats else None
    if what is not None and Path(what).suffix == ".json":
        path = Path(what)
        return bench_page.document(bench_page.read_bench(path)), path.with_suffix(".html")
    where = find_run(what)
    if not (where / REPORT).exists():
        if (where / TABLE).exists():
            return open_sweep(where).document(), where / PAGE
        for path in sorted(where.glob("*.json")):
            if _is_bench(path):
                return bench_page.document(bench_page.read_bench(path)), where / PAGE
    return run_page.document(open_run(where)), where / PAGE


def _is_bench(path: Path) -> bool:
    try:
        return bool(bench_page.read_bench(path))
    except BadRunFile:
        return False
