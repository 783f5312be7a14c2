"""Small scenarios and hosts for tests of the simulator, in virtual time a second or two."""

from __future__ import annotations

from typing import Any

import numpy as np

from hypervisor.public.backend import DomainSpec
from hypervisor.public.units import AREA_FRAMES, DomId
from memcoord.simulation.host import Paging, SimHost
from memcoord.testbed.scenarios.schema import Scenario, parse
from memcoord.testbed.streams import Stream
from memcoord.testbed.streams.references import held


def domain(name: str, kind: dict[str, Any], **options: Any) -> dict[str, Any]:
    plain = {"name": name, "maxmem": "8 MiB", "ram": "2 MiB", "workload": kind}
    return plain | options


def loop(pages: int, repeat: int, resident: int = 200) -> dict[str, Any]:
    return {
        "kind": "loop",
        "size": f"{pages} pages",
        "repeat": repeat,
        "resident": f"{resident} pages",
    }


def scenario(*domains: dict[str, Any], **options: Any) -> Scenario:
    plain = {"name": "test", "memory": "16 MiB", "slack": "2 MiB", "interval_ms": 50}
    return parse(plain | options | {"domain": list(domains)})


def contest(**options: Any) -> Scenario:
    """Two that loop over more than they hold, then a third: 1,100 pages beyond RAM for 1,024."""
    return scenario(
        domain("vm1", loop(700, 60)),
        domain("vm2", loop(700, 60)),
        domain("vm3", loop(700, 60), start_when={"domain": "vm1", "done": 0.3}),
        tmem="4 MiB",
        **options,
    )


FOREVER = 1 << 60


def make_stream(
    pages: Any, writes: Any = 0, *, program: Any = (), compute_ns: int = 1000, pauses: Any = ()
) -> Stream:
    numbers = np.asarray(pages, dtype=np.int32)
    written = np.broadcast_to(np.asarray(writes, dtype=np.uint8), numbers.shape).copy()
    count = int(numbers.max()) + 1
    flags = np.zeros(count, dtype=np.bool_)
    flags[[page for page in program if page < count]] = True
    return Stream("test", held(numbers, written), count, flags, tuple(pauses), compute_ns)


def make_spec(ram_areas: int, name: str = "vm0", most: int | None = None) -> DomainSpec:
    frames = ram_areas * AREA_FRAMES
    return DomainSpec(name, (most or ram_areas) * AREA_FRAMES, frames, frames)


def make_host(total: int, *, tmem: int = -1, slack: int = 0, **options: Any) -> SimHost:
    return SimHost(
        total_frames=total * AREA_FRAMES,
        slack_frames=slack * AREA_FRAMES,
        tmem_max_frames=tmem if tmem < 0 else tmem * AREA_FRAMES,
        **options,
    )


#: A guest that serves one fault after the other, and moves one page at a time.
PLAIN = Paging(cluster_pages=1, ahead_pages=1, depth=1)


def open_domain(
    host: SimHost, work: Stream, ram: int = 1, resident: int = 300, domid: int = 0,
    paging: Paging = PLAIN,
) -> DomId:  # fmt: skip
    """Open a domain of ``ram`` areas and give it its work."""
    host.open(DomId(domid), make_spec(ram, f"vm{domid}"))
    host.load(DomId(domid), work, resident, 0, paging)
    return DomId(domid)
