"""Where compiled kernels are kept, so that only the first start on a machine compiles.

Owns: the choice of the cache directory, ``$XDG_CACHE_HOME`` or ``~/.cache``, then
``memcoord/numba-<hash>``. The hash covers every source of this package and numba's version, because
numba looks at one file only and would miss a change in a function that a kernel calls. Where that
directory cannot be written, a private one that is removed at exit; failing that, no cache.
The process' environment is left alone. Used by the modules that define kernels.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

DIGEST_CHARS = 16


@functools.cache
def directory() -> Path | None:
    """The directory kernels are cached in, made if need be; None where nothing can be written."""
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    wanted = Path(root).expanduser() / "memcoord" / f"numba-{_digest()}"
    try:
        wanted.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=wanted):
            return wanted
    except (OSError, RuntimeError):  # RuntimeError: there is no home directory to expand
        pass
    try:
        private = tempfile.mkdtemp(prefix="memcoord-numba-")
    except OSError:
        return None
    atexit.register(shutil.rmtree, private, ignore_errors=True)
    return Path(private)


@contextmanager
def cached_kernels() -> Iterator[bool]:
    """Have numba use our directory for kernels declared inside; yields whether it may cache."""
    from numba.core import config

    place = directory()
    if place is None:
        yield False
        return
    before = config.CACHE_DIR
    config.CACHE_DIR = str(place)
    try:
        yield True
    finally:
        config.CACHE_DIR = before


def warm() -> None:
    """Load every kernel, compiling those not in the cache. Call it before domains start."""
    import tmem.serve  # noqa: F401


def _digest() -> str:
    seen = hashlib.sha256(metadata.version("numba").encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        seen.update(source.read_bytes())
    return seen.hexdigest()[:DIGEST_CHARS]
