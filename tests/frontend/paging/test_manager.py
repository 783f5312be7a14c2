"""The guest memory manager against a plain model, with the content of every page verified."""

from __future__ import annotations

import errno
import resource
import signal
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

import frontend
from frontend._guest import lib
from frontend.domain import Domain
from frontend.paging.manager import BALANCE_REFERENCES, GuestMemory
from frontend.paging.swapfile import SwapError, SwapFile
from hypervisor.public.errors import ConfigError, InternalError, NoMemory, PeerGone

AREA = 512
PERIOD_NS = lib.MC_PAGING_PERIOD_NS
STAMP = struct.Struct("<4Q")


class Checked:
    """Writes and verifies pages through a manager, and knows what an ideal LRU would do."""

    def __init__(self, memory: GuestMemory, domain: Domain) -> None:
        self.memory, self.domain = memory, domain
        self.versions: dict[int, int] = {}
        self.lru: OrderedDict[int, None] = OrderedDict()
        self.faults = 0

    def reference(self, page: int, write: bool) -> None:
        if page in self.lru:
            self.lru.move_to_end(page)
        else:
            self.faults += 1
            if len(self.lru) >= self.memory.resident_frames:
                self.lru.popitem(last=False)
            self.lru[page] = None
        view = self.domain.view(self.memory.access(page, write))
        version = self.versions.get(page, 0)
        stamp = STAMP.pack(page, version, page ^ version, 99) if version else bytes(STAMP.size)
        assert view[: STAMP.size] == stamp, f"page {page} version {version}"
        assert view[-STAMP.size :] == stamp, f"page {page} version {version}"
        if write:
            self.versions[page] = version + 1
            stamp = STAMP.pack(page, version + 1, page ^ (version + 1), 99)
            view[: STAMP.size] = stamp
            view[-STAMP.size :] = stamp


def replay(checked: Checked, pages: int, count: int, seed: int) -> None:
    """Skewed references, a third of them writes."""
    random = Random(seed)
    for _ in range(count):
        checked.reference(int(pages * random.random() ** 2), random.random() < 0.3)


@pytest.fixture
def hypervisor(make_hypervisor: Any) -> Any:
    return make_hypervisor(areas=6, boot=2, spare_areas=2)


@pytest.fixture
def domain(hypervisor: Any, settle: Any) -> Any:
    with frontend.attach(hypervisor.path) as attached:
        settle(attached)
        yield attached


@pytest.fixture
def swap(tmp_path: Path) -> Any:
    with SwapFile(tmp_path / "swap", 4000) as file:
        yield file


@pytest.mark.parametrize("capacity", [0, 20, 100, 1 << 20])
@pytest.mark.parametrize("tmem", [True, False])
def test_every_byte_comes_back_wherever_it_was(
    domain: Domain, hypervisor: Any, swap: SwapFile, capacity: int, tmem: bool
) -> None:
    hypervisor.tmem_capacity = capacity
    with GuestMemory(domain, 300, 64, swap, tmem=tmem) as memory:
        checked = Checked(memory, domain)
        replay(checked, 300, 4000, seed=capacity)
        memory.validate()
        counted = memory.statistics()
        assert counted.references == 4000
        assert counted.faults == checked.faults
        assert counted.resident_frames == 64
        assert counted.faults == counted.first_touches + counted.tmem_hits + counted.swap_ins
        evictions = counted.faults - 64
        assert counted.puts == (evictions if tmem else 0)
        if capacity >= 300 and tmem:
            assert counted.tmem_hits > 0
            assert counted.failed_puts == counted.swap_ins == counted.swap_outs == 0
        if capacity == 0 or not tmem:
            assert counted.swap_ins > 0
            assert counted.tmem_hits == 0
            assert counted.failed_puts == counted.puts
            assert counted.swap_outs < evictions  # a page only read needs no second write
        assert len(hypervisor.pages) <= capacity
    assert not hypervisor.pages
    assert domain.statistics().free_frames == domain.current_frames


def test_a_fault_on_a_page_in_tmem_is_one_batch(
    domain: Domain, hypervisor: Any, swap: SwapFile
) -> None:
    with GuestMemory(domain, 10, 2, swap) as memory:
        for page in (0, 1, 2):
            memory.access(page)
        sleeps, before = len(hypervisor.requests), domain.statistics().calls
        memory.access(0)
        assert domain.statistics().calls == before + 3
        ops = [op for op, _ in hypervisor.requests[sleeps:]]
        assert ops == [lib.MC_OP_GET, lib.MC_OP_FLUSH_PAGE, lib.MC_OP_PUT]
        # Page 1 went into the room page 0 left: tmem never holds more than the pages not resident.
        assert len(hypervisor.pages) == 1


