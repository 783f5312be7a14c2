"""From the backend's counters to the view a policy is shown.

Owns: ``Member``, the coordinator's memory of a domain between ticks, and the translation of a
``HostSnapshot`` into a ``View``. Pure apart from ``Member``'s fields. Called by the coordinator
only.

Counters become differences from the snapshot before. Numbers that a guest reports of itself are
clipped to possible values before they enter any sum. A domain without a target of its own is shown
with an equal share at its first tick, so that a late starter begins neither with nothing nor with
all. A domain that opted out is not in the view, nor is its memory in the capacity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hypervisor.config import DomainConfig
from hypervisor.coordination.decisions import Decision
from hypervisor.public.backend import DomainSnapshot, HostSnapshot
from hypervisor.public.units import AREA_FRAMES, DomId
from policies import View
from policies.base import MRC_POINTS

GUEST_COUNT_MAX = 1 << 53  # beyond it float64 is not exact


@dataclass
class Member:
    """One domain under coordination. The coordinator writes it."""

    domid: DomId
    config: DomainConfig
    age: int = 0  # ticks attended
    is_provisional: bool = False  # its tmem target is no plan's: the coordinator bounded it
    seen: DomainSnapshot | None = None  # at its last tick
    pinned_tmem_pages: int | None = None  # set by the operator, against the policy
    pinned_ram_frames: int | None = None
    waiting_frames: int = 0  # RAM growth planned but not there yet
    excess_ticks: int = 0  # consecutive ticks with more memory than was granted
    carried: NDArray[np.float64] | None = None  # its row in the carry of the last valid plan
    by_hand: list[Decision] = field(default_factory=list)  # what the operator did last


Present = Sequence[tuple[Member, DomainSnapshot]]


def view_of(
    host: HostSnapshot, present: Present, aside: Present = (), *, tick: int, interval_s: float
) -> View:
    """The view of ``present`` (in domid order) at this tick; ``aside`` are those that opted out."""
    capacity = max(host.tmem_capacity_pages - sum(_tmem_held(now) for _, now in aside), 0)
    ram_held = sum(max(now.target_frames, now.installed_frames) for _, now in aside)
    ram_capacity = max(host.total_frames - host.slack_frames - ram_held, 0)

    def column(read: Callable[[Member, DomainSnapshot], float]) -> np.ndarray:
        return np.array([read(member, now) for member, now in present], dtype=np.float64)

    def target(member: Member, now: DomainSnapshot) -> int:
        if member.age == 0 and (member.is_provisional or now.tmem_target_pages < 0):
            return capacity // len(present)
        return now.tmem_target_pages if now.tmem_target_pages >= 0 else capacity

    def limits(member: Member, now: DomainSnapshot) -> tuple[int, int, int, int]:
        return _tmem_limits(member, capacity) + _ram_limits(member, granule_of(now))

    limit = np.array([limits(*one) for one in present], dtype=np.float64).reshape(-1, 4)
    return View(
        capacity=capacity,
        ram_capacity=ram_capacity,
        tick=tick,
        interval_s=interval_s,
        host_frames=host.total_frames,
        host_free_frames=host.free_frames,
        names=tuple(now.name for _, now in present),
        used=column(lambda _, now: now.tmem_used_pages),
        target=column(target),
        minimum=limit[:, 0].copy(),
        maximum=limit[:, 1].copy(),
        weight=column(lambda member, _: member.config.weight),
        priority=column(lambda member, _: member.config.priority),
        puts=column(_delta("puts")),
        failed_puts=column(_failed_puts),
        failed_puts_total=column(lambda _, now: now.puts_failed),
        gets=column(_delta("gets")),
        hits=column(_delta("gets_hit")),
        swap_ins=column(_told_delta("guest_swap_ins")),
        ram_current=column(lambda _, now: now.current_frames),
        ram_target=column(lambda _, now: now.target_frames),
        ram_used=np.minimum(
            column(lambda _, now: _told(now.guest_used_frames)),
            column(lambda _, now: now.current_frames),
        ),
        ram_minimum=limit[:, 2].copy(),
        ram_maximum=limit[:, 3].copy(),
        age=column(lambda member, _: member.age),
        committed=column(lambda _, now: _told(now.guest_committed_frames)),
        idle=np.minimum(column(lambda _, now: _told(now.guest_idle_permille) / 1000), 1),
        pressure=column(_pressure(interval_s)),
        carry=_carried(present),
        mrc=_miss_ratios(host, present, capacity),
    )


def granule_of(now: DomainSnapshot) -> int:
    """Frames that a domain's RAM target moves by: its mechanism's granule, an area at least."""
    return max(now.granule_frames, AREA_FRAMES)


def _tmem_held(now: DomainSnapshot) -> int:
    """Tmem pages kept for a domain: its target; without a target, the pages it holds."""
    return max(now.tmem_target_pages, now.tmem_used_pages)


def _carried(present: Present) -> NDArray[np.float64]:
    width = max((len(one.carried) for one, _ in present if one.carried is not None), default=0)
    grid = np.full((len(present), width), np.nan)
    for row, (member, _) in zip(grid, present, strict=True):
        if member.carried is not None:
            row[:] = member.carried
    return grid


def _miss_ratios(host: HostSnapshot, present: Present, capacity: int) -> NDArray[np.float64] | None:
    """Curves over ``capacity``, which may be less than the host's, over which they were taken."""
    curves = [now.mrc for _, now in present if now.mrc is not None]
    if len(curves) < len(present) or not curves:
        return None
    points = np.linspace(0, capacity / max(host.tmem_capacity_pages, 1), MRC_POINTS)
    return np.array([np.interp(points, np.linspace(0, 1, len(row)), row) for row in curves])


