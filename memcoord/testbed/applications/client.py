"""An open-loop client of ``server``, outside of its domain: how long answers take.

``python -P -m memcoord.testbed.applications.client SOCKETS MIB REQUESTS A_SECOND SEED``

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

from memcoord.testbed.applications.server import NUMBER, answer, rows_in

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


def ask(line: socket.socket, wanted: Iterator[int], a_second: float) -> tuple[list[float], int]:
    """Latencies in seconds, and wrong answers. Ends early when the server hangs up."""
    begin_s, sent, wrong = time.monotonic(), 0, 0
    flight: deque[tuple[float, int]] = deque()
    latencies: list[float] = []
    rest, pending = b"", next(wanted, None)
    while pending is not None or flight:
        due_s = begin_s + sent / a_second
        wait_s = due_s - time.monotonic()
        if pending is not None and wait_s <= 0 and len(flight) < FLIGHT_MAX:
            line.settimeout(CONNECT_S)
            line.sendall(NUMBER.pack(pending))
            flight.append((due_s, pending))
            sent, pending = sent + 1, next(wanted, None)
            continue
        can_send = pending is not None and len(flight) < FLIGHT_MAX
        line.settimeout(max(wait_s, 1e-4) if can_send else CONNECT_S)
        try:
            got = line.recv(4096)
        except TimeoutError:
            continue
        if not got:
            break
        rest += got
        while len(rest) >= NUMBER.size:
            asked_s, number = flight.popleft()
            latencies.append(time.monotonic() - asked_s)
            wrong += NUMBER.unpack(rest[: NUMBER.size])[0] != answer(number)
            rest = rest[NUMBER.size :]
    return latencies, wrong


def main(words: list[str]) -> int:
    """Entry point of the client."""
    where, mib, requests = words[0], int(words[1]), int(words[2])
    with connected(where) as line:
        wanted = numbers(mib, requests, int(words[4]))
        latencies, wrong = ask(line, wanted, float(words[3]))
    found = {"requests": len(latencies), "wrong": wrong}
    sys.stdout.write(json.dumps(found | (quantiles_ms(latencies) if latencies else {})) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
