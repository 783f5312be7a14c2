"""The swap file: contents, both ways of opening, and what goes wrong with files."""

from __future__ import annotations

import errno
import mmap
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from frontend.paging.swapfile import SwapError, SwapFile


@pytest.fixture
def frames() -> Iterator[list[memoryview]]:
    with mmap.mmap(-1, 8 * 4096) as memory:
        whole = memoryview(memory)
        views = [whole[i * 4096 : (i + 1) * 4096] for i in range(8)]
        yield views
        for view in [*views, whole]:
            view.release()


def test_pages_come_back(tmp_path: Path, frames: list[memoryview]) -> None:
    path = tmp_path / "swap"
    with SwapFile(path, 1000) as swap:
        assert path.stat().st_size == 1000 * 4096
        assert path.stat().st_mode & 0o777 == 0o600
        for page, byte in ((0, 1), (999, 2), (500, 3), (0, 4)):
            frames[0][:] = bytes([byte]) * 4096
            swap.write(page, frames[0])
        for page, byte in ((999, 2), (500, 3), (0, 4), (1, 0)):
            swap.read(page, frames[1])
            assert frames[1] == bytes([byte]) * 4096
    assert not path.exists()
    swap.close()


def test_a_filesystem_without_direct_io(
    tmp_path: Path, frames: list[memoryview], monkeypatch: pytest.MonkeyPatch
) -> None:
    real_open, real_pwrite = os.open, os.pwrite
    refused: list[str] = []

    def open_refusing(path: Any, flags: int, *rest: Any) -> int:
        if flags & os.O_DIRECT:
            refused.append("open")
            raise OSError(errno.EINVAL, "no")
        return real_open(path, flags, *rest)

    def pwrite_refusing(*args: Any) -> int:
        if len(refused) == 1:
            refused.append("pwrite")
            raise OSError(errno.EINVAL, "no")
        return real_pwrite(*args)

    for name, fake in (("open", open_refusing), ("pwrite", pwrite_refusing)):
        monkeypatch.setattr(os, name, fake)
        with SwapFile(tmp_path / name, 4) as swap:
            assert not swap.direct
            frames[0][:] = b"q" * 4096
            swap.write(3, frames[0])
            swap.read(3, frames[1])
            assert frames[1] == frames[0]
        monkeypatch.setattr(os, name, {"open": real_open, "pwrite": real_pwrite}[name])
    assert refused == ["open", "pwrite"]


def test_a_full_disk_names_the_file(tmp_path: Path, frames: list[memoryview]) -> None:
    path = tmp_path / "swap"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with SwapFile(path, 64) as swap:
        swap.write(0, frames[0])
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (8 * 4096, before[1]))
            with pytest.raises(SwapError, match=str(path)) as caught:
                swap.write(9, frames[0])
            with pytest.raises(SwapError, match="1000 pages"):
                SwapFile(tmp_path / "other", 1000)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)
        assert caught.value.path == path
        assert caught.value.errno == errno.EFBIG
        swap.write(9, frames[0])
    assert not (tmp_path / "other").exists()


def test_no_space_and_short_writes(
    tmp_path: Path, frames: list[memoryview], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "full")

    with SwapFile(tmp_path / "swap", 4) as swap:
        for fake in (no_space, lambda *_: 512):
            monkeypatch.setattr(os, "pwrite", fake)
            with pytest.raises(SwapError, match="free some disk space") as caught:
                swap.write(0, frames[0])
            assert caught.value.errno == errno.ENOSPC
        monkeypatch.undo()
        os.truncate(tmp_path / "swap", 0)
        with pytest.raises(SwapError, match="0 bytes"):
            swap.read(0, frames[0])


def test_wrong_use(tmp_path: Path, frames: list[memoryview]) -> None:
    with SwapFile(tmp_path / "swap", 4) as swap:
        for page in (-1, 4):
            with pytest.raises(ValueError, match="page"):
                swap.write(page, frames[0])
            with pytest.raises(ValueError, match="page"):
                swap.read(page, frames[0])
        with pytest.raises(ValueError, match="100 bytes"):
            swap.write(0, frames[0][:100])
    with pytest.raises(SwapError, match="create"):
        SwapFile(tmp_path / "missing" / "swap", 4)


def test_without_memory_to_try_direct_writes_there_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr("frontend.paging.swapfile.mmap.mmap", refuse)
    with SwapFile(tmp_path / "swap", 4) as swap:
        assert not swap.direct