def _told(value: int) -> float:
    """A count the guest reports; NaN for a number below 0, which means "not known"."""
    return float(_count(value)) if value >= 0 else np.nan


def _failed_puts(member: Member, now: DomainSnapshot) -> float:
    """Puts that tmem refused, or the proxy that the domain's settings declare."""
    if member.config.failed_puts == "swap-outs":
        return _told_delta("guest_swap_outs")(member, now)
    return _delta("puts_failed")(member, now)


def proxy_of(member: Member, now: DomainSnapshot) -> str:
    """Which proxy the domain's row of the view holds, in words; empty for none."""
    if member.config.failed_puts != "swap-outs":
        return ""
    if now.guest_swap_outs < 0:
        return "failed_puts unknown: the proxy is swap-outs, which the guest does not report now"
    return "failed_puts by proxy: pages that the guest wrote to its swap"


def _pressure(interval_s: float) -> Callable[[Member, DomainSnapshot], float]:
    risen = _told_delta("guest_stall_ns")

    def read(member: Member, now: DomainSnapshot) -> float:
        if interval_s <= 0:
            return np.nan
        return min(risen(member, now) / (interval_s * 1e9), 1.0)

    return read


def _delta(name: str) -> Callable[[Member, DomainSnapshot], int]:
    """Rise of a counter since the tick before, or since attach; a fall counts as 0."""

    def read(member: Member, now: DomainSnapshot) -> int:
        before = _count(getattr(member.seen, name)) if member.seen is not None else 0
        return max(_count(getattr(now, name)) - before, 0)

    return read


def _told_delta(name: str) -> Callable[[Member, DomainSnapshot], float]:
    """Rise of a counter of the guest's, from the last it told; NaN until it has told it twice.

    What it told first has no interval, but a domain that attends its first tick counts from 0.
    """
    risen = _delta(name)

    def read(member: Member, now: DomainSnapshot) -> float:
        before = 0 if member.seen is None else getattr(member.seen, name)
        return np.nan if min(before, getattr(now, name)) < 0 else risen(member, now)

    return read


def _count(value: int) -> int:
    return min(max(value, 0), GUEST_COUNT_MAX)


def _tmem_limits(member: Member, capacity: int) -> tuple[int, int]:
    if member.pinned_tmem_pages is not None:
        return member.pinned_tmem_pages, member.pinned_tmem_pages
    config = member.config
    return config.tmem_min_pages, capacity if config.tmem_max_pages < 0 else config.tmem_max_pages


def _ram_limits(member: Member, granule: int) -> tuple[int, int]:
    low, high = member.config.ram_limits()
    if member.pinned_ram_frames is not None:
        low = high = member.pinned_ram_frames
    return -(-low // granule) * granule, -(-high // granule) * granule
