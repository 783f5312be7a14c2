"""Goal: a status becomes an error that says what to look at. Method: make the errors."""

from __future__ import annotations

from hypervisor.public.errors import InternalError, PeerGone, Status, error_of


def test_a_refusal_of_the_kernel_names_what_may_have_run_out() -> None:
    error = error_of(Status.EKERNEL, "domain vm1")
    assert isinstance(error, InternalError)
    assert str(error).startswith("domain vm1: the kernel refused memory")
    assert "ulimit -v" in str(error)


def test_a_guest_that_waits_in_vain_has_lost_its_hypervisor() -> None:
    assert isinstance(error_of(Status.ETIMEOUT, "ring call"), PeerGone)