def test_first_touch_is_the_callers(domain: Domain, swap: SwapFile) -> None:
    touched: list[int] = []

    def fill(page: int, frame: int) -> None:
        touched.append(page)
        domain.view(frame)[:] = bytes([page]) * 4096

    with GuestMemory(domain, 10, 3, swap, first_touch=fill) as memory:
        for _ in range(2):
            for page in range(10):
                assert domain.view(memory.access(page))[:] == bytes([page]) * 4096
    assert touched == list(range(10))


def test_a_frame_used_before_is_zeroed(domain: Domain, swap: SwapFile) -> None:
    for frame in (dirty := domain.alloc_many(2 * AREA)):
        domain.view(frame)[:] = b"d" * 4096
    domain.free_many(dirty)
    with GuestMemory(domain, 10, 3, swap) as memory:
        for page in range(10):
            assert domain.view(memory.access(page)) == bytes(4096)


def test_the_resident_set_shrinks_and_grows(domain: Domain, swap: SwapFile) -> None:
    with GuestMemory(domain, 500, 200, swap) as memory:
        checked = Checked(memory, domain)
        for resident in (200, 50, 1, 120):
            memory.resize(resident)
            checked.lru.clear()
            replay(checked, 500, 1500, seed=resident)
            memory.validate()
            held = domain.current_frames - domain.statistics().free_frames
            assert memory.statistics().resident_frames == resident
            assert held == resident + 1
        with pytest.raises(ConfigError):
            memory.resize(0)


def test_a_lower_target_gives_areas_back(domain: Domain, hypervisor: Any, swap: SwapFile) -> None:
    domain.request(2 * AREA)
    hypervisor.control.target_frames = 4 * AREA
    with GuestMemory(domain, 1500, 1400, swap) as memory:
        checked = Checked(memory, domain)
        replay(checked, 1500, 6000, seed=1)
        assert memory.statistics().resident_frames == 1400
        hypervisor.control.target_frames = 2 * AREA
        replay(checked, 1500, BALANCE_REFERENCES, seed=2)
        memory.validate()
        assert domain.current_frames == 2 * AREA
        assert memory.statistics().resident_frames == 2 * AREA - 1
        hypervisor.spare_areas = 1
        hypervisor.control.target_frames = 3 * AREA
        replay(checked, 1500, 6000, seed=3)
        memory.validate()
        assert domain.current_frames == 3 * AREA
        assert memory.statistics().resident_frames > 2 * AREA


def test_memory_above_what_it_booted_with_is_used(
    domain: Domain, hypervisor: Any, swap: SwapFile
) -> None:
    boot = 2 * AREA
    with GuestMemory(domain, 1500, 300, swap, boot_frames=boot) as memory:
        checked = Checked(memory, domain)
        replay(checked, 1500, 3000, seed=1)
        assert memory.statistics().resident_frames == 300
        hypervisor.control.target_frames = boot + AREA
        replay(checked, 1500, 6000, seed=2)
        assert memory.statistics().resident_frames == 300 + AREA
        memory.validate()
        # What it booted with held both: only a third area would make it ask.
        hypervisor.control.target_frames = boot + 2 * AREA
        replay(checked, 1500, 20_000, seed=3)
        assert memory.statistics().resident_frames == 300 + 2 * AREA
        assert domain.current_frames > boot
        hypervisor.control.target_frames = boot
        memory.balance()
        memory.validate()
        assert memory.statistics().resident_frames == 300
        assert domain.current_frames == boot


def test_growth_that_does_not_come_is_asked_for_again_later(
    domain: Domain, hypervisor: Any, swap: SwapFile
) -> None:
    hypervisor.spare_areas = 0
    hypervisor.control.target_frames = 3 * AREA
    with GuestMemory(domain, 1500, 1000, swap, boot_frames=2 * AREA) as memory:
        checked = Checked(memory, domain)
        replay(checked, 1500, 6000, seed=1)
        assert memory.statistics().resident_frames < 2 * AREA
        hypervisor.spare_areas = 1
        replay(checked, 1500, 20_000, seed=2)
        assert memory.statistics().resident_frames > 2 * AREA
        memory.validate()


