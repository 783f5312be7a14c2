"""The ``Backend`` protocol: what the hypervisor asks of the memory side, and what it gets told.

Owns: the interface between ``hypervisor`` (which decides) and ``backend`` (which does). The
hypervisor never imports ``backend``; the composition root in ``testbed`` hands it an object of this
shape. All methods are called from the hypervisor's main thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from hypervisor.public.feed import LatencyRow
from hypervisor.public.settings import DomainSettings
from hypervisor.public.units import AREA_FRAMES, DomId

#: Why a domain is thrown out that took memory nobody granted; one of the reasons of ``broken``.
EXCESS = "used more memory than it was granted"
STUCK = "a process keeps the lock of its memory file, so that its memory cannot be taken back"


class DomainSpec(DomainSettings, frozen=True):
    """A domain as a backend opens it; frames of 4 KiB. ``boot_frames`` are granted at once."""

    name: str
    maxmem_frames: int
    boot_frames: int
    target_frames: int
    tmem_target_pages: int = -1  # -1: no limit of its own (greedy)
    doorbell: str = "futex"


class DomainHandles(msgspec.Struct, frozen=True):
    """What a domain is handed at attach. The fds belong to the backend until ``close``."""

    ram_fd: int
    meta_fd: int
    bell_fd: int
    ram_bytes: int
    meta_bytes: int
    spin_ns: int


class DomainSnapshot(msgspec.Struct, frozen=True):
    """One domain at one instant. Counters only rise; ``guest_*`` are the guest's own words.

    -1 in used, faults, swap-ins, swap-outs, references, committed, stall or idle: the guest has not
    reported it, which is not 0.
    """

    domid: DomId  # its number
    name: str  # its name
    maxmem_frames: int  # the most it may ever hold
    current_frames: int  # RAM it holds
    target_frames: int  # RAM it is to hold
    resident_frames: int  # by st_blocks: what the kernel really gave
    installed_frames: int  # by the ledger: what it may have
    grants_credit: int  # areas that were granted ahead of need: nobody waited
    grants_ring: int  # areas that it asked for and the host had
    grants_transfer: int  # areas that another domain had to give first
    reclaimed_areas: int  # areas taken back
    tmem_used_pages: int  # what it holds in tmem
    tmem_target_pages: int  # what it may hold there; -1: no limit
    puts: int  # pages offered to tmem
    puts_failed: int  # those that tmem refused
    gets: int  # pages asked of tmem
    gets_hit: int  # those that were there
    flushes: int  # requests to forget pages
    ring_requests: int  # requests served
    bad_requests: int  # requests that were none
    broken: bool  # served no more
    guest_used_frames: int  # RAM in use
    guest_faults: int  # references to pages that were not in RAM
    guest_swap_ins: int  # pages read from swap
    guest_swap_outs: int  # pages written to swap
    guest_references: int  # references to pages
    guest_credit_dry: int  # allocations that found no area granted ahead
    guest_committed_frames: int = -1  # pages its programs hold, wherever they are
    guest_stall_ns: int = -1  # time it stood still for want of memory
    guest_idle_permille: int = -1  # of its RAM, not referenced lately
    # Miss ratio of its tmem requests with i / (n - 1) of tmem_capacity_pages, for i below n.
    mrc: tuple[float, ...] | None = None  # None: not measured
    mechanism: str = "direct"  # how it is resized
    granule_frames: int = AREA_FRAMES  # the smallest step of its target
    plugged_frames: int = 0  # the size its mechanism gives it, compared with the target
    pinned_frames: int = 0  # targets of DMA
    shrunk_frames: int = 0  # taken from it so far, at whatever speed
    grown_frames: int = 0  # given to it so far
    refused: int = 0  # requests for memory that got none
    refused_dma: int = 0  # times memory was not taken because it is pinned
    violations: int = 0  # areas its mechanism found in use while they were not granted
    set_ns: int = 0  # clock when the target was set last, CLOCK_MONOTONIC
    reached_ns: int = 0  # and when it was reached; 0: not yet
    guest_migrated_frames: int = 0  # moved to make room
    guest_file_frames: int = 0  # page cache, which it can drop
    reach: str = "reached"  # where it stands on its way to its target, as ``Settled`` says
    reach_why: str = ""  # what is in the way of its target


#: Words of ``Settled.why`` -> the reason in words for people.
REASONS = {
    "in use": "the guest uses what would have to go",
    "pinned": "what would have to go is pinned for DMA",
    "no memory": "the host has no memory to give",
    "guest": "the guest's driver gave up",
    "silent": "the guest's driver has not acted yet",
    "bank": "the bank it must come from has no memory",
    "": "memory is on its way",
}
#: The fields of a ``DomainSnapshot`` that tell how far a domain is on its way to its targets.
STANDING = (
    "current_frames",
    "target_frames",
    "tmem_used_pages",
    "tmem_target_pages",
    "reach",
    "reach_why",
)
TMEM_KEPT = "pages go when the guest takes them back"


def not_reached(domain: Mapping[str, Any]) -> str:
    """Which target a domain has not reached, and why; empty when it has reached both.

    ``domain``: the fields of its ``DomainSnapshot``.
    """
    said = []
    if domain.get("reach", "reached") != "reached":
        why = REASONS.get(domain.get("reach_why", ""), domain.get("reach_why"))
        size = domain.get("current_frames")
        said.append(f"memory target {domain.get('target_frames')} not reached, at {size}: {why}")
    used, limit = domain.get("tmem_used_pages") or 0, domain.get("tmem_target_pages")
    if limit is not None and 0 <= limit < used:
        said.append(f"tmem target {limit} not reached, at {used}: {TMEM_KEPT}")
    return "; ".join(said)


class Settled(msgspec.Struct, frozen=True):
    """Where a domain stands on its way to its target. Partial is a state, not an error."""

    state: str  # "reached", "moving" (the time was up) or "partial" (it will not move by itself)
    why: str  # "", or one of "in use", "pinned", "no memory", "guest", "silent", "bank"
    plugged_frames: int
    target_frames: int
    driver_status: int  # the guest's own word for it


class HostSnapshot(msgspec.Struct, frozen=True):
    """The host's ledger; installed + ready + tmem + free == total, always. Frames of 4 KiB."""

    total_frames: int  # all of it
    slack_frames: int  # kept free: for transfers, and for domains to come to boot with
    free_frames: int  # nobody's
    installed_frames: int  # in domains
    ready_frames: int  # populated ahead of a grant, or being populated or punched
    tmem_frames: int  # slab memory tmem holds, used or not
    tmem_used_pages: int  # pages that tmem holds
    tmem_capacity_pages: int  # what tmem may grow to now
    domains: tuple[DomainSnapshot, ...]  # those attached


