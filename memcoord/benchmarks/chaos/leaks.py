"""What a hypervisor process has that must not grow: memory, descriptors, mappings, threads, files.

Owns: ``sample``, which looks at a process, and ``slopes``, the growth of each figure over many
samples with its interval.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from memcoord.testbed.report.intervals import NORMAL_975, T_975

#: Figures of a sample, in their units.
FIGURES = ("rss_anon_kib", "fds", "memfd_maps", "threads", "files")
#: The first part of a run fills caches and pools: it is no growth.
WARM_SHARE = 0.2
HOUR_S = 3600.0


@dataclass(frozen=True)
class Sample:
    """One look at the hypervisor's process, ``at_s`` seconds after the start of the run."""

    at_s: float
    pid: int
    rss_anon_kib: int
    fds: int
    memfd_maps: int
    threads: int
    files: int  # of the run directory


@dataclass(frozen=True)
class Slope:
    """Growth per hour, with the ends of its 95 % interval; NaN where samples are too few."""

    per_hour: float
    low: float
    high: float


def sample(pid: int, run_dir: Path, at_s: float) -> Sample:
    """Look at the process ``pid``; OSError when it has ended."""
    proc = Path(f"/proc/{pid}")
    lines = (proc / "status").read_text(encoding="ascii", errors="replace").splitlines()
    status = dict(line.split(":", 1) for line in lines if ":" in line)
    maps = (proc / "maps").read_text(encoding="utf-8", errors="replace")
    return Sample(
        at_s=at_s,
        pid=pid,
        rss_anon_kib=int(status["RssAnon"].split()[0]),
        fds=len(os.listdir(proc / "fd")),
        memfd_maps=sum("/memfd:" in line for line in maps.splitlines()),
        threads=int(status["Threads"]),
        files=len(os.listdir(run_dir)),
    )


def slopes(samples: Sequence[Sample]) -> dict[str, Slope]:
    """The growth of every figure per hour, by least squares, after the run has warmed up.

    The interval takes the samples for independent; memory that grows in steps makes it too narrow.
    """
    since = samples[-1].at_s * WARM_SHARE if samples else 0.0
    warm = [one for one in samples if one.at_s >= since]
    hours = [one.at_s / HOUR_S for one in warm]
    return {name: slope(hours, [float(getattr(one, name)) for one in warm]) for name in FIGURES}


def slope(xs: Sequence[float], ys: Sequence[float]) -> Slope:
    """Least squares of ``ys`` over ``xs``; ValueError when they are not equally many."""
    pairs, count = list(zip(xs, ys, strict=True)), len(xs)
    degrees = count - 2
    mean_x, mean_y = sum(xs) / max(count, 1), sum(ys) / max(count, 1)
    spread = sum((x - mean_x) ** 2 for x in xs)
    if degrees < 1 or spread == 0:
        return Slope(math.nan, math.nan, math.nan)
    steep = sum((x - mean_x) * (y - mean_y) for x, y in pairs) / spread
    rest = sum((y - mean_y - steep * (x - mean_x)) ** 2 for x, y in pairs)
    t = T_975[degrees - 1] if degrees <= len(T_975) else NORMAL_975 + 2.46 / degrees
    wide = t * math.sqrt(rest / degrees / spread)
    return Slope(steep, steep - wide, steep + wide)
