"""A domain that is closed while its program lives hears of it first, and never reads zeroes.

Nothing here asserts a time: a grace of HOUR_S is one that does not end within a test.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator

import msgspec
import pytest
from backend_steps import AREA, WAIT_S, settle, spec
from guest_double import GuestDouble

from backend.host import HostBackend
from hypervisor.public.settings import MECHANISMS
from hypervisor.public.units import DomId
from memcoord.testbed.guests.obedient import GuestProcess
from memcoord.testbed.runs.remote import RemoteError, RemoteGone

pytestmark = pytest.mark.process
VM1 = DomId(0)
HELD_AREAS, HOUR_S = 2, 3600.0


@pytest.fixture
def host() -> Iterator[HostBackend]:
    made = HostBackend(total_frames=16 * AREA, slack_frames=2 * AREA, tmem_max_frames=0)
    yield made
    made.validate()
    assert made.stop() == []


def started(host: HostBackend, mechanism: str = "direct") -> GuestProcess:
    wanted = msgspec.structs.replace(spec("vm1", boot=HELD_AREAS), mechanism=mechanism)
    guest = GuestProcess(host.open(VM1, wanted), "vm1", VM1)
    assert guest.take("areas", HELD_AREAS) == HELD_AREAS
    return guest


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_its_memory_is_punched_when_it_has_let_go(
    host: HostBackend, mechanism: str, capfd: pytest.CaptureFixture[str]
) -> None:
    guest = started(host, mechanism)
    host.close(VM1, HOUR_S)
    assert host.wait_closed(WAIT_S)
    with pytest.raises(RemoteGone, match="SIGSEGV"):
        guest.verify()
    guest.close()
    assert "closed by the hypervisor; its memory is gone" in capfd.readouterr().err


def test_its_calls_say_so(host: HostBackend) -> None:
    guest = started(host)
    host.close(VM1, HOUR_S)
    with pytest.raises(RemoteError, match="PeerGone"):
        guest.release(AREA)
    guest.close()
    assert host.wait_closed(WAIT_S)


def test_what_has_not_let_go_keeps_its_memory_for_the_grace(host: HostBackend) -> None:
    guest = started(host)
    guest.signal(signal.SIGSTOP)
    host.close(VM1, HOUR_S)
    assert not host.wait_closed(0.3)
    assert host.snapshot().free_frames == (16 - HELD_AREAS) * AREA
    guest.signal(signal.SIGCONT)
    assert host.wait_closed(WAIT_S)
    guest.close()


def test_a_guest_that_closes_by_itself_lets_go_at_once(host: HostBackend) -> None:
    guest = started(host)
    guest.close()
    host.close(VM1, HOUR_S)
    assert host.wait_closed(WAIT_S)
    settle(host, lambda s: s.free_frames == s.total_frames)


def test_a_guest_that_lies_about_it_harms_itself(host: HostBackend) -> None:
    liar = GuestDouble(host.open(VM1, spec("liar", boot=HELD_AREAS)))
    liar.control.let_go = 1
    host.validate()
    host.close(VM1, HOUR_S)
    assert host.wait_closed(WAIT_S)
    liar.close()


def test_no_life_has_the_number_that_is_read_while_meta_is_laid_out(host: HostBackend) -> None:
    """A guest of the first life would take a reboot for the end of its domain."""
    guest = GuestDouble(host.open(VM1, spec("vm1", boot=HELD_AREAS)))
    assert guest.control.boots == 1
    host.reboot(VM1)
    assert guest.control.boots == 2
    guest.close()
    host.close(VM1)
    assert host.wait_closed(WAIT_S)
