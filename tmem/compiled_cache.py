"""Where compiled kernels are kept, so that only the first start on a machine compiles.

Owns: the choice of the cache directory, ``$XDG_CACHE_HOME`` or ``~/.cache``, then
``memcoord/numba-<hash>``. The hash covers numba's version, every source of this package and every
source beside the module that declares the kernels (any package may declare some), because numba
looks at one file only and would miss a change in a function that a kernel calls. Where that
directory cannot be written, nothing is cached: a temporary directory would outlive a process that
is killed. The environment of the process is not changed. Used by the modules that declare entries.
"""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

DIGEST_CHARS = 16


def home() -> Path:
    """The folder of everything cached for this user; RuntimeError when there is no home."""
    root = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (root if root.is_absolute() else Path.home() / ".cache") / "memcoord"


@functools.cache
def directory(module: str = __file__) -> Path | None:
    """The directory for the kernels of a module (its ``__file__``), made if need be; None where
    nothing can be written."""
    try:
        wanted = home() / f"numba-{_digest(Path(module).parent)}"
        wanted.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=wanted):
            return wanted
    except (OSError, RuntimeError):  # RuntimeError: there is no home directory
        return None


@contextmanager
def cached_kernels(module: str = __file__) -> Iterator[bool]:
    """Have numba use our directory for kernels declared inside; yields whether it may cache.

    ``module``: the ``__file__`` of the module that declares them.
    """
    from numba.core import config

    place = directory(module)
    if place is None:
        yield False
        return
    before = config.CACHE_DIR
    config.CACHE_DIR = str(place)
    try:
        yield True
    finally:
        config.CACHE_DIR = before


def _digest(package: Path) -> str:
    seen = hashlib.sha256(metadata.version("numba").encode())
    for place in sorted({Path(__file__).parent, package}):
        for source in sorted(place.glob("*.py")):
            seen.update(source.read_bytes())
    return seen.hexdigest()[:DIGEST_CHARS]
