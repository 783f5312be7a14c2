"""Frontswap, cleancache and tmem's commands against a real hypervisor process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import frontend
from frontend.domain import Domain
from frontend.paging.cleancache import Cleancache
from frontend.paging.frontswap import Frontswap
from hypervisor.config import HypervisorConfig
from hypervisor.public.units import AREA_FRAMES
from memcoord.testbed.runs.control_client import Refused, call

pytestmark = pytest.mark.process
WAIT_S = 60.0
AREA = AREA_FRAMES
PAGES = 1500  # more than the 1,024 that tmem may hold

Memcoord = Callable[..., Any]


@pytest.fixture
def options() -> dict[str, Any]:
    """What a test wants of the hypervisor besides."""
    return {}


@pytest.fixture
def run_dir(short_path: Path, options: dict[str, Any]) -> Iterator[Path]:
    """A hypervisor whose tmem may hold two areas."""
    config = HypervisorConfig(
        total_frames=16 * AREA,
        open_attach=True,
        interval_ms=50,
        tmem_max_pages=2 * AREA,
        **options,
    )
    (short_path / "hypervisor.json").write_bytes(msgspec.json.encode(config))
    command = [
        sys.executable,
        "-P",
        "-m",
        "memcoord.testbed.live.hypervisor_main",
        str(short_path),
        "0",
    ]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    until = time.monotonic() + WAIT_S
    while not (short_path / "control.ipc").exists():
        assert time.monotonic() < until
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    call(short_path, "ping", timeout_ms=60_000)
    yield short_path
    process.kill()
    process.communicate()


@pytest.fixture
def domain(run_dir: Path) -> Iterator[Domain]:
    with frontend.attach(run_dir, name="vm1", maxmem_frames=4 * AREA) as attached:
        yield attached


@pytest.fixture
def memcoord(run_dir: Path) -> Memcoord:
    def run(*arguments: str, json_: bool = True) -> Any:
        command = [sys.executable, "-m", "memcoord", *arguments, "--run-dir", str(run_dir)]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        done = subprocess.run(
            [*command, *(["--json"] if json_ else [])],
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            env=env,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) if json_ else done.stdout

    return run


def stamp(domain: Domain, frame: int, number: int) -> int:
    domain.view(frame)[:] = number.to_bytes(8, "little") * 512
    return frame


def holds(domain: Domain, frame: int, number: int) -> bool:
    return bytes(domain.view(frame)) == number.to_bytes(8, "little") * 512


def test_a_full_tmem_drops_file_pages_and_keeps_swapped_ones(domain: Domain) -> None:
    frame, cache = domain.alloc(), Cleancache(domain.tmem)
    swap = Frontswap(domain.tmem)
    mounted = cache.mount()
    for index in range(900):
        cache.put(mounted, 77, index, stamp(domain, frame, index + 1))
    swap.swapon(0, PAGES)
    kept = [n for n in range(PAGES) if swap.store(0, n, stamp(domain, frame, PAGES + n))]
    assert 512 <= len(kept) <= 2 * AREA
    assert swap.stored_pages == len(kept)
    for number in range(PAGES):
        if swap.load(0, number, frame):
            assert holds(domain, frame, PAGES + number)
    found = [index for index in range(900) if cache.get(mounted, 77, index, frame)]
    assert len(found) <= 2 * AREA - len(kept)
    swap.swapoff(0)
    for number in (1, 2):
        cache.put(mounted, 77, 5, stamp(domain, frame, number))
    assert cache.get(mounted, 77, 5, frame)
    assert holds(domain, frame, 2)
    assert not cache.get(mounted, 77, 5, frame)
    cache.unmount(mounted)


def test_pages_travel_many_for_one_doorbell(domain: Domain) -> None:
    frames, cache = domain.alloc_many(64), Cleancache(domain.tmem)
    mounted = cache.mount()
    for index, frame in enumerate(frames[:32]):
        cache.put(mounted, 1 << 100, index, stamp(domain, frame, index))
    assert cache.get_ahead(mounted, 1 << 100, 0, frames) == [True] * 32 + [False] * 32
    assert all(holds(domain, frame, index) for index, frame in enumerate(frames[:32]))
    pool = domain.tmem.new_pool(persistent=True)
    assert domain.tmem.put_many(pool, (1, 2, 3), range(32), frames[:32]) == [1] * 32
    assert domain.tmem.get_many(pool, (1, 2, 3), range(31, -1, -1), frames[32:]) == [1] * 32
    assert all(holds(domain, frame, 31 - index) for index, frame in enumerate(frames[32:]))


def test_the_page_about_tmem_shows_what_works(run_dir: Path, checkout: Path) -> None:
    text = (checkout / "docs" / "tmem.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"```python\n(import frontend.*?)```", text, re.DOTALL)
    exec(compile(source, "docs/tmem.md", "exec"), {"run_dir": run_dir})


def test_tmem_list_tells_what_the_guest_did(domain: Domain, memcoord: Memcoord) -> None:
    frame, cache = domain.alloc(), Cleancache(domain.tmem)
    swap, mounted = Frontswap(domain.tmem), cache.mount()
    swap.swapon(0, 100)
    for offset in range(100):
        swap.store(0, offset, stamp(domain, frame, offset + 1))
        cache.put(mounted, 3, offset, frame)
    for offset in range(0, 100, 4):
        swap.load(0, offset, frame)
        cache.get(mounted, 3, 2 * offset, frame)
    found = memcoord("tmem-list")
    (vm1,) = found["clients"]
    assert (vm1["name"], vm1["pool_count"]) == ("vm1", 2)
    assert (vm1["ephemeral_pages"], vm1["persistent_pages"]) == (87, 100)
    assert (vm1["puts"], vm1["gets"], vm1["gets_hit"]) == (200, 50, 38)
    by_kind = {pool["is_persistent"]: pool for pool in vm1["pools"]}
    assert (by_kind[True]["pages"], by_kind[False]["pages"]) == (100, 87)
    assert found["host"]["used_pages"] == 187
    short = memcoord("tmem-list", json_=False).splitlines()
    assert max(map(len, short)) <= 80
    assert short[2].split()[0] == "NAME"
    assert short[3].split()[:2] == ["vm1", "0"]
    long = memcoord("tmem-list", "-l", json_=False)
    assert "pool 0 (ephemeral, private)" in long
    assert "pool 1 (persistent, private)" in long
    assert len(long.splitlines()) > 20


def test_what_is_listed_adds_up_while_a_domain_is_at_work(domain: Domain, run_dir: Path) -> None:
    stop, frames = threading.Event(), [stamp(domain, domain.alloc(), 7) for _ in range(64)]
    cached, swapped = (domain.tmem.new_pool(persistent=kind) for kind in (False, True))

    def work() -> None:
        while not stop.is_set():
            for start in range(0, PAGES, 64):
                indices = range(start, start + 64)
                domain.tmem.put_many(cached, (1, 0, 0), indices, frames)
                domain.tmem.put_many(swapped, (2, 0, 0), indices, frames)
            domain.tmem.flush_object(swapped, (2, 0, 0))

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for _ in range(60):
            listed = call(run_dir, "tmem-list", domain="vm1")
            (vm1,) = listed["clients"]
            failed = sum(count for name, count in vm1.items() if name.startswith("puts_failed_"))
            assert vm1["puts"] == vm1["puts_succ"] + failed
            assert vm1["puts"] == sum(pool["puts"] for pool in listed["pools"])
            used = sum(pool["pages"] for pool in listed["pools"])
            assert used == vm1["used_pages"] == listed["host"]["used_pages"]
        assert vm1["puts"] > 0
    finally:
        stop.set()
        worker.join(WAIT_S)


@pytest.mark.parametrize("options", [{"tmem_dedup": True, "tmem_compression": True}])
def test_less_memory_holds_more_pages_and_every_byte(domain: Domain, run_dir: Path) -> None:
    swap, frame = Frontswap(domain.tmem), domain.alloc()
    swap.swapon(0, PAGES)
    until = time.monotonic() + WAIT_S
    for number in range(PAGES):  # 1,400 pages that compress, of which tmem holds 1,024 raw
        text = stamp(domain, frame, max(number - 100, 0) + 1)
        while not swap.store(0, number, text):
            assert time.monotonic() < until, "nothing was compressed"
            time.sleep(0.01)
    host = call(run_dir, "tmem-list", domain="")["host"]
    assert host["used_pages"] == PAGES
    assert (host["contents"], host["shared_pages"]) == (1, 101)
    assert host["packed_pages"] >= PAGES - 100 - 2 * AREA
    for number in range(PAGES):
        assert swap.load(0, number, frame)
        assert holds(domain, frame, max(number - 100, 0) + 1)


def test_two_domains_share_a_filesystem_they_may_share(
    domain: Domain, memcoord: Memcoord, run_dir: Path
) -> None:
    uuid, frame = "00000000-0000-0001-0000-000000000002", domain.alloc()
    with frontend.attach(run_dir, name="vm2", maxmem_frames=AREA) as other:
        for name in ("vm1", "vm2"):
            assert memcoord("tmem-shared-auth", name, uuid)["allowed"]
        mine, theirs = Cleancache(domain.tmem), Cleancache(other.tmem)
        mounts = mine.mount(shared_uuid=(2, 1)), theirs.mount(shared_uuid=(2, 1))
        mine.put(mounts[0], 4, 1, stamp(domain, frame, 8))
        target = other.alloc()
        for _ in range(2):  # it stays: others may want it
            assert theirs.get(mounts[1], 4, 1, target)
            assert holds(other, target, 8)
        assert "shared by 0:0, 1:0" in memcoord("tmem-list", "-l", json_=False)
        mine.unmount(mounts[0])


def test_a_frozen_domain_does_not_grow_until_it_is_thawed(
    domain: Domain, memcoord: Memcoord, run_dir: Path
) -> None:
    tmem, frame = domain.tmem, stamp(domain, domain.alloc(), 9)
    pool = tmem.new_pool(persistent=True)
    assert tmem.put(pool, (1, 1, 1), 0, frame) == 1
    assert memcoord("tmem-freeze", "vm1") == {"domain": "vm1", "state": "frozen"}
    assert tmem.put(pool, (1, 1, 1), 1, frame) == -1000
    assert tmem.put(pool, (1, 1, 1), 0, frame) == 1, "a page in its old place is no growth"
    assert memcoord("tmem-list")["clients"][0]["is_frozen"]
    (counted,) = call(run_dir, "statistics")["domains"]
    assert (counted["puts"], counted["puts_failed"]) == (3, 1)
    memcoord("tmem-thaw", "--all")
    assert tmem.put(pool, (1, 1, 1), 1, frame) == 1
    memcoord("tmem-weight", "vm1", "7")
    assert memcoord("tmem-list")["clients"][0]["weight"] == 7
    memcoord("tmem-quota", "vm1", "2")
    assert tmem.put(pool, (1, 1, 1), 2, frame) == -12
    memcoord("tmem-quota", "vm1", "none")
    assert tmem.put(pool, (1, 1, 1), 2, frame) == 1
    assert memcoord("tmem-freeable")["freeable_mb"] >= 1
    counted = memcoord("validate")
    assert counted["tmem_pages"] == 3
    assert counted["is_whole"]
    assert counted["is_exact"]
    assert "in order: 1 domains" in memcoord("validate", json_=False)
    with pytest.raises(Refused, match="vm9"):
        call(run_dir, "tmem-freeze", domain="vm9")
