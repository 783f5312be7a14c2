"""Host memory to the frame: what it is made of, where it is, holes in it, a domain that reboots."""

from __future__ import annotations

import ctypes
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from backend_steps import close_domain, ledger, settle, spec
from guest_double import GuestDouble

from backend._service import ffi, lib
from backend.host import HostBackend
from frontend._guest import lib as abi
from hypervisor.public.backend import BankSpec, DomainSpec
from hypervisor.public.errors import BadFrame, ConfigError, NoMemory, Status
from hypervisor.public.settings import MECHANISMS
from hypervisor.public.units import AREA_BYTES, AREA_FRAMES, DomId

AREA = AREA_FRAMES
VM1 = DomId(0)


def host(areas: int = 16, **options: Any) -> HostBackend:
    return HostBackend(
        total_frames=areas * AREA, slack_frames=AREA, spin_ns=0, tmem_max_frames=0, **options
    )


def test_a_host_of_16_gib_starts_with_a_domain_that_may_have_15() -> None:
    gib = (1 << 30) // AREA_BYTES * AREA
    backend = HostBackend(total_frames=16 * gib, slack_frames=AREA, spin_ns=0)
    large = DomainSpec("vm1", 15 * gib, 2 * AREA, 2 * AREA)
    guest = GuestDouble(backend.open(VM1, large))
    assert guest.alloc(9) >= 0
    backend.set_target(VM1, 4 * AREA)
    found = backend.snapshot()
    assert (found.total_frames, found.domains[0].target_frames) == (16 * gib, 4 * AREA)
    backend.validate()
    guest.close()
    backend.stop()


def test_pages_of_2_mib_are_measured_not_assumed() -> None:
    try:
        backend = host(backing="2m")
    except ConfigError:
        pytest.skip("this machine gives no pages of 2 MiB")
    guest = GuestDouble(backend.open(VM1, spec("vm1", boot=3)))
    assert backend.huge_bytes(VM1) == 3 * AREA_BYTES
    assert backend.snapshot().domains[0].resident_frames == 3 * AREA
    assert guest.alloc(9) >= 0
    backend.set_target(VM1, AREA)
    settle(backend, lambda s: s.domains[0].resident_frames == AREA)
    assert backend.huge_bytes(VM1) == AREA_BYTES
    backend.validate()
    guest.close()
    backend.stop()


def test_pages_of_4_kib_are_what_was_asked_for() -> None:
    backend = host(backing="4k")
    backend.open(VM1, spec("vm1", boot=3))
    assert backend.huge_bytes(VM1) == 0
    backend.stop()


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"backing": "1g"}, "backing"),
        ({"backing": "4k", "huge_dir": "/dev/shm"}, "huge_dir"),
        ({"backing": "2m", "huge_dir": "/proc"}, "huge_dir"),
        ({"banks": [BankSpec(AREA)]}, "banks"),
        ({"banks": [BankSpec(AREA)] * 17}, "banks"),
    ],
)
def test_memory_that_is_not_there_is_refused_by_name(options: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=f"^{key}"):
        host(**options)


@pytest.fixture
def huge_dir(tmp_path: Path) -> Iterator[str]:
    libc = ctypes.CDLL(None, use_errno=True)
    target = str(tmp_path).encode()
    if os.geteuid() or libc.mount(b"none", target, b"tmpfs", 0, b"huge=always,size=64m"):
        pytest.skip("mounting a tmpfs needs root")
    yield str(tmp_path)
    assert libc.umount2(target, 0) == 0


def test_a_file_that_its_guest_can_shrink_is_no_danger_to_the_host(huge_dir: str) -> None:
    try:
        backend = HostBackend(
            total_frames=16 * AREA, slack_frames=AREA, backing="2m", huge_dir=huge_dir
        )
    except ConfigError:
        pytest.skip("this tmpfs gives no pages of 2 MiB")
    handles = backend.open(VM1, spec("vm1", boot=2))
    assert backend.huge_bytes(VM1) == 2 * AREA_BYTES
    guest = GuestDouble(handles)
    pool, _ = guest.send(abi.MC_OP_NEW_POOL, 1 | 1 << 24, tmem=True)
    frame = guest.alloc()
    os.ftruncate(handles.ram_fd, 0)
    status = guest.send(abi.MC_OP_PUT, pool, 1, 2, 3, frame, tmem=True)[0]
    assert status == abi.MC_TMEM_BAD + Status.EPERM
    assert guest.grow()[0] == 1  # without its page: the guest's own touch would end the guest
    assert guest.send(abi.MC_OP_NOP)[0] == 0
    close_domain(backend, VM1)
    backend.validate()
    guest.close()
    backend.stop()


