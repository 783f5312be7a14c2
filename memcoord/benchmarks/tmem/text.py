"""Text that compresses as text does: Python's own standard library, which every machine has.

Owns: the choice of files, their cutting into pages, and the choice of pages: zlib brings about two
thirds of them down to a third of their size, and hence any fast codec to a half. No two pages are
the same.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from hypervisor.public.units import FRAME_BYTES

ZLIB_BYTES_MAX = 1400
LIBRARY = Path(os.__file__).parent
#: The first page begins at these bytes of the text, in turn: where the library is small, as in some
#: distributions, cutting the same text elsewhere gives further pages.
SHIFTS = (0, 1024, 2048, 3072)


def text_pages(pages: int) -> bytes:
    """``pages`` pages of source code in the order of its files; ValueError when there are fewer."""
    found: dict[bytes, None] = {}
    for shift in SHIFTS:
        for page in _cut(shift):
            if len(zlib.compress(page, 1)) <= ZLIB_BYTES_MAX:
                found[page] = None
                if len(found) == pages:
                    return b"".join(found)
    raise ValueError(f"the standard library is only {len(found)} pages of text")


def _cut(shift: int) -> Iterator[bytes]:
    rest, start = b"", shift
    for path in sorted(LIBRARY.rglob("*.py")):
        if "site-packages" not in path.parts and "dist-packages" not in path.parts:
            rest += path.read_bytes()
            while len(rest) - start >= FRAME_BYTES:
                yield rest[start : start + FRAME_BYTES]
                start += FRAME_BYTES
            rest, start = rest[start:], max(start - len(rest), 0)
