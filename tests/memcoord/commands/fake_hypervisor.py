"""Stands in for a keeper: answers, publishes ticks, and misbehaves as FAKE_MODE says."""

import os
import pathlib
import signal
import sys
import time

import zmq

from hypervisor.public import feed
from hypervisor.public.messages import (
    CONTROL_SOCKET,
    STATS_SOCKET,
    VERSION,
    Reply,
    decode,
    encode,
)
from memcoord.testbed.runs.launcher import end_with_parent


def main(argv: list[str]) -> None:
    """Entry point of the process."""
    end_with_parent()
    run_dir = pathlib.Path(argv[1])
    mode = os.environ["FAKE_MODE"]
    if mode == "refuses":
        raise SystemExit("hypervisor: total_frames: too few")
    if mode == "compiles":
        sys.stderr.write("memcoord: note: compiled again\nnot for the user\n")
    if mode == "silent":
        time.sleep(600)
    if mode == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    context = zmq.Context()
    control, stats = context.socket(zmq.ROUTER), context.socket(zmq.XPUB)
    control.bind(f"ipc://{run_dir / CONTROL_SOCKET}")
    stats.bind(f"ipc://{run_dir / STATS_SOCKET}")
    (run_dir / "events.jsonl").write_text('{"event": "policy-fault", "why": "NaN for vm1"}\n')
    tick = subscribed = 0
    while True:
        tick += 1
        domain = {"name": "vm1", "tmem_used_pages": tick, "tmem_target_pages": 50}
        domain["guest_references"] = 1
        host = {"tmem_capacity_pages": 64}
        if mode == "policy fails":
            host["policy_faults"] = tick
        now_ns, columns = time.monotonic_ns(), [[*host], [*domain], [], []]
        hello = feed.Hello(2, now_ns, now_ns, "1", "main", "greedy", 20, 4096, 0, *columns)
        one = feed.Tick(2, now_ns, tick, 0, 1, [*host.values()], [[*domain.values()]])
        for data in (*feed.encode(hello), *feed.encode(one)):
            stats.send(data)
        if stats.poll(0):
            stats.recv()  # who subscribed gets the next one
            subscribed = tick
        if subscribed and tick > subscribed + 2:
            (run_dir / "published").touch()
        if mode == "publishes garbage":
            stats.send(b"garbage")
        if control.poll(20):
            identity, data = control.recv_multipart()
            request = decode(data)
            reply = Reply(VERSION, request.request_id, "", None)
            control.send_multipart([identity, encode(reply)])
            if request.op == "shutdown" and mode != "stubborn":
                time.sleep(0.05)
                break
    control.close()
    stats.close()
    context.term()
    raise SystemExit(3 if mode == "ends badly" else 0)


if __name__ == "__main__":
    main(sys.argv)
