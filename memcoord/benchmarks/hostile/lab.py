"""The host on which guests cheat: a real hypervisor that can be looked into, and two neighbours.

Owns: ``CheatLab``. Attach listener, control plane, coordinator and C threads are the product's; the
hypervisor's loop runs on a thread of this process, so that the ledger can be validated at every
tick. Meanwhile a loop in C looks at the memory the kernel has really given to all domains together.
The guests are real processes: the cheater, resized by the mechanism under test; ``holder``, whose
memory must keep its content; ``grower``, which asks for memory and gives it back all the time, puts
pages, and so feels every delay of the host.
Called by: ``memcoord.benchmarks.hostile.cheats``.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from backend.host import HostBackend
from hypervisor.config import DomainConfig, HypervisorConfig, check
from hypervisor.coordination.coordinator import Coordinator
from hypervisor.loop import Hypervisor
from hypervisor.public.backend import DomainHandles, DomainSpec
from hypervisor.public.units import AREA_FRAMES, FRAME_BYTES, DomId
from memcoord.benchmarks._loops import ffi, lib
from memcoord.testbed.runs.control_client import call
from memcoord.testbed.runs.remote import Remote, RemoteGone
from policies.loader import load

AREA = AREA_FRAMES
GUEST = "memcoord.benchmarks.hostile.guest"
TOTAL_AREAS, SLACK_AREAS = 40, 2
#: Of the cheater: it could really use far more than all host memory.
MAX_AREAS, BOOT_AREAS, TARGET_AREAS = 96, 4, 16
HELD_AREAS = 4
LOW_AREAS = 2  # the target to which a cheater that holds memory must shrink
INTERVAL_MS = 20
WATCH_NS = 200_000
PAUSE_S = 0.0005
WAIT_S = 60.0
POLL_S = 0.002
CHEATER, HOLDER, GROWER = "cheater", "holder", "grower"
#: Sizes as small as the others', so that every mechanism has something to shrink.
OPTIONS: dict[str, dict[str, int]] = {"sections": {"section_areas": 2}}


class Watched(HostBackend):
    """The product's backend, validated at every tick; its files are watched."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.watch = ffi.new("struct mcc_watch *")
        self.watch.limit_bytes = options["total_frames"] * FRAME_BYTES
        #: Why a domain is not at its target, and since when; of those that are not.
        self.whys: dict[str, tuple[str, float]] = {}
        self._index: dict[str, int] = {}
        self._eye = threading.Thread(target=lib.mcc_watch_run, args=(self.watch, WATCH_NS))
        self._eye.start()

    def open(self, domid: DomId, spec: DomainSpec) -> DomainHandles:
        """Watch the file of the domain as well, also after the domain is gone."""
        handles = super().open(domid, spec)
        index = self._index.setdefault(spec.name, len(self._index))
        before, self.watch.fds[index] = self.watch.fds[index], os.dup(handles.ram_fd)
        if index == self.watch.count:
            self.watch.count = index + 1
        elif before >= 0:
            os.close(before)
        return handles

    def forget(self, name: str) -> None:
        """Stop watching the file of a domain that is gone."""
        self.whys.pop(name, None)
        index = self._index.get(name)
        if index is not None and self.watch.fds[index] >= 0:
            before, self.watch.fds[index] = self.watch.fds[index], -1
            os.close(before)

    def look_anew(self) -> None:
        """Forget the peaks so far."""
        self.watch.peak_bytes = 0
        for index in range(self.watch.count):
            self.watch.peaks_bytes[index] = 0

    def beyond(self, name: str, granted_frames: int) -> int:
        """The most frames the file of a domain has had beyond ``granted_frames``."""
        peak = int(self.watch.peaks_bytes[self._index[name]]) // FRAME_BYTES
        return max(peak - granted_frames, 0)

    def all_back(self) -> bool:
        """Whether no domain is on its way out. The hypervisor's thread looks at every tick."""
        return not self._leaving

    def beat(self) -> None:
        """Part of every tick, on the hypervisor's thread."""
        super().beat()
        self.validate()
        if self.tmem is not None:
            self._on_tmem("validate")
        for domid, name in self._names.items():
            settled = self.settle(domid, 0.0)
            before, _ = self.whys.get(name, ("", 0.0))
            if settled.state == "reached":
                self.whys.pop(name, None)
            elif settled.why != before:
                self.whys[name] = settled.why, time.monotonic()

    def stop(self) -> list[str]:
        """Stop the watch, then the host."""
        self.watch.stop = 1
        self._eye.join()
        for name in self._index:
            self.forget(name)
        return super().stop()


