"""``bench tmem``, run once against real processes: its shape and its cleanness, never its times."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench_results import assert_left_clean, result_of

from memcoord.benchmarks.lab import Lab
from memcoord.benchmarks.tmem import bench as tmem
from memcoord.benchmarks.tmem import pages as text_of
from memcoord.benchmarks.tmem import peers, zram
from memcoord.benchmarks.tmem.pages import text_pages
from memcoord.testbed.runs import rundir
from memcoord.testbed.runs.identity import alive, identify

pytestmark = [pytest.mark.timeout(120), pytest.mark.process]

OUR_ROWS = {
    "memcpy_4k", "get_hot", "put_hot", "put", "get", "python_put", "python_get", "dict_put",
    "python_ring_put", "python_ring_get", "dict_get", "ring_put", "ring_put_batch32",
    "ring_get_sleep", "futex_rtt", "put_compressed", "put_64k_pages",
    "put_2m_pages", "recover_1m_pages",
}  # fmt: skip
RIVAL_ROWS = {
    "lmdb": {"lmdb_put", "lmdb_get"},
    "redis": {"redis_put", "redis_get"},
    "memcached": {"memcached_put", "memcached_get"},
    "zram": {"zram_out"},
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few samples, small sets, and no device of the kernel's."""
    for name in ("HOT", "SET", "PYTHON", "SOCKET", "TRIAL", "RING", "BATCH", "SLEEP", "TEXT"):
        monkeypatch.setattr(tmem, f"{name}_SAMPLES", 4)
    monkeypatch.setattr(tmem, "SET_PAGES", 1024)
    monkeypatch.setattr(tmem, "TEXT_PAGES", 512)
    monkeypatch.setattr(tmem, "FEW_PAGES", 4096)
    monkeypatch.setattr(tmem, "MANY_PAGES", 8192)
    monkeypatch.setattr(tmem, "KEPT_PAGES", 4096)
    monkeypatch.setattr(zram, "why_missing", lambda: "not in a test")


@pytest.mark.usefixtures("small")
def test_tmem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = peers.why_missing
    monkeypatch.setattr(
        peers, "why_missing", lambda name: "taken away" if name == "lmdb" else real(name)
    )
    out = tmp_path / "t"
    result = result_of("tmem", out, capsys)
    skipped = set(result["skipped"])
    assert {"lmdb", "zram"} <= skipped <= set(tmem.PLAN.skippable)
    taking_part = {name for name in RIVAL_ROWS if name not in skipped}
    rivals = {row for name in taking_part for row in RIVAL_ROWS[name]}
    missing = {row for name in skipped for row in RIVAL_ROWS[name]}
    rows = set(result["rows"])
    assert rows >= OUR_ROWS | rivals
    assert not rows & missing
    assert set(result["targets"]) == set(tmem.PLAN.targets)
    for key in tmem.PLAN.targets:
        assert (key in result["ratios"]) == (set(key.split("/")) <= rows)
    assert "python_put/lmdb_put" not in result["ratios"]
    assert any("skipped lmdb: taken away" in text for text in result["machine"]["warnings"])
    assert result["rows"]["put_compressed"]["compressed"] > 0.9
    assert result["rows"]["ring_put_batch32"]["ops_per_sample"] == tmem.BATCH_RECORDS
    same = ("get_hot", "memcpy_4k"), ("put_hot", "memcpy_4k"), ("put_2m_pages", "put_64k_pages")
    for ours, theirs in same:
        assert result["rows"][ours]["ops_per_sample"] == result["rows"][theirs]["ops_per_sample"]
    assert_left_clean(out)
    assert not (out / "lmdb").exists()


def distinct_pages() -> list[memoryview]:
    return [memoryview(bytes([number]) * peers.PAGE_BYTES) for number in range(4)]


def check_store(store: peers.Store) -> None:
    with pytest.raises(KeyError):
        store.get(0, 1)
    store.put(0, 4)
    store.get(0, 4)
    for position, page in enumerate(distinct_pages()):
        assert store.fetch(position) == page


def test_a_dict_keeps_pages() -> None:
    check_store(peers.DictStore(distinct_pages(), Path()))


def test_lmdb_keeps_pages(tmp_path: Path) -> None:
    pytest.importorskip("lmdb")
    store = peers.LmdbStore(distinct_pages(), tmp_path)
    check_store(store)
    store.close()


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    run = rundir.create("lab", path=tmp_path / "l")
    with Lab(run) as made:
        yield made
    run.finish("finished")


@pytest.mark.parametrize("name", peers.SERVERS)
def test_a_server_keeps_pages_and_ends_with_the_bench(lab: Lab, name: str) -> None:
    if why := peers.why_missing(name):
        pytest.skip(why)
    store, command = peers.SERVERS[name]
    path = lab.socket_path("s.sock")
    process = identify(name, lab.server(name, command(path)).pid)
    client = store(distinct_pages(), path)
    check_store(client)
    client.close()
    assert alive(process)
    lab.__exit__(None, None, None)
    assert not alive(process)
    assert not path.exists()


def test_a_server_that_cannot_start_is_noticed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "CONNECT_S", 0.1)
    path = lab.socket_path("s.sock")
    lab.server("nobody", [sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(OSError, match=r"No such file|refused"):
        peers.connect(path)


def test_a_program_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert peers.why_missing("redis") == "redis-server is not installed"
    assert peers.why_missing("memcached") == "memcached is not installed"


def test_an_answer_that_is_no_page_is_an_error() -> None:
    ours, theirs = socket.socketpair()

    class Store(peers.RedisStore):
        def __init__(self) -> None:
            self.connected = ours
            super().__init__(distinct_pages(), Path("nowhere"))

    with pytest.MonkeyPatch.context() as patch, ours, theirs:
        patch.setattr(peers, "connect", lambda path: ours)
        store = Store()
        theirs.sendall(b"-ERR\r\n")
        with pytest.raises(OSError, match="ERR"):
            store.put(0, 1)


def test_text_is_as_long_as_asked_and_no_page_comes_twice() -> None:
    text = text_pages(300)
    assert len({text[start : start + 4096] for start in range(0, len(text), 4096)}) == 300


def test_a_small_library_is_cut_more_than_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_of, "LIBRARY", tmp_path)
    lines = [f"value_{number} = compute(value_{number})\n" for number in range(1000)]
    (tmp_path / "a.py").write_text("".join(lines[:500]))
    (tmp_path / "b.py").write_text("".join(lines[500:]))
    whole = sum(map(len, lines)) // 4096
    text = text_pages(3 * whole)
    assert len({text[start : start + 4096] for start in range(0, len(text), 4096)}) == 3 * whole
    with pytest.raises(ValueError, match="only"):
        text_pages(1 << 20)


def test_a_swap_header_is_what_the_kernel_reads(tmp_path: Path) -> None:
    device = tmp_path / "device"
    device.write_bytes(b"\xff" * 8192)
    zram.write_header(device, zram.DEVICE_BYTES)
    header = device.read_bytes()
    assert header[4086:4096] == b"SWAPSPACE2"
    assert struct.unpack_from("<III", header, 1024) == (1, zram.DEVICE_BYTES // 4096 - 1, 0)
    assert header[4096:] == b"\xff" * 4096


def test_zram_is_for_root_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert zram.why_missing() == "needs root"
