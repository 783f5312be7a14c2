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
#: How often a domain that takes what it was not given is tried, per mechanism.
TRIES, TRIES_QUICK = 10, 2
CHEAT_FOR_S = 0.3
OVERUSE = "uses more than its grant"
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
    """Milliseconds until a domain that uses more than its grant is noticed, by mechanism."""
    from memcoord.benchmarks.hostile.cheats import try_cheat
    from memcoord.benchmarks.hostile.lab import CheatLab

    noticed: dict[str, list[float]] = {}
    unnoticed = 0
    for mechanism in MECHANISMS:
        noticed[mechanism] = []
        for _ in range(TRIES_QUICK if quick else TRIES):
            with (
                tempfile.TemporaryDirectory(prefix="mc-") as folder,
                CheatLab(mechanism, Path(folder)) as lab,
            ):
                row = try_cheat(lab, OVERUSE, CHEAT_FOR_S)
            unnoticed += not row.noticed
            if row.noticed:
                noticed[mechanism].append(row.noticed_ms)
    times = sorted(value for values in noticed.values() for value in values)
    return {
        "noticed_ms": noticed,
        "unnoticed": unnoticed,
        "tries": len(times) + unnoticed,
        "longest_ms": times[-1] if times else None,
    }


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
    "unplug": unplug,
    "refusals": refusals,
}


if __name__ == "__main__":
    result = PROBES[sys.argv[1]]("--quick" in sys.argv)
    sys.stdout.write(msgspec.json.encode(result).decode() + "\n")
