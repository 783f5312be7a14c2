"""The operator's verbs on the memory of one domain: targets set by hand, pins, how far it is.

Owns: the checks of ``mem-set``, ``mem-pin``, ``mem-unpin`` and ``tmem-set``. Called by
``hypervisor.loop`` on the main thread, which saves what was changed before it answers.
"""

from __future__ import annotations

from typing import Any

from hypervisor.config import HypervisorConfig
from hypervisor.coordination.coordinator import Coordinator
from hypervisor.domains import DomainEntry
from hypervisor.public.backend import STANDING, Backend
from hypervisor.public.errors import ConfigError, InternalError


class MemoryControl:
    """Verbs on domains of ``backend``; ``coordinator`` keeps the policy from what was set."""

    def __init__(
        self, config: HypervisorConfig, backend: Backend, coordinator: Coordinator
    ) -> None:
        self._config, self._backend, self._coordinator = config, backend, coordinator

    def standing(self, entry: DomainEntry) -> dict[str, Any]:
        """Where a domain is on its way to its targets."""
        domains = self._backend.snapshot().domains
        now = next(domain for domain in domains if domain.domid == entry.domid)
        return {name: getattr(now, name) for name in STANDING}

    def mem_set(self, entry: DomainEntry, target_frames: int) -> dict[str, Any]:
        """Pin the RAM target against the policy; -1 lets the policy set it again. How far it is."""
        if not -1 <= target_frames <= entry.config.maxmem_frames:
            raise ConfigError(
                "target", f"must be 0 to {entry.config.maxmem_frames} frames (maxmem)"
            )
        released = target_frames < 0
        self._backend.set_target(
            entry.domid, entry.config.target_frames if released else target_frames
        )
        self._coordinator.pin(entry.domid, ram_frames=target_frames)
        return self.standing(entry)

    def pin(self, op: str, entry: DomainEntry, frame: int, count: int) -> None:
        """Pin frames as targets of DMA, or let go of them."""
        if not (0 <= frame < frame + count <= entry.config.maxmem_frames):
            raise ConfigError(
                "frame", f"must be 0 to {entry.config.maxmem_frames - 1} (maxmem), count 1 or more"
            )
        work = self._backend.pin_dma if op == "mem-pin" else self._backend.unpin_dma
        try:
            work(entry.domid, frame, count)
        except InternalError:
            what = f"{count} frames from {frame} on are not all memory of {entry.name} now"
            raise ConfigError("frame", f"{what}: ask for frames it has been granted") from None

    def tmem_set(self, entry: DomainEntry, target_pages: int) -> dict[str, Any]:
        """Pin the tmem target against the policy; below 0 lets the policy set it again. How far."""
        total = self._config.total_frames
        if target_pages > total:
            raise ConfigError("target", f"must be 0 to {total} pages (all host memory)")
        pages = max(target_pages, -1)
        self._backend.set_tmem_target(entry.domid, pages)
        self._coordinator.pin(entry.domid, tmem_pages=pages)
        return self.standing(entry)
