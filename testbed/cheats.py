"""Guests that cheat, against every mechanism: what each cheat achieves, seen from the host.

Owns: the cheats (``CHEATS``), the host they are tried on (``CheatLab``) and the rows of the report.
``cheat_report(mechanism, run_dir)`` tries all of them; a test asks each row for its ``damage``.

The host is a real hypervisor: attach listener, control plane, coordinator and C threads, on a
thread of this process so that the kit can look into its ledger. Its guests are real processes:
the cheater, resized by the mechanism under test; ``holder``, whose memory must keep its content;
``grower``, which asks for memory and gives it back all the time and feels whatever holds up the
host. At every tick the ledger is validated; meanwhile a loop in C looks at what the kernel really
gave to all domains together.

Nothing here judges how fast something was. What no cheat may do is counted in ``Row.damage``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backend.host import HostBackend
from hypervisor.config import DomainConfig, HypervisorConfig, check
from hypervisor.coordinator import Coordinator
from hypervisor.loop import Hypervisor
from hypervisor.public.backend import DomainHandles, DomainSpec
from hypervisor.public.units import AREA_FRAMES, FRAME_BYTES, DomId
from policies.loader import load
from testbed._loops import ffi, lib
from testbed.cheating_guest import HOWS, WHERE, CheatProcess
from testbed.control_client import call

AREA = AREA_FRAMES
TOTAL_AREAS, SLACK_AREAS = 40, 2
#: Of the cheater: it could really use far more than all host memory.
MAX_AREAS, BOOT_AREAS, TARGET_AREAS = 96, 4, 16
HELD_AREAS = 4
LOW_AREAS = 2  # what a cheater that holds all is told to shrink to
INTERVAL_MS = 20
WATCH_NS = 200_000
PAUSE_S = 0.0005
WAIT_S = 60.0
POLL_S = 0.002
CHEATER, HOLDER, GROWER = "cheater", "holder", "grower"
ENOUGH_SAMPLES = 100  # below that there is no 99th percentile to speak of


@dataclass
class Row:
    """What came of one cheat. ``damage`` is empty unless something happened that never may."""

    mechanism: str
    cheat: str
    noticed: str = ""  # what the hypervisor said of it, first
    noticed_ms: float = 0.0  # from the first command of the cheat
    stopped: bool = False
    beyond_frames: int = 0  # most that the kernel gave to the cheater beyond what it was granted
    excess_frames: int = 0  # most that it gave to all domains beyond host memory
    p99_ratio: float | None = None  # the grower's, against the moment before
    did: Any = None  # what the cheater says it did, unless it was stopped first
    damage: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """Detected, or harmless; or what is broken."""
        if self.damage:
            return "; ".join(self.damage)
        return f"detected: {self.noticed}" if self.noticed else "harmless"


class Watched(HostBackend):
    """The product's backend, validated at every tick; its files are watched."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.watch = ffi.new("struct mcc_watch *")
        self.watch.limit_bytes = options["total_frames"] * FRAME_BYTES
        self.whys: dict[str, str] = {}
        self._index: dict[str, int] = {}
        self._eye = threading.Thread(target=lib.mcc_watch_run, args=(self.watch, WATCH_NS))
        self._eye.start()

    def open(self, domid: DomId, spec: DomainSpec) -> DomainHandles:
        """One more file to watch, also when the domain is gone: who still uses it is seen."""
        handles = super().open(domid, spec)
        index = self._index.setdefault(spec.name, len(self._index))
        before, self.watch.fds[index] = self.watch.fds[index], os.dup(handles.ram_fd)
        if index == self.watch.count:
            self.watch.count = index + 1
        elif before >= 0:
            os.close(before)
        return handles

    def forget(self, name: str) -> None:
        """Look no more at what a domain that is gone had."""
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
        """Most frames that the file of a domain had beyond those."""
        peak = int(self.watch.peaks_bytes[self._index[name]]) // FRAME_BYTES
        return max(peak - granted_frames, 0)

    def beat(self) -> None:
        """Part of every tick, on the hypervisor's thread."""
        super().beat()
        self.validate()
        for domid, name in self._names.items():
            settled = self.settle(domid, 0.0)
            self.whys[name] = settled.why if settled.state != "reached" else ""

    def stop(self) -> None:
        """And stop looking."""
        self.watch.stop = 1
        self._eye.join()
        for name in self._index:
            self.forget(name)
        super().stop()


