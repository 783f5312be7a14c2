"""The kernel's memory calls: what they seal, align, give, free and refuse."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FRAME = 4096
AREA = 2 << 20
F_ADD_SEALS, F_GET_SEALS = 1033, 1034
SEAL_SEAL, SEAL_SHRINK, SEAL_GROW, SEAL_EXEC = 1, 2, 4, 32
#: MFD_NOEXEC_SEAL is of Linux 6.3.
HAS_NOEXEC = [int(part) for part in os.uname().release.split(".")[:2]] >= [6, 3]
PUNCH, KEEP_SIZE = 2, 1  # FALLOC_FL_*


@pytest.fixture
def memfd(loops: Any) -> Iterator[int]:
    fd = loops.lib.mc_memfd(b"test", 4 * AREA)
    assert fd >= 0
    yield fd
    os.close(fd)


@contextmanager
def mapped(loops: Any, fd: int, size: int) -> Iterator[tuple[int, memoryview]]:
    address = loops.lib.mc_map(fd, size) if fd >= 0 else loops.lib.mc_map_anonymous(size)
    assert address > 0
    yield address, memoryview(loops.ffi.buffer(loops.ffi.cast("char *", address), size))
    assert loops.lib.mc_unmap(address, size) == 0


def spans() -> Iterator[tuple[int, int, str]]:
    """Start, end and permissions of every mapping of this process."""
    with open("/proc/self/maps", encoding="ascii") as maps:
        for line in maps:
            addresses, permissions = line.split()[:2]
            start, end = addresses.split("-")
            yield int(start, 16), int(end, 16), permissions


def is_mapped(address: int) -> bool:
    return any(start <= address < end for start, end, _ in spans())


def reserved_bytes() -> int:
    return sum(end - start for start, end, permissions in spans() if permissions == "---p")


def test_a_memfd_has_its_size_for_ever(memfd: int) -> None:
    assert os.fstat(memfd).st_size == 4 * AREA
    assert fcntl.fcntl(memfd, F_GET_SEALS) & ~SEAL_EXEC == SEAL_SEAL | SEAL_SHRINK | SEAL_GROW
    for size in (0, AREA, 5 * AREA):
        with pytest.raises(PermissionError):
            os.ftruncate(memfd, size)
    with pytest.raises(PermissionError):
        fcntl.fcntl(memfd, F_ADD_SEALS, 8)
    assert not os.get_inheritable(memfd)


@pytest.mark.skipif(not HAS_NOEXEC, reason="the kernel is older than 6.3")
def test_no_program_can_be_put_into_a_memfd_and_run(memfd: int) -> None:
    assert fcntl.fcntl(memfd, F_GET_SEALS) & SEAL_EXEC
    assert os.fstat(memfd).st_mode & 0o111 == 0
    with pytest.raises(PermissionError):
        os.fchmod(memfd, 0o700)
    os.pwrite(memfd, Path("/bin/true").read_bytes()[:AREA], 0)
    with pytest.raises(PermissionError):
        os.execve(memfd, ["true"], {})


def test_whoever_holds_a_memfd_gets_no_memory_beyond_its_end(memfd: int, loops: Any) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
    for mode in (0, KEEP_SIZE):
        assert libc.fallocate(memfd, mode, 4 * AREA, AREA) == -1
        assert ctypes.get_errno() == errno.EPERM
    with pytest.raises(PermissionError):
        os.pwrite(memfd, b"x", 4 * AREA)
    assert os.fstat(memfd).st_blocks == 0
    with mapped(loops, memfd, 4 * AREA) as (_, view):  # punched under a mapping: zeroes, no SIGBUS
        view[5:6] = b"x"
        assert libc.fallocate(memfd, PUNCH | KEEP_SIZE, 0, AREA) == 0
        assert view[5] == 0


@pytest.mark.parametrize("size", [0, 2**63, 2**64 - 1])
def test_a_memfd_of_no_possible_size_is_refused(loops: Any, size: int) -> None:
    before = os.listdir("/proc/self/fd")
    assert loops.lib.mc_memfd(b"test", size) == -errno.EINVAL
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("size", [1, FRAME, AREA - FRAME, AREA, 3 * AREA + FRAME])
@pytest.mark.parametrize("source", ["memfd", "anonymous"])
def test_a_mapping_is_aligned_and_takes_no_more_than_its_size(
    loops: Any, size: int, source: str
) -> None:
    fd = loops.lib.mc_memfd(b"test", size) if source == "memfd" else -1
    before = reserved_bytes()
    with mapped(loops, fd, size) as (address, memory):
        assert address % AREA == 0
        memory[0] = memory[size - 1] = 7
        assert reserved_bytes() == before, "what alignment reserved is given back"
    assert not is_mapped(address)
    if fd >= 0:
        os.close(fd)


def test_two_mappings_are_one_memory(loops: Any, memfd: int) -> None:
    with (
        mapped(loops, memfd, 4 * AREA) as (first, one),
        mapped(loops, memfd, 4 * AREA) as (
            second,
            other,
        ),
    ):
        assert first != second
        one[AREA + 5] = 99
        assert other[AREA + 5] == 99


def test_a_mapping_beyond_the_end_of_its_memfd_is_refused(loops: Any, memfd: int) -> None:
    assert loops.lib.mc_map(memfd, 4 * AREA + 1) == -errno.EINVAL
    assert loops.lib.mc_map(memfd, 0) == -errno.EINVAL
    assert loops.lib.mc_map(memfd, 2**64 - FRAME) == -errno.EINVAL
    assert loops.lib.mc_map(-1, AREA) == -errno.EBADF
    assert loops.lib.mc_map_anonymous(2**64 - FRAME) == -errno.EINVAL
    assert loops.lib.mc_map_anonymous(2**56) == -errno.ENOMEM


@pytest.mark.parametrize("kernel", ["this", "before 5.14"])
def test_populating_gives_exactly_the_range_and_keeps_what_is_there(
    kernel: str, request: pytest.FixtureRequest, memfd: int
) -> None:
    loops = request.getfixturevalue("loops" if kernel == "this" else "loops_without_populate")
    with mapped(loops, memfd, 4 * AREA) as (address, memory):
        assert loops.lib.mc_resident_bytes(memfd) == 0
        memory[AREA] = 42
        assert loops.lib.mc_populate_write(address + AREA, AREA) == 0
        assert loops.lib.mc_resident_bytes(memfd) == AREA
        assert memory[AREA] == 42
        assert loops.lib.mc_populate_write(address + AREA, AREA) == 0, "again costs nothing"
        assert loops.lib.mc_resident_bytes(memfd) == AREA
        with mapped(loops, memfd, 4 * AREA) as (other, seen):
            assert loops.lib.mc_populate_read(other + AREA, AREA) == 0
            assert seen[AREA] == 42
        assert loops.lib.mc_resident_bytes(memfd) == AREA


def test_a_punched_area_is_gone_in_every_mapping_and_returns_as_zeros(
    loops: Any, memfd: int
) -> None:
    with mapped(loops, memfd, 4 * AREA) as (_, one), mapped(loops, memfd, 4 * AREA) as (_, other):
        one[: 2 * AREA] = b"\x55" * (2 * AREA)
        assert other[AREA] == 0x55
        assert loops.lib.mc_resident_bytes(memfd) == 2 * AREA
        assert loops.lib.mc_punch(memfd, AREA, AREA) == 0
        assert loops.lib.mc_resident_bytes(memfd) == AREA
        assert other[AREA - 1] == 0x55
        assert bytes(other[AREA : 2 * AREA]) == bytes(AREA)
        assert os.fstat(memfd).st_size == 4 * AREA


def test_discarded_anonymous_memory_returns_as_zeros(loops: Any) -> None:
    with mapped(loops, -1, 2 * AREA) as (address, memory):
        memory[:AREA] = b"\x55" * AREA
        memory[AREA] = 1
        assert loops.lib.mc_discard(address, AREA) == 0
        assert bytes(memory[:AREA]) == bytes(AREA)
        assert memory[AREA] == 1


def test_discarded_shared_memory_is_freed_and_returns_as_zeros(loops: Any, memfd: int) -> None:
    with mapped(loops, memfd, 4 * AREA) as (address, memory):
        memory[: 2 * AREA] = b"\x55" * (2 * AREA)
        assert loops.lib.mc_discard(address, AREA) == 0
        assert loops.lib.mc_resident_bytes(memfd) == AREA
        assert bytes(memory[:AREA]) == bytes(AREA)
        assert memory[AREA] == 0x55


def test_bad_ranges_are_minus_errno_and_touch_nothing(loops: Any, memfd: int) -> None:
    with mapped(loops, memfd, 4 * AREA) as (address, _):
        for populate in (loops.lib.mc_populate_write, loops.lib.mc_populate_read):
            assert populate(address + 1, FRAME) == -errno.EINVAL
            assert populate(address, 2**64 - 1) < 0
            assert populate(0, FRAME) == -errno.ENOMEM
            assert loops.lib.mc_resident_bytes(memfd) == 0
        assert loops.lib.mc_discard(address + 1, FRAME) == -errno.EINVAL
        assert loops.lib.mc_unmap(address + 1, FRAME) == -errno.EINVAL
        assert loops.lib.mc_punch(memfd, 0, 0) == -errno.EINVAL
        assert loops.lib.mc_punch(memfd, 2**64 - FRAME, FRAME) == -errno.EINVAL
        assert loops.lib.mc_punch(-1, 0, FRAME) == -errno.EBADF
        assert loops.lib.mc_resident_bytes(-1) == -errno.EBADF
        assert loops.lib.mc_resident_bytes(memfd) == 0


def test_huge_pages_are_found_out_by_trying(loops: Any) -> None:
    before = os.listdir("/proc/self/fd")
    found = loops.lib.mc_shmem_thp()
    assert found in (0, 1)
    assert loops.lib.mc_shmem_thp() == found
    assert os.listdir("/proc/self/fd") == before
    with open("/sys/kernel/mm/transparent_hugepage/shmem_enabled", encoding="ascii") as knob:
        if "[never]" in knob.read():
            assert found == 0


def test_zeroes_are_written_over_whatever_is_there(loops: Any, memfd: int) -> None:
    with mapped(loops, memfd, 4 * AREA) as (_, memory):
        memory[AREA : AREA + 4] = memory[2 * AREA - 4 : 2 * AREA] = b"dirt"
        memory[0:4] = memory[2 * AREA : 2 * AREA + 4] = b"kept"
        assert loops.lib.mc_write_zeroes(memfd, AREA, AREA) == 0
        assert bytes(memory[AREA : 2 * AREA]) == bytes(AREA)
        assert bytes(memory[0:4]) == bytes(memory[2 * AREA : 2 * AREA + 4]) == b"kept"
        assert loops.lib.mc_resident_bytes(memfd) == AREA + 2 * FRAME


def test_a_file_that_cannot_be_written_says_so(loops: Any, memfd: int) -> None:
    readable = os.open(f"/proc/self/fd/{memfd}", os.O_RDONLY)
    assert loops.lib.mc_write_zeroes(readable, 0, AREA) == -errno.EBADF
    os.close(readable)
