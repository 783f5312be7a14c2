"""A forked child cannot use its parent's domain, and cannot harm it. Method: fork and try."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import frontend
from frontend.domain import Domain
from hypervisor.public.errors import WrongProcess
from hypervisor.public.units import FRAME_BYTES

MARK = b"the parent's own"

#: What a child may think of; each must raise WrongProcess.
CALLS: dict[str, Callable[[Domain, int], Any]] = {
    "alloc": lambda domain, frame: domain.alloc(),
    "free": lambda domain, frame: domain.free(frame),
    "alloc_many": lambda domain, frame: domain.alloc_many(3),
    "free_many": lambda domain, frame: domain.free_many([frame]),
    "alloc_areas": lambda domain, frame: domain.alloc_areas(1),
    "alloc_movable": lambda domain, frame: domain.alloc_movable(),
    "request": lambda domain, frame: domain.request(512),
    "release": lambda domain, frame: domain.release(512),
    "drain": lambda domain, frame: domain.drain(),
    "view": lambda domain, frame: domain.view(frame),
    "report": lambda domain, frame: domain.report(used_frames=1),
    "statistics": lambda domain, frame: domain.statistics(),
    "current": lambda domain, frame: domain.current_frames,
    "alive": lambda domain, frame: domain.alive,
    "on_pressure": lambda domain, frame: domain.on_pressure(None),
    "claim_slot": lambda domain, frame: domain.claim_slot(),
    "new_pool": lambda domain, frame: domain.tmem.new_pool(persistent=True),
    "put": lambda domain, frame: domain.tmem.put(0, (1, 2, 3), 4, frame),
}


def in_child(act: Callable[[], str]) -> str:
    """What ``act`` says in a forked child, which does nothing else."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            said = act()
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(write, said.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        said = file.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return said


@pytest.fixture
def domain(make_hypervisor: Callable[..., Any]) -> Iterator[Domain]:
    with frontend.attach(make_hypervisor().path, "vm1") as attached:
        yield attached


@pytest.mark.parametrize("name", CALLS)
def test_a_call_of_a_forked_child_is_a_clear_error(domain: Domain, name: str) -> None:
    frame = domain.alloc()

    def call() -> str:
        with pytest.raises(WrongProcess, match="forked child"):
            CALLS[name](domain, frame)
        return "refused"

    before = domain.statistics().allocs
    assert in_child(call) == "refused"
    assert domain.statistics().allocs == before
    domain.free(frame)


def test_what_a_child_writes_stays_with_the_child(domain: Domain) -> None:
    frame = domain.alloc()
    view, alloc = domain.view(frame), domain.alloc
    view[: len(MARK)] = MARK

    def scribble() -> str:
        seen = bytes(view)
        view[:] = b"\xff" * FRAME_BYTES
        for _ in range(3):  # by a name that was taken before the fork
            with pytest.raises(WrongProcess):
                alloc()
        return "zeroes" if seen == bytes(FRAME_BYTES) else "the parent's"

    assert in_child(scribble) == "zeroes"
    assert bytes(view[: len(MARK)]) == MARK
    assert domain.alive
    domain.free(frame)


def test_a_child_that_closes_or_ends_leaves_the_parent_attached(domain: Domain) -> None:
    def leave() -> str:
        domain.close()
        return "closed"

    assert in_child(leave) == "closed"
    assert domain.alive
    assert domain.tmem.new_pool(persistent=True) >= 0


def test_a_child_may_attach_by_itself(make_hypervisor: Callable[..., Any]) -> None:
    first, second = make_hypervisor(), make_hypervisor()

    def attach() -> str:
        with frontend.attach(second.path, "vm1") as own:
            own.free(own.alloc())
        return "served"

    with frontend.attach(first.path, "vm1") as domain:
        assert in_child(attach) == "served"
        assert domain.alive
