"""Goal: kernels are cached for the user, and no state of the cache does harm: it costs time."""

from __future__ import annotations

import pickle
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from numba import int64, njit

from tmem import compiled_cache
from tmem.compiled_cache import cached_kernels

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


def _double(number):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    return number * 2


def declare() -> tuple[int, int, int]:
    """Declare a kernel as the package does: what it answers, loads and misses of the cache."""
    with cached_kernels(__file__) as enabled:
        kernel = njit(int64(int64), cache=enabled)(_double)
    stats = kernel.stats
    return kernel(21), sum(stats.cache_hits.values()), sum(stats.cache_misses.values())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache of this process, of which nothing was told yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compiled_cache, "_told", set())
    compiled_cache.directory.cache_clear()
    yield tmp_path
    compiled_cache.directory.cache_clear()


def _noise(file: Path) -> None:
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 16] = b"\xf0\x01" * 8
    file.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda file: file.write_bytes(b""),
    "cut": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "cut at the end": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "noise": _noise,
    "another file": lambda file: file.write_bytes(b"something else"),
}


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_compiled_again_and_replaced(
    cache: Path, capsys: pytest.CaptureFixture[str], kind: str, damage: str
) -> None:
    declare()
    (file,) = cache.glob(f"memcoord/*/*/*.{kind}")
    assert declare() == (42, 1, 0)
    DAMAGES[damage](file)
    assert declare() == (42, 0, 1)
    (line,) = capsys.readouterr().err.splitlines()
    assert "compiled again" in line
    assert file.name in line
    assert declare() == (42, 1, 0)
    assert not capsys.readouterr().err


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
def test_a_file_that_can_be_neither_read_nor_replaced_costs_time_only(
    cache: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    declare()
    (file,) = cache.glob(f"memcoord/*/*/*.{kind}")
    file.unlink()
    file.mkdir()
    assert declare() == (42, 0, 1)
    assert [line.partition("kernel")[0] for line in capsys.readouterr().err.splitlines()] == [
        "memcoord: note: a compiled ",
        "memcoord: note: compiled ",
    ]


def test_a_kernel_of_another_function_is_not_taken_for_ours(cache: Path) -> None:
    """Goal: an index that names a file which another process wrote meanwhile does no harm."""
    declare()
    (file,) = cache.glob("memcoord/*/*/*.nbc")
    key, data = pickle.loads(file.read_bytes())
    sealed = pickle.dumps((("another", *key[1:]), data))
    file.write_bytes(sealed + compiled_cache._seal(sealed))
    assert declare() == (42, 0, 1)
    assert declare() == (42, 1, 0)


def test_a_folder_that_cannot_be_made_is_told_once(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    declare()
    (folder,) = cache.glob("memcoord/*/*/")
    shutil.rmtree(folder)
    folder.write_bytes(b"")
    for _ in range(2):
        assert declare()[:2] == (42, 0)
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot be kept" in line
    assert "XDG_CACHE_HOME" in line


def test_a_full_disk_is_told_in_one_line(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    try:
        assert declare() == (42, 0, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot be kept" in line
    assert not list(cache.glob("memcoord/*/*/*.tmp*"))
    assert declare() == (42, 0, 1)
    assert declare() == (42, 1, 0)


def test_processes_that_fill_an_empty_cache_at_once_all_succeed(tmp_path: Path) -> None:
    code = "import test_compiled_cache as t; print(*t.declare())"
    path = ":".join([str(Path(__file__).parent), *sys.path])
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": path, "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", code]
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    said = [process.communicate(timeout=120)[0].split()[0] for process in processes]
    assert said == ["42"] * 4
    assert ask(code, **{**environment, "PYTHONPATH": path}) == "42 1 0"
    assert not list(tmp_path.glob("memcoord/*/*/*.tmp*"))
