"""The modules that lie beside a policy's file, which the file may import by their names.

Owns: what of ``sys.path``, ``sys.path_hooks`` and ``sys.modules`` belongs to a policy's file
(``shown``), and the list of the modules that such a file needs (``files_beside``), for a process
that has to run a copy.

A file may import ``helper`` when ``helper.py`` or ``helper/`` lies in its folder; a module of that
name that is installed comes first. The modules beside one file are forgotten when the next file is
loaded: two policies of one process may each have a ``helper.py``. No bytecode is written into the
folder, whenever the file imports. Called by ``policies.loader`` and by sweeps.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    SourceFileLoader,
)
from pathlib import Path
from typing import Any

#: The most a policy's file may bring along; beyond, it should be an installed package.
FILES_MAX, BYTES_MAX = 100, 4 << 20


class TooMany(ValueError):
    """A policy's file imports more from beside it than a copy may hold."""


class _Unwritten(SourceFileLoader):
    """Loads a module, and leaves no bytecode beside it."""

    def set_data(self, path: str, data: Any, *, _mode: int = 0o666) -> None:
        """Write nothing.

        API: importlib calls it with the bytecode it has made.
        """


class _Beside:
    """The one folder whose modules can be imported, and what was there before it."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._folder: Path | None = None
        self._path: list[str] = []
        self._known: frozenset[str] = frozenset()

    def change_to(self, folder: Path) -> None:
        self.forget()
        self._folder, self._path = folder, [*sys.path]
        self._drop_finders()
        self._known = frozenset(name.partition(".")[0] for name in [*sys.modules])
        sys.path.append(str(folder))
        sys.path_hooks.insert(0, self._find_in)
        importlib.invalidate_caches()

    def _find_in(self, path: str) -> FileFinder:
        """As the interpreter finds modules, in the folder and in packages that lie in it alone."""
        if self._folder is None or not Path(path).is_relative_to(self._folder):
            raise ImportError(f"{path} is not beside a policy's file")
        return FileFinder(
            path, (ExtensionFileLoader, EXTENSION_SUFFIXES), (_Unwritten, SOURCE_SUFFIXES)
        )

    def _drop_finders(self) -> None:
        """What the interpreter has found in the folder by a hook before."""
        for path in [*sys.path_importer_cache]:
            if self._folder is not None and Path(path).is_relative_to(self._folder):
                del sys.path_importer_cache[path]

    def forget(self) -> None:
        if self._folder is None:
            return
        sys.path[:] = self._path  # the file may have changed it as well
        if self._find_in in sys.path_hooks:
            sys.path_hooks.remove(self._find_in)
        self._drop_finders()
        for name, module in [*sys.modules.items()]:
            file = getattr(module, "__file__", None)
            ours = name.partition(".")[0] not in self._known
            if ours and file and Path(file).is_relative_to(self._folder):
                del sys.modules[name]
        self._folder = None


_beside = _Beside()


@contextmanager
def shown(folder: Path) -> Iterator[None]:
    """Inside, a file of ``folder`` is run, and writes none there; until the next ``shown``, modules
    of ``folder`` can be imported."""
    with _beside.lock:
        _beside.change_to(folder)
        before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
        try:
            yield
        finally:
            sys.dont_write_bytecode = before


def files_beside(path: Path) -> dict[str, str]:
    """The text of every module in ``path``'s folder that ``path`` imports, directly or not, by its
    place in the folder. OSError, UnicodeDecodeError; TooMany; a SyntaxError is left to the loader.
    """
    with _beside.lock:
        _beside.forget()
    found: dict[str, str] = {}
    waiting = [path]
    while waiting:
        file = waiting.pop()
        text = file.read_text(encoding="utf-8")
        if file != path:
            found[str(file.relative_to(path.parent))] = text
        if len(found) > FILES_MAX or sum(map(len, found.values())) > BYTES_MAX:
            raise TooMany(
                f"imports more than {FILES_MAX} files or {BYTES_MAX >> 20} MiB from beside it:"
                " make it an installed package"
            )
        seen = {path, *waiting, *(path.parent / name for name in found)}
        waiting += [one for one in _wanted(text, path.parent) if one not in seen]
    return dict(sorted(found.items()))


def _wanted(text: str, folder: Path) -> set[Path]:
    """The files in ``folder`` that the imports of ``text`` may mean: a module, or a whole
    package."""
    import ast

    try:
        nodes = [*ast.walk(ast.parse(text))]
    except (SyntaxError, ValueError, RecursionError):
        return set()
    names = {
        alias.name.partition(".")[0]
        for node in nodes
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    names |= {
        (node.module or "").partition(".")[0]
        for node in nodes
        if isinstance(node, ast.ImportFrom) and not node.level
    }
    found: set[Path] = set()
    for name in names:
        if (module := folder / f"{name}.py").is_file():
            files = {module}
        else:
            files = {*(folder / name).rglob("*.py")} if name else set()
        if files and not _is_installed(name):
            found |= files
    return found


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
