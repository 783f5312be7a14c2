"""A domain's memory: allocation, growth, refusal, installing, mapping, closing, death."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

import frontend
from frontend._guest import ffi, lib
from frontend._guest import lib as guest_lib
from frontend.domain import Domain
from hypervisor.public.errors import BadFrame, MemcoordError, NoMemory, PeerGone, RingBroken

AREA = 512
WAIT_S = 60.0


def wait_for(condition: Any) -> None:
    """Fail when ``condition`` does not come true in a generous time."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "did not come true"
        time.sleep(0.001)


@pytest.fixture
def hypervisor(make_hypervisor: Any) -> Any:
    return make_hypervisor()


@pytest.fixture
def domain(hypervisor: Any, settle: Any) -> Any:
    with frontend.attach(hypervisor.path) as attached:
        settle(attached)
        yield attached


def mapped(domain: Domain, areas: int) -> None:
    """Wait until the mapper thread has mapped ``areas`` areas, so that it claims none later."""
    wait_for(lambda: domain.statistics().mapped_areas >= areas)


def test_frames_are_distinct_and_their_bytes_are_the_hypervisors_too(
    domain: Domain, hypervisor: Any
) -> None:
    frames = [domain.alloc() for _ in range(200)]
    assert len(set(frames)) == 200
    domain.view(frames[3])[:] = b"x" * 4096
    assert hypervisor.memory[frames[3] * 4096 : (frames[3] + 1) * 4096] == b"x" * 4096
    for frame in frames:
        domain.free(frame)
    counted = domain.statistics()
    assert counted.allocs == 200
    assert counted.frees == 200
    assert counted.free_frames == 2 * AREA


@pytest.mark.parametrize("order", range(10))
def test_every_order_is_aligned_and_comes_back(domain: Domain, order: int) -> None:
    frame = domain.alloc(order)
    assert frame % (1 << order) == 0
    domain.free(frame, order)
    assert domain.statistics().free_frames == 2 * AREA


def test_wrong_frees_are_refused_and_change_nothing(domain: Domain) -> None:
    frame, block = domain.alloc(), domain.alloc(3)
    before = domain.statistics().free_frames
    for call in (
        lambda: domain.free(block),
        lambda: domain.free(block, 2),
        lambda: domain.free(1 << 40),
        lambda: domain.free(-1),
        lambda: domain.free(1 << 80),
        lambda: domain.free(frame, -1),
        lambda: domain.free(frame, 1 << 40),
        lambda: domain.alloc(99),
        lambda: domain.view(domain.maxmem_frames),
        lambda: domain.view(-1),
        lambda: domain.free_areas(0, 1),
        lambda: domain.free_areas(0, 1 << 33),
        lambda: domain.alloc_areas(1 << 33),
    ):
        with pytest.raises(BadFrame):
            call()
    domain.free(frame)
    with pytest.raises(BadFrame, match="free already"):
        domain.free(frame)
    assert domain.statistics().free_frames == before + 1


def test_wrong_types_are_type_errors(domain: Domain) -> None:
    loose: Any = domain
    for call in (
        lambda: loose.alloc("1"),
        lambda: loose.alloc(0, 0),
        lambda: loose.free(),
        lambda: loose.free("1"),
        lambda: loose.free(1.5),
        lambda: loose.free(1, 2, 3),
        lambda: loose.free(1, None),
    ):
        with pytest.raises(TypeError):
            call()


def test_many_at_once(domain: Domain) -> None:
    frames = domain.alloc_many(700)
    assert len(set(frames)) == 700
    assert frames.typecode == "I"
    domain.free_many(frames[:300])
    domain.free_many(list(frames[300:]))
    with pytest.raises(BadFrame) as caught:
        domain.free_many([frames[0]])
    assert caught.value.frame == frames[0]
    assert domain.statistics().free_frames == 2 * AREA


