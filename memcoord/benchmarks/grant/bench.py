"""``memcoord bench grant``: the cost of memory from the hypervisor beside malloc.

Owns: the rows, their order within a round, the hosts they need, and the targets.
Two hypervisors run. The roomy one has free memory for every request of the bench. It serves the
domains ``credit`` (memory is granted ahead of need) and ``ring`` (no credit: the domain asks each
time). The full one has given all its memory but the slack to an idle donor, and serves ``taker``.
One process is attached to all three domains, so that every grant stands beside the same malloc.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable

from hypervisor.config import DomainConfig, HypervisorConfig
from hypervisor.public.errors import ConfigError
from hypervisor.public.units import AREA_BYTES, AREA_FRAMES, FRAME_BYTES
from memcoord.benchmarks import cpus
from memcoord.benchmarks.harness import BenchPlan, Row, Target
from memcoord.benchmarks.lab import BenchError, Host
from memcoord.benchmarks.runner import Rounds, Setting
from memcoord.testbed.runs.facts import read_text
from memcoord.testbed.runs.launcher import start_python

PLAN = BenchPlan(
    bench="grant",
    targets={
        "grant_local_4k/malloc_warm_4k": Target(0.6, 0.3),
        "grant_credit_4k/malloc_fresh_4k": Target(0.3, 0.1),
        "grant_batch64_4k/malloc_warm_4k": Target(0.1, 0.03),
        "python_grant_4k/python_bytearray_4k": Target(0.6, 0.4),
        "grant_transfer_2m/malloc_fresh_2m": Target(2.0, 1.0),
        "import_frontend/import_zmq_msgpack": Target(1.5, 1.1),
    },
    also=(
        "grant_local_4k/malloc_warm_4k_single_threaded",
        "grant_batch64_4k/malloc_warm_4k_single_threaded",
        "grant_ring_2m/malloc_fresh_2m", "grant_ring_2m_back_to_back/malloc_fresh_2m",
        "grant_transfer_2m_back_to_back/malloc_fresh_2m",
        "python_grant_4k/python_numpy_4k", "populate_4k/malloc_fresh_4k",
    ),
    notes={
        "empty_loop": "the loop and two clock reads around nothing",
        "malloc_warm_4k": "glibc, in the domain's process, whose threads make malloc lock",
        "malloc_warm_4k_single_threaded": "glibc, in a process of one thread",
        "malloc_fresh_4k": "glibc; held to the end of the round, then freed and malloc_trim(0)",
        "malloc_fresh_2m": "glibc; held to the end of the round, then freed and malloc_trim(0)",
        "grant_batch64_4k": "per page",
        "grant_credit_4k": "granted during this run, never touched before, held",
        "populate_4k": "per page: the hypervisor's work ahead of need",
        "map_4k": "per page: the work of the domain's mapper thread ahead of need",
        "grant_ring_2m": "20 ms between grants, in which the host prepares one area",
        "grant_ring_2m_back_to_back": "no pause: the host populates while the domain waits",
        "grant_transfer_2m": "20 ms between grants, in which the host prepares one area",
        "grant_transfer_2m_back_to_back": "no pause: the host populates while the domain waits",
        "import_nothing": "whole: python -c 'pass'",
        "import_frontend": "whole: python -c 'import frontend'",
        "import_zmq_msgpack": "whole: python -c 'import zmq, msgpack'",
    },
)  # fmt: skip

GUEST = "memcoord.benchmarks.grant.guest"
WARM_OPS = 64
WARM_SAMPLES = 4000
PYTHON_SAMPLES = 500
FRESH_OPS = AREA_FRAMES
FRESH_SAMPLES = 8
POPULATE_SAMPLES = 4
AREA_SAMPLES = 6
HURRIED_SAMPLES = 3
PAUSE_S = 0.02
WARM_UP_TRANSFERS = 3
IMPORT_SAMPLES = 3
SPARE_AREAS = 8
SLACK_AREAS = 2
HELD_AREAS_PER_ROUND = 3  # held so that only frames never touched are left
DONOR_WAIT_S = 5.0
DONOR_POLL_S = 0.02
PATH_NAMES = ("local", "credit", "ring", "transfer")
IMPORTS = {
    "import_nothing": "pass", "import_frontend": "import frontend",
    "import_zmq_msgpack": "import zmq, msgpack",
}  # fmt: skip


class GrantBench(Rounds):
    """One run of the bench; ``round`` measures every row once more."""

    def __init__(self, setting: Setting) -> None:
        lab, rounds = setting.lab, setting.rounds
        self._sheet = setting.sheet
        self._transfers = 0
        grown = rounds * (AREA_SAMPLES + HURRIED_SAMPLES) + WARM_UP_TRANSFERS + SPARE_AREAS
        credit = rounds * (FRESH_SAMPLES + HELD_AREAS_PER_ROUND) + SPARE_AREAS
        _check_memory((credit + 2 * grown) * AREA_BYTES)
        roomy = lab.host("h0", _roomy(credit, grown))
        self._full = lab.host("h1", _full(grown))
        self._donor = lab.remote("donor", GUEST)
        self._subject = lab.remote("subject", GUEST)
        self._plain = lab.remote("plain", GUEST, "--single-threaded")
        self._start(roomy, grown, setting.placement)

    def _start(self, roomy: Host, grown: int, placement: cpus.Placement) -> None:
        self._donor.ask("attach", run_dir=str(self._full.run_dir), name="donor")
        self._donor.ask("touch_and_free", key="donor", areas=grown)
        for name, host in (("credit", roomy), ("ring", roomy), ("taker", self._full)):
            self._subject.ask("attach", run_dir=str(host.run_dir), name=name)
        for host in (roomy, self._full):
            cpus.place(host.pid, placement.serving_cpu)
        self._subject.ask("place", cpu=placement.domain_cpu)
        self._plain.ask("place", cpu=placement.domain_cpu)
        self._subject.ask("python", row="of_numpy", count=1, ops=1)  # loads numpy
        self._donor_before = self._donor_frames()
        self._subject.ask("grant_area", key="taker", count=WARM_UP_TRANSFERS, pause_s=PAUSE_S)
        self._transfers += WARM_UP_TRANSFERS

    def round(self, index: int, done: Callable[[float], None]) -> None:
        """Measure every row once."""
        self._warm()
        self._python()
        self._fresh()
        self._areas()
        self._imports()

    def finish(self) -> None:
        """Report the transfers; BenchError when the donor has not really lost the memory."""
        gone = self._await_donor()
        if gone < (self._transfers - SLACK_AREAS) * AREA_FRAMES:
            raise BenchError(
                f"{self._transfers} areas were transferred, but the donor lost {gone} frames "
                "(st_blocks): rows of transfer cannot be reported"
            )
        for name in ("grant_transfer_2m", "grant_transfer_2m_back_to_back"):
            self._sheet.rows[name].extra |= {
                "transfers": self._transfers,
                "donor_frames_before": self._donor_before,
                "donor_frames_after": self._donor_before - gone,
            }

    def _warm(self) -> None:
        warm = {"count": WARM_SAMPLES, "ops": WARM_OPS}
        add, call = self._sheet.add, self._subject.ask
        add("empty_loop", call("empty", **warm), WARM_OPS)
        add("malloc_warm_4k", call("malloc_warm", **warm, size=FRAME_BYTES), WARM_OPS)
        add("grant_local_4k", call("grant_local", key="credit", **warm), WARM_OPS)
        add("grant_batch64_4k", call("grant_batch", key="credit", count=WARM_SAMPLES), WARM_OPS)
        alone = self._plain.ask("malloc_warm", **warm, size=FRAME_BYTES)
        add("malloc_warm_4k_single_threaded", alone, WARM_OPS)

    def _python(self) -> None:
        warm = {"count": PYTHON_SAMPLES, "ops": WARM_OPS}
        add, call = self._sheet.add, self._subject.ask
        add("python_empty_loop", call("python", row="nothing", **warm), WARM_OPS)
        add("python_bytearray_4k", call("python", row="of_bytearray", **warm), WARM_OPS)
        add("python_grant_4k", call("python", row="grant", key="credit", **warm), WARM_OPS)
        add("python_numpy_4k", call("python", row="of_numpy", **warm), WARM_OPS)

    def _fresh(self) -> None:
        add, call = self._sheet.add, self._subject.ask
        samples, faults = call("malloc_fresh", count=FRESH_SAMPLES, ops=FRESH_OPS, size=FRAME_BYTES)
        _keep_lowest(add("malloc_fresh_4k", samples, FRESH_OPS), "page_faults_per_page", faults)
        samples, dry, thrown = call("grant_credit", key="credit", count=FRESH_SAMPLES)
        if samples:
            row = add("grant_credit_4k", samples, FRESH_OPS)
            _count(row, "credit_ran_dry", dry)
            _count(row, "samples_not_fresh", thrown)
        writes, reads = call("populate", count=POPULATE_SAMPLES)
        add("populate_4k", writes, FRESH_OPS)
        add("map_4k", reads, FRESH_OPS)

    def _areas(self) -> None:
        add, call = self._sheet.add, self._subject.ask
        samples, faults = call("malloc_fresh", count=AREA_SAMPLES, ops=1, size=AREA_BYTES)
        _keep_lowest(add("malloc_fresh_2m", samples, 1), "page_faults_per_page", faults)
        for key, name in (("ring", "grant_ring_2m"), ("taker", "grant_transfer_2m")):
            self._area(key, name, AREA_SAMPLES, PAUSE_S)
            self._area(key, f"{name}_back_to_back", HURRIED_SAMPLES, 0.0)

    def _area(self, key: str, name: str, count: int, pause_s: float) -> None:
        samples, paths = self._subject.ask("grant_area", key=key, count=count, pause_s=pause_s)
        row = self._sheet.add(name, samples, 1)
        for path in paths:
            _count(row, f"path_{PATH_NAMES[path]}", 1)
        if key == "taker":
            self._transfers += count

    def _imports(self) -> None:
        samples = {name: array("Q") for name in IMPORTS}
        for _ in range(IMPORT_SAMPLES):
            for name, code in IMPORTS.items():
                samples[name].append(_run_python(code))
        for name, times_ns in samples.items():
            self._sheet.add(name, times_ns.tobytes(), 1)

    def _donor_frames(self) -> int:
        return int(self._full.domain("donor")["resident_frames"])

    def _await_donor(self) -> int:
        """Frames the kernel took from the donor, once that stands still as expected."""
        deadline = time.monotonic() + DONOR_WAIT_S
        while True:
            gone = self._donor_before - self._donor_frames()
            if gone >= self._transfers * AREA_FRAMES or time.monotonic() > deadline:
                return gone
            time.sleep(DONOR_POLL_S)


def _roomy(credit: int, ring: int) -> HypervisorConfig:
    domains = _domain("credit", credit, credit_areas=1), _domain("ring", ring)
    return _config(credit + ring + SLACK_AREAS + SPARE_AREAS, *domains)


def _full(grown: int) -> HypervisorConfig:
    # Two areas more than the donor's and the slack: the taker's first, and the one populated ahead
    # of its next need. From then on the host is full.
    frames = grown * AREA_FRAMES
    donor = DomainConfig("donor", frames, frames, frames, credit_areas=0)
    return _config(grown + SLACK_AREAS + 2, donor, _domain("taker", grown))


def _config(areas: int, *domains: DomainConfig) -> HypervisorConfig:
    total, slack = areas * AREA_FRAMES, SLACK_AREAS * AREA_FRAMES
    return HypervisorConfig(total_frames=total, slack_frames=slack, domains=domains)


def _domain(name: str, areas: int, credit_areas: int = 0) -> DomainConfig:
    frames = areas * AREA_FRAMES
    return DomainConfig(name, frames, 0, frames, credit_areas=credit_areas)


def _check_memory(wanted_bytes: int) -> None:
    for line in read_text("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:") and int(line.split()[1]) * 1024 < wanted_bytes:
            why = f"needs {wanted_bytes >> 20} MiB of free memory: ask for fewer rounds"
            raise ConfigError("--rounds", why)


def _run_python(code: str) -> int:
    start_ns = time.perf_counter_ns()
    returncode = start_python("-c", code).wait()  # with a limit it would poll, which costs time
    elapsed_ns = time.perf_counter_ns() - start_ns
    if returncode:
        raise BenchError(f"python -c {code!r} ended with {returncode}")
    return elapsed_ns


def _count(row: Row, key: str, more: int) -> None:
    row.extra[key] = row.extra.get(key, 0) + more


def _keep_lowest(row: Row, key: str, value: float) -> None:
    row.extra[key] = round(min(value, row.extra.get(key, value)), 3)
