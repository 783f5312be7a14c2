"""How soon a domain that uses more than it was granted is noticed, tried many times.

Owns: one try, and the figures of many. A try is a process that attaches, touches memory beyond its
grant as fast as it can, and is thrown out and killed for it; its time runs from the command to the
hypervisor's event. All tries of a mechanism have one host, with two honest guests that go on.
Called by: the claim V5 (``memcoord.benchmarks.claims.probes``).
"""

from __future__ import annotations

import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from hypervisor.public.settings import MECHANISMS
from memcoord.benchmarks.hostile.cheats import CHEATS
from memcoord.benchmarks.hostile.lab import CheatLab
from memcoord.testbed.runs.remote import RemoteGone

OVERUSE = "uses more than its grant"
#: A try that was not noticed by then counts as unnoticed.
FOR_S = 2.0
LOOK_S = 0.001


def try_once(lab: CheatLab) -> float | None:
    """Milliseconds until it was noticed; None when it was not."""
    with lab.cheater() as guest:
        guest.ask("attach_bare")
        start = time.monotonic()
        CHEATS[OVERUSE](lab, guest, FOR_S)
        noticed, at = "", start
        while not noticed and time.monotonic() < start + FOR_S:
            time.sleep(LOOK_S)
            noticed, at = lab.noticed(start)
        with suppress(RemoteGone):  # killed for it
            guest.answer()
    return (at - start) * 1000 if noticed else None


def detection(tries: int) -> dict[str, Any]:
    """``tries`` in all, as many of each mechanism: the times, and what was not noticed."""
    noticed: dict[str, list[float]] = {}
    unnoticed = 0
    each = max(tries // len(MECHANISMS), 1)
    for mechanism in MECHANISMS:
        with (
            tempfile.TemporaryDirectory(prefix="mc-") as folder,
            CheatLab(mechanism, Path(folder)) as lab,
        ):
            times = [try_once(lab) for _ in range(each)]
            damage = lab.damage()
        noticed[mechanism] = [took for took in times if took is not None]
        unnoticed += len(times) - len(noticed[mechanism])
        if damage:
            raise RuntimeError(f"{mechanism}: {damage[0]}")
    times_ms = np.array([value for values in noticed.values() for value in values])
    return {
        "tries": each * len(MECHANISMS),
        "unnoticed": unnoticed,
        **_figures(times_ms),
        "mechanisms": {name: _figures(np.array(values)) for name, values in noticed.items()},
    }


def _figures(times_ms: Any) -> dict[str, float | None]:
    """Median, 99th percentile (nearest rank) and the longest, in ms."""
    shares = {"median_ms": 0.5, "p99_ms": 0.99, "longest_ms": 1.0}
    if not len(times_ms):
        return dict.fromkeys(shares)
    found = {n: np.quantile(times_ms, q, method="inverted_cdf") for n, q in shares.items()}
    return {name: round(float(value), 2) for name, value in found.items()}
