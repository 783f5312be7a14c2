"""An open-loop client of a server, outside of its domain: how long answers take.

``python -P -m memcoord.testbed.applications.client SOCKETS PROTOCOL MIB REQUESTS A_SECOND SEED``

Owns: the schedule and the figures. SOCKETS is a pattern of paths; the first that is there is taken.
Requests are due at fixed moments, whatever became of those before: a latency runs from the moment
at which a request was due, so that a server that stands still delays all that come meanwhile, as it
would delay real clients. Rows are drawn with a skew. Prints one line of JSON: p50, p99, p999 and
the largest latency in ms, requests, and how many answers were wrong.
"""

from __future__ import annotations

import contextlib
import glob
import json
import random
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence

from memcoord.testbed.applications.protocols import CHUNK_BYTES, PROTOCOLS, Protocol
from memcoord.testbed.applications.server import rows_in

CONNECT_S, POLL_S = 300.0, 0.02
#: Sent and not answered; more wait here, not in the socket.
FLIGHT_MAX = 64
SKEW = 3.0


def numbers(mib: int, requests: int, seed: int) -> Iterator[int]:
    """Which row is asked for, one after the other."""
    drawn, rows = random.Random(seed), rows_in(mib)
    for _ in range(requests):
        yield int(rows * drawn.random() ** SKEW) * 7919 % rows


def quantiles_ms(latencies_s: Sequence[float]) -> dict[str, float]:
    """p50, p99, p99.9 and the most."""
    ordered = sorted(latencies_s)
    at = {"p50": 0.5, "p99": 0.99, "p999": 0.999, "max": 1.0}
    last = len(ordered) - 1
    return {name: round(1e3 * ordered[min(int(part * len(ordered)), last)], 3)
            for name, part in at.items()}  # fmt: skip


def connected(where: str) -> socket.socket:
    """A connection as soon as somebody listens at ``where``, a pattern; TimeoutError, CONNECT_S."""
    deadline_s = time.monotonic() + CONNECT_S
    while time.monotonic() < deadline_s:
        line = socket.socket(socket.AF_UNIX)
        with contextlib.suppress(OSError):
            for path in glob.glob(where):
                line.connect(path)
                return line
        line.close()
        time.sleep(POLL_S)
    raise TimeoutError(f"nobody listened at {where} for {CONNECT_S:.0f} s")


def ask(
    line: socket.socket, speaks: Protocol, wanted: Iterator[int], a_second: float
) -> tuple[list[float], int]:
    """Latencies in seconds, and wrong answers. Ends early when the server hangs up."""
    begin_s, sent, wrong = time.monotonic(), 0, 0
    flight: deque[tuple[float, int]] = deque()
    latencies: list[float] = []
    rest, pending = b"", next(wanted, None)
    while pending is not None or flight:
        due_s = begin_s + sent / a_second
        wait_s = due_s - time.monotonic()
        can_send = pending is not None and len(flight) < FLIGHT_MAX
        if pending is not None and can_send and wait_s <= 0:
            line.settimeout(CONNECT_S)
            line.sendall(speaks.request(pending))
            flight.append((due_s, pending))
            sent, pending = sent + 1, next(wanted, None)
            continue
        line.settimeout(max(wait_s, 1e-4) if can_send else CONNECT_S)
        try:
            got = line.recv(CHUNK_BYTES)
        except TimeoutError:
            continue
        if not got:
            break
        rest += got
        while flight and (found := speaks.reply(flight[0][1], rest)):
            latencies.append(time.monotonic() - flight.popleft()[0])
            wrong += not found[0]
            rest = rest[found[1] :]
    return latencies, wrong


def main(words: list[str]) -> int:
    """Entry point of the client."""
    where, protocol, mib, requests, a_second, seed = words
    speaks: Protocol = PROTOCOLS[protocol]()
    with connected(where) as line:
        speaks.fill(line, int(mib))
        wanted = numbers(int(mib), int(requests), int(seed))
        latencies, wrong = ask(line, speaks, wanted, float(a_second))
        with contextlib.suppress(OSError):  # it may have ended by itself
            line.sendall(speaks.farewell())
    found = {"requests": len(latencies), "wrong": wrong}
    sys.stdout.write(json.dumps(found | (quantiles_ms(latencies) if latencies else {})) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