class CheatLab:
    """A host with two honest guests, and a place for a cheater of the mechanism."""

    def __init__(
        self,
        mechanism: str,
        run_dir: Path,
        *,
        options: Mapping[str, int] | None = None,
        seed: int = 1,
        **config: Any,
    ) -> None:
        self.mechanism, self.run_dir, self.seed = mechanism, run_dir, seed
        settings = {"on_violation": "kill", "interval_ms": INTERVAL_MS, **config}
        self.config = HypervisorConfig(
            total_frames=TOTAL_AREAS * AREA,
            slack_frames=SLACK_AREAS * AREA,
            tmem_max_pages=0,
            domains=(
                _domain(CHEATER, MAX_AREAS, BOOT_AREAS, TARGET_AREAS, mechanism, options or {}),
                _domain(HOLDER, 2 * HELD_AREAS, HELD_AREAS, 2 * HELD_AREAS, "direct", {}),
                _domain(GROWER, 8 * HELD_AREAS, HELD_AREAS, 2 * HELD_AREAS, "direct", {}),
            ),
            **settings,
        )
        check(self.config)
        self.events: list[tuple[float, str, dict[str, Any]]] = []
        self.failed: BaseException | None = None
        self._stack = contextlib.ExitStack()
        self.neighbours: dict[str, CheatProcess] = {}

    def __enter__(self) -> CheatLab:
        with contextlib.ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self, stack: contextlib.ExitStack) -> None:
        config = self.config
        self.backend = Watched(
            total_frames=config.total_frames,
            slack_frames=config.slack_frames,
            tmem_max_frames=0,
            spin_ns=config.spin_ns,
            error_budget=config.error_budget,
            stop_excess=config.on_violation != "report",
        )
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

    def guest(self, stack: contextlib.ExitStack, name: str) -> CheatProcess:
        """A process of its own, not attached yet."""
        made = CheatProcess(self.run_dir, name, self.seed)
        stack.callback(made.close)
        return made

    @contextlib.contextmanager
    def cheater(self) -> Iterator[CheatProcess]:
        """One cheater, gone afterwards, and its memory with it."""
        with contextlib.ExitStack() as stack:
            yield self.guest(stack, CHEATER)
        self.await_gone()
        self.backend.forget(CHEATER)

    def await_gone(self) -> bool:
        """Until no cheater is attached; False when that took too long."""
        until = time.monotonic() + WAIT_S
        while any(entry["name"] == CHEATER for entry in self.ask("list")):
            if time.monotonic() > until:
                return False
            time.sleep(POLL_S)
        return True

    def ask(self, op: str, **args: Any) -> Any:
        """One operation of the control plane."""
        return call(self.run_dir, op, timeout_ms=int(WAIT_S * 1000), **args)

    def current_frames(self, name: str) -> int:
        """What a domain holds by the ledger; 0 when it is not there."""
        domains = self.ask("statistics")["domains"]
        return sum(domain["current_frames"] for domain in domains if domain["name"] == name)

    def grants(self, for_s: float) -> list[int]:
        """What the grower has to wait for each area, for this long; nanoseconds."""
        samples: list[int] = self.neighbours[GROWER].ask("grants", for_s=for_s, pause_s=PAUSE_S)
        return samples

    def noticed(self, since: float) -> tuple[str, float]:
        """What the hypervisor has said of the cheater since then, first; and when."""
        for at, event, fields in self.events:
            if at < since or CHEATER not in (fields.get("name"), fields.get("domain")):
                continue
            if event == "violation":
                return "uses what it was not granted", at
            if event == "detached" and fields["reason"] not in ("ended", "asked for"):
                return str(fields["reason"]), at
        return "", since

    def damage(self) -> list[str]:
        """What no cheat may do, of the things that can be seen at any time."""
        found = []
        if self.failed is not None:
            found.append(f"the hypervisor ended: {self.failed}")
            return found
        for name, guest in self.neighbours.items():
            wrong = guest.ask("verify")
            if wrong:
                found.append(f"{name}: {wrong} pages changed")
        host = self.ask("statistics")
        found += [
            f"{domain['name']} is blamed: {domain['bad_requests']} bad requests"
            for domain in host["domains"]
            if domain["name"] != CHEATER and (domain["bad_requests"] or domain["broken"])
        ]
        if {d["name"] for d in host["domains"]} - {CHEATER} != {HOLDER, GROWER}:
            found.append("a neighbour was thrown out")
        return found


