"""Text that compresses as text does: Python's own standard library, which every machine has.

Owns: which files, and how they are cut into pages. Every page is another one.
"""

from __future__ import annotations

import os
from pathlib import Path

from hypervisor.public.units import FRAME_BYTES


def text_pages(pages: int) -> bytes:
    """``pages`` pages of source code in the order of its files; ValueError when there are fewer."""
    found = bytearray()
    for path in sorted(Path(os.__file__).parent.rglob("*.py")):
        if "site-packages" in path.parts:
            continue
        found += path.read_bytes()
        if len(found) >= pages * FRAME_BYTES:
            return bytes(found[: pages * FRAME_BYTES])
    raise ValueError(f"the standard library is only {len(found) // FRAME_BYTES} pages of text")
