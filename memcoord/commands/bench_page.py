"""Fill the generated parts of a bench's page from a saved result, and draw its figure.

``python -m memcoord.commands.bench_page RESULT.json docs/PAGE.md`` does what ``memcoord bench
--markdown`` does after measuring.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from memcoord.benchmarks.runner import fill_page
from memcoord.commands.bench import bench_of


def write(result_path: Path, page: Path) -> None:
    """Fill ``page`` from the JSON at ``result_path``; ConfigError when the page has no markers."""
    result = msgspec.json.decode(result_path.read_bytes())
    bench = bench_of(result["bench"])
    fill_page(bench, None, page)
    fill_page(bench, result, page)


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))