def _domain(
    name: str, most: int, boot: int, target: int, mechanism: str, options: Mapping[str, int]
) -> DomainConfig:
    return DomainConfig(
        name=name,
        maxmem_frames=most * AREA,
        boot_frames=boot * AREA,
        target_frames=target * AREA,
        credit_areas=0,
        mechanism=mechanism,
        options=dict(options),
    )


#: A cheat: sends its command(s), and leaves the answer (None: the process ended) to be read.
Act = Callable[[CheatLab, CheatProcess, float], None]


def _plain(command: str, **args: Any) -> Act:
    def act(_: CheatLab, guest: CheatProcess, for_s: float) -> None:
        guest.tell(command, for_s=for_s, **args)

    return act


def _every_word(where: str, how: int) -> Act:
    def act(_: CheatLab, guest: CheatProcess, for_s: float) -> None:
        guest.tell("each_word", where=where, how=how)

    return act


def _ignore(lab: CheatLab, guest: CheatProcess, for_s: float) -> None:
    guest.ask("join")
    guest.tell("ignore", for_s=for_s)
    time.sleep(for_s / 4)  # it is to hold memory by then; how much does not matter
    lab.ask("mem-set", domain=CHEATER, target_frames=LOW_AREAS * AREA)


def _silent(lab: CheatLab, guest: CheatProcess, for_s: float) -> None:
    guest.ask("join")
    guest.ask("hold", areas=LOW_AREAS)
    guest.signal(signal.SIGSTOP)
    lab.ask("mem-set", domain=CHEATER, target_frames=0)


def _die(lab: CheatLab, guest: CheatProcess, for_s: float) -> None:
    guest.ask("sit")
    guest.tell("corrupt", count=1 << 40)
    time.sleep(for_s / 4)
    guest.signal(signal.SIGKILL)


def _keep(lab: CheatLab, guest: CheatProcess, for_s: float) -> None:
    guest.ask("sit")
    lab.ask("detach", domain=CHEATER)
    guest.tell("keep", for_s=for_s)


def _pass_on(lab: CheatLab, guest: CheatProcess, for_s: float) -> None:
    guest.ask("sit")
    guest.ask("pass_on", for_s=for_s)
    guest.signal(signal.SIGKILL)


def _files(lab: CheatLab, guest: CheatProcess, for_s: float) -> None:
    guest.tell("files")


#: What each does, by name. ``busy`` is no cheat: it is what a neighbour that computes costs.
CHEATS: dict[str, Act] = {
    "busy": _plain("burn"),
    "uses more than its grant": _plain("touch"),
    "ignores a shrink": _ignore,
    "lies in its statistics": _plain("lie"),
    "floods the bell": _plain("flood_bell"),
    "floods the ring with GROW 64": _plain("flood_ring", op=lib.MC_OP_GROW, other=lib.MC_OP_GROW),
    "floods the ring with GROW, RELEASE": _plain(
        "flood_ring", op=lib.MC_OP_GROW, other=lib.MC_OP_RELEASE
    ),
    "never answers": _silent,
    "dies in the middle": _die,
    "abuses its files": _files,
    "keeps its memory when thrown out": _keep,
    "passes its files on and ends": _pass_on,
    **{
        f"corrupts {where}: {how}": _every_word(where, number)
        for where in WHERE
        for number, how in enumerate(HOWS)
    },
}


