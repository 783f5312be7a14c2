"""The backend most tests of this package run against."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from backend.host import HostBackend
from hypervisor.public.units import AREA_FRAMES


@pytest.fixture
def backend() -> Iterator[HostBackend]:
    """Sixteen areas, two of them slack."""
    made = HostBackend(total_frames=16 * AREA_FRAMES, slack_frames=2 * AREA_FRAMES, spin_ns=0)
    yield made
    made.validate()
    made.stop()
