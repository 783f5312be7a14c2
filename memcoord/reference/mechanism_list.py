"""The page of mechanisms with their options.

Owns: nothing but the page; the host's table in C (``backend/abi/mechanism.h``) says all of it.
"""

from __future__ import annotations

from typing import Any

from backend._service import ffi
from backend.options import mechanism_of
from hypervisor.public.settings import MECHANISMS
from hypervisor.public.units import FRAME_BYTES
from memcoord.reference.markdown import code, page, prose, table

HEADS = ("option", "value", "default", "what it does")


def options_of(name: str) -> list[tuple[str, str, str, str]]:
    """Name, bounds, default and meaning of each option of a mechanism."""
    return [
        (_text(one.name), f"{one.least} to {one.most}", str(one.value), _text(one.says))
        for one in mechanism_of(name).options
        if one.name
    ]


def mechanism_page() -> str:
    """Every mechanism with its options."""
    return page(
        "Mechanisms",
        'A domain of a scenario says `mechanism = "balloon", options = { merge = 1 }`. '
        "[Mechanisms](../mechanisms.md) explains and compares them.",
        *(part for name in MECHANISMS for part in _mechanism(name)),
    )


def _mechanism(name: str) -> list[str | list[str]]:
    found = mechanism_of(name)
    step = found.granule_frames * FRAME_BYTES >> 10
    safe = "never takes" if found.dma_safe else "may try to take"
    facts = f"Targets are met in steps of {step:,} KiB, unless an option says otherwise. It {safe} "
    rows = [
        (code(option), bounds, code(value), prose(says))
        for option, bounds, value, says in options_of(name)
    ]
    said = f"{prose(_text(found.says))}."
    parts: list[str | list[str]] = [f"## {name}", said, f"{facts}memory that is pinned for DMA."]
    return [*parts, table(HEADS, rows) if rows else "It has no options."]


def _text(words: Any) -> str:
    return "" if words == ffi.NULL else ffi.string(words).decode()
