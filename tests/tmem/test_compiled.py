"""Goal: entries are compiled once, loaded without numba, and no state of the cache does harm."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tmem import TmemError, compiled, compiled_cache, linking
from tmem.units import ALL, Unit

TINY = Unit("tiny_entries", ("double", "tenth"))
WAIT_S = 240.0


def answers(objects: dict[str, bytes]) -> tuple[int, int]:
    """What the linked entries answer, to see that they are whole."""
    named = {key.partition(":")[2]: content for key, content in objects.items()}
    address = linking.link(named)
    return compiled.calling(address["double"], 1)(21), compiled.calling(address["tenth"], 1)(25)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache in which the objects lie; not to be changed."""
    place = tmp_path_factory.mktemp("filled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(place))
        compiled_cache.directory.cache_clear()
        told: list[tuple[int, int]] = []
        assert answers(compiled.prepare([TINY], lambda *of: told.append(of))) == (42, 9)
        assert told == [(0, 2), (1, 2), (2, 2)]
    yield place
    compiled_cache.directory.cache_clear()


@pytest.fixture
def cache(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of it for this process, of which nothing was told yet: where the objects lie."""
    shutil.copytree(filled, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compiled_cache, "_told", set())
    compiled_cache.directory.cache_clear()
    (place,) = tmp_path.glob("memcoord/kernels-*")
    yield place
    compiled_cache.directory.cache_clear()


def prepared() -> list[tuple[int, int]]:
    """Prepare the entries, see that they work: what was told meanwhile."""
    told: list[tuple[int, int]] = []
    assert answers(compiled.prepare([TINY], lambda *of: told.append(of))) == (42, 9)
    return told


def test_what_the_cache_has_is_not_compiled_again(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "COMPILER", "no.such.module")
    assert prepared() == []
    assert not list(cache.glob("*.tmp"))


def _noise(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda file: file.write_bytes(b""),
    "cut": lambda file: os.truncate(file, file.stat().st_size // 2),
    "cut at the end": lambda file: os.truncate(file, file.stat().st_size - 1),
    "noise": _noise,
}


def test_a_damaged_object_is_compiled_again_with_one_line(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = cache / "tiny_entries.tenth.o"
    whole = file.read_bytes()
    for damage in DAMAGES.values():
        file.write_bytes(whole)
        damage(file)
        assert compiled_cache.kept(file) is None
    (line,) = capsys.readouterr().err.splitlines()
    assert "compiled again (tiny_entries.tenth.o: damaged)" in line
    assert prepared() == [(0, 1), (1, 1)]
    assert compiled_cache.kept(file)
    assert prepared() == []


def test_a_full_disk_costs_time_only(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = cache / "tiny_entries.double.o"
    file.unlink()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    try:
        compiled_cache.keep(file, bytes(1000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot be kept" in line
    assert not list(cache.glob("*.tmp"))
    assert not file.exists()


def test_without_a_cache_every_start_compiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(compiled_cache, "_told", set())
    compiled_cache.directory.cache_clear()
    try:
        assert prepared() == [(0, 2), (1, 2), (2, 2)]
    finally:
        compiled_cache.directory.cache_clear()
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot be kept" in line


def test_processes_that_fill_an_empty_cache_at_once_all_succeed(tmp_path: Path) -> None:
    code = "import test_compiled as t; print(len(t.prepared()))"
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": path, "XDG_CACHE_HOME": str(tmp_path)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-P", "-c", code], env=environment, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    said = sorted(process.communicate(timeout=WAIT_S)[0].strip() for process in processes)
    assert said == ["0", "0", "0", "3"]  # one compiles, the others wait for it
    assert not list(tmp_path.glob("memcoord/*/*.tmp"))


@pytest.mark.usefixtures("cache")
def test_an_entry_that_cannot_be_compiled_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(TmemError, match=r"there is no module tiny_other"):
        compiled.prepare([Unit("tiny_other", ("double",))])
    monkeypatch.setattr(compiled, "COMPILER", "tmem.no_compiler")
    with pytest.raises(TmemError, match=r"cannot be compiled \(tiny_entries:fails\): .*no_comp"):
        compiled.prepare([Unit("tiny_entries", ("fails",))])


def test_a_pool_of_a_full_cache_runs_without_numba() -> None:
    compiled.prepare(ALL)
    code = """
import sys
from tmem import Tmem
Tmem(pages=512, mrc=True, dedup=True, compression=True)
print(sorted({name.partition(".")[0] for name in sys.modules} & {"numba", "llvmlite"}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=WAIT_S,
    )
    assert done.stdout.strip() == "[]"


def test_numbers_that_do_not_fit_are_refused_and_not_cut(cache: Path) -> None:
    objects = {key.partition(":")[2]: one for key, one in compiled.prepare([TINY]).items()}
    address = linking.link(objects)["double"]
    signed, unsigned = compiled.calling(address, 1), compiled.calling(address, 1, u64=(0,))
    assert signed(-4) == -8
    assert unsigned((1 << 63) + 5) == 10
    for function, number in ((signed, 1 << 63), (unsigned, -1), (unsigned, 1 << 64)):
        with pytest.raises(OverflowError):
            function(number)
    with pytest.raises(TypeError):
        signed(1.5)
    with pytest.raises(TypeError, match="1 arguments"):
        signed(1, 2)
    assert cache.is_dir()


def test_what_is_no_object_of_ours_is_not_linked() -> None:
    with pytest.raises(ValueError, match="no ELF"):
        linking.link({"double": b"something else"})
