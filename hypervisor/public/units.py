"""Units and identifiers, as types: a frame number is not a page count.

Owns: the sizes every side agrees on and the newtypes for ids and counts. Everything here is pure;
anybody may import it. ``frame`` is a 4 KiB unit of a domain's RAM, ``page`` one of tmem.
"""

from __future__ import annotations

import re
from typing import NewType

DomId = NewType("DomId", int)
Frame = NewType("Frame", int)
Frames = NewType("Frames", int)
Pages = NewType("Pages", int)
Area = NewType("Area", int)
PoolId = NewType("PoolId", int)

FRAME_BYTES = 4096
AREA_FRAMES = 512
AREA_BYTES = AREA_FRAMES * FRAME_BYTES
TREE_AREAS = 16
MAX_AREAS = 32768
SLOTS = 16
RING_SLOTS = 64

_SIZE = re.compile(r"^\s*(\d{1,20}(?:\.\d{1,20})?)\s*(B|KiB|MiB|GiB|pages|frames)?\s*$")
_BYTES = {
    None: 1,
    "B": 1,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "pages": FRAME_BYTES,
    "frames": FRAME_BYTES,
}


def parse_bytes(text: str) -> int:
    """Bytes named by ``"64 MiB"``, ``"512 pages"`` or ``"4096"``; ValueError otherwise."""
    match = _SIZE.match(text)
    if match is None:
        raise ValueError(f"{text!r} is not a size: write for example '64 MiB' or '512 pages'")
    return round(float(match[1]) * _BYTES[match[2]])


def areas_of(frames: int) -> int:
    """Whole areas (2 MiB) needed to hold ``frames`` frames."""
    return -(-frames // AREA_FRAMES)
