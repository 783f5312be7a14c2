"""Text that compresses as text does: source code that every machine with this project has.

Owns: which files are read, how they are cut into pages, and which pages are taken: the two thirds
or so that zlib compresses to a third, so that any fast codec halves them. No page comes twice.
Python's own library comes first. Debian's has only 1220 such pages, because its tests are a
package of their own; numba and numpy, which this project needs anyway, come after it.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numba
import numpy as np

from hypervisor.public.units import FRAME_BYTES

ZLIB_BYTES_MAX = 1400
ROOTS = tuple(Path(str(module.__file__)).parent for module in (os, numba, np))
PACKAGES = ("site-packages", "dist-packages")  # below a root: other people's, in any version


def text_pages(pages: int, roots: Sequence[Path] = ROOTS) -> bytes:
    """``pages`` pages of source code of these folders; ValueError when they have fewer."""
    found, rest, seen = bytearray(), b"", set[bytes]()
    for root in roots:
        for path in sorted(root.rglob("*.py")):
            if set(PACKAGES) & set(path.relative_to(root).parts):
                continue
            rest += path.read_bytes()
            whole = len(rest) // FRAME_BYTES * FRAME_BYTES
            for start in range(0, whole, FRAME_BYTES):
                page = rest[start : start + FRAME_BYTES]
                if page in seen or len(zlib.compress(page, 1)) > ZLIB_BYTES_MAX:
                    continue
                seen.add(page)
                found += page
                if len(found) == pages * FRAME_BYTES:
                    return bytes(found)
            rest = rest[whole:]
    raise ValueError(f"{', '.join(map(str, roots))}: only {len(seen)} pages of text, not {pages}")
