"""A hypervisor as far as its feed goes, with ticks that a test makes up: not a test."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import zmq
from watched import BUSY, HOST, VM, Run, hello

from hypervisor.public import feed, messages

WAIT_S = 60.0
STEP_S = 0.02
STARVED = BUSY | {"guest_stall_ns": 95 * 10**7}


class PublishedFeed:
    """Ticks on the feed of ``run_dir``, from a thread, until the block ends."""

    def __init__(
        self,
        run_dir: Path,
        rates: Mapping[str, Mapping[str, int]] | None = None,
        *,
        is_silent: bool = False,
    ) -> None:
        self._address = f"ipc://{run_dir / messages.STATS_SOCKET}"
        self._run = Run(**(rates or {"vm1": BUSY, "vm2": STARVED}))
        self._restarts = 0
        self._events: list[feed.Event] = []
        self._over, self._is_silent, self._is_new = (threading.Event() for _ in range(3))
        if is_silent:
            self._is_silent.set()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(WAIT_S)

    def begin(self) -> None:
        """Publish from now on."""
        self._is_silent.clear()

    def fall_silent(self) -> None:
        """Publish nothing any more."""
        self._is_silent.set()

    def restart(self) -> None:
        """Be another hypervisor, which goes on with the same domains."""
        self._is_new.set()

    def lose(self, name: str) -> None:
        """Go on without a domain."""
        rates = dict(self._run.rates)
        del rates[name]
        self._run.rates = rates
        fields = {"domain": name, "domid": 1, "reason": "ended"}
        self._events.append(feed.Event(feed.FEED_VERSION, time.monotonic_ns(), "detached", fields))

    def _serve(self) -> None:
        while not self._over.is_set():
            self._is_new.clear()
            with zmq.Context() as context, context.socket(zmq.XPUB) as socket:
                socket.linger = 0
                socket.bind(self._address)
                while not self._over.wait(STEP_S) and not self._is_new.is_set():
                    if not self._is_silent.is_set():
                        self._publish(socket.send)
            self._restarts += 1

    def _publish(self, send: Callable[[bytes], object]) -> None:
        made, now_ns = self._run.tick(), time.monotonic_ns()
        rows = [[row[column] for column in VM] for row in made.domains]
        host = [made.host[key] for key in HOST]
        told: list[Any] = [
            hello(names=tuple(self._run.rates), restarts=self._restarts, now_ns=now_ns),
            feed.Tick(feed.FEED_VERSION, now_ns, made.tick, 0, 1, host, rows),
            feed.Why(
                feed.FEED_VERSION,
                now_ns,
                made.tick,
                [feed.DecisionRow("vm1", "tmem", 5, 7, 7, "grow", "")],
            ),
            feed.Latencies(
                feed.FEED_VERSION,
                now_ns,
                [feed.LatencyRow("vm1", "ring", "guest", {20: made.tick})],
            ),
        ]
        while self._events:
            told.append(self._events.pop())
        for message in told:
            for data in feed.encode(message):
                send(data)
