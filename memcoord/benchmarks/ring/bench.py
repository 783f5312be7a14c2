"""``memcoord bench ring``: a message to the hypervisor and back, beside the kernel's own ways.

Owns: the rows, their order within a round, the CPU each end runs on, and the target.
Every row of ours is a NOP record on the memory ring of a real domain, answered by the service
thread of a real hypervisor. One hypervisor may spin for SPIN_NS, whatever spin time it would have
calibrated (the machine's facts show that). The other hypervisor never spins, and neither does the
domain that asks it. The floors beside them (eventfd, socket, ZeroMQ) are answered by a process that
does nothing else, placed on the CPU of the hypervisor. Rows ending in ``_same_cpu`` have both ends
on one CPU. Before each round trip of a row that sleeps, the caller yields for REST_NS, so that the
other end has really fallen asleep.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from hypervisor.config import DomainConfig, HypervisorConfig
from hypervisor.public.units import AREA_FRAMES, RING_SLOTS
from memcoord.benchmarks import cpus
from memcoord.benchmarks._loops import lib
from memcoord.benchmarks.harness import BenchPlan, Target
from memcoord.benchmarks.runner import Rounds, Setting
from memcoord.testbed.runs.remote import Remote

PLAN = BenchPlan(
    bench="ring",
    targets={"rtt_sleep_eventfd/eventfd_rtt": Target(1.3, 1.05)},
    also=(
        "rtt_sleep_eventfd_same_cpu/eventfd_rtt_same_cpu",
        "rtt_sleep_zmq/zmq_req_rep_rtt",
        "rtt_sleep_eventfd/unix_socket_rtt",  # both ends asleep, as a socket's are
        "rtt_spin/flag_rtt",  # both awake
    ),
    notes={
        "rtt_spin": "no pause; each end spins up to 20 us before it sleeps",
        "record_batch32": "per record, 32 under one doorbell; spinning as rtt_spin",
        "rtt_sleep_eventfd": "to the hypervisor by eventfd, back by futex",
        "flag_rtt": "two flags in a shared page, each polled by the other end",
        "eventfd_rtt": "8 bytes, compiled at both ends",
        "unix_socket_rtt": "64 bytes, compiled at both ends",
        "rtt_sleep_zmq": "64 bytes; a thread at each end relays between ZeroMQ and the ring",
        "zmq_req_rep_rtt": "64 bytes, Python at both ends, ipc",
    },
)
GUEST = "memcoord.benchmarks.ring.guest"
SAME_CPU = "_same_cpu"
SPIN_NS = int(lib.MC_SPIN_MAX_NS)
SPIN_SAMPLES = 5000
SLEEP_SAMPLES = 1000
ZMQ_SAMPLES = 300
BATCH_SAMPLES = 1000
BATCH_RECORDS = 32
REST_NS = 20_000  # between two round trips of rows that sleep, so that the other end does
RECORD_BYTES = 64
EVENTFD_BYTES = 8
DOMAIN_FRAMES = 4 * AREA_FRAMES

assert BATCH_RECORDS <= RING_SLOTS


class RingBench(Rounds):
    """One run of the bench; ``round`` measures every row once more."""

    def __init__(self, setting: Setting) -> None:
        lab = setting.lab
        self._sheet, self._placement = setting.sheet, setting.placement
        self._spinning = lab.host("h0", _config(SPIN_NS, "spin"))
        self._sleeping = lab.host("h1", _config(0, "sleep", "zmq"))
        self._subject, self._peer = lab.remote("subject", GUEST), lab.remote("peer", GUEST)
        self._subject.ask("attach", run_dir=str(self._spinning.run_dir), name="spin")
        self._subject.ask("attach", run_dir=str(self._sleeping.run_dir), name="sleep")
        self._subject.ask("attach", run_dir=str(self._sleeping.run_dir), name="zmq", doorbell="zmq")
        for key in ("sleep", "zmq"):
            self._subject.ask("spin", key=key, spin_ns=0)
        self._flags, self._flag_calls = self._share_flags(), 0
        self._endpoint = f"ipc://{lab.socket_path('echo.ipc')}"
        self._peer.ask("serve_zmq", endpoint=self._endpoint)
        self._floors = _connect(self._subject, self._peer)

    def round(self, index: int, done: Callable[[float], None]) -> None:
        """Measure every row once, in both placements where there are two CPUs."""
        self._place(self._placement.serving_cpu)
        self._spin()
        self._sleep("")
        if not self._placement.one_cpu:
            self._place(self._placement.domain_cpu)
            self._sleep(SAME_CPU)

    def _place(self, serving_cpu: int) -> None:
        for process in (self._spinning, self._sleeping, self._peer):
            cpus.place(process.pid, serving_cpu)
        self._subject.ask("place", cpu=self._placement.domain_cpu)

    def _share_flags(self) -> tuple[int, int]:
        """A page of both measured processes; its fd in either."""
        fd = os.memfd_create("flags")
        os.ftruncate(fd, os.sysconf("SC_PAGE_SIZE"))
        near, far = (remote.hand("keep_fds", [fd])[0] for remote in (self._subject, self._peer))
        os.close(fd)
        return near, far

    def _flag(self) -> None:
        """Two CPUs only: on one, an end that polls keeps the other from running."""
        if self._placement.one_cpu:
            return
        near, far = self._flags
        count, first = SPIN_SAMPLES, self._flag_calls
        self._peer.tell("serve_flag", fd=far, count=count, first=first)
        samples = self._subject.ask("call_flag", fd=near, count=count, first=first)
        self._peer.answer()
        self._flag_calls += count
        self._sheet.add("flag_rtt", samples, 1)

    def _spin(self) -> None:
        self._flag()
        self._ring_row("rtt_spin", "spin", SPIN_SAMPLES)
        self._ring_row("record_batch32", "spin", BATCH_SAMPLES, BATCH_RECORDS)

    def _ring_row(self, row: str, key: str, count: int, batch: int = 1, rest_ns: int = 0) -> None:
        asked = {"key": key, "count": count, "batch": batch, "rest_ns": rest_ns}
        samples, slept = self._subject.ask("ring", **asked)
        self._sheet.add(row, samples, batch).extra["slept"] = round(slept, 4)

    def _sleep(self, suffix: str) -> None:
        add, call = self._sheet.add, self._subject.ask
        rest = {"rest_ns": REST_NS}
        self._ring_row("rtt_sleep_eventfd" + suffix, "sleep", SLEEP_SAMPLES, **rest)
        for name, (read_fd, write_fd, size) in self._floors.items():
            fds = {"read_fd": read_fd, "write_fd": write_fd, "size": size}
            samples = call("call_fds", **fds, count=SLEEP_SAMPLES, **rest)
            add(name + suffix, samples, 1)
        self._ring_row("rtt_sleep_zmq" + suffix, "zmq", ZMQ_SAMPLES, **rest)
        echo = {"endpoint": self._endpoint, "size": RECORD_BYTES}
        samples = call("call_zmq", **echo, count=ZMQ_SAMPLES, **rest)
        add("zmq_req_rep_rtt" + suffix, samples, 1)


def _config(spin_ns: int, *names: str) -> HypervisorConfig:
    sizes, total = (DOMAIN_FRAMES, 0, DOMAIN_FRAMES), 4 * len(names) * DOMAIN_FRAMES
    domains = tuple(DomainConfig(name, *sizes, credit_areas=0) for name in names)
    return HypervisorConfig(total_frames=total, spin_ns=spin_ns, domains=domains)


def _connect(subject: Remote, peer: Remote) -> dict[str, tuple[int, int, int]]:
    """The floors' row names, each with the subject's fds and the size of a message."""
    ours, theirs = socket.socketpair()
    there, back = os.eventfd(0), os.eventfd(0)
    fds = [ours.fileno(), theirs.fileno(), there, back]
    near, _, near_there, near_back = subject.hand("keep_fds", fds)
    _, far, far_there, far_back = peer.hand("keep_fds", fds)
    for close in (ours.detach(), theirs.detach(), there, back):
        os.close(close)
    peer.ask("serve_fds", read_fd=far_there, write_fd=far_back, size=EVENTFD_BYTES)
    peer.ask("serve_fds", read_fd=far, write_fd=far, size=RECORD_BYTES)
    return {
        "eventfd_rtt": (near_back, near_there, EVENTFD_BYTES),
        "unix_socket_rtt": (near, near, RECORD_BYTES),
    }