def test_every_area_has_a_bank_and_remote_ones_come_last() -> None:
    banks = [BankSpec(4 * AREA, remote=True), BankSpec(5 * AREA, node=0), BankSpec(7 * AREA)]
    backend = host(banks=banks)
    guest = GuestDouble(backend.open(VM1, spec("vm1", maxmem=16)))

    def free() -> list[int]:
        return [backend._host.banks[i].free_frames // AREA for i in range(3)]

    seen = []
    for _ in range(15):
        assert guest.grow()[0] == 1
        settle(backend, lambda s: s.ready_frames in (0, AREA))
        backend.validate()
        seen.append(free())
    assert all(now[0] == 4 for now in seen if now[1] or now[2])
    assert sum(seen[-1]) <= 1
    close_domain(backend, VM1)
    assert free() == [4, 5, 7]
    guest.close()
    backend.stop()


def numbers(frames: list[int]) -> Any:
    return ffi.new("uint32_t[]", frames)


def make_holes(backend: HostBackend, frames: list[int]) -> tuple[int, int]:
    bad = ffi.new("uint32_t *")
    lib.mc_host_lock(backend._host)
    domain = ffi.addressof(backend._host.domains, VM1)
    made = lib.mc_holes_make(backend._host, domain, numbers(frames), len(frames), bad)
    lib.mc_host_unlock(backend._host)
    return made, bad[0]


def fill_holes(backend: HostBackend, frames: list[int], slack_too: bool) -> tuple[int, int]:
    bad = ffi.new("uint32_t *")
    lib.mc_host_lock(backend._host)
    domain = ffi.addressof(backend._host.domains, VM1)
    args = numbers(frames), len(frames), slack_too, bad
    filled = lib.mc_holes_fill(backend._host, domain, *args)
    lib.mc_host_unlock(backend._host)
    return filled, bad[0]


def test_a_single_frame_that_is_given_back_is_free_host_memory() -> None:
    backend = host(areas=5)
    guest = GuestDouble(backend.open(VM1, spec("vm1", maxmem=3, boot=3)))
    assert make_holes(backend, [5, 6, 7, 600, 5, 3 * AREA, 2**32 - 1]) == (4, 3)
    backend.validate()
    now = backend.snapshot()
    assert now.free_frames == 2 * AREA + 4
    assert now.domains[0].current_frames == now.domains[0].resident_frames == 3 * AREA - 4
    assert ledger(now) == now.total_frames
    other = GuestDouble(backend.open(DomId(1), spec("vm2", maxmem=1)))
    assert other.grow()[0] == 1
    assert fill_holes(backend, [5, 5, 8], slack_too=False) == (1, 2)
    backend.validate()
    close_domain(backend, VM1)
    assert backend.snapshot().free_frames == 4 * AREA
    guest.close()
    other.close()
    backend.stop()


def test_frames_in_one_hole_per_area_make_an_area_of_another_domain() -> None:
    """512 frames are an area's worth of host memory, wherever they came from."""
    backend = host(areas=5)
    guest = GuestDouble(backend.open(VM1, spec("vm1", maxmem=4, boot=4)))
    # One area at most: its keeper gets no second one ready, which vm1 would have to give.
    other = GuestDouble(backend.open(DomId(1), spec("vm2", maxmem=1)))
    for area in range(4):
        assert make_holes(backend, list(range(area * AREA, area * AREA + 128))) == (128, 0)
    assert other.grow()[0] == 1
    assert backend.snapshot().domains[1].current_frames == AREA
    assert fill_holes(backend, [1], slack_too=False) == (0, 0)
    assert fill_holes(backend, [1], slack_too=True) == (1, 0)
    backend.validate()
    guest.close()
    other.close()
    backend.stop()


def test_any_holes_conserve_the_host() -> None:
    rng = random.Random(7)
    backend = host(areas=8)
    guest = GuestDouble(backend.open(VM1, spec("vm1", maxmem=6, boot=4)))
    for _ in range(200):
        frames = [rng.randrange(6 * AREA) for _ in range(rng.randrange(64))]
        match rng.randrange(5):
            case 0:
                guest.grow(rng.randrange(1, 3))
            case 1:
                guest.send(abi.MC_OP_RELEASE, rng.randrange(1, 3))
            case 2:
                fill_holes(backend, frames, slack_too=rng.random() < 0.5)
            case _:
                made, bad = make_holes(backend, frames)
                assert made + bad == len(frames)
        backend.validate()
        now = backend.snapshot()
        assert ledger(now) == now.total_frames
    guest.close()
    backend.stop()


def test_a_hole_is_no_target_of_dma_and_no_page_for_tmem() -> None:
    backend = HostBackend(total_frames=16 * AREA, slack_frames=0, spin_ns=0)
    guest = GuestDouble(backend.open(VM1, spec("vm1", boot=1)))
    pool, _ = guest.send(abi.MC_OP_NEW_POOL, 1 | 1 << 24, tmem=True)
    assert make_holes(backend, [9]) == (1, 0)
    with pytest.raises(Exception, match="EFOREIGN"):
        backend.pin_dma(VM1, 9, 1)
    status = guest.send(abi.MC_OP_PUT, pool, 1, 2, 3, 9, tmem=True)[0]
    assert status == abi.MC_TMEM_BAD + Status.EFOREIGN
    backend.pin_dma(VM1, 10, 2)
    assert make_holes(backend, [10, 11, 12]) == (1, 2)
    assert backend.snapshot().domains[0].refused_dma == 2
    with pytest.raises(BadFrame):
        backend.pin_dma(VM1, 8 * AREA, 1)
    backend.validate()
    guest.close()
    backend.stop()


def test_a_reboot_keeps_what_a_device_writes_to() -> None:
    backend = host()
    guest = GuestDouble(backend.open(VM1, spec("vm1", boot=3)))
    guest.grow(3)
    backend.pin_dma(VM1, 4 * AREA + 1, 1)
    page = guest.bytes_of(4 * AREA + 1)
    page[:4] = b"disk"
    guest.bytes_of(0)[:4] = b"boot"
    backend.reboot(VM1)
    backend.validate()
    assert page[:4] == b"disk"
    assert guest.bytes_of(0)[:4] == bytes(4)
    now = settle(backend, lambda s: s.ready_frames == 0).domains[0]
    assert now.current_frames == 4 * AREA
    assert now.reclaimed_areas == 0
    guest.close()
    guest = GuestDouble(backend.open(DomId(1), spec("vm2", maxmem=2)))
    backend.reboot(DomId(1))
    guest.close()
    backend.stop()


@pytest.mark.parametrize("banks", [1, 2])
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_reboot_without_memory_breaks_that_domain_only(mechanism: str, banks: int) -> None:
    backend = host(areas=8, banks=[BankSpec(8 // banks * AREA)] * banks)
    wanted = DomainSpec("vm1", 8 * AREA, 6 * AREA, 6 * AREA, mechanism=mechanism)
    guest = GuestDouble(backend.open(VM1, wanted))
    backend.set_target(VM1, 0)
    backend.promise(4 * AREA)
    with pytest.raises(NoMemory):
        backend.reboot(VM1)
    assert [domid for domid, _ in backend.broken()] == [VM1]
    close_domain(backend, VM1)
    backend.validate()
    assert backend.snapshot().free_frames == 8 * AREA
    guest.close()
    backend.stop()


@pytest.mark.parametrize(
    ("mechanism", "options", "key"),
    [
        ("teleport", {}, "mechanism"),
        ("hyperalloc", {"colour": 1}, "options.colour"),
        ("hyperalloc", {"period_ms": 1 << 40}, "options.period_ms"),
    ],
)
def test_a_mechanism_that_is_not_there_is_refused_by_name(
    mechanism: str, options: dict[str, int], key: str
) -> None:
    backend = host()
    wanted = DomainSpec("vm1", AREA, 0, AREA, mechanism=mechanism, options=options)
    with pytest.raises(ConfigError, match=f"^{key}:"):
        backend.open(VM1, wanted)
    backend.validate()
    backend.stop()
