"""Goal: a status becomes the error that is true on the side where it is raised."""

from __future__ import annotations

import pytest

from backend.host import _check
from hypervisor.public.errors import PeerGone, Status, TimedOut, error_of


def test_a_guest_that_waits_in_vain_has_lost_its_hypervisor() -> None:
    assert isinstance(error_of(Status.ETIMEOUT, "ring call"), PeerGone)


def test_a_timeout_inside_the_hypervisor_does_not_blame_the_hypervisor() -> None:
    with pytest.raises(TimedOut, match="close domain 3: a thread of the hypervisor") as caught:
        _check(Status.ETIMEOUT, "close domain 3")
    assert not isinstance(caught.value, PeerGone)