class BankSpec(msgspec.Struct, frozen=True):
    """A part of host memory. ``node``: the NUMA node it is bound to, -1 for none."""

    frames: int
    node: int = -1
    remote: bool = False


class Targets(Protocol):
    """What the coordinator asks of whoever holds the memory, real or simulated."""

    def set_target(self, domid: DomId, frames: int) -> None:
        """Set the RAM target; a lower one takes free areas at once, the rest as they are freed."""

    def set_tmem_target(self, domid: DomId, pages: int) -> None:
        """Set mm_target: puts beyond it fail from now on; nothing is pulled back. -1: no limit."""

    def snapshot(self) -> HostSnapshot:
        """A consistent copy of every counter."""


class Backend(Targets, Protocol):
    """The memory side of a host: one ledger, and a mechanism per domain.

    The ``tmem_`` methods raise ConfigError when the host has no tmem.
    """

    event_fd: int  # readable when ``broken`` has news
    relay_fd: int  # readable when ``relayed`` has news

    def open(self, domid: DomId, spec: DomainSpec) -> DomainHandles:
        """Create the domain's memory and grant ``boot_frames``; NoMemory if they are not there.

        They come out of the promised frames, as far as those go.
        """

    def handles(self, domid: DomId) -> DomainHandles:
        """What ``open`` answered for a domain that is open."""

    def attached(self) -> list[DomId]:
        """The domains that are open: those of the hypervisor before, where it left any."""

    def close(self, domid: DomId, grace_s: float = 0.0) -> None:
        """Have every frame and tmem page of a domain taken back, dead or alive. Returns at once.

        The guest is told first; nothing is taken from it within ``grace_s``.
        """

    def leaving(self) -> dict[DomId, str]:
        """Names of closed domains whose memory is not all back yet; their domids are taken."""

    def pin_dma(self, domid: DomId, frame: int, count: int) -> None:
        """Make frames targets of DMA: they stay where they are, whatever the target.

        BadFrame beyond maxmem, InternalError when one is not the guest's.
        """

    def unpin_dma(self, domid: DomId, frame: int, count: int) -> None:
        """Let go of frames that were pinned; errors as ``pin_dma``."""

    def promise(self, frames: int) -> None:
        """Keep ``frames`` free for configured domains that have not attached: their boot frames."""

    def broken(self) -> list[tuple[DomId, str]]:
        """Domains that are served no more and wait to be closed, each with the reason."""

    def haunted(self) -> list[str]:
        """Names of closed domains whose memory was used all the same; it was taken back."""

    def beat(self) -> None:
        """Raise every domain's heartbeat."""

    def kick(self) -> None:
        """Wake the service thread."""

    def relayed(self) -> list[DomId]:
        """Domains whose doorbell is to be sent over ZeroMQ."""

    def latencies(self) -> list[LatencyRow]:
        """How long grants took so far, by domain, path and whose word it is."""

    def recount(self) -> dict[str, int]:
        """Check ledger and pool in bounded steps; what was counted. InternalError: broken."""

    def tmem_statistics(self) -> dict[str, Any]:
        """``tmem.statistics.Statistics`` as plain values."""

    def tmem_freeze(self, domid: DomId | None) -> None:
        """No growth for a domain, or for all that are attached now."""

    def tmem_thaw(self, domid: DomId | None) -> None:
        """Undo ``tmem_freeze``."""

    def tmem_set_weight(self, domid: DomId, weight: int) -> None:
        """Set the share of a domain in ephemeral memory; 0 is none of its own."""

    def tmem_set_quota(self, domid: DomId, pages: int) -> None:
        """Set the most persistent pages a domain may have; -1 is no limit."""

    def tmem_authorise(self, domid: DomId, uuid: int, allow: bool) -> None:
        """Let a domain share pools of a uuid of 128 bits, or no longer; NoMemory beyond 16."""

    def tmem_compress(self, pages: int) -> int:
        """Compress up to ``pages`` of the coldest raw pages; requests wait. Returns how many."""

    def tmem_freeable_mb(self) -> int:
        """MiB that tmem could give to the host now."""
