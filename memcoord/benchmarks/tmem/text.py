"""Text that compresses as text does: Python's own standard library, which every machine has.

Owns: which files, how they are cut into pages, and which pages are taken: the two thirds or so of
them that zlib brings down to a third, and hence any fast codec to a half. Every page is another.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path

from hypervisor.public.units import FRAME_BYTES

ZLIB_BYTES_MAX = 1400


def text_pages(pages: int) -> bytes:
    """``pages`` pages of source code in the order of its files; ValueError when there are fewer."""
    found, rest = bytearray(), b""
    for path in sorted(Path(os.__file__).parent.rglob("*.py")):
        if "site-packages" in path.parts:
            continue
        rest += path.read_bytes()
        whole = len(rest) // FRAME_BYTES * FRAME_BYTES
        for start in range(0, whole, FRAME_BYTES):
            page = rest[start : start + FRAME_BYTES]
            if len(zlib.compress(page, 1)) <= ZLIB_BYTES_MAX:
                found += page
                if len(found) == pages * FRAME_BYTES:
                    return bytes(found)
        rest = rest[whole:]
    raise ValueError(f"the standard library is only {len(found) // FRAME_BYTES} pages of text")
