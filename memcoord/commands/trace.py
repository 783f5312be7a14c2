"""``memcoord sim --trace``: misses of one stream for several cache sizes, or its whole curve.

Owns: the output. The JSON has ``points`` (``cache_pages`` and ``misses`` of each size, in the order
of the sizes asked for), ``references``, ``stands_for`` (more where the trace was made shorter) and
``pages``. With ``--mrc`` it also has ``curve``, the exact LRU misses of every size from 0 to
``pages``; with ``--shards`` also ``shards``, the estimate of that curve. Called by
``memcoord.cli``.
"""

import importlib
import sys
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from hypervisor.public.errors import ConfigError
from memcoord.simulation.caches.trace import Trace, load
from memcoord.testbed.scenarios.trace_files import TraceForm

#: Modules with a ``replay``. Only the one asked for is imported, because importing one compiles it.
REPLACEMENTS = {
    "lru": "memcoord.simulation.caches.lru",
    "fifo": "memcoord.simulation.caches.fifo",
    "clock": "memcoord.simulation.caches.second_chance",
    "second-chance": "memcoord.simulation.caches.second_chance",
}
#: More pages than any host has, and far below the limit of the kernels' 64-bit integers.
CACHE_PAGES_MAX = 1 << 52
#: How many sizes, in equal steps up to all pages, when none are asked for.
DEFAULT_SIZES = 10


def trace_command(
    file: str,
    cache_pages: str,
    *,
    form: TraceForm,
    as_json: bool,
    replacement: str = "lru",
    mrc: bool = False,
    shards: float = 0.0,
    show: Callable[[str], None],
) -> int:
    """Run the verb on ``file``, read as ``form`` says; 0. ConfigError names the wrong option.

    ``cache_pages`` is a list of sizes in pages, as "1000,2000"; ``shards`` is the rate of the
    estimate, 0 for none; ``show`` prints a line.
    """
    if replacement not in REPLACEMENTS:
        raise ConfigError("--replacement", f"{replacement!r} is none of {', '.join(REPLACEMENTS)}")
    if shards and not 0 < shards <= 1:
        raise ConfigError("--shards", f"{shards}: a rate above 0 and at most 1")
    sizes = _sizes(cache_pages)
    trace = load(file, form)
    if not sizes:
        parts = np.arange(1, DEFAULT_SIZES + 1) * trace.page_count / DEFAULT_SIZES
        sizes = sorted({max(int(part), 1) for part in parts})
    result = _measured(trace, sizes, replacement, mrc, shards)
    if as_json:
        show(msgspec.json.encode(result).decode())
    else:
        for line in _lines(trace, result, replacement):
            show(line)
    return 0


def _sizes(text: str) -> list[int]:
    try:
        sizes = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        sizes = [-1]
    if not all(0 <= size <= CACHE_PAGES_MAX for size in sizes):
        raise ConfigError("--cache-pages", f"{text!r}: numbers of pages, as 1000,2000")
    return sizes


def _measured(
    trace: Trace, sizes: list[int], replacement: str, mrc: bool, shards: float
) -> dict[str, Any]:
    counts = {"references": len(trace), "stands_for": trace.stands_for, "pages": trace.page_count}
    result: dict[str, Any] = {**counts}
    exact = _exact(trace) if mrc or shards else None
    if exact is not None and replacement == "lru":
        misses = [int(exact[min(size, trace.page_count)]) for size in sizes]
    else:
        replay = importlib.import_module(REPLACEMENTS[replacement]).replay
        misses = [replay(trace.pages, trace.page_count, size) for size in _progress(sizes)]
    result["points"] = [
        {"cache_pages": size, "misses": count} for size, count in zip(sizes, misses, strict=True)
    ]
    if mrc and exact is not None:
        result["curve"] = exact.tolist()
    if shards and exact is not None:
        result["shards"] = _estimated(trace, shards, exact)
    return result


def _exact(trace: Trace) -> NDArray[np.int64]:
    from memcoord.simulation.caches.reuse import curve, histogram

    return curve(histogram(trace.pages, trace.page_count))


def _estimated(trace: Trace, rate: float, exact: NDArray[np.int64]) -> dict[str, Any]:
    from memcoord.simulation.caches.reuse import sampled_curve

    estimate = sampled_curve(trace.pages, trace.page_count, rate)
    return {
        "rate": rate,
        "curve": np.round(estimate).astype(int).tolist(),
        "mean_absolute_error": float(np.abs(estimate - exact).mean()) / len(trace),
    }


def _lines(trace: Trace, result: dict[str, Any], replacement: str) -> list[str]:
    total = result["references"]
    shards = result.get("shards")
    lines = [
        f"{trace.name}: {total:,} references to {result['pages']:,} pages, {replacement}",
        *_shortened(trace),
        f"{'cache pages':>12} {'misses':>12} {'ratio':>8}" + (f" {'SHARDS':>8}" if shards else ""),
    ]
    for point in result["points"]:
        size, misses = point["cache_pages"], point["misses"]
        line = f"{size:>12,} {misses:>12,} {misses / total:>8.4f}"
        if shards:
            line += f" {shards['curve'][min(size, result['pages'])] / total:>8.4f}"
        lines.append(line)
    if shards:
        told = f"SHARDS at rate {shards['rate']}: mean absolute error of the whole curve"
        lines.append(f"{told} {shards['mean_absolute_error']:.4f}")
    if "curve" in result:
        lines.append(_knees(result["curve"], total))
    return lines


def _shortened(trace: Trace) -> list[str]:
    """What must be said of a trace that was made shorter."""
    if trace.stands_for == len(trace):
        return []
    return [
        f"a shorter trace, whose rows stand for {trace.stands_for:,} references: ratios are of",
        "rows, and misses are exact for LRU from the size on that it was made for",
    ]


def _knees(misses: list[int], total: int) -> str:
    """The smallest sizes with half, nine tenths and all of the hits that any cache can have."""
    floor = misses[-1]
    found = []
    for share in (0.5, 0.9, 1.0):
        wanted = total - share * (total - floor)
        found.append(next(size for size, count in enumerate(misses) if count <= wanted))
    half, most, everything = found
    told = f"half of all possible hits from {half:,} pages on, nine tenths from {most:,}"
    return f"{told}, all from {everything:,}"


def _progress(sizes: list[int]) -> Iterable[int]:
    """The sizes one by one, with a progress bar on a terminal."""
    from rich.console import Console
    from rich.progress import track

    hidden = not sys.stderr.isatty()
    return track(sizes, "replaying", console=Console(stderr=True), transient=True, disable=hidden)