def test_an_array_being_freed_stays_where_it_is(
    domain: Domain, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Goal: C reads the caller's array without the GIL, so nobody may move it meanwhile.
    # Method: stand where another thread could run, inside the compiled call, and try to.
    frames, compiled = domain.alloc_many(64), domain._slot_call

    def meddling(*args: int) -> int:
        with pytest.raises(BufferError):
            frames.extend(range(1 << 16))
        return compiled(*args)

    monkeypatch.setattr(domain, "_slot_call", meddling)
    domain.free_many(frames)
    monkeypatch.undo()
    assert domain.statistics().free_frames == 2 * AREA


def test_areas(domain: Domain) -> None:
    frame = domain.alloc_areas(2)
    assert frame % AREA == 0
    with pytest.raises(BadFrame):
        domain.free_areas(frame, 1)
    domain.free_areas(frame, 2)
    assert domain.statistics().free_frames == 2 * AREA


def test_out_of_frames_asks_for_an_area_then_is_refused(domain: Domain, hypervisor: Any) -> None:
    frames = [domain.alloc() for _ in range(3 * AREA)]
    assert len(set(frames)) == 3 * AREA
    counted = domain.statistics()
    assert counted.credit_dry == 1
    assert counted.ring_areas == 1
    assert counted.current_frames == 3 * AREA
    with pytest.raises(NoMemory):
        domain.alloc()
    with pytest.raises(NoMemory):
        domain.alloc_many(1)
    domain.free(frames.pop())
    frames.append(domain.alloc())
    hypervisor.grow_status = lib.MC_ETARGET
    with pytest.raises(NoMemory, match="ETARGET"):
        domain.alloc()
    domain.free_many(frames)


def test_credit_that_came_while_a_guest_was_refused_is_used(
    domain: Domain, hypervisor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = domain.alloc_many(2 * AREA)

    def give_credit_and_refuse(record: Any, wanted: int) -> int:
        hypervisor.grant(2)
        return int(lib.MC_ETARGET)

    monkeypatch.setattr(hypervisor, "_grow", give_credit_and_refuse)
    assert domain.alloc() not in frames


def test_alloc_many_is_all_or_nothing(domain: Domain) -> None:
    with pytest.raises(NoMemory):
        domain.alloc_many(3 * AREA + 1)
    assert domain.statistics().free_frames == 3 * AREA
    assert len(domain.alloc_many(3 * AREA)) == 3 * AREA


def test_request_and_release_move_whole_areas(domain: Domain, hypervisor: Any) -> None:
    hypervisor.spare_areas = 2
    assert domain.request(1) == AREA
    assert domain.request(3 * AREA) == AREA
    with pytest.raises(NoMemory):
        domain.request(1)
    domain.free(domain.alloc())
    assert domain.release(AREA - 1) == 0
    assert domain.release(2 * AREA) >= AREA


def test_an_evicted_area_is_installed_before_it_is_used(domain: Domain, hypervisor: Any) -> None:
    wait_for(lambda: hypervisor.evict(0) and hypervisor.evict(1))
    frames = domain.alloc_many(2 * AREA)
    installs = [arg for op, arg in hypervisor.requests if op == lib.MC_OP_INSTALL]
    assert sorted(installs) == [0, 1]
    assert domain.statistics().credit_dry == 0
    assert all(domain.memory[frame * 4096] == 0 for frame in frames)


def test_a_refused_install_is_out_of_memory(domain: Domain, hypervisor: Any) -> None:
    wait_for(lambda: hypervisor.evict(0) and hypervisor.evict(1))
    hypervisor.install_status = hypervisor.grow_status = lib.MC_ENOMEM
    with pytest.raises(NoMemory):
        domain.alloc()
    assert domain.statistics().free_frames == 2 * AREA
    hypervisor.install_status = 0
    domain.alloc()


def test_the_use_of_credit_rings_once_for_half_of_it(domain: Domain, hypervisor: Any) -> None:
    hypervisor.control.credit_areas = 4
    hypervisor.grant(2)
    hypervisor.ring_credit()
    mapped(domain, 3)
    before = hypervisor.rung
    domain.alloc_many(3 * AREA)
    wait_for(lambda: hypervisor.rung > before)
    assert hypervisor.rung == before + 1
    assert hypervisor.control.credit_taken == 3


def test_credit_is_mapped_in_the_background_and_its_use_is_told(
    domain: Domain, hypervisor: Any
) -> None:
    taken = hypervisor.control.credit_taken
    hypervisor.grant(2)
    hypervisor.ring_credit()
    mapped(domain, 3)
    assert hypervisor.control.credit_taken == taken
    frames = domain.alloc_many(3 * AREA)
    assert hypervisor.control.credit_taken == 3
    counted = domain.statistics()
    assert counted.credit_areas == 3
    assert counted.credit_dry == counted.ring_areas == 0
    assert counted.mapped_areas == 3
    domain.free_many(frames)


def test_a_reclaimed_area_is_mapped_again_under_its_next_generation(
    domain: Domain, hypervisor: Any
) -> None:
    wait_for(lambda: hypervisor.reclaim(1))
    hypervisor.grant(1)
    hypervisor.ring_credit()
    mapped(domain, 3)
    domain.alloc_many(2 * AREA)


def test_threads_share_one_domain(domain: Domain) -> None:
    failures: list[BaseException] = []
    held: list[list[int]] = []

    def work() -> None:
        try:
            mine: list[int] = []
            for round_number in range(60):
                mine += domain.alloc_many(7)
                mine += [domain.alloc() for _ in range(3)]
                block = domain.alloc(round_number % 4)
                domain.free(block, round_number % 4)
                domain.free(mine.pop())
                domain.free_many([mine.pop() for _ in range(4)])
                if round_number % 16 == 0:
                    domain.drain()
            held.append(mine)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    frames = [frame for mine in held for frame in mine]
    assert len(set(frames)) == len(frames) == 4 * 60 * 5
    domain.free_many(frames)
    domain.drain()
    assert domain.statistics().free_frames == domain.current_frames


def test_slots_for_compiled_loops(domain: Domain) -> None:
    slots = [domain.claim_slot() for _ in range(lib.MC_SLOTS - 1)]
    assert len(set(slots)) == lib.MC_SLOTS - 1
    with pytest.raises(MemcoordError, match="no slot left"):
        domain.claim_slot()
    for slot in slots:
        domain.release_slot(slot)
    assert domain.guest_address
    assert domain.address % (2 << 20) == 0


def test_report_and_the_hypervisors_words(domain: Domain, hypervisor: Any) -> None:
    domain.report(
        used_frames=11,
        faults=12,
        swap_ins=13,
        swap_outs=14,
        references=15,
        committed_frames=16,
        stall_ns=17,
        idle_permille=18,
    )
    control = hypervisor.control
    assert (control.used_frames, control.faults, control.swap_ins) == (11, 12, 13)
    assert (control.swap_outs, control.references) == (14, 15)
    told = control.committed_frames, control.stall_ns, control.idle_permille
    assert told == (16, 17, 18)
    control.heartbeat, control.target_frames = 77, 123
    assert (domain.heartbeat, domain.target_frames) == (77, 123)
    assert domain.statistics().used_frames == 11


def test_what_a_guest_does_not_report_stays_as_it_was(domain: Domain, hypervisor: Any) -> None:
    names = ("used_frames", "faults", "swap_ins", "swap_outs", "references")
    names += ("committed_frames", "stall_ns", "idle_permille")
    wanted = dict.fromkeys(names, -1)
    control = hypervisor.control
    for number, name in enumerate((*names, *reversed(names))):
        assert {name: getattr(control, name) for name in names} == wanted
        domain.report(**{name: number})
        wanted[name] = number
    domain.report(file_frames=3)
    assert {name: getattr(control, name) for name in names} == wanted
    domain.report(stall_ns=-1, swap_ins=0)
    assert (control.stall_ns, control.swap_ins, control.file_frames) == (-1, 0, 3)


def test_after_close_nothing_crashes(hypervisor: Any, open_fds: Any) -> None:
    before = open_fds()
    domain = frontend.attach(hypervisor.path)
    frame = domain.alloc()
    view, memory = domain.view(frame), domain.memory
    alloc, free = domain.alloc, domain.free
    view[0] = 9
    domain.close()
    domain.close()
    view[0] = 7
    assert view[0] == 7
    assert hypervisor.memory[frame * 4096] == b"\x09"
    for call in (
        alloc,
        lambda: free(frame),
        lambda: domain.alloc_many(1),
        lambda: domain.request(1),
        lambda: domain.tmem.get(0, (0, 0, 0), 0, 0),
        lambda: domain.current_frames,
        lambda: memory[0],
        domain.statistics,
        domain.report,
        domain.drain,
    ):
        with pytest.raises(ValueError, match=r"closed|released"):
            call()
    hypervisor.connection.close()
    assert open_fds() <= before


def test_death_of_the_hypervisor_is_a_clear_error_and_what_is_held_stays(
    domain: Domain, hypervisor: Any
) -> None:
    frames = domain.alloc_many(2 * AREA)
    domain.view(frames[0])[:] = b"k" * 4096
    hypervisor.die()
    domain.free(frames.pop())
    with pytest.raises(PeerGone):
        domain.alloc_many(2)  # there is one
    frames.append(domain.alloc())
    for call in (domain.alloc, lambda: domain.request(1), lambda: domain.release(AREA),
                 lambda: domain.tmem.put(0, (0, 0, 0), 0, frames[0])):  # fmt: skip
        with pytest.raises(PeerGone):
            call()
    assert not domain.alive
    assert domain.view(frames[0]) == b"k" * 4096
    domain.free(frames[1])
    assert domain.alloc() == frames[1]


def test_death_while_a_call_sleeps_ends_the_call(domain: Domain, hypervisor: Any) -> None:
    hypervisor.ill = "mute"
    slept = domain.statistics().sleeps
    timer = threading.Thread(
        target=lambda: (wait_for(lambda: domain.statistics().sleeps > slept), hypervisor.die())
    )
    timer.start()
    with pytest.raises(PeerGone):
        domain.request(1)
    timer.join(WAIT_S)


@pytest.mark.parametrize("state", ["MC_STATE_CLOSED", "MC_STATE_BROKEN"])
def test_a_detached_domain_is_told(domain: Domain, hypervisor: Any, state: str) -> None:
    hypervisor.ill = "mute"
    hypervisor.control.state = getattr(lib, state)
    with pytest.raises(PeerGone):
        domain.request(1)


@pytest.mark.parametrize(("ill", "status"), [("runaway", "ERUNAWAY"), ("torn", "ETORN")])
def test_garbage_on_the_ring_is_refused_for_good(
    domain: Domain, hypervisor: Any, ill: str, status: str
) -> None:
    hypervisor.ill = ill
    for _ in range(2):
        with pytest.raises(RingBroken, match=status):
            domain.request(1)
    domain.alloc()


def test_other_threads_run_while_an_allocation_waits(domain: Domain, hypervisor: Any) -> None:
    domain.alloc_many(2 * AREA)
    hypervisor.ill = "late"
    got: list[int] = []
    waiting = threading.Thread(target=lambda: got.append(domain.alloc()))
    waiting.start()
    wait_for(lambda: hypervisor.requests[-1:] == [(lib.MC_OP_GROW, 1)])
    assert not got
    other = threading.Thread(target=lambda: got.append(domain.alloc()))
    other.start()
    hypervisor.ill = ""
    # Any next request brings the kept answers with it.
    domain.tmem.flush_page(0, (0, 0, 0), 0)
    waiting.join(WAIT_S)
    other.join(WAIT_S)
    assert len(set(got)) == 2


@pytest.mark.parametrize("count", [1, 64])
def test_answers_to_requests_given_up_are_dropped(
    domain: Domain, hypervisor: Any, count: int
) -> None:
    guest = ffi.cast("struct mc_guest *", domain.guest_address)
    front = ffi.addressof(guest.rings, 0)
    hypervisor.ill = "mute"
    for number in range(count):
        given_up = ffi.new("struct mc_record *", {"op": lib.MC_OP_GROW, "id": (1 << 40) + number})
        assert guest_lib.mc_front_push(front, given_up) == 0
    if guest_lib.mc_front_publish(front):
        guest_lib.mc_eventfd_ring(guest.bell_fd)
    hypervisor.ill = ""
    assert domain.request(1) == AREA
    assert guest_lib.mc_front_outstanding(front) == 0


def test_a_hypervisor_that_is_silent_costs_one_timeout(domain: Domain, hypervisor: Any) -> None:
    """An allocation that comes across two evicted areas waits for neither install but once."""
    wait_for(lambda: hypervisor.evict(0) and hypervisor.evict(1))
    guest = ffi.cast("struct mc_guest *", domain.guest_address)
    assert guest.timeout_ns == guest_lib.MC_CALL_TIMEOUT_NS
    guest.timeout_ns = 30_000_000
    hypervisor.ill = "mute"
    calls = domain.statistics().calls
    with pytest.raises(PeerGone):
        domain.alloc()
    assert domain.statistics().calls == calls + 1
    assert domain.alive
    with pytest.raises(PeerGone):
        domain.request(1)
    guest.timeout_ns = guest_lib.MC_CALL_TIMEOUT_NS
    hypervisor.ill = ""
    domain.alloc()
    assert domain.statistics().free_frames > 0


def test_a_guest_of_the_boot_before_leaves_the_rings_alone(hypervisor: Any) -> None:
    with frontend.attach(hypervisor.path) as domain:
        pushed = domain._guest.rings[0].ring.req_prod
        hypervisor.control.boots += 1
        with pytest.raises(PeerGone):
            domain.request(AREA)
        assert domain._guest.rings[0].ring.req_prod == pushed
        assert not domain.alive
