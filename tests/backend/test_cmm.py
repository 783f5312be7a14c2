"""Goal: cmm moves memory between domains in both designs, and nobody can hold it up or spoil it.

Method: real guest processes where drivers act; where one must not act, or lies, a guest of the bare
ABI, which writes the words of cmm.h itself. One host of sixteen areas, two of them slack.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from backend_steps import WAIT_S, close_domain, ledger, settle
from guest_double import GuestDouble

from backend.host import HostBackend
from frontend._guest import lib
from hypervisor.public.backend import DomainSpec
from hypervisor.public.errors import Status
from hypervisor.public.units import AREA_FRAMES, DomId
from memcoord.testbed.guests.obedient import GuestProcess

pytestmark = pytest.mark.process

AREA = AREA_FRAMES
DOM0, HYPERVISOR = 0, 1
#: Words of cmm.h: of control.driver, of control.config.
ASK, OFFER, OFFERED = 0, 1, 2
ASKED, TAKEN, ASKS, TRANSFERS, WAITS = range(5)
LATENCY = 10
WORDS = 12
#: How long a donor may take to answer: one that will, on a crowded machine, and one that will not.
PATIENT_MS, SILENT_MS = 60000, 50
CORRUPTIONS = 3000
DONOR_AREAS = 14
SHUN_S = 1.0  # MC_CMM_SHUN_NS


@pytest.fixture
def host() -> Iterator[HostBackend]:
    made = HostBackend(
        total_frames=16 * AREA,
        slack_frames=2 * AREA,
        spin_ns=0,
        tmem_max_frames=0,
        error_budget=1 << 30,
    )
    yield made
    made.validate()
    made.stop()


@pytest.fixture
def cleanup() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def spec(
    name: str,
    design: int,
    maxmem: int,
    boot: int = 0,
    doorbell: str = "futex",
    answer_ms: int = PATIENT_MS,
) -> DomainSpec:
    """Sizes in areas; the target is the maximum."""
    return DomainSpec(
        name, maxmem * AREA, boot * AREA, maxmem * AREA, 0, doorbell=doorbell, mechanism="cmm",
        options={"design": design, "answer_ms": answer_ms},
    )  # fmt: skip


def process(
    host: HostBackend,
    stack: ExitStack,
    domid: int,
    design: int,
    maxmem: int,
    boot: int = 0,
    answer_ms: int = PATIENT_MS,
) -> GuestProcess:
    """A domain whose guest is a process of its own."""
    name = f"vm{domid}"
    wanted = spec(name, design, maxmem, boot, answer_ms=answer_ms)
    made = GuestProcess(host.open(DomId(domid), wanted), name, domid)
    stack.callback(made.close)
    return made


def double(
    host: HostBackend,
    stack: ExitStack,
    domid: int,
    maxmem: int,
    boot: int = 0,
    answer_ms: int = SILENT_MS,
) -> GuestDouble:
    """A domain of the dom0 design whose guest has no driver."""
    wanted = spec(f"vm{domid}", DOM0, maxmem, boot, answer_ms=answer_ms)
    made = GuestDouble(host.open(DomId(domid), wanted))
    stack.callback(made.close)
    return made


def say(guest: GuestDouble, word: int, content: int) -> int:
    """Write the next message of a kind and ring; its number."""
    number = (guest.control.driver[word] >> 32) + 1
    guest.control.driver[word] = number << 32 | content
    lib.mc_eventfd_ring(guest.handles.bell_fd)
    return number


def answer(guest: GuestDouble, word: int, number: int) -> int:
    """The answer to message ``number``: its lower half."""
    until = time.monotonic() + WAIT_S
    while guest.control.config[word] >> 32 != number:
        assert time.monotonic() < until, "no answer"
        time.sleep(0.0005)
    return int(guest.control.config[word]) & 0xFFFFFFFF


def ask(guest: GuestDouble, areas: int) -> tuple[int, int]:
    """Ask dom0 for areas: how many were granted (or a status), and the path."""
    got = answer(guest, ASKED, say(guest, ASK, areas))
    granted = got & 0xFFFF
    return granted - 0x10000 if granted & 0x8000 else granted, got >> 16


def claim(guest: GuestDouble, area: int) -> None:
    """Claim a free area as a driver does: its word, and its tree."""
    guest.frames.areas[area] = guest.word(area) & ~lib.MC_AREA_FREE_MASK | lib.MC_AREA_HUGE
    guest.frames.trees[area // lib.MC_TREE_AREAS].free_frames -= AREA


def offer(guest: GuestDouble, areas: list[int]) -> int:
    """Offer areas; one bit for each that was not taken."""
    for index, area in enumerate(areas):
        shift, word = 16 * (index % 4), OFFERED + index // 4
        kept = guest.control.driver[word] & ~(0xFFFF << shift)
        guest.control.driver[word] = kept & (2**64 - 1) | area << shift
    return answer(guest, TAKEN, say(guest, OFFER, len(areas)))


def await_dom0(threads: int) -> None:
    """Until so many threads of this process are a dom0: the kernel shows an ended one for a bit."""
    until = time.monotonic() + WAIT_S
    while True:
        named = [name.read_text().strip() for name in Path("/proc/self/task").glob("*/comm")]
        if named.count("dom0") == threads:
            return
        assert time.monotonic() < until, named
        time.sleep(0.002)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """None of its threads runs within the block."""
    os.kill(pid, signal.SIGSTOP)
    until = time.monotonic() + WAIT_S
    try:
        while any(
            stat.read_text().rpartition(")")[2].split()[0] != "T"
            for stat in Path(f"/proc/{pid}/task").glob("*/stat")
        ):
            assert time.monotonic() < until
            time.sleep(0.001)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("design", [DOM0, HYPERVISOR])
def test_a_full_host_takes_from_the_idle_donor(
    host: HostBackend, cleanup: ExitStack, design: int
) -> None:
    donor = process(host, cleanup, 0, design, DONOR_AREAS, DONOR_AREAS)
    asker = process(host, cleanup, 1, design, 8)
    assert donor.take("areas", 4) == 4
    assert asker.take("areas", 6) == 6
    now = settle(host, lambda s: s.domains[0].resident_frames <= 8 * AREA)
    assert ledger(now) == now.total_frames
    assert now.domains[1].grants_transfer > 0
    assert now.domains[1].current_frames == 6 * AREA
    assert (donor.verify(), asker.verify(), asker.dirty()) == (0, 0, 0)


@pytest.mark.parametrize("design", [DOM0, HYPERVISOR])
def test_a_donor_gets_memory_back_by_asking(
    host: HostBackend, cleanup: ExitStack, design: int
) -> None:
    donor = process(host, cleanup, 0, design, DONOR_AREAS, DONOR_AREAS)
    asker = process(host, cleanup, 1, design, 8)
    assert asker.take("areas", 5) == 5
    assert asker.give("areas", 5) == 5
    assert donor.take("areas", DONOR_AREAS - 1) == DONOR_AREAS - 1
    assert asker.take("areas", 8) < 5
    assert (donor.verify(), donor.dirty()) == (0, 0)


def test_the_hypervisor_takes_while_the_donor_does_not_run(
    host: HostBackend, cleanup: ExitStack
) -> None:
    donor = process(host, cleanup, 0, HYPERVISOR, DONOR_AREAS, DONOR_AREAS)
    asker = process(host, cleanup, 1, HYPERVISOR, 10)
    with stopped(donor.pid):
        assert asker.take("areas", 8) == 8


def test_dom0_needs_the_donor_to_run(host: HostBackend, cleanup: ExitStack) -> None:
    donor = process(host, cleanup, 0, DOM0, DONOR_AREAS, DONOR_AREAS, SILENT_MS)
    asker = process(host, cleanup, 1, DOM0, 8)
    config = host._host.domains[1].control.config
    with stopped(donor.pid):
        assert asker.take("areas", 8) == 0
    assert config[WAITS] >> 32 == 1
    assert host.snapshot().domains[0].current_frames == DONOR_AREAS * AREA


def test_a_silent_donor_costs_one_wait_and_is_then_left_out(
    host: HostBackend, cleanup: ExitStack
) -> None:
    double(host, cleanup, 0, 7, 7)
    process(host, cleanup, 1, DOM0, 7, 6)
    asker = double(host, cleanup, 2, 8)
    # One more than the slack is free; the silent donor has most to give, and is asked first.
    assert ask(asker, 2) == (2, lib.MC_PATH_TRANSFER)
    asked_s, waits = time.monotonic(), asker.control.config[WAITS]
    assert waits == 1 << 32 | 2
    assert ask(asker, 3) == (3, lib.MC_PATH_TRANSFER)
    if time.monotonic() - asked_s < SHUN_S:
        assert asker.control.config[WAITS] == waits + 1
    assert asker.control.config[TRANSFERS] == 4
    assert asker.control.config[ASKS] == 2


def test_no_donor_is_a_clean_no(host: HostBackend, cleanup: ExitStack) -> None:
    donor = process(host, cleanup, 0, DOM0, DONOR_AREAS, DONOR_AREAS)
    assert donor.take("areas", DONOR_AREAS) == DONOR_AREAS
    asker = double(host, cleanup, 1, 8)
    assert ask(asker, 1)[0] == Status.ENOMEM
    assert host.snapshot().domains[1].refused == 1


def test_the_target_bounds_what_is_given(host: HostBackend, cleanup: ExitStack) -> None:
    asker = double(host, cleanup, 0, 8)
    host.set_target(DomId(0), 2 * AREA)
    assert ask(asker, 5)[0] == 2
    assert ask(asker, 1)[0] == Status.ETARGET


def test_the_asker_measures_its_wait(host: HostBackend, cleanup: ExitStack) -> None:
    asker = process(host, cleanup, 0, DOM0, 8)
    assert asker.take("areas", 1) == 1
    words = host._host.domains[0].control.driver
    assert 0 < words[LATENCY] <= words[LATENCY + 1]


@pytest.mark.parametrize("areas", [0, 65, 2**32 - 1])
def test_a_bad_ask_is_refused_and_counted(
    host: HostBackend, cleanup: ExitStack, areas: int
) -> None:
    asker = double(host, cleanup, 0, 8)
    assert ask(asker, areas)[0] == Status.EINDEX
    assert host.snapshot().domains[0].bad_requests == 1


def test_offered_areas_are_taken_whoever_asked(host: HostBackend, cleanup: ExitStack) -> None:
    guest = double(host, cleanup, 0, 8, 8)
    for area in (1, 5):
        claim(guest, area)
    assert offer(guest, [5, 1]) == 0
    settle(host, lambda s: s.domains[0].resident_frames == 6 * AREA)


def test_what_may_not_be_offered_is_not_taken(host: HostBackend, cleanup: ExitStack) -> None:
    guest = double(host, cleanup, 0, 8, 4)
    host.pin_dma(DomId(0), 2 * AREA, 1)
    for area in (1, 2):
        claim(guest, area)
    # Not claimed, claimed, claimed but pinned, not installed, outside, twice.
    assert offer(guest, [0, 1, 2, 6, 0xFFFF, 1]) == 0b111101
    now = settle(host, lambda s: s.domains[0].resident_frames == 3 * AREA)
    assert now.domains[0].bad_requests == 4
    assert now.domains[0].refused_dma == 1
    for count in (0, 33, 2**32 - 1):
        answer(guest, TAKEN, say(guest, OFFER, count))
    assert host.snapshot().domains[0].bad_requests == 7
    assert host.snapshot().domains[0].current_frames == 3 * AREA


def test_what_was_not_taken_is_the_donors_again(host: HostBackend, cleanup: ExitStack) -> None:
    donor = process(host, cleanup, 0, DOM0, 4, 4)
    assert donor.take("areas", 4) == 4
    host.pin_dma(DomId(0), 2 * AREA, 1)
    donor.give("areas", 4)
    host.set_target(DomId(0), 0)
    settled = host.settle(DomId(0), WAIT_S)
    assert (settled.state, settled.why, settled.plugged_frames) == ("partial", "pinned", AREA)
    host.set_target(DomId(0), 4 * AREA)
    assert donor.take("areas", 4) == 4
    assert 2 * AREA in donor.frames("areas")


@pytest.mark.parametrize(
    ("design", "op"),
    [
        (DOM0, lib.MC_OP_GROW),
        (DOM0, lib.MC_OP_RELEASE),
        (DOM0, lib.MC_OP_INSTALL),
        (HYPERVISOR, lib.MC_OP_INSTALL),
    ],
)
def test_requests_of_another_design_are_refused(host: HostBackend, design: int, op: int) -> None:
    guest = GuestDouble(host.open(DomId(0), spec("vm0", design, 8, 4)))
    assert guest.send(op, 1)[0] == Status.EOP
    guest.close()


@pytest.mark.parametrize("close", ["donor", "asker"])
def test_a_domain_may_go_in_the_middle_of_an_ask(
    host: HostBackend, cleanup: ExitStack, close: str
) -> None:
    double(host, cleanup, 0, DONOR_AREAS, DONOR_AREAS, PATIENT_MS)
    asker = double(host, cleanup, 1, 8)
    number = say(asker, ASK, 1)
    until = time.monotonic() + WAIT_S
    while not host._host.domains[0].control.requested_frames < DONOR_AREAS * AREA:
        assert time.monotonic() < until
        assert asker.control.config[ASKED] == 0, "answered without asking the donor"
    close_domain(host, DomId(0 if close == "donor" else 1))
    if close == "donor":
        answer(asker, ASKED, number)
        assert ask(asker, 1)[0] == 1
    host.validate()
    assert ledger(host.snapshot()) == 16 * AREA


def test_dom0_lives_as_long_as_its_domains(host: HostBackend, cleanup: ExitStack) -> None:
    await_dom0(0)
    GuestDouble(host.open(DomId(3), spec("vm3", HYPERVISOR, 2))).close()
    await_dom0(0)
    first = double(host, cleanup, 0, 4)
    second = double(host, cleanup, 1, 4)
    await_dom0(1)
    close_domain(host, DomId(0))
    assert ask(second, 1)[0] == 1
    assert first.control.config[ASKED] == 0
    close_domain(host, DomId(1))
    await_dom0(0)


def test_after_a_reboot_numbers_begin_anew(host: HostBackend, cleanup: ExitStack) -> None:
    asker = double(host, cleanup, 0, 8)
    assert ask(asker, 1)[0] == 1
    host.reboot(DomId(0))
    assert asker.control.driver[ASK] == 0
    assert ask(asker, 2)[0] == 2
    assert host.snapshot().domains[0].bad_requests == 0


def test_asks_and_answers_travel_by_the_relay(host: HostBackend, cleanup: ExitStack) -> None:
    handles = host.open(DomId(0), spec("vm0", DOM0, 8, doorbell="zmq"))
    asker = GuestDouble(handles)
    cleanup.callback(asker.close)
    asker.control.driver[ASK] = 1 << 32 | 1
    host.kick()
    assert answer(asker, ASKED, 1) & 0xFFFF == 1
    assert host.relayed() == [DomId(0)]


def test_donors_and_askers_at_the_same_time(host: HostBackend, cleanup: ExitStack) -> None:
    """Each takes all it can get, and gives it back, while the others do."""
    guests = [process(host, cleanup, domid, DOM0, 10, 4) for domid in range(3)]
    taken = [0, 0, 0]

    def churn(index: int) -> None:
        for _ in range(6):
            taken[index] += guests[index].take("areas", 6)
            guests[index].give("areas", 6)

    threads = [threading.Thread(target=churn, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        host.validate()
        snapshot = host.snapshot()
        assert ledger(snapshot) == snapshot.total_frames
    for thread in threads:
        thread.join()
    assert min(taken) > 0
    assert [guest.verify() + guest.dirty() for guest in guests] == [0, 0, 0]


def test_random_words_hurt_nobody_else(host: HostBackend, cleanup: ExitStack) -> None:
    chance = random.Random(5)
    bad = double(host, cleanup, 0, 6, 4)
    good = process(host, cleanup, 1, DOM0, 8, 4)
    held = good.take("areas", 4)
    for turn in range(CORRUPTIONS):
        word = chance.randrange(WORDS)
        bad.control.driver[word] = chance.getrandbits(64) & chance.getrandbits(64)
        if chance.random() < 0.2:
            bad.control.config[chance.randrange(5)] = chance.getrandbits(64)
        if chance.random() < 0.1:
            bad.control.driver[word] = turn << 32 | chance.randrange(40)
        lib.mc_eventfd_ring(bad.handles.bell_fd)
        if turn % 100 == 0:
            host.validate()
    assert held == 4
    assert good.verify() == 0
    assert good.take("areas", 1) == 1
    close_domain(host, DomId(0))
    snapshot = host.snapshot()
    assert ledger(snapshot) == snapshot.total_frames
