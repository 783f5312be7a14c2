"""The banks of host memory: what they hold, who uses them, and taking one out of the host.

Owns: the Python face of ``backend/abi/banks.h``, ``HostBackend.banks``.
Rules: main thread only, like all of ``HostBackend``. A withdrawal begins at once and is undone by
``restore`` alone: frames in use leave the host as they are freed, whatever was reported before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from backend._service import ffi, lib
from hypervisor.public.backend import Settled
from hypervisor.public.errors import ConfigError
from hypervisor.public.settings import MECHANISMS
from hypervisor.public.units import DomId

WITHDRAW_POLL_S = 0.002


@dataclass(frozen=True)
class BankSnapshot:
    """A bank at one instant; frames of 4 KiB. total == free + what the domains and tmem have."""

    node: int  # NUMA node it is bound to, -1: none
    remote: bool
    withdrawn: bool
    total_frames: int
    free_frames: int
    gone_frames: int  # left the host since it was withdrawn
    tmem_frames: int
    domain_frames: Mapping[DomId, int]  # charged to it; only domains that have any

    @property
    def used_frames(self) -> int:
        """Frames of it that domains or tmem use."""
        return self.tmem_frames + sum(self.domain_frames.values())


@dataclass(frozen=True)
class Withdrawal:
    """How far a bank is withdrawn. Partial is a state: frames in use go when they are freed."""

    state: str  # "withdrawn", "partial" (nothing moves any more) or "moving" (the time was up)
    left_frames: int
    why: Mapping[str, str] = field(default_factory=dict)  # by name of the domain or "tmem"


class Banks:
    """The banks of ``host``; ``names`` are its open domains, ``settle`` is that of the backend."""

    def __init__(
        self, host: Any, names: Mapping[DomId, str], settle: Callable[[DomId, float], Settled]
    ) -> None:
        self._host, self._names, self._settle = host, names, settle

    def all(self) -> tuple[BankSnapshot, ...]:
        """Every bank, in the order they were given."""
        return tuple(self._bank(index) for index in range(self._host.bank_count))

    def _bank(self, index: int) -> BankSnapshot:
        usage = ffi.new("struct mc_bank_usage *")
        lib.mc_bank_usage(self._host, index, usage)
        bank = usage.bank
        return BankSnapshot(
            node=bank.node,
            remote=bool(bank.remote),
            withdrawn=bool(bank.withdrawn),
            total_frames=bank.total_frames,
            free_frames=bank.free_frames,
            gone_frames=bank.gone_frames,
            tmem_frames=usage.tmem_frames,
            domain_frames={
                DomId(domid): frames for domid, frames in enumerate(usage.domain_frames) if frames
            },
        )

    def withdraw(self, bank: int, timeout_s: float = 0.0) -> Withdrawal:
        """Take a bank out of the host, and wait up to ``timeout_s`` until nothing moves any more.

        The bank's free frames leave the host's total at once. Domains of ``sections`` move their
        sections to other banks. Each domain whose memory cannot leave is reported with the reason:
        the name of its mechanism, or for ``sections`` the reason of ``settle``. A second call for a
        bank reports how far its withdrawal is. ConfigError for a bank that is not there.
        """
        if not 0 <= bank < self._host.bank_count:
            raise ConfigError("bank", f"{bank} is none of 0 to {self._host.bank_count - 1}")
        lib.mc_bank_set_withdrawn(self._host, bank, 1)
        until = time.monotonic() + timeout_s
        while True:
            moving, report = self._withdrawal(bank)
            if not moving or time.monotonic() > until:
                return report
            time.sleep(WITHDRAW_POLL_S)

    def restore(self, bank: int) -> None:
        """Bring back a withdrawn bank with all the frames it had; ConfigError for any other."""
        if bank < 0 or lib.mc_bank_set_withdrawn(self._host, bank, 0):
            raise ConfigError("bank", f"{bank} is not withdrawn")

    def _withdrawal(self, bank: int) -> tuple[bool, Withdrawal]:
        now = self._bank(bank)
        if not now.used_frames:
            return False, Withdrawal("withdrawn", 0)
        moving, why = False, {"tmem": "tmem"} if now.tmem_frames else {}
        for domid in now.domain_frames:
            settled = self._settle(domid, 0.0)
            mechanism = MECHANISMS[self._host.domains[domid].mechanism.id]
            moving |= settled.state == "moving"
            why[self._names[domid]] = settled.why or mechanism
        return moving, Withdrawal("moving" if moving else "partial", now.used_frames, why)
