"""Goal: whoever uses what was not granted is noticed. Method: one try under each mechanism."""

from __future__ import annotations

import pytest

from hypervisor.public.settings import MECHANISMS
from memcoord.benchmarks.hostile import detection as tried
from memcoord.benchmarks.hostile.detection import detection

pytestmark = [pytest.mark.timeout(240), pytest.mark.process]


def test_every_try_is_noticed_and_told_by_mechanism() -> None:
    found = detection(2 * len(MECHANISMS))
    assert (found["tries"], found["unnoticed"]) == (2 * len(MECHANISMS), 0)
    assert 0 < found["median_ms"] <= found["p99_ms"] <= found["longest_ms"]
    assert set(found["mechanisms"]) == set(MECHANISMS)
    assert max(m["longest_ms"] for m in found["mechanisms"].values()) == found["longest_ms"]


def test_what_is_not_noticed_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tried, "MECHANISMS", ("direct",))
    monkeypatch.setattr(tried, "try_once", lambda lab: None)
    found = detection(3)
    assert (found["tries"], found["unnoticed"], found["longest_ms"]) == (3, 3, None)