class CheatLab:
    """A host with two honest guests, and a place for a cheater of the mechanism.

    ``tmem_areas`` of the host may be tmem's. ``word_step`` is of the cheats that corrupt every
    word: 2 is every second word. ``config`` are settings of the hypervisor.
    """

    def __init__(
        self,
        mechanism: str,
        run_dir: Path,
        *,
        seed: int = 1,
        word_step: int = 1,
        tmem_areas: int = 0,
        **config: Any,
    ) -> None:
        self.word_step, self.tmem_frames = word_step, tmem_areas * AREA
        self.mechanism, self.run_dir, self.seed = mechanism, run_dir, seed
        settings = {"on_violation": "kill", "interval_ms": INTERVAL_MS, **config}
        domains = (
            _domain(CHEATER, MAX_AREAS, BOOT_AREAS, TARGET_AREAS, mechanism),
            _domain(HOLDER, 2 * HELD_AREAS, HELD_AREAS, 2 * HELD_AREAS, "direct"),
            _domain(GROWER, 8 * HELD_AREAS, HELD_AREAS, 2 * HELD_AREAS, "direct"),
        )
        total, slack = TOTAL_AREAS * AREA, SLACK_AREAS * AREA
        self.config = HypervisorConfig(
            total_frames=total,
            slack_frames=slack,
            tmem_max_pages=self.tmem_frames,
            domains=domains,
            **settings,
        )
        check(self.config)
        self.events: list[tuple[float, str, dict[str, Any]]] = []
        self.failed: BaseException | None = None
        self.shrunk_at = 0.0  # when the cheater was told to shrink last
        self._stack = contextlib.ExitStack()
        self.neighbours: dict[str, Remote] = {}

    def __enter__(self) -> CheatLab:
        with contextlib.ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *raised: object) -> None:
        self._stack.close()

    def _start(self, stack: contextlib.ExitStack) -> None:
        config = self.config
        self.backend = Watched(
            total_frames=config.total_frames, slack_frames=config.slack_frames,
            tmem_max_frames=self.tmem_frames, spin_ns=config.spin_ns,
            error_budget=config.error_budget, stop_excess=config.on_violation != "report",
        )  # fmt: skip
        stack.callback(self.backend.stop)
        coordinator = Coordinator(self.backend, load(config.policy), config=config)
        host = Hypervisor(config, self.run_dir, self.backend, coordinator, self._note)
        stack.callback(host.close)
        thread = threading.Thread(target=self._serve, args=(host,), name="hypervisor")
        thread.start()
        stack.callback(thread.join)
        stack.callback(host.shutdown)
        for name in (HOLDER, GROWER):
            self.neighbours[name] = guest = self.guest(stack, name)
            guest.ask("join")
            guest.ask("hold", areas=HELD_AREAS)

    def _serve(self, host: Hypervisor) -> None:
        try:
            host.run()
        except BaseException as error:
            self.failed = error

    def _note(self, event: str, fields: dict[str, Any]) -> None:
        self.events.append((time.monotonic(), event, fields))

    def guest(self, stack: contextlib.ExitStack, name: str) -> Remote:
        """A process of its own, not attached yet."""
        made = Remote(name, GUEST, str(self.run_dir), name, str(self.seed))
        stack.callback(made.close, grace_s=0.0)
        return made

    @contextlib.contextmanager
    def cheater(self) -> Iterator[Remote]:
        """One cheater, gone afterwards, and its memory with it."""
        with contextlib.ExitStack() as stack:
            yield self.guest(stack, CHEATER)
        self.await_gone()
        self.backend.forget(CHEATER)

    def await_gone(self) -> bool:
        """Until no cheater is attached and its memory is back; False when that took too long."""
        until = time.monotonic() + WAIT_S
        while not self.backend.all_back() or self._is_attached():
            if time.monotonic() > until:
                return False
            time.sleep(POLL_S)
        return True

    def _is_attached(self) -> bool:
        return any(entry["name"] == CHEATER for entry in self.ask("list"))

    def ask(self, op: str, **args: Any) -> Any:
        """One operation of the control plane."""
        return call(self.run_dir, op, timeout_ms=int(WAIT_S * 1000), **args)

    def shrink(self, frames: int) -> None:
        """Set the target of the cheater to ``frames``."""
        self.shrunk_at = time.monotonic()
        self.ask("mem-set", domain=CHEATER, target_frames=frames)

    def current_frames(self, name: str) -> int:
        """The frames a domain holds by the ledger; 0 when no such domain is attached."""
        domains = self.ask("statistics")["domains"]
        return sum(domain["current_frames"] for domain in domains if domain["name"] == name)

    def served(self, for_s: float) -> dict[str, list[int]]:
        """For ``for_s`` seconds, the nanoseconds that the grower waits for each area and put."""
        samples: dict[str, list[int]] = self.neighbours[GROWER].ask(
            "served", for_s=for_s, pause_s=PAUSE_S
        )
        return samples

    def noticed(self, since: float) -> tuple[str, float]:
        """The first complaint of the hypervisor about the cheater since ``since``, and its time."""
        for at, event, fields in self.events:
            if at < since or CHEATER not in (fields.get("name"), fields.get("domain")):
                continue
            if event == "violation":
                return "uses what it was not granted", at
            if event == "detached" and fields["reason"] not in ("ended", "asked for"):
                return str(fields["reason"]), at
        return "", since

    def damage(self) -> list[str]:
        """Everything wrong that can be seen now: texts, none unless a cheat hurt somebody else."""
        if self.failed is not None:
            return [f"the hypervisor ended: {self.failed}"]
        found = []
        for name, guest in self.neighbours.items():
            try:
                if wrong := guest.ask("verify"):
                    found.append(f"{name}: {wrong} pages changed")
            except RemoteGone as error:
                found.append(str(error))
        host = self.ask("statistics")
        found += [
            f"{domain['name']} is blamed: {domain['bad_requests']} bad requests"
            for domain in host["domains"]
            if domain["name"] != CHEATER and (domain["bad_requests"] or domain["broken"])
        ]
        if {d["name"] for d in host["domains"]} - {CHEATER} != {HOLDER, GROWER}:
            found.append("a neighbour was thrown out")
        return found


def _domain(name: str, most: int, boot: int, target: int, mechanism: str) -> DomainConfig:
    sizes = (most * AREA, boot * AREA, target * AREA)
    options = OPTIONS.get(mechanism, {})
    return DomainConfig(name, *sizes, credit_areas=0, mechanism=mechanism, options=options)
