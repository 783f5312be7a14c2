"""Units and identifiers, as types: a frame number is not a page count.

Owns: the newtypes for ids and counts, and how a size is written. The sizes that every side agrees
on come from the headers. Everything here is pure; anybody may import it. A ``frame`` is a 4 KiB
unit of a domain's RAM, a ``page`` one of tmem, an ``area`` 512 frames (2 MiB).
"""

from __future__ import annotations

import re
from typing import NewType

from hypervisor.public.constants import AREA_BYTES as AREA_BYTES
from hypervisor.public.constants import AREA_FRAMES as AREA_FRAMES
from hypervisor.public.constants import FRAME_BYTES as FRAME_BYTES
from hypervisor.public.constants import MAX_AREAS as MAX_AREAS
from hypervisor.public.constants import RING_SLOTS as RING_SLOTS

DomId = NewType("DomId", int)
Frame = NewType("Frame", int)
Frames = NewType("Frames", int)
Pages = NewType("Pages", int)
Area = NewType("Area", int)
PoolId = NewType("PoolId", int)

_SIZE = re.compile(r"^\s*(\d{1,20}(?:\.\d{1,20})?)\s*(B|KiB|MiB|GiB|pages|frames)?\s*$")
#: Unit of a size -> its bytes.
SIZES = {
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
    return round(float(match[1]) * SIZES[match[2]])


def areas_of(frames: int) -> int:
    """Whole areas (2 MiB) needed to hold ``frames`` frames."""
    return -(-frames // AREA_FRAMES)
