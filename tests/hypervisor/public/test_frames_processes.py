"""Several processes and a hypervisor on one region: no frame twice, none lost, whoever dies.

Method: ``frames_stress.c``, linked with the allocator's sources, tags every frame it is given; a
frame given twice, an area taken while in use or a refused free ends that process with a code of its
own. Afterwards every frame is accounted for here.
"""

from __future__ import annotations

import mmap
import os
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from frames_region import AREA_FRAMES, Region

from hypervisor.public._cdef import COMPILE_ARGS

pytestmark = [pytest.mark.process]

HERE = Path(__file__).resolve().parent
ABI = HERE.parents[2] / "hypervisor" / "public" / "abi"
AREAS = 40
OPS_IN_ALL = 10_000_000
ENDLESS = 1 << 60
KILL_ROUNDS = 12
WATCHDOG_S = 120.0
CC = os.environ.get("CC", "cc").split()
STOP_OFFSET, OPS_OFFSET, GIVEN_OFFSET, TRANSITIONS_OFFSET = 0, 64, 128, 192
MAILBOX_OFFSET, MAILBOX, TAGS_OFFSET = 256, 32, 4096
TAG_KINDS, RUN_KIND = 32, 10
BLOCK_FRAMES_MAX = 4 * AREA_FRAMES


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled driver."""
    path = tmp_path_factory.mktemp("stress") / "frames_stress"
    sources = [
        ABI / f"{name}.c" for name in ("check", "frames", "layout", "reclaim", "ring", "search")
    ]
    subprocess.run(
        [*CC, *COMPILE_ARGS, "-Werror", "-D_GNU_SOURCE", f"-I{ABI}", "-o", str(path)]
        + [str(source) for source in [*sources, HERE / "frames_stress.c"]],
        check=True,
        timeout=WATCHDOG_S,
    )
    return path


class Arena:
    """A region and a table of tags in memfds, and the processes that work on them."""

    def __init__(self, program: Path) -> None:
        self.program = program
        self.fds = [os.memfd_create(name) for name in ("region", "table")]
        probe = Region(AREAS)
        for fd, size in zip(self.fds, (probe.bytes, TAGS_OFFSET + AREAS * 2048), strict=True):
            os.ftruncate(fd, size)
        self.maps = [mmap.mmap(fd, 0) for fd in self.fds]
        self.region = Region(AREAS, memory=self.maps[0])
        self.table = self.maps[1]
        self.running: list[subprocess.Popen[bytes]] = []

    def close(self) -> None:
        for process in self.running:
            process.kill()
            process.wait(WATCHDOG_S)
        self.region.close()
        for shared in self.maps:
            shared.close()
        for fd in self.fds:
            os.close(fd)

    def start(self, role: str, *arguments: int) -> subprocess.Popen[bytes]:
        named = [str(argument) for argument in (*self.fds, *arguments)]
        process = subprocess.Popen([self.program, role, *named], pass_fds=self.fds)
        self.running.append(process)
        return process

    def worker(self, number: int, ops: int, mix: int = 1) -> subprocess.Popen[bytes]:
        return self.start("worker", number, 77_003 * (number + 1), ops, mix)

    def stop(self) -> None:
        self.table[STOP_OFFSET : STOP_OFFSET + 8] = struct.pack("<Q", 1)

    def counters(self, offset: int) -> tuple[int, ...]:
        return struct.unpack_from("<8Q", self.table, offset)

    def wait_for_ops(self, number: int, wanted: int) -> None:
        """Until worker ``number`` made ``wanted`` calls; bounded by the watchdog."""
        end = time.monotonic() + WATCHDOG_S
        while self.counters(OPS_OFFSET)[number] < wanted:
            assert time.monotonic() < end, "a worker hangs"
            assert self.running[number].poll() is None
            time.sleep(0.001)

    def tags(self) -> tuple[int, ...]:
        return struct.unpack_from(f"<{AREAS * AREA_FRAMES}I", self.table, TAGS_OFFSET)

    def free_block(self, slot: int, block: int) -> None:
        frame, kind = block // TAG_KINDS, block % TAG_KINDS - 1
        lib, frames = self.region.lib, self.region.frames
        if kind < RUN_KIND:
            assert lib.mc_frames_free(frames, slot, frame, kind) == 0
        else:
            assert lib.mc_frames_free_areas(frames, slot, frame, kind - RUN_KIND + 2) == 0

    def free_mailbox(self, slot: int) -> None:
        for block in struct.unpack_from(f"<{MAILBOX}Q", self.table, MAILBOX_OFFSET):
            if block:
                self.free_block(slot, block)

    def assert_all_free(self, slot: int) -> None:
        assert self.region.lib.mc_slot_release(self.region.frames, slot) == 0
        assert self.region.broken_area() is None
        seen = self.region.statistics()
        assert (seen["free_frames"], seen["taken_frames"]) == (AREAS * AREA_FRAMES, 0)
        assert (seen["slot_frames"], seen["reclaimed_areas"], seen["huge_areas"]) == (0, 0, 0)


@pytest.fixture
def arena(program: Path) -> Iterator[Arena]:
    made = Arena(program)
    yield made
    made.close()


@pytest.fixture
def make_arena(program: Path) -> Iterator[Callable[[], Arena]]:
    made: list[Arena] = []

    def make() -> Arena:
        made.append(Arena(program))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 4])
def test_processes_and_host_lose_no_frame_in_ten_million_calls(arena: Arena, workers: int) -> None:
    # Two runs, half of the calls each; the last worker allocates single frames only.
    ops = OPS_IN_ALL // 2 // workers
    started = [arena.worker(k, ops, mix=int(k < workers - 1)) for k in range(workers)]
    host = arena.start("host", 5)
    assert [process.wait(WATCHDOG_S) for process in started] == [0] * workers
    arena.stop()
    assert host.wait(WATCHDOG_S) == 0

    assert sum(arena.counters(OPS_OFFSET)) == ops * workers
    assert sum(arena.counters(GIVEN_OFFSET)) > ops * workers // 3
    assert all(arena.counters(TRANSITIONS_OFFSET)[:5])
    assert arena.region.broken_area() is None
    # What is left lies in the mailbox; its tags and the heads agree on every frame.
    assert [tag != 0 for tag in arena.tags()] == arena.region.taken()
    slot = arena.region.slot()
    arena.free_mailbox(slot)
    arena.assert_all_free(slot)


@pytest.mark.slow
def test_a_process_killed_anywhere_costs_nothing_but_what_it_held(
    make_arena: Callable[[], Arena],
) -> None:
    for attempt in range(KILL_ROUNDS):
        arena = make_arena()
        victim = arena.worker(0, ENDLESS)
        survivor = arena.worker(1, ENDLESS)
        host = arena.start("host", 11 + attempt)
        arena.wait_for_ops(0, 1 + attempt * 5_003)
        victim.kill()
        victim.wait(WATCHDOG_S)
        # The others go on while the dead thread's claims are still in the counters.
        arena.wait_for_ops(1, arena.counters(OPS_OFFSET)[1] + 20_000)
        arena.stop()
        assert survivor.wait(WATCHDOG_S) == host.wait(WATCHDOG_S) == 0

        tagged = [tag != 0 for tag in arena.tags()]
        taken = arena.region.taken()
        assert not any(tag and not held for tag, held in zip(tagged, taken, strict=True))
        # At most one call was under way: handed out and not yet tagged, or untagged, not yet free.
        assert sum(taken) - sum(tagged) <= BLOCK_FRAMES_MAX
