"""Goal: every mechanism passes the kit. Method: each check of it, with a real guest process."""

from __future__ import annotations

import pytest

from backend.conformance import CHECKS, Lab, NotConforming, Subject
from hypervisor.public.backend import BankSpec
from hypervisor.public.units import AREA_FRAMES
from memcoord.testbed.guests.obedient import GuestProcess

pytestmark = pytest.mark.process

#: For sections of 2 areas: 32 of them and a slack of 2 areas, the smaller bank remote.
BANKS = [BankSpec(18 * AREA_FRAMES), BankSpec(16 * AREA_FRAMES, remote=True)]
SUBJECTS = [
    Subject("direct"),
    Subject("balloon"),
    Subject("balloon", {"merge": 1, "report_ms": 5}),
    Subject("balloon", {"huge": 1}),
    Subject("virtio-mem", unit_areas=2),
    Subject("virtio-mem", {"block_areas": 1}),
    Subject("sections", {"section_areas": 4}, unit_areas=4),
    Subject("sections", {"section_areas": 2}, unit_areas=2, host={"banks": BANKS}),
    Subject("cmm", {"design": 0}),
    Subject("cmm", {"design": 1}),
    Subject("hyperalloc"),
    Subject("hyperalloc", {"period_ms": 5}),
]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("subject", SUBJECTS, ids=str)
def test_a_mechanism_conforms(subject: Subject, check: str) -> None:
    with Lab(subject, GuestProcess) as lab:
        CHECKS[check](lab)


def test_the_kit_sees_a_mechanism_that_takes_nothing() -> None:
    with Lab(Subject("direct"), GuestProcess) as lab:
        lab.reach = lambda units: lab.target(8)  # type: ignore[method-assign]
        with pytest.raises(NotConforming, match="holds"):
            CHECKS["shrink"](lab)


def test_the_kit_sees_memory_that_was_pulled_from_under_its_user() -> None:
    with Lab(Subject("direct"), GuestProcess) as lab:
        lab.guest.take("frames", 10)
        frame = lab.guest.frames("frames")[0]
        domain = lab.backend._host.domains[0]
        from backend._service import lib

        assert lib.mc_punch(domain.ram_fd, frame * 4096, 4096) == 0
        with pytest.raises(NotConforming, match="was taken or changed"):
            lab.intact("pulled")