def test_what_it_holds_and_how_long_it_waited_are_reported(
    domain: Domain, hypervisor: Any, swap: SwapFile
) -> None:
    ticks = iter(range(0, 1 << 40, 1000))
    assert (hypervisor.control.committed_frames, hypervisor.control.idle_permille) == (-1, -1)
    hypervisor.tmem_capacity = 20
    with GuestMemory(domain, 300, 50, swap, clock=lambda: next(ticks)) as memory:
        for page in range(50):
            memory.access(page, True)
        assert memory.statistics().stall_ns == 0  # nothing was in the way
        for page in range(50, 90):
            memory.access(page, True)
        assert memory.statistics().stall_ns == 40 * 1000
        memory.access(0)
        memory.balance()
        assert memory.statistics().stall_ns == 41 * 1000
        control = hypervisor.control
        assert (control.committed_frames, control.stall_ns) == (90, 41 * 1000)


def test_idle_memory_is_found_by_sampling(domain: Domain, hypervisor: Any, swap: SwapFile) -> None:
    now_ns = 0
    with GuestMemory(domain, 400, 400, swap, clock=lambda: now_ns) as memory:
        checked = Checked(memory, domain)
        for page in range(400):
            checked.reference(page, True)
        for used in (100, 400, 0):
            now_ns += PERIOD_NS
            memory.balance()  # a period begins
            for page in range(used):
                checked.reference(page, False)
            now_ns += PERIOD_NS
            memory.balance()
            # A hundred of four hundred: four standard deviations are about 150 thousandths.
            assert abs(hypervisor.control.idle_permille - (400 - used) * 10 / 4) <= 150
            memory.validate()
        assert memory.statistics().faults == 400  # a sampled page is no fault


def test_pages_leave_memory_while_they_are_sampled(domain: Domain, swap: SwapFile) -> None:
    now_ns = 0
    with GuestMemory(domain, 300, 64, swap, clock=lambda: now_ns) as memory:
        checked = Checked(memory, domain)
        for seed in range(6):
            now_ns += PERIOD_NS
            memory.balance()
            replay(checked, 300, 200, seed)
            memory.validate()
        memory.resize(10)
        memory.validate()
        assert memory.statistics().faults >= checked.faults


def test_pages_are_moved_together_to_empty_an_area(
    domain: Domain, hypervisor: Any, swap: SwapFile
) -> None:
    with GuestMemory(domain, 1000, 1000, swap) as memory:
        checked = Checked(memory, domain)
        for page in range(900):
            checked.reference(page, True)
        memory.resize(100)  # the last hundred touched; they lie in the second area and the first
        memory.resize(1000)
        for page in range(100):
            checked.reference(page, False)
        hypervisor.control.target_frames = AREA
        memory.balance()
        memory.validate()
        assert domain.current_frames == AREA
        assert memory.statistics().moved > 0
        checked.lru.clear()
        for page in range(900):
            checked.reference(page, False)


def test_less_memory_than_promised_is_lived_with(
    domain: Domain, hypervisor: Any, swap: SwapFile
) -> None:
    hypervisor.grow_status = lib.MC_ETARGET
    hypervisor.control.target_frames = 6 * AREA
    other = domain.alloc_many(2 * AREA - 30)
    with GuestMemory(domain, 300, 200, swap) as memory:
        checked = Checked(memory, domain)
        replay(checked, 300, 900, seed=5)
        memory.validate()
        assert memory.statistics().resident_frames == 29
        # Refused once, it did not ask again at every fault.
        assert domain.statistics().credit_dry <= 2
        domain.free_many(other)
        replay(checked, 300, 2 * BALANCE_REFERENCES, seed=6)
        assert memory.statistics().resident_frames == 200


def test_not_one_frame(domain: Domain, hypervisor: Any, swap: SwapFile) -> None:
    hypervisor.grow_status = lib.MC_ENOMEM
    domain.alloc_many(2 * AREA)
    with GuestMemory(domain, 10, 2, swap) as memory:
        with pytest.raises(NoMemory):
            memory.access(0)
        memory.validate()


