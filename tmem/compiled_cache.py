"""Where compiled kernels are kept, so that only the first start on a machine compiles.

Owns: the choice of the cache directory, ``$XDG_CACHE_HOME`` or ``~/.cache``, then
``memcoord/kernels-<hash>``. The hash covers the versions of numba and llvmlite, the processor,
every source of this package and every source beside the module that declares the kernels (any
package may declare some). Two kinds of files lie there: the objects of ``tmem.compiled``, and
numba's own. While ``cached_kernels`` lasts numba's directory is ours, because numba looks at one
file only and would miss a change in a function that a kernel calls. The environment of the process
is not changed.

No state of the directory keeps a process from starting. Each file in it ends with a digest; a file
that is cut, empty or damaged counts as missing, its kernel is compiled again and the file replaced
by a rename, so that processes that fill the directory at the same time do not disturb each other.
Where nothing can be written, nothing is cached: a temporary directory would outlive a process that
is killed. Either is told in one line on standard error, once in a process.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import io
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DIGEST_CHARS = 16
COMPILERS = ("numba", "llvmlite")
#: Lines of /proc/cpuinfo that say which instructions a processor has, on any architecture.
OF_PROCESSOR = ("model", "flags", "Features", "CPU", "isa")
#: At the end of every file in the cache, of the bytes before it.
SEAL_BYTES = 16


def home() -> Path:
    """The folder of everything cached for this user; RuntimeError when there is no home."""
    root = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (root if root.is_absolute() else Path.home() / ".cache") / "memcoord"


@functools.cache
def directory(module: str = __file__) -> Path | None:
    """The directory for the kernels of a module (its ``__file__``), made if need be; None where
    nothing can be written."""
    try:
        wanted = home() / f"kernels-{_digest(Path(module).parent)}"
        _make(wanted)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home directory
        _cannot_keep(error)
        return None
    return wanted


@contextmanager
def cached_kernels(module: str = __file__) -> Iterator[bool]:
    """Have numba use our directory for kernels declared inside; yields whether it may cache.

    ``module``: the ``__file__`` of the module that declares them.
    """
    from numba.core import caching, config

    place = directory(module)
    try:
        if place is not None:  # numba would look for another place, or raise
            _make(place / caching.UserProvidedCacheLocator.get_suitable_cache_subpath(module))
    except OSError as error:
        _cannot_keep(error)
        place = None
    if place is None:
        yield False
        return
    before = config.CACHE_DIR
    config.CACHE_DIR = str(place)
    try:
        with _guarded(caching):
            yield True
    finally:
        config.CACHE_DIR = before


@contextmanager
def _guarded(caching: Any) -> Iterator[None]:
    """Inside, ``numba.core.caching`` reads and writes sealed files, and no file makes it raise."""
    files, cache = caching.IndexDataCacheFile, caching.Cache
    load, save = cache.load_overload, cache.save_overload

    def careful_load(self: Any, signature: Any, context: Any) -> Any:
        try:
            return load(self, signature, context)
        except Exception as error:  # what is made of a file's content may raise anything
            _compiled_again(self.cache_path, error)
            return None

    def careful_save(self: Any, signature: Any, data: Any) -> None:
        try:
            save(self, signature, data)
        except OSError as error:
            _cannot_keep(error)

    caching.IndexDataCacheFile = _sealed(files)
    cache.load_overload, cache.save_overload = careful_load, careful_save
    try:
        yield
    finally:
        caching.IndexDataCacheFile = files
        cache.load_overload, cache.save_overload = load, save


@functools.cache
def _sealed(files: Any) -> Any:
    """``files``, numba's class of the files of one function, with a digest at the end of each.

    numba ignores what follows a pickle. A kernel is kept with its key, because the index of two
    processes that write at the same time may name the file of the other.
    """

    class SealedFiles(files):  # type: ignore[misc]
        def save(self, key: Any, data: Any) -> None:
            super().save(key, (key, data))

        def load(self, key: Any) -> Any:
            kept_key, data = super().load(key) or (None, None)
            return data if kept_key == key else None

        def _load_index(self) -> Any:
            return super()._load_index() if self._is_whole(self._index_path) else {}

        def _load_data(self, name: str) -> Any:
            path = self._data_path(name)
            return super()._load_data(name) if self._is_whole(path) else None

        def _is_whole(self, path: str) -> bool:
            """Whether the file is as it was written; False when there is none."""
            try:
                content = Path(path).read_bytes()
            except FileNotFoundError:
                return False
            except OSError as error:
                _compiled_again(path, error)
                return False
            whole = _seal(content[:-SEAL_BYTES]) == content[-SEAL_BYTES:]
            if not whole:
                _compiled_again(path, "damaged")
            return whole

        @contextmanager
        def _open_for_write(self, path: str) -> Iterator[io.BytesIO]:
            content = io.BytesIO()
            yield content
            with super()._open_for_write(path) as file:
                file.write(content.getvalue() + _seal(content.getvalue()))

    return SealedFiles


def kept(file: Path, *, quiet: bool = False) -> bytes | None:
    """The content of a file that ``keep`` wrote; None when it is missing or damaged."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        _compiled_again(file.name, error)
        return None
    if _seal(content[:-SEAL_BYTES]) == content[-SEAL_BYTES:]:
        return content[:-SEAL_BYTES]
    if not quiet:
        _compiled_again(file.name, "damaged")
    return None


