"""Goal: kernels are cached for the user, and a place that cannot be written does no harm."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ASK = "import tmem.compiled_cache as c; d = c.directory(); print(d, d.is_dir())"


def ask(code: str, **environment: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path), **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout.strip()


def test_the_directory_is_the_users_and_names_the_sources(tmp_path: Path) -> None:
    by_xdg = ask(ASK, XDG_CACHE_HOME=str(tmp_path)).split()
    by_home = ask(ASK, HOME=str(tmp_path)).split()
    assert Path(by_xdg[0]).parent == tmp_path / "memcoord"
    assert Path(by_home[0]).parent == tmp_path / ".cache" / "memcoord"
    assert Path(by_xdg[0]).name == Path(by_home[0]).name
    assert by_xdg[1] == by_home[1] == "True"


def test_without_a_writable_place_nothing_is_cached_or_made(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    code = "import tmem.compiled_cache as c; print(c.directory())"
    assert ask(code, XDG_CACHE_HOME=str(file), TMPDIR=str(tmp_path)) == "None"
    assert list(tmp_path.iterdir()) == [file]


def test_a_relative_directory_is_none_as_the_xdg_specification_says(tmp_path: Path) -> None:
    place = ask(ASK, XDG_CACHE_HOME="here", HOME=str(tmp_path)).split()[0]
    assert Path(place).parent == tmp_path / ".cache" / "memcoord"


def test_numba_is_told_only_while_kernels_are_declared(tmp_path: Path) -> None:
    code = """
from numba.core import config
from tmem.compiled_cache import cached_kernels, directory
before = config.CACHE_DIR
with cached_kernels() as enabled:
    print(enabled, config.CACHE_DIR == str(directory()), end=" ")
print(config.CACHE_DIR == before)
"""
    assert ask(code, XDG_CACHE_HOME=str(tmp_path)) == "True True True"