@pytest.fixture
def full_disk() -> Iterator[Callable[[bool], None]]:
    """``full_disk(True)``: no file may be written to, until ``full_disk(False)``."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def fill(is_full: bool) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0 if is_full else before[0], before[1]))

    yield fill
    fill(False)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("cluster", [1, 8])
def test_a_full_disk_loses_no_page(
    domain: Domain,
    hypervisor: Any,
    swap: SwapFile,
    full_disk: Callable[[bool], None],
    cluster: int,
) -> None:
    hypervisor.tmem_capacity = 20
    with GuestMemory(domain, 1000, 64 * cluster, swap, cluster_pages=cluster) as memory:
        checked = Checked(memory, domain)
        replay(checked, 1000, 3000, seed=8)
        full_disk(True)
        refused = 0
        for page in range(1000):
            try:
                memory.access(page)
            except SwapError as error:
                refused += error.errno == errno.EFBIG
            memory.validate()
        assert refused > 0
        full_disk(False)
        for page in range(1000):
            checked.reference(page, False)
        memory.validate()


def test_a_page_tmem_lost_is_an_error_and_never_other_bytes(
    domain: Domain, hypervisor: Any, swap: SwapFile
) -> None:
    with GuestMemory(domain, 10, 2, swap) as memory:
        for page in (0, 1, 2):
            memory.access(page, True)
        hypervisor.pages.clear()
        for _ in range(2):
            with pytest.raises(InternalError, match="lost page 0"):
                memory.access(0)


def test_wrong_use_and_reports(domain: Domain, hypervisor: Any, swap: SwapFile) -> None:
    with pytest.raises(ConfigError, match="resident_frames"):
        GuestMemory(domain, 10, 0, swap)
    with pytest.raises(ConfigError, match="swap"):
        GuestMemory(domain, 4001, 10, swap)
    with GuestMemory(domain, 10, 3, swap) as memory:
        for page in (-1, 10):
            with pytest.raises(IndexError):
                memory.access(page)
        for page in (0, 1, 0, 2, 3):
            memory.access(page)
        memory.balance()
        control = hypervisor.control
        assert (control.used_frames, control.faults, control.references) == (4, 4, 5)


def test_death_of_the_hypervisor_ends_it(domain: Domain, hypervisor: Any, swap: SwapFile) -> None:
    with GuestMemory(domain, 10, 2, swap) as memory:
        memory.access(0)
        memory.access(1)
        hypervisor.die()
        with pytest.raises(PeerGone):
            memory.access(2)


class ProgramFile:
    """Pages of a program on disk; counts how often each is read."""

    def __init__(self, pages: int) -> None:
        self.pages, self.reads = range(pages), [0] * pages

    def read(self, page: int, frame: memoryview) -> None:
        self.reads[page] += 1
        frame[:] = STAMP.pack(page, 1, page ^ 1, 99) * 128


@pytest.mark.parametrize("capacity", [0, 40, 1 << 20])
@pytest.mark.parametrize("tmem", [True, False])
def test_pages_of_a_file_are_never_swapped_and_come_back(
    domain: Domain, hypervisor: Any, swap: SwapFile, capacity: int, tmem: bool
) -> None:
    hypervisor.tmem_capacity, program = capacity, ProgramFile(80)
    with GuestMemory(
        domain, 200, 32, swap, program=program, program_pages=program.pages, tmem=tmem
    ) as memory:
        checked = Checked(memory, domain)
        checked.versions.update(dict.fromkeys(program.pages, 1))
        replay(checked, 200, 3000, seed=capacity)  # a third of it writes: those pages are anonymous
        memory.validate()
        counted = memory.statistics()
        assert counted.file_reads == sum(program.reads)
        by_path = counted.tmem_hits + counted.swap_ins + counted.file_reads + counted.first_touches
        assert counted.faults == by_path
    assert not hypervisor.pages


def test_a_clean_page_of_a_file_is_read_once_while_cleancache_keeps_it(
    domain: Domain, hypervisor: Any, swap: SwapFile
) -> None:
    program = ProgramFile(20)
    with GuestMemory(domain, 20, 4, swap, program=program, program_pages=range(20)) as memory:
        for _ in range(3):
            for page in range(20):
                assert domain.view(memory.access(page))[:8] == page.to_bytes(8, "little")
        assert program.reads == [1] * 20
        hypervisor.pages.clear()  # tmem may lose every one
        for page in range(20):
            assert domain.view(memory.access(page))[:8] == page.to_bytes(8, "little")
        counted = memory.statistics()
        assert (counted.tmem_hits, counted.file_reads) == (44, 36)
        assert counted.swap_outs == counted.swap_ins == counted.failed_puts == 0
    with pytest.raises(ConfigError, match="program"):
        GuestMemory(domain, 20, 4, swap, program_pages=range(20))


def test_an_idle_guest_takes_its_pages_back(
    domain: Domain, hypervisor: Any, swap: SwapFile
) -> None:
    with GuestMemory(domain, 300, 100, swap) as memory:
        checked = Checked(memory, domain)
        for page in range(300):
            checked.reference(page, True)
        assert memory.shrink_tmem(100) == 0, "there is no room"
        memory.resize(250)
        assert memory.shrink_tmem(150) == 50
        assert [memory.self_shrink() for _ in range(5)] == [0, 0, 0, 7, 7]
        memory.validate()
        assert len(hypervisor.pages) == 136
        assert memory.shrink_tmem(0) == 0
        memory.resize(300)
        assert memory.shrink_tmem(0) == 136
        assert not hypervisor.pages
        before = memory.statistics().faults
        for page in range(300):
            checked.reference(page, False)
        assert memory.statistics().faults == before
