"""Cells on a Dask cluster (extra ``sweep``): any workers that have this package.

Owns: the connection to the scheduler. When a worker dies, the scheduler gives its cells to another
worker; a result counts when it has arrived here, once, under its cell's key.
"""

from __future__ import annotations

import importlib
import socket
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from hypervisor.public.errors import ConfigError
from memcoord.benchmarks.sweep.cell import Cell
from memcoord.benchmarks.sweep.local import Outcome, Outcomes, outcome_of
from memcoord.benchmarks.sweep.worker import RUNNER, answer

CONNECT_S = 30.0
#: The address of a cluster that is made here.
LOCAL = "local"
POLL_S = 0.1


def run_on_cluster(
    cells: Sequence[Cell], address: str, runner: str = RUNNER, workers: int = 1
) -> Outcomes:
    """Run every cell once on the cluster at ``address`` (``tcp://host:port``), in any order.

    The address ``local`` is a cluster of so many ``workers`` on this machine, which ends with the
    sweep. ConfigError when dask.distributed is missing, or the scheduler or every worker.
    """
    try:
        distributed: Any = importlib.import_module("distributed")  # it has no types
    except ImportError:
        raise ConfigError("--dask", "needs the extra: pip install 'memcoord[sweep]'") from None
    if address == LOCAL:
        options = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}
        with distributed.LocalCluster(**options) as cluster:
            yield from _run(cells, distributed, cluster.scheduler_address, runner)
    else:
        _probe(address)
        yield from _run(cells, distributed, address, runner)


def _run(cells: Sequence[Cell], distributed: Any, address: str, runner: str) -> Outcomes:
    with distributed.Client(address, timeout=CONNECT_S) as client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_S)
        except TimeoutError:
            raise ConfigError("--dask", f"{address}: no worker in {CONNECT_S:.0f} s") from None
        futures: dict[Any, Cell] = {}
        for cell in cells:
            text, key = msgspec.json.encode(cell), f"memcoord-{cell.key}"
            futures[client.submit(run_text, text, runner, key=key)] = cell
        for future in distributed.as_completed(list(futures)):
            cell = futures.pop(future)
            yield _outcome(cell, future)
            future.release()  # the result is stored here: the cluster may forget it


def _probe(address: str) -> None:
    """Wait until a scheduler listens; ConfigError when none does. dask takes long to say so."""
    deadline_s = time.monotonic() + CONNECT_S
    while True:
        try:
            place = urlsplit(address)
            if not place.hostname or not place.port:
                raise ConfigError("--dask", f"{address}: write tcp://HOST:PORT")
            socket.create_connection((place.hostname, place.port), CONNECT_S).close()
        except (OSError, ValueError) as error:
            if isinstance(error, ValueError) or time.monotonic() > deadline_s:
                raise ConfigError("--dask", f"{address}: {error}") from None
            time.sleep(POLL_S)
        else:
            return


def run_text(text: bytes, runner: str) -> dict[str, Any]:
    """On a worker of the cluster: the answer to a cell given as JSON."""
    return answer(msgspec.json.decode(text, type=Cell), runner)


def _outcome(cell: Cell, future: Any) -> Outcome:
    try:
        return outcome_of(cell, future.result())
    except Exception as error:  # the cluster's own: workers died over it, or it was cancelled
        return Outcome(cell, None, f"{type(error).__name__}: {' '.join(str(error).split())}")
