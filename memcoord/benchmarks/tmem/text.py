"""Text that compresses as text does: source code that every machine with this project has.

<<<<<<< HEAD
Owns: which files are read, how they are cut into pages, and which pages are taken: the two thirds
or so that zlib compresses to a third, so that any fast codec halves them. No page comes twice.
Python's own library comes first. Debian's has only 1220 such pages, because its tests are a
package of their own; numba and numpy, which this project needs anyway, come after it.
=======
Owns: the choice of files, their cutting into pages, and the choice of pages: zlib brings about two
thirds of them down to a third of their size, and hence any fast codec to a half. No two pages are
the same.
>>>>>>> bench-room
"""

from __future__ import annotations

import os
import zlib
<<<<<<< HEAD
from collections.abc import Sequence
=======
from collections.abc import Iterator
>>>>>>> bench-room
from pathlib import Path

import numba
import numpy as np

from hypervisor.public.units import FRAME_BYTES

ZLIB_BYTES_MAX = 1400
<<<<<<< HEAD
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
=======
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
>>>>>>> bench-room
