"""Guests that cheat, against every mechanism: what each cheat achieves, seen from the host.

Owns: the cheats (``CHEATS``), and ``CheatRow``, the result of one. ``cheat_report`` tries all of
them on a ``CheatLab``. A test asks each row for its ``damage``, which is empty unless the cheat
brought about something that no guest may. How quickly a cheat was detected is told, not judged.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypervisor.public.settings import MECHANISMS
from hypervisor.public.units import FRAME_BYTES
from memcoord.benchmarks._loops import lib
from memcoord.benchmarks.hostile.guest import HOWS, WHERE
from memcoord.benchmarks.hostile.held_file import way_here
from memcoord.benchmarks.hostile.lab import AREA, CHEATER, HELD_AREAS, LOW_AREAS, CheatLab
from memcoord.testbed.runs.remote import Remote, RemoteGone

#: The first operation of each mechanism that has operations of its own.
FIRST_OPS = {
    "balloon": lib.MC_OP_BALLOON, "virtio-mem": lib.MC_OP_VIRTIO_MEM,
    "sections": lib.MC_OP_SECTIONS, "cmm": lib.MC_OP_CMM, "hyperalloc": lib.MC_OP_HYPERALLOC,
}  # fmt: skip
GROW, RELEASE = lib.MC_OP_GROW, lib.MC_OP_RELEASE
assert FIRST_OPS.keys() == set(MECHANISMS) - {"direct"}
TMEM_AREAS = 4
ENOUGH_SAMPLES = 100  # below that there is no 99th percentile to speak of


@dataclass
class CheatRow:
    """The result of one cheat. ``damage`` is empty unless the cheat hurt somebody else."""

    mechanism: str
    cheat: str
    noticed: str = ""  # the first complaint of the hypervisor
    noticed_ms: float = 0.0  # from the first command of the cheat
    stopped: bool = False
    beyond_frames: int = 0  # the most the kernel gave to the cheater beyond its grant
    excess_frames: int = 0  # the most the kernel gave to all domains beyond host memory
    #: The grower's waits for memory, and for a put: beside the cheat, over beside one that is busy.
    p99_ratio: float | None = None
    p99_put_ratio: float | None = None
    skipped: str = ""  # why it was not tried
    did: Any = None  # the cheater's own account; None when it was stopped first
    damage: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """The damage, or "detected: ...", or "harmless", or why it was skipped."""
        if self.damage:
            return "; ".join(self.damage)
        if self.skipped:
            return f"skipped: {self.skipped}"
        return f"detected: {self.noticed}" if self.noticed else "harmless"


#: A cheat sends its operations and leaves the answer to the last one to be read.
Act = Callable[[CheatLab, Remote, float], None]


def _plain(command: str, **args: Any) -> Act:
    def act(_: CheatLab, guest: Remote, for_s: float) -> None:
        guest.tell(command, for_s=for_s, **args)

    return act


def _flood_device(lab: CheatLab, guest: Remote, for_s: float) -> None:
    base = FIRST_OPS.get(lab.mechanism, lib.MC_OP_INSTALL)
    guest.tell("flood_ring", for_s=for_s, first=base, second=base + 1)


def _every_word(where: str, how: int) -> Act:
    def act(lab: CheatLab, guest: Remote, for_s: float) -> None:
        guest.tell("each_word", where=where, how=how, step=lab.word_step)

    return act


def _ignore(lab: CheatLab, guest: Remote, for_s: float) -> None:
    guest.ask("join")
    guest.tell("ignore", for_s=for_s)
    time.sleep(for_s / 4)  # time to take memory; how much does not matter
    lab.shrink(LOW_AREAS * AREA)


def _silent(lab: CheatLab, guest: Remote, for_s: float) -> None:
    guest.ask("join")
    guest.ask("hold", areas=LOW_AREAS)
    guest.signal(signal.SIGSTOP)
    lab.shrink(0)


def _die(lab: CheatLab, guest: Remote, for_s: float) -> None:
    guest.ask("attach_bare")
    guest.tell("corrupt", count=1 << 40)
    time.sleep(for_s / 4)
    guest.signal(signal.SIGKILL)


def _keep(lab: CheatLab, guest: Remote, for_s: float) -> None:
    guest.ask("attach_bare")
    lab.ask("detach", domain=CHEATER)
    guest.tell("keep", for_s=for_s)


def _pass_on(lab: CheatLab, guest: Remote, for_s: float) -> None:
    guest.ask("attach_bare")
    guest.ask("pass_on", for_s=for_s)
    guest.signal(signal.SIGKILL)


def _files(lab: CheatLab, guest: Remote, for_s: float) -> None:
    guest.tell("files")


def _hold(deed: str) -> Act:
    """The file of ram cannot be punched (``held_file``) while the hypervisor has to."""

    def act(lab: CheatLab, guest: Remote, for_s: float) -> None:
        guest.ask("hold_lock", how=way_here()[0])
        guest.tell("act_held", deed=deed, for_s=for_s)
        if deed == "steal":
            lab.shrink(0)

    return act


HELD = "keeps its file from being punched"
#: The cheats by name. ``busy`` is no cheat: it shows the cost of a neighbour that only computes.
CHEATS: dict[str, Act] = {
    "busy": _plain("repeat", loop="burn"),
    "uses more than its grant": _plain("repeat", loop="touch"),
    "ignores a shrink": _ignore,
    "lies in its statistics": _plain("repeat", loop="lie"),
    "floods the bell": _plain("repeat", loop="flood bell"),
    "floods the ring with GROW 64": _plain("flood_ring", first=GROW, second=GROW),
    "floods the ring with GROW, RELEASE": _plain("flood_ring", first=GROW, second=RELEASE),
    "floods the ring with its device's requests": _flood_device,
    "never answers": _silent,
    "dies in the middle": _die,
    "abuses its files": _files,
    "locks its file": _plain("lock_file"),
    **{f"{HELD}: {deed}": _hold(deed) for deed in ("release", "steal", "leave", "both")},
    "keeps its memory when thrown out": _keep,
    "passes its files on and ends": _pass_on,
    **{
        f"corrupts {where}: {how}": _every_word(where, number)
        for where in WHERE
        for how, number in HOWS.items()
    },
}

#: Cheats that attach through the frontend.
JOINS = (_ignore, _silent)
#: Cheats performed after the domain was detached.
GONE = (_keep, _pass_on)
#: Cheats that use memory nobody granted.
TAKES = {name for name, act in CHEATS.items() if act in GONE} | {"uses more than its grant"}


#: Waits of the grower by kind, in ns: beside a busy domain, beside the cheat.
Waits = tuple[dict[str, list[int]], dict[str, list[int]]]


def try_cheat(lab: CheatLab, cheat: str, for_s: float, rounds: int = 1) -> CheatRow:
    """Let one cheater try ``cheat`` for about ``for_s`` seconds while its neighbours go on.

    In each of ``rounds`` the cheater is busy for as long first, so that whatever the machine does
    meanwhile falls on both sides of a ratio. The worst of the rounds is told.
    """
    if cheat.startswith(HELD) and not way_here()[0]:
        return CheatRow(lab.mechanism, cheat, skipped=way_here()[1])
    tried = [_try_once(lab, cheat, for_s) for _ in range(rounds)]
    rows = [row for row, _ in tried]
    told = next((row for row in rows if row.noticed), rows[0])
    told.damage = [text for row in rows for text in row.damage]
    told.beyond_frames = max(row.beyond_frames for row in rows)
    told.excess_frames = max(row.excess_frames for row in rows)
    told.p99_ratio, told.p99_put_ratio = (
        _ratio(*([ns for _, waits in tried for ns in waits[side][kind]] for side in (0, 1)))
        for kind in ("grant", "put")
    )
    return told


def _try_once(lab: CheatLab, cheat: str, for_s: float) -> tuple[CheatRow, Waits]:
    row = CheatRow(lab.mechanism, cheat)
    with lab.cheater() as guest:
        guest.tell("burn", for_s=for_s)
        busy = lab.served(for_s)
        guest.answer()
        granted = 0
        if CHEATS[cheat] not in JOINS:
            guest.ask("attach_bare")
            granted = lab.current_frames(CHEATER)
        lab.backend.look_anew()
        start = time.monotonic()
        CHEATS[cheat](lab, guest, for_s)
        during = lab.served(for_s)
        why = lab.backend.whys.get(CHEATER)
        if cheat == "never answers":
            guest.signal(signal.SIGCONT)
        else:
            with suppress(RemoteGone):  # ended over the cheat: it gives no account
                row.did = guest.answer()
        row.noticed, at = lab.noticed(start)
        if not row.noticed and why is not None and CHEATS[cheat] in JOINS:
            start = lab.shrunk_at
            row.noticed, at = f"is not at its target: {why[0]}", max(why[1], start)
        row.noticed_ms = (at - start) * 1000
        row.damage += lab.damage()
        row.excess_frames = _excess_frames(lab)
        if cheat in TAKES:
            row.beyond_frames = lab.backend.beyond(CHEATER, 0 if CHEATS[cheat] in GONE else granted)
    _look_after(lab, row)
    return row, (busy, during)


def _look_after(lab: CheatLab, row: CheatRow) -> None:
    """After the end of the cheater: is anything of it left, is anything of others lost."""
    row.stopped = bool(row.noticed) and row.did is None
    if not lab.await_gone():
        row.damage.append("its domain stays")
    if lab.ask("statistics")["host"]["installed_frames"] < 2 * HELD_AREAS * AREA:
        row.damage.append("the neighbours have lost memory")
    if lab.failed is not None:
        row.damage.append(f"the hypervisor ended: {lab.failed}")


def _excess_frames(lab: CheatLab) -> int:
    over = int(lab.backend.watch.peak_bytes) - int(lab.backend.watch.limit_bytes)
    return max(over // FRAME_BYTES, 0)


def _ratio(busy: list[int], during: list[int]) -> float | None:
    if min(len(busy), len(during)) < ENOUGH_SAMPLES:
        return None
    slow, calm = (sorted(samples)[len(samples) * 99 // 100] for samples in (during, busy))
    return slow / calm


def corrupt(lab: CheatLab, count: int, for_s: float = 1.0) -> CheatRow:
    """``count`` random corruptions of all that a guest can write, while the neighbours go on."""
    return _many(lab, "corrupt", count, f"{count} random corruptions", for_s)


def malformed(lab: CheatLab, count: int, for_s: float = 1.0) -> CheatRow:
    """``count`` records of any operation and any words on both rings; as ``corrupt`` otherwise.

    ``row.did`` says how many were answered, over how many lives. The lab should have tmem, an error
    budget that lasts, so that most records are decoded and not the attaching of new lives measured,
    and a host that only reports violations: a GET into a frame that the guest has given back takes
    a page beyond its grant, and a host that kills would end the guest over it.
    """
    return _many(lab, "malformed", count, f"{count} malformed records", for_s)


def _many(lab: CheatLab, operation: str, count: int, title: str, for_s: float) -> CheatRow:
    row = CheatRow(lab.mechanism, title)
    with lab.cheater() as guest:
        start = time.monotonic()
        guest.tell(operation, count=count)
        lab.served(for_s)
        with suppress(RemoteGone):
            row.did = guest.answer()
        row.noticed, at = lab.noticed(start)
        row.noticed_ms = (at - start) * 1000
        row.damage += lab.damage()
        row.excess_frames = _excess_frames(lab)
    _look_after(lab, row)
    return row


def cheat_report(
    mechanism: str,
    run_dir: Path,
    *,
    for_s: float = 1.0,
    rounds: int = 1,
    corruptions: int = 0,
    seed: int = 1,
) -> list[CheatRow]:
    """Every cheat against one mechanism, then so many random corruptions."""
    with CheatLab(mechanism, run_dir, seed=seed, tmem_areas=TMEM_AREAS) as lab:
        rows = [try_cheat(lab, cheat, for_s, rounds) for cheat in CHEATS]
    if corruptions:
        settings = {"error_budget": 1 << 30}
        with CheatLab(mechanism, run_dir, seed=seed, tmem_areas=TMEM_AREAS, **settings) as lab:
            rows.append(corrupt(lab, corruptions))
    return rows
