"""What an audit compares: the host's books with those of the domains that are left.

Owns: ``left_over``, the rule of an audit. Every frame that the books give out must be one of the
domains that live: granted ones (``current_frames``), and those on their way to or from one
(``installed_frames`` counts both). A domain that grows has an area on its way at any time, also
when it was stopped, so the two are compared one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def left_over(now: dict[str, Any], counted: dict[str, Any], names: Sequence[str]) -> str:
    """Empty when only domains of these ``names`` are left and all adds up, else what does not.

    ``now``: the answer to "statistics"; ``counted``: to "validate".
    """
    host, domains = now["host"], now["domains"]
    attached = sorted(domain["name"] for domain in domains)
    parts = [host[f"{part}_frames"] for part in ("free", "installed", "ready", "tmem")]
    granted = _sum(domains, "current_frames")
    moving = _sum(domains, "installed_frames") - granted
    used = _sum(domains, "tmem_used_pages")
    if attached != sorted(names):
        return f"still attached: {attached}"
    if sum(parts) != host["total_frames"]:
        return f"the ledger has {sum(parts)} frames of {host['total_frames']}"
    if host["installed_frames"] != granted:
        return f"{host['installed_frames']} frames are granted, {granted} to those that are left"
    if host["ready_frames"] != moving:
        return f"{host['ready_frames']} frames are on their way, {moving} of those that are left"
    if host["tmem_used_pages"] != used:
        return f"tmem has {host['tmem_used_pages']} pages, {used} of those that are left"
    if not (counted["is_whole"] and counted["is_exact"]):
        return f"the pool is not at rest: {counted}"
    return ""


def _sum(domains: Sequence[dict[str, Any]], name: str) -> int:
    return sum(int(domain[name]) for domain in domains)
