"""Goal: what a policy needs and does not come for nothing is measured for it, and for no other."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from hypervisor.config import HypervisorConfig
from hypervisor.public.units import AREA_FRAMES
from memcoord.testbed.live import hypervisor_main
from policies.base import MRC_POINTS

POLICY = """
from policies import Plan, View

class Asks:
    needs = {needs}

    def plan(self, view: View) -> Plan:
        return Plan()
"""


class Enough(Exception):
    pass


@pytest.mark.parametrize(("needs", "points"), [('("mrc",)', MRC_POINTS), ("()", 0)])
def test_curves_are_measured_for_a_policy_that_needs_them(
    needs: str, points: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, int] = {}

    def backend(*_: Any, mrc_points: int) -> None:
        asked["points"] = mrc_points
        raise Enough

    file = tmp_path / "asks.py"
    file.write_text(POLICY.format(needs=needs), encoding="utf-8")
    monkeypatch.setattr(hypervisor_main, "_backend", backend)
    config = HypervisorConfig(total_frames=8 * AREA_FRAMES, policy=f"{file}:Asks")
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(Enough):
            hypervisor_main.serve(config, tmp_path / "run")
    finally:
        signal.signal(signal.SIGINT, before)
    assert asked == {"points": points}
