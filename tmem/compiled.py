"""Entries at hand: from the cache, or compiled first, and linked into this process without numba.

Owns: how the objects of a ``tmem.units.Unit`` are found and kept. They lie in the directory of
``tmem.compiled_cache`` as ``MODULE.ENTRY.o``, each with a digest at its end; the name of that
directory covers the sources, the compilers' versions and the processor. What is missing or damaged
is compiled by a process of its own (``tmem.compiling``) and kept by a rename. When processes miss
the same objects at once, one compiles and the others wait for it.

Any package may name a unit. Nothing here imports numba. Used by the modules that call entries.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import importlib.util
import os
import select
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tmem import compiled_cache, linking
from tmem._calls import ffi, lib
from tmem.codes import TmemError
from tmem.units import Unit

COMPILER = "tmem.compiling"
HEADER = struct.Struct("<QQ")  # as tmem.compiling.HEADER
#: A machine that is busy with other work takes minutes.
COMPILE_S = 600.0
LOCK_POLL_S = 0.05
READ_BYTES = 1 << 20
WHY_BYTES = 2000  # of the compiler's standard error, from its end

#: Told how many of how many objects are compiled.
Tell = Callable[[int, int], None]


@functools.cache
def load(unit: Unit) -> dict[str, int]:
    """The address of every entry of a unit, by name. TmemError when one cannot be compiled."""
    objects = prepare([unit])
    return linking.link(
        {name: objects[key] for name, key in zip(unit.names, unit.keys, strict=True)}
    )


def prepare(units: list[Unit], tell: Tell | None = None) -> dict[str, bytes]:
    """Have the objects of units in the cache: by key, all of them. TmemError as ``load``.

    ``tell`` hears of each object that has to be compiled first, and nothing when none has.
    """
    files = {key: file for unit in units for key, file in _files(unit)}
    found = {key: content for key, file in files.items() if (content := _read(file)) is not None}
    if len(found) == len(files):
        return found
    missing = [key for key in files if key not in found]
    with _one_at_a_time(files[missing[0]]):
        for key in missing:  # another process may have made them meanwhile
            if (content := _read(files[key], quiet=True)) is not None:
                found[key] = content
        missing = [key for key in files if key not in found]
        if tell and missing:
            tell(0, len(missing))
        for number, (key, content) in enumerate(_compile(missing), start=1):
            found[key] = content
            compiled_cache.keep(files[key], content)
            if tell:
                tell(number, len(missing))
    return found


def calling(address: int, count: int, u64: tuple[int, ...] = ()) -> Any:
    """An entry of ``count`` arguments as a function for Python, which keeps the GIL.

    ``u64``: the arguments that are unsigned to Python. The others are int64.
    """
    made: list[Any] = []
    mask = sum(1 << number for number in u64)
    return _only(made, lib.mc_call_bind(id(made), address, count, mask))


def calling_page(many: int, **told: int) -> Any:
    """The entry ``many`` for one page, as a function for Python; ``told`` as ``mc_page_call``."""
    made: list[Any] = []
    call = ffi.new("struct mc_page_call *", {"many": many, **told})
    return _only(made, lib.mc_call_bind_page(id(made), call))


def _only(made: list[Any], failed: int) -> Any:
    if failed:
        raise MemoryError("no memory for a function")
    return made[0]


def _files(unit: Unit) -> Iterator[tuple[str, Path | None]]:
    """The key of each entry, and where its object is kept; None where nothing can be."""
    spec = importlib.util.find_spec(unit.module)
    if spec is None or spec.origin is None:
        raise TmemError(f"there is no module {unit.module}, whose entries are to be compiled")
    place = compiled_cache.directory(spec.origin)
    for key, name in zip(unit.keys, unit.names, strict=True):
        yield key, None if place is None else place / f"{unit.module}.{name}.o"


def _read(file: Path | None, *, quiet: bool = False) -> bytes | None:
    return None if file is None else compiled_cache.kept(file, quiet=quiet)


@contextlib.contextmanager
def _one_at_a_time(file: Path | None) -> Iterator[None]:
    """Keep other processes from compiling what this one does, where there is a place to say so.

    The kernel takes the lock from a process that dies. A wait for longer than COMPILE_S ends.
    """
    try:
        lock = None if file is None else (file.parent / "lock").open("ab")
    except OSError:
        lock = None
    if lock is None:
        yield
        return
    with lock:
        until = time.monotonic() + COMPILE_S
        while time.monotonic() < until:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                time.sleep(LOCK_POLL_S)
        yield


def _compile(keys: list[str]) -> Iterator[tuple[str, bytes]]:
    """Compile entries in a process of its own: each as soon as it is there."""
    if not keys:
        return
    said = os.fdopen(os.memfd_create("compiler"), "w+b")  # it may say more than a pipe holds
    path = os.pathsep.join(where for where in sys.path if where)
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", COMPILER, *keys],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=said,
        env={**os.environ, "PYTHONPATH": path},
    )
    left = set(keys)
    with said, child:
        try:
            for key, content in _frames(child):
                left.discard(key)
                yield key, content
        except BaseException:
            child.kill()
            raise
        status = child.wait()
        if left:
            said.seek(0)
            lines = said.read()[-WHY_BYTES:].decode(errors="replace").strip().splitlines()
            why = lines[-1] if lines else f"exit status {status}"
            raise TmemError(f"{len(left)} kernels cannot be compiled ({min(left)}): {why}")


def _frames(child: subprocess.Popen[bytes]) -> Iterator[tuple[str, bytes]]:
    """What the compiler writes, until it ends; TmemError when it takes too long."""
    assert child.stdout is not None
    pending = bytearray()
    until = time.monotonic() + COMPILE_S
    while True:
        ready, _, _ = select.select([child.stdout], [], [], max(until - time.monotonic(), 0))
        if not ready:
            raise TmemError(f"kernels are not compiled after {COMPILE_S:.0f} s")
        more = os.read(child.stdout.fileno(), READ_BYTES)
        if not more:
            return
        pending += more
        while len(pending) >= HEADER.size:
            name_bytes, size = HEADER.unpack_from(pending)
            end = HEADER.size + name_bytes + size
            if len(pending) < end:
                break
            frame = bytes(pending[HEADER.size : end])
            del pending[:end]
            yield frame[:name_bytes].decode(), frame[name_bytes:]
