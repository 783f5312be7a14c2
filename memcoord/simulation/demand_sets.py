"""Demand of many domains over time: from sets of real VMs, or made from a seed.

Owns: reading the three known sets (Bitbrains GWA-T-12, Alibaba 2026 GenAI, Google 2011 as VMs; the
columns tell which) and turning a few series into as many as wanted. Demand is (ticks, domains).
"""

from __future__ import annotations

import csv
import io
import lzma
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hypervisor.public.errors import ConfigError

Demand = NDArray[np.float64]

#: A set's columns: who, when, how much.
COLUMNS = (
    ("vm", "t_s", "mem_used_kib"),
    ("pod", "t_s", "mem_util"),
    ("vm", "step", "mem_pct"),
)
#: Samples of a set are put on a grid of so many ticks.
GRID_TICKS = 1024

#: Of the series made from a seed: parts of the day, of bursts, of noise, and how long a burst is.
DAY_TICKS = 96
BURST_TICKS = 12
BURST_CHANCE = 0.01


def read_demand(path: Path, ticks: int = GRID_TICKS) -> Demand:
    """The series of a set, each as a fraction of its own peak, on ``ticks`` even steps.

    ConfigError when the file is none of the known sets.
    """
    text = lzma.decompress(path.read_bytes()).decode("ascii")
    rows = csv.DictReader(io.StringIO(text))
    names = rows.fieldnames or ()
    columns = next((known for known in COLUMNS if set(known) <= set(names)), None)
    if columns is None:
        raise ConfigError("demand", f"{path.name}: unknown columns {', '.join(names)}")
    who, when, much = columns
    series: dict[str, tuple[list[float], list[float]]] = {}
    for row in rows:
        times, values = series.setdefault(row[who], ([], []))
        times.append(float(row[when]))
        values.append(float(row[much]))
    made = [_on_grid(np.array(times), np.array(values), ticks) for times, values in series.values()]
    return np.stack(made, axis=1)


def _on_grid(times: Demand, values: Demand, ticks: int) -> Demand:
    order = np.argsort(times, kind="stable")
    grid = np.linspace(times.min(), times.max(), ticks)
    found: Demand = np.interp(grid, times[order], values[order])
    peak = found.max()
    return found / peak if peak > 0 else found


def spread(base: Demand, domains: int, peak_pages: float, seed: int) -> Demand:
    """``domains`` series out of the few of ``base``: one at random, at another time of the day, of
    another size (log-normal around ``peak_pages``)."""
    rng = np.random.default_rng(seed)
    ticks = len(base)
    which = rng.integers(0, base.shape[1], domains)
    shift = rng.integers(0, ticks, domains)
    size = peak_pages * rng.lognormal(0.0, 0.5, domains)
    at = (np.arange(ticks)[:, None] + shift) % ticks
    demand: Demand = base[at, which] * size
    return demand


def synthetic(domains: int, ticks: int, peak_pages: float, seed: int) -> Demand:
    """Days, bursts and noise: a level of its own per domain, twice as much at noon as at night, and
    now and then a burst up to its peak."""
    rng = np.random.default_rng(seed)
    size = peak_pages * rng.lognormal(0.0, 0.5, domains)
    level = rng.uniform(0.1, 0.5, domains)
    phase = rng.uniform(0, 2 * np.pi, domains)
    day = 1 + 0.33 * np.sin(2 * np.pi * np.arange(ticks)[:, None] / DAY_TICKS + phase)
    starts = rng.random((ticks, domains)) < BURST_CHANCE
    burst = np.zeros((ticks, domains), dtype=bool)
    for tick in range(min(BURST_TICKS, ticks)):
        burst[tick:] |= starts[: ticks - tick]
    noise = rng.uniform(0.9, 1.1, (ticks, domains))
    demand: Demand = np.minimum(np.where(burst, 1.0, level * day) * noise, 1.0) * size
    return demand
