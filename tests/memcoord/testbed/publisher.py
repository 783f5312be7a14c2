"""A hypervisor as far as its feed goes, with ticks of a test's own making: not a test."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import zmq
from watched import HOST, VM, Run, hello

from hypervisor.public import feed, messages
from hypervisor.public.feed import FeedMessage

STEP_S, WAIT_S = 0.02, 60.0


@contextmanager
def published(run_dir: Path, run: Run) -> Iterator[None]:
    """Publish ``run`` within the block, a tick each STEP_S, with a decision and latencies."""
    over = threading.Event()

    def serve() -> None:
        with zmq.Context() as context, context.socket(zmq.XPUB) as socket:
            socket.linger = 0
            socket.bind(f"ipc://{run_dir / messages.STATS_SOCKET}")
            while not over.wait(STEP_S):
                for message in _told(run):
                    for data in feed.encode(message):
                        socket.send(data)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(WAIT_S)


def _told(run: Run) -> Iterator[FeedMessage]:
    made, now_ns = run.tick(), time.monotonic_ns()
    rows = [[row[column] for column in VM] for row in made.domains]
    yield hello(names=tuple(run.rates))
    yield feed.Tick(2, now_ns, made.tick, 0, 1, [made.host[key] for key in HOST], rows)
    yield feed.Why(2, now_ns, made.tick, [feed.DecisionRow("vm1", "tmem", 5, 7, 7, "grow", "")])
    yield feed.Latencies(2, now_ns, run.latencies())
