"""The programs and data that come with memcoord: where they lie, and the words that name them.

Owns: ``memcoord:NAME`` as the program of a workload (``argv[0]``) and as a file of it (``files``).
Called by ``memcoord.testbed.scenarios.programs`` and ``memcoord.testbed.guests.program``.
"""

from __future__ import annotations

import lzma
import shutil
from importlib import resources
from pathlib import Path

from hypervisor.public.errors import NotCompiled

OURS = "memcoord:"
#: Beside them; what the build calls them ends in SUFFIX.
PROGRAMS = ("als", "pagerank", "usemem")
SUFFIX = ".program"
#: A file of a workload -> where it lies, packed. MovieLens: see data/MOVIELENS_README.txt.
FILES = {"ratings.csv": "data/movielens_ratings.csv.xz"}

_HERE = Path(str(resources.files("memcoord.testbed.applications")))


def named(word: str) -> str | None:
    """NAME of ``memcoord:NAME``; None of any other word."""
    return word.removeprefix(OURS) if word.startswith(OURS) else None


def program(name: str) -> Path:
    """The program ``name``; NotCompiled when there is none."""
    found = _HERE / f"{name}{SUFFIX}"
    if name not in PROGRAMS or not found.is_file():
        raise NotCompiled(f"memcoord.testbed.applications.{name}")
    return found


def unpack(name: str, folder: Path) -> Path:
    """Put the file ``name``, one of FILES, into ``folder``; OSError."""
    target = folder / name
    with lzma.open(_HERE / FILES[name]) as packed, target.open("wb") as plain:
        shutil.copyfileobj(packed, plain)
    return target
