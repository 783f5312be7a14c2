"""A coordinator over a host that enforces conservation at every single call: not a test."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, cast

from msgspec.structs import replace

from hypervisor.config import DomainConfig, HypervisorConfig
from hypervisor.coordination.coordinator import Coordinator, TickReport
from hypervisor.coordination.policy_runner import Stalled
from hypervisor.public.backend import Backend, DomainSnapshot, HostSnapshot
from hypervisor.public.units import AREA_FRAMES, DomId
from policies import Plan, Policy, View

TOTAL = 64 * AREA_FRAMES
SLACK = 2 * AREA_FRAMES
TMEM = 1000


PLAIN: dict[str, Any] = dict.fromkeys(DomainSnapshot.__struct_fields__, 0)


def domain(domid: int, **values: Any) -> DomainSnapshot:
    fixed = {"domid": DomId(domid), "name": f"vm{domid}", "tmem_target_pages": -1, "mrc": None}
    return DomainSnapshot(**PLAIN | fixed | values)


@dataclass
class Fake:
    """A host. Shrunk RAM comes back at once up to ``at_once_areas`` of a domain, the rest later."""

    domains: dict[DomId, DomainSnapshot] = field(default_factory=dict)
    calls: list[tuple[str, int, int]] = field(default_factory=list)
    capacity: int = TMEM
    refuses: type[Exception] | None = None
    at_once_areas: int = TOTAL

    def change(self, domid: int, **values: Any) -> None:
        self.domains[DomId(domid)] = replace(self.domains[DomId(domid)], **values)

    def set_target(self, domid: DomId, frames: int) -> None:
        self.calls.append(("ram", domid, frames))
        now = self.domains[domid]
        floor = now.installed_frames - self.at_once_areas * AREA_FRAMES
        held = max(min(now.installed_frames, frames), floor)
        self.change(domid, target_frames=frames, installed_frames=held, current_frames=held)
        self.validate()

    def set_tmem_target(self, domid: DomId, pages: int) -> None:
        if self.refuses is not None and domid == 1:
            raise self.refuses("no")
        self.calls.append(("tmem", domid, pages))
        self.change(domid, tmem_target_pages=pages)
        self.validate()

    def settle(self) -> None:
        """Guests free what they were to free, and take what they were promised."""
        for domid, now in self.domains.items():
            self.change(domid, installed_frames=now.target_frames, current_frames=now.target_frames)

    def snapshot(self) -> HostSnapshot:
        installed = sum(now.installed_frames for now in self.domains.values())
        domains = tuple(reversed(self.domains.values()))
        free = TOTAL - installed
        return HostSnapshot(TOTAL, SLACK, free, installed, 0, 0, 0, self.capacity, domains)

    def validate(self) -> None:
        domains = self.domains.values()
        limited = [now.tmem_target_pages for now in domains if now.tmem_target_pages >= 0]
        assert sum(limited) <= self.capacity
        promised = sum(max(now.installed_frames, now.target_frames) for now in domains)
        assert promised <= TOTAL - SLACK


class Scripted:
    """Answers with what the next of ``answers`` returns or raises; the last one for ever."""

    name = "scripted"

    def __init__(self, answers: Iterable[Callable[[View], Any]]) -> None:
        self.answers = list(answers)
        self.views: list[View] = []

    def plan(self, view: View) -> Plan:
        self.views.append(view)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        result: Plan = answer(view)
        return result


class World:
    """A coordinator over a fake host, with a clock and a runner of the test's own."""

    def __init__(self, policy: Policy) -> None:
        self.host = Fake()
        self.now_ns = 5_000_000_000
        self.stall = False
        config = HypervisorConfig(total_frames=TOTAL)
        self.coordinator = Coordinator(
            cast(Backend, self.host),
            policy,
            config=config,
            clock=lambda: self.now_ns,
            runner=self.run,
        )

    def run(self, call: Callable[[], object], deadline_s: float) -> object:
        assert deadline_s == 0.5
        if self.stall:
            raise Stalled("stalled: no plan within 500 ms")
        return call()

    def open(self, domid: int, settings: dict[str, Any] | None = None, **values: Any) -> None:
        config: dict[str, Any] = {"maxmem_frames": TOTAL, "boot_frames": 0, "target_frames": 0}
        self.host.domains[DomId(domid)] = domain(domid, **values)
        self.coordinator.domain_opened(
            DomId(domid), DomainConfig(name=f"vm{domid}", **config | (settings or {}))
        )

    def close(self, domid: int) -> None:
        del self.host.domains[DomId(domid)]
        self.coordinator.domain_closed(DomId(domid))

    def tick(self) -> TickReport:
        self.now_ns += 1_000_000_000
        self.host.calls.clear()
        return self.coordinator.tick()

    def tmem(self) -> list[int]:
        return [self.host.domains[key].tmem_target_pages for key in sorted(self.host.domains)]


def tmem(*targets: float) -> Callable[[View], Plan]:
    return lambda view: Plan(tmem=list(targets))


def ram_areas(*targets: int) -> Callable[[View], Plan]:
    return lambda view: Plan(ram=[areas * AREA_FRAMES for areas in targets])


def raising(error: BaseException) -> Callable[[View], Plan]:
    def plan(view: View) -> Plan:
        raise error

    return plan


def holding(world: World, *areas: int) -> None:
    for index, count in enumerate(areas):
        frames = count * AREA_FRAMES
        held: dict[str, Any] = {
            "target_frames": frames,
            "installed_frames": frames,
            "current_frames": frames,
            "tmem_target_pages": 0,
        }
        world.open(index + 1, **held)