#: Those that attach by the frontend, and those that are no domain any more when they cheat.
JOINS = (_ignore, _silent)
GONE = (_keep, _pass_on)


def try_cheat(lab: CheatLab, cheat: str, for_s: float) -> Row:
    """Let one cheater do it for about ``for_s`` seconds while the neighbours go on."""
    row = Row(lab.mechanism, cheat)
    before = lab.grants(for_s)
    with lab.cheater() as guest:
        granted = 0
        if CHEATS[cheat] not in JOINS:
            guest.ask("sit")
            granted = lab.current_frames(CHEATER)
        lab.backend.look_anew()
        start = time.monotonic()
        CHEATS[cheat](lab, guest, for_s)
        during = lab.grants(for_s)
        why = lab.backend.whys.get(CHEATER, "")
        if cheat == "never answers":
            guest.signal(signal.SIGCONT)
        else:
            row.did = guest.answer()
        row.noticed, at = lab.noticed(start)
        row.noticed_ms = (at - start) * 1000
        if not row.noticed and cheat in ("ignores a shrink", "never answers"):
            row.noticed = why
        row.damage += lab.damage()
        row.excess_frames = _excess_frames(lab)
        if CHEATS[cheat] not in JOINS:
            row.beyond_frames = lab.backend.beyond(CHEATER, 0 if CHEATS[cheat] in GONE else granted)
    _look_after(lab, row)
    row.p99_ratio = _ratio(before, during)
    return row


def _look_after(lab: CheatLab, row: Row) -> None:
    """The cheater is gone: nothing of it is left."""
    row.stopped = bool(row.noticed) and row.did is None
    if not lab.await_gone():
        row.damage.append("its domain stays")
    host = lab.ask("statistics")["host"]
    held = 2 * HELD_AREAS * AREA
    if host["installed_frames"] < held:
        row.damage.append("the neighbours have lost memory")
    if lab.failed is not None:
        row.damage.append(f"the hypervisor ended: {lab.failed}")


def _excess_frames(lab: CheatLab) -> int:
    over = int(lab.backend.watch.peak_bytes) - int(lab.backend.watch.limit_bytes)
    return max(over // FRAME_BYTES, 0)


def _ratio(before: list[int], during: list[int]) -> float | None:
    if min(len(before), len(during)) < ENOUGH_SAMPLES:
        return None
    return _p99(during) / _p99(before)


def _p99(samples: list[int]) -> float:
    return float(sorted(samples)[len(samples) * 99 // 100])


def corrupt(lab: CheatLab, count: int) -> Row:
    """``count`` random corruptions of all that a guest can write, while the host runs."""
    row = Row(lab.mechanism, f"{count} random corruptions")
    with lab.cheater() as guest:
        start = time.monotonic()
        guest.tell("corrupt", count=count)
        row.did = guest.answer()
        row.noticed, at = lab.noticed(start)
        row.noticed_ms = (at - start) * 1000
        row.damage += lab.damage()
        row.excess_frames = _excess_frames(lab)
    _look_after(lab, row)
    return row


def cheat_report(
    mechanism: str, run_dir: Path, *, for_s: float = 1.0, corruptions: int = 0, seed: int = 1
) -> list[Row]:
    """Every cheat against one mechanism, then so many random corruptions."""
    with CheatLab(mechanism, run_dir, seed=seed) as lab:
        rows = [try_cheat(lab, cheat, for_s) for cheat in CHEATS]
    if corruptions:
        with CheatLab(mechanism, run_dir, seed=seed, error_budget=1 << 30) as lab:
            rows.append(corrupt(lab, corruptions))
    return rows
