"""Scenarios to develop a policy on, drawn at random from the programs that are tuned on.

Owns: what is drawn. Number ``n`` is the same scenario anywhere, so "drawn 1 to 48" names a set.
Only programs and demand of the shipped scenarios outside ``unseen`` occur: the traces sort, cc1
and sqlite, the programs made of loops and of sparse matrices, and the first excerpt of Bitbrains.
Drawn are how many domains there are, whether they are alike, when they start, how long they rest,
and for which part of what they touch there is memory. ``python -m
memcoord.benchmarks.policies.drawn DIR 48`` writes the first 48 as files, which ``memcoord bench
policies --scenario`` and ``sim`` take.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from memcoord.benchmarks.sweep.worlds import as_toml
from memcoord.testbed.scenarios.schema import Scenario, parse

MIB = 1 << 20
AREA_MIB = 2
INTERVAL_MS = 50
#: Part of what the programs touch that there is memory for.
LEAST, MOST = 0.4, 0.85
HOST_MIB_MIN = 14
COUNTS = (2, 3, 3, 4, 4, 4, 5, 6, 6, 8, 12)
SHAPES = ("alike", "unlike", "unlike", "resting", "quiet")
RESIDENT_PAGES = 400

Work = dict[str, Any]
#: A workload, and the MiB it touches.
Sized = tuple[Work, float]


def drawn(number: int) -> Scenario:
    """The scenario of that number."""
    rng = np.random.default_rng(number)
    host_mib = 0
    while host_mib < HOST_MIB_MIN:
        shape = SHAPES[rng.integers(len(SHAPES))]
        works = _works(rng, shape, int(rng.choice(COUNTS)))
        wanted = rng.uniform(LEAST, MOST) * sum(mib for _, mib in works)
        boot = AREA_MIB * len(works)
        host_mib = max(round(wanted / AREA_MIB) * AREA_MIB, boot + AREA_MIB)
    late = shape != "quiet" and rng.random() < 0.4
    domains = [
        {
            "name": f"vm{index + 1}",
            "maxmem": f"{2 * (int(mib) // 2 + 2)} MiB",
            "ram": f"{AREA_MIB} MiB",
            "workload": {"resident": f"{RESIDENT_PAGES} pages", **work},
            **(_start(rng, index) if late and index else {}),
        }
        for index, (work, mib) in enumerate(works)
    ]
    host = {"memory": f"{host_mib + AREA_MIB} MiB", "slack": f"{AREA_MIB} MiB"}
    return parse({"name": f"drawn-{number}", **host, "interval_ms": INTERVAL_MS, "domain": domains})


def _works(rng: np.random.Generator, shape: str, count: int) -> list[Sized]:
    if shape == "alike":
        return [_program(rng)] * count
    if shape == "resting":
        busy = max(count // 3, 1)
        return [_resting(rng) for _ in range(count - busy)] + [_program(rng) for _ in range(busy)]
    if shape == "quiet":
        busy = max(count // 2, 1)
        return [_quiet(rng) for _ in range(count - busy)] + [_program(rng) for _ in range(busy)]
    return [_program(rng) for _ in range(count)]


def _start(rng: np.random.Generator, index: int) -> dict[str, Any]:
    done = round(float(rng.uniform(0, 0.7)), 2)
    return {"start_when": {"domain": f"vm{rng.integers(index) + 1}", "done": done}}


def _program(rng: np.random.Generator) -> Sized:
    makers = (_sort, _cc1, _cc1, _sqlite, _loop, _usemem, _graph, _analytics, _bursts, _demand,
              _demand, _junk)  # fmt: skip
    return makers[rng.integers(len(makers))](rng)


def _sort(rng: np.random.Generator) -> Sized:
    return {"kind": "page-trace", "trace": "sort", "repeat": int(rng.integers(2, 6))}, 7.2


def _cc1(rng: np.random.Generator) -> Sized:
    file, repeat = bool(rng.integers(2)), int(rng.integers(1, 4))
    return {"kind": "page-trace", "trace": "cc1", "repeat": repeat, "program_file": file}, 13.4


def _sqlite(rng: np.random.Generator) -> Sized:
    return {"kind": "page-trace", "trace": "sqlite", "repeat": int(rng.integers(50, 120))}, 4.1


def _loop(rng: np.random.Generator) -> Sized:
    mib = int(rng.integers(3, 13))
    repeat = int(rng.integers(400, 1500) / mib)
    return {"kind": "loop", "size": f"{mib} MiB", "repeat": repeat}, mib


def _usemem(rng: np.random.Generator) -> Sized:
    mib = int(rng.integers(3, 7)) * 2
    sweeps = int(rng.integers(10, 40))
    return {"kind": "usemem", "step": "2 MiB", "most": f"{mib} MiB", "sweeps": sweeps}, mib


def _graph(rng: np.random.Generator) -> Sized:
    large = bool(rng.integers(2))
    iterations = int(rng.integers(2, 5))
    vertices = 1 << (14 if large else 13)
    return {"kind": "graph-analytics", "vertices": vertices, "iterations": iterations}, (
        12.0 if large else 6.0
    )


def _analytics(rng: np.random.Generator, runs: int = 2, pause_s: float = 0.1) -> Sized:
    ratings = int(rng.choice((20_000, 40_000, 65_536)))
    mib = 6 + ratings * 64 / MIB
    work = {"kind": "in-memory-analytics", "ratings": ratings, "runs": runs, "iterations": 2}
    return {**work, "pause_s": pause_s}, mib


def _resting(rng: np.random.Generator) -> Sized:
    return _analytics(rng, int(rng.integers(2, 6)), round(float(rng.uniform(0.3, 2)), 2))


def _bursts(rng: np.random.Generator) -> Sized:
    base, most = int(rng.integers(2, 5)), int(rng.integers(8, 15))
    long = int(rng.choice((10_000, 40_000, 100_000)))
    work = {"kind": "bursts", "base": f"{base} MiB", "most": f"{most} MiB", "on": long}
    return {**work, "off": 2 * long, "references": 600_000}, most


def _demand(rng: np.random.Generator) -> Sized:
    peak = int(rng.integers(3, 8)) * 2
    work = {"kind": "demand-series", "vm": int(rng.integers(8)), "peak": f"{peak} MiB"}
    return {**work, "references": int(rng.integers(200_000, 900_000))}, peak


def _junk(rng: np.random.Generator) -> Sized:
    mib = int(rng.integers(8, 25))
    every = int(rng.integers(16, 100))
    return {"kind": "junk", "size": f"{mib} MiB", "hot": "2 MiB", "every": every}, mib + 2


def _quiet(rng: np.random.Generator) -> Sized:
    mib = int(rng.integers(1, 4))
    pauses = int(rng.integers(10, 30))
    return {"kind": "quiet", "size": f"{mib} MiB", "pauses": pauses, "pause_s": 0.1}, mib


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, int(sys.argv[2]) + 1):
        (folder / f"drawn-{number}.toml").write_text(as_toml(drawn(number)), encoding="utf-8")
