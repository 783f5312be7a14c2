"""Small measurements that no bench makes, for claims: each prints its result as JSON.

Owns: the checks of the conformance kit on every mechanism, the time until a domain that uses what
it was not given is noticed, how much of a fragmented domain can be unplugged, refusals by target in
tmem, and facts of the machine. ``python -m memcoord.benchmarks.claims.probes NAME [--quick]`` runs
one, in a process of its own because it forks guests and pins threads.
"""

from __future__ import annotations

import contextlib
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from hypervisor.public.settings import MECHANISMS
from hypervisor.public.units import AREA_FRAMES, FRAME_BYTES, DomId

Found = dict[str, Any]

NODES = Path("/sys/devices/system/node")
MIB, GIB = 1 << 20, 1 << 30
#: How often a domain takes what it was not given, over all mechanisms.
TRIES, TRIES_QUICK = 1_002, 36
#: Of a fragmented domain: areas it has, and areas it is to be shrunk to. It fills FILLED of its
#: memory with frames that can be moved, UNMOVABLE others among them, and gives every
#: GIVEN_STRIDE-th back.
FULL_AREAS, LOW_AREAS = 32, 16
FILLED, GIVEN_STRIDE, UNMOVABLE = 0.75, 2, 16
UNPLUG_S = 5.0
#: Name in the result -> mechanism and options. A DIMM is unplugged whole or not at all.
UNPLUGGED = {
    "virtio-mem 4 MiB": ("virtio-mem", {}),
    "virtio-mem 2 MiB": ("virtio-mem", {"block_areas": 1}),
    "balloon": ("balloon", {}),
    "hotplug in sections of 16 MiB": ("sections", {"section_areas": 8}),
}


def host(quick: bool) -> Found:
    """Facts of the machine."""
    del quick
    nodes = len(list(NODES.glob("node[0-9]*"))) if NODES.is_dir() else 1
    return {"nodes": nodes, "machine": platform.machine()}


def kit(quick: bool) -> Found:
    """Per mechanism the checks of the conformance kit that fail, and its granule in MiB."""
    del quick
    from backend.conformance import CHECKS, Lab, NotConforming, Subject
    from memcoord.testbed.guests.obedient import GuestProcess

    failed: dict[str, list[str]] = {}
    checked: dict[str, dict[str, int]] = {}
    for name in MECHANISMS:
        failed[name], checked[name] = [], {}
        for check, run in CHECKS.items():
            try:
                with Lab(Subject(name, {}), GuestProcess) as lab:
                    run(lab)
            except NotConforming as error:
                failed[name].append(f"{check}: {error}")
            checked[name][check] = int(not any(text.startswith(check) for text in failed[name]))
    return {
        "failed": failed,
        "count": {name: len(texts) for name, texts in failed.items()},
        "passed": checked,
        "granule_mib": _granules(),
    }


def _granules() -> dict[str, float]:
    """The smallest step of a target, by the name of UNPLUGGED."""
    from backend.host import HostBackend
    from hypervisor.public.backend import DomainSpec

    found = {}
    for name, (mechanism, options) in UNPLUGGED.items():
        backend = HostBackend(total_frames=64 * AREA_FRAMES, slack_frames=0, tmem_max_frames=0)
        try:
            sizes = (16 * AREA_FRAMES, 8 * AREA_FRAMES, 8 * AREA_FRAMES)
            backend.open(DomId(0), DomainSpec("vm1", *sizes, mechanism=mechanism, options=options))
            (domain,) = backend.snapshot().domains
            found[name] = domain.granule_frames * FRAME_BYTES / MIB
        finally:
            backend.stop()
    return found


def detection(quick: bool) -> Found:
    """Milliseconds until a domain that uses more than its grant is noticed: median, p99, longest.

    ``--tries N`` in place of the number of tries.
    """
    from memcoord.benchmarks.hostile.detection import detection as tried

    given = [sys.argv[at + 1] for at, word in enumerate(sys.argv[:-1]) if word == "--tries"]
    return tried(int(given[0]) if given else TRIES_QUICK if quick else TRIES)


def arm(quick: bool) -> Found:
    """The C of both halves on 64-bit ARM, under qemu-user."""
    del quick
    from memcoord.benchmarks.arm import tried

    with tempfile.TemporaryDirectory(prefix="mc-arm-") as folder:
        return tried(Path(folder) / "arm")


@contextlib.contextmanager
def _full_domain(mechanism: str, options: dict[str, int]) -> Iterator[Any]:
    """A host whose one domain has FULL_AREAS, and the process of its guest."""
    from backend.host import HostBackend
    from hypervisor.public.backend import DomainSpec
    from memcoord.testbed.guests.obedient import GuestProcess

    full = FULL_AREAS * AREA_FRAMES
    backend = HostBackend(total_frames=full + 8 * AREA_FRAMES, slack_frames=0, tmem_max_frames=0)
    try:
        spec = DomainSpec("vm1", full, full, full, mechanism=mechanism, options=options)
        handles = backend.open(DomId(0), spec)
        with contextlib.closing(GuestProcess(handles, "vm1", 0)) as guest:
            yield backend, guest
    finally:
        backend.stop()


def unplug(quick: bool) -> Found:
    """Percent of what was asked back that is unplugged from a domain with scattered frames."""
    del quick
    percent = {}
    full = FULL_AREAS * AREA_FRAMES
    for name, (mechanism, options) in UNPLUGGED.items():
        with _full_domain(mechanism, options) as (backend, guest):
            taken = 0
            for _ in range(UNMOVABLE):  # one that cannot be moved among many that can
                taken += guest.take("movable", int(full * FILLED) // UNMOVABLE)
                guest.take("frames", 1)
            guest.give("movable", taken // GIVEN_STRIDE, GIVEN_STRIDE)
            backend.set_target(DomId(0), LOW_AREAS * AREA_FRAMES)
            settled = backend.settle(DomId(0), UNPLUG_S)
        gone = full - settled.plugged_frames
        percent[name] = 100.0 * gone / (full - LOW_AREAS * AREA_FRAMES)
    best = max(value for name, value in percent.items() if name.startswith("virtio-mem"))
    return {"percent": percent, "over hotplug": best - percent["hotplug in sections of 16 MiB"],
            "over balloon": best - percent["balloon"]}  # fmt: skip


def refusals(quick: bool) -> Found:
    """Puts of two domains under a target of the policy: whose were refused."""
    del quick
    from memcoord.simulation.world import World
    from memcoord.testbed.scenarios.schema import load
    from policies import loader

    scenario = load("smartmem/s2")
    result = World(scenario, loader.load("static-alloc")).run()
    refused = {domain.domain: domain.failed_puts for domain in result.domains}
    return {"refused": refused, "domains_refused": sum(count > 0 for count in refused.values())}


PROBES: dict[str, Callable[[bool], Found]] = {
    "host": host,
    "kit": kit,
    "detection": detection,
    "arm": arm,
    "unplug": unplug,
    "refusals": refusals,
}


if __name__ == "__main__":
    result = PROBES[sys.argv[1]]("--quick" in sys.argv)
    sys.stdout.write(msgspec.json.encode(result).decode() + "\n")
