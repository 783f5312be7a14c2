"""A chaos run with few kills on real processes, and its guests' eye for what is lost."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import memcoord
from frontend.domain import Domain
from hypervisor.config import HypervisorConfig
from hypervisor.public.errors import MemcoordError
from hypervisor.public.units import AREA_FRAMES, FRAME_BYTES
from memcoord.benchmarks.chaos import bench as chaos
from memcoord.benchmarks.chaos import plan
from memcoord.benchmarks.chaos.account import Account, Slot
from memcoord.benchmarks.chaos.audit import left_over
from memcoord.benchmarks.chaos.holdings import Detached, Frames, Pages
from memcoord.commands.bench import bench

pytestmark = [pytest.mark.slow, pytest.mark.process, pytest.mark.timeout(600)]
KEYS = (
    "kills", "hypervisor_kills", "lost_frames", "lost_pages", "wrong_pages", "broken_invariants",
    "pause_p50_ms", "pause_p99_ms",
)  # fmt: skip
SEED = 77
RESTS_S = 20.0


@pytest.fixture
def domain(short_path: Path) -> Iterator[Domain]:
    run = memcoord.Hypervisor("32 MiB", run_dir=short_path / "run")
    with run as host, memcoord.attach(host.run_dir, "vm", 4096) as made:
        yield made


@pytest.fixture
def account(tmp_path: Path) -> Iterator[Account]:
    with Account(tmp_path) as made:
        yield made


@pytest.fixture
def slot(account: Account, tmp_path: Path) -> Iterator[Slot]:
    made = Slot(tmp_path, 0)
    yield made
    made.close()


def run(path: Path, capsys: pytest.CaptureFixture[str], **options: Any) -> tuple[int, Any]:
    code = bench("chaos", True, None, str(path / "c"), options)
    return code, msgspec.json.decode(capsys.readouterr().out)


def test_kills_lose_nothing(short_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, result = run(short_path, capsys, kills=6, seed=3)
    assert (code, result["problems"]) == (0, [])
    assert set(KEYS) <= result.keys()
    assert result["kills"] >= 6
    assert result["audits"] >= 1
    assert result["validations"] >= 1
    assert result["frames_verified"] > 0
    assert result["pages_verified"] > 0


def test_kills_of_the_hypervisor_lose_nothing(
    short_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, result = run(short_path, capsys, kills=12, hypervisor_kills=6)
    assert (code, result["problems"], result["hypervisor_kills"]) == (0, [], 6)
    assert 0 < result["pause_p50_ms"] <= result["pause_p99_ms"]


def test_kills_of_a_host_that_cannot_be_had_are_done_on_another(
    short_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan.configuration

    def without_huge(variant: str) -> HypervisorConfig:
        config = made(variant)
        if variant != "huge":
            return config
        return msgspec.structs.replace(config, huge_dir="/nowhere")

    monkeypatch.setattr(chaos, "configuration", without_huge)
    code, result = run(short_path, capsys, kills=6)
    assert (code, result["problems"]) == (0, [])
    assert result["skipped"].keys() == {"huge"}
    assert result["kills"] >= 6
    assert result["audits"] == 3


def test_an_audit_knows_what_is_on_its_way(domain: Domain, short_path: Path) -> None:
    """A domain that grows has an area ready, or being made ready, which is not granted yet."""
    held = [domain.alloc() for _ in range(AREA_FRAMES + 1)]
    until = time.monotonic() + RESTS_S
    now, counted = _statistics(short_path), memcoord.control(short_path / "run", "validate")
    while left_over(now, counted, ["vm"]) and time.monotonic() < until:
        now, counted = _statistics(short_path), memcoord.control(short_path / "run", "validate")
    assert left_over(now, counted, ["vm"]) == ""
    host, (vm,) = now["host"], now["domains"]
    assert len(held) < host["installed_frames"]
    assert "attached" in left_over(now, counted, [])
    one = {"ready_frames": host["ready_frames"] + AREA_FRAMES}
    growing = host | one | {"free_frames": host["free_frames"] - AREA_FRAMES}
    grows = vm | {"installed_frames": vm["installed_frames"] + AREA_FRAMES}
    assert left_over(now | {"host": growing, "domains": [grows]}, counted, ["vm"]) == ""
    assert "way" in left_over(now | {"host": growing}, counted, ["vm"])
    wrong = {"installed_frames": host["installed_frames"] + 1}
    wrong |= {"free_frames": host["free_frames"] - 1}
    assert "granted" in left_over(now | {"host": host | wrong}, counted, ["vm"])
    assert "ledger" in left_over(now | {"host": host | {"free_frames": 0}}, counted, ["vm"])
    assert "tmem" in left_over(now | {"host": host | {"tmem_used_pages": 1}}, counted, ["vm"])
    assert "rest" in left_over(now, counted | {"is_exact": 0}, ["vm"])


def _statistics(short_path: Path) -> Any:
    return memcoord.control(short_path / "run", "statistics")


def test_every_malformed_record_is_answered(
    short_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, result = run(short_path, capsys, records=60_000)
    assert (code, result["problems"], result["kills"]) == (0, [], 0)
    assert result["records"]["answered"] == result["records"]["sent"] == 60_000


def test_a_changed_frame_is_a_lost_one(domain: Domain, slot: Slot, account: Account) -> None:
    frames = Frames(domain, SEED, slot)
    held = [domain.alloc() for _ in range(8)]
    frames.take(held)
    frames.take_movable(domain.alloc_movable())
    frames.check(held)
    frames.check_movable(next(iter(frames.movables)))
    assert account.problems() == []
    domain.memory[held[3] * FRAME_BYTES + 4000] ^= 1
    frames.check(held)
    with domain.pinned(next(iter(frames.movables))) as page:
        page[17] ^= 1
    frames.check_movable(next(iter(frames.movables)))
    assert account.total("lost_frames") == len(account.problems()) == 2


def test_a_frame_with_bytes_of_another_is_told(
    domain: Domain, slot: Slot, account: Account
) -> None:
    frames = Frames(domain, SEED, slot)
    frame = domain.alloc()
    frames.take([frame])
    frames.drop([frame])
    frames.take([frame])  # its own bytes may be in it
    frames.drop([frame])
    domain.memory[frame * FRAME_BYTES] ^= 1
    frames.take([frame])
    (problem,) = account.problems()
    assert "somebody else" in problem
    assert account.total("lost_frames") == 0


def test_a_page_that_is_gone_or_another_is_told(
    domain: Domain, slot: Slot, account: Account
) -> None:
    pages, frame = Pages(domain, SEED, slot), domain.alloc()
    for index in range(4):
        assert pages.put((1, index), frame)
    for index in range(4):
        pages.check((1, index), frame)
    assert account.problems() == []
    domain.tmem.flush_page(pages._pool, (1, 7, 0), 2)  # behind its back
    pages.check((1, 2), frame)
    assert (account.total("lost_pages"), account.total("wrong_pages")) == (1, 0)
    domain.tmem.put(pages._pool, (1, 7, 0), 3, frame)
    domain.memory[frame * FRAME_BYTES] ^= 1
    domain.tmem.put(pages._pool, (1, 7, 0), 3, frame)
    pages.check((1, 3), frame)
    assert (account.total("lost_pages"), account.total("wrong_pages")) == (1, 1)
    assert pages.known.keys() == {(1, 0), (1, 1)}, "what was told is not told again"


def test_a_put_that_failed_may_have_done_either(
    domain: Domain, slot: Slot, account: Account
) -> None:
    pages, frame = Pages(domain, SEED, slot), domain.alloc()
    pages.put((1, 1), frame)
    before = pages.known.pop((1, 1))
    pages.doubtful[1, 1] = {before, before + 1, 0}
    pages.check((1, 1), frame)
    assert pages.known == {(1, 1): before}
    pages.doubtful[2, 2] = {0, 5}
    pages.check((2, 2), frame)
    assert account.problems() == []
    assert not pages.doubtful
    assert pages.some(random.Random(1), 9) == [(1, 1)]


def test_memory_of_a_detached_domain_is_no_loss(
    domain: Domain, slot: Slot, account: Account, short_path: Path
) -> None:
    frames, frame = Frames(domain, SEED, slot), domain.alloc()
    frames.take([frame])
    memcoord.control(short_path / "run", "detach", domain="vm")
    domain.memory[frame * FRAME_BYTES] ^= 1
    with pytest.raises(Detached):
        frames.check([frame])
    assert account.total("lost_frames") == 0


def test_pins_by_the_control_plane(domain: Domain, short_path: Path) -> None:
    where, frame = short_path / "run", domain.alloc()
    memcoord.control(where, "mem-pin", domain="vm", frame=frame, count=1)
    assert memcoord.control(where, "statistics")["domains"][0]["pinned_frames"] == 1
    memcoord.control(where, "mem-unpin", domain="vm", frame=frame, count=1)
    assert memcoord.control(where, "statistics")["domains"][0]["pinned_frames"] == 0
    for count, why in ((1 << 40, "maxmem"), (0, "maxmem"), (4096 - frame, "not all memory of vm")):
        with pytest.raises(MemcoordError, match=why):
            memcoord.control(where, "mem-pin", domain="vm", frame=frame, count=count)
    memcoord.control(where, "validate")