def keep(file: Path | None, content: bytes) -> None:
    """Write a file with its digest, in one step for whoever reads it; says so when it cannot."""
    if file is None:
        return
    try:
        with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".tmp", delete=False) as new:
            try:
                new.write(content + _seal(content))
                new.close()
                os.replace(new.name, file)
            except BaseException:
                os.unlink(new.name)
                raise
    except OSError as error:
        _cannot_keep(error)


def _seal(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=SEAL_BYTES).digest()


def _make(place: Path) -> None:
    """Make a directory that can be written in; OSError."""
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=place):
        pass


def _compiled_again(path: str, why: object) -> None:
    name = os.path.basename(path)
    _tell("again", f"a compiled kernel is unusable and is compiled again ({name}: {why})")


def _cannot_keep(why: object) -> None:
    where = "set XDG_CACHE_HOME to a directory with room"
    _tell("kept", f"compiled kernels cannot be kept, every start compiles them; {where} ({why})")


_told: set[str] = set()


def _tell(kind: str, line: str) -> None:
    if kind in _told:
        return
    _told.add(kind)
    with contextlib.suppress(OSError, AttributeError):  # there may be no standard error
        sys.stderr.write(f"memcoord: note: {line}\n")


def _digest(package: Path) -> str:
    seen = hashlib.sha256(repr([_version(one) for one in COMPILERS]).encode())
    seen.update(_processor())
    for place in sorted({Path(__file__).parent, package}):
        for source in sorted(place.glob("*.py")):
            seen.update(source.read_bytes())
    return seen.hexdigest()[:DIGEST_CHARS]


def _version(name: str) -> str:
    """What tells an installed package from another version of it, without ``importlib.metadata``,
    which a hypervisor would import for this alone."""
    spec = importlib.util.find_spec(name)
    if spec is not None and spec.origin is not None:
        beside = os.listdir(Path(spec.origin).parent.parent)
        if found := [one for one in beside if one.startswith(f"{name}-") and "-info" in one]:
            return " ".join(sorted(found))
    from importlib import metadata

    return metadata.version(name)


def _processor() -> bytes:
    """What the kernel says of the processor: its model, and the instructions it has."""
    known = [platform.machine()]
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(errors="replace").partition("\n\n")[0].splitlines()
        known += [line for line in lines if line.startswith(OF_PROCESSOR)]
    return "\n".join(known).encode()
