"""Goal: what a policy needs and does not come for nothing is measured for it, and for no other."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from hypervisor.config import HypervisorConfig
from hypervisor.public.errors import ConfigError
from hypervisor.public.units import AREA_FRAMES
from memcoord.commands.run import RunOptions, run_command
from memcoord.testbed.live import hypervisor_main
from policies import PolicyError, load
from policies.base import MRC_POINTS, NEEDS, needs_of

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

    def backend(*_: Any, mrc_points: int, **__: Any) -> None:
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


def test_a_need_that_real_processes_cannot_meet_is_refused_before_anything_starts(
    tmp_path: Path,
) -> None:
    with pytest.raises(PolicyError, match=r"far-memory: needs 'ages' .* not measured here"):
        run_command("main", RunOptions(["greedy", "far-memory"], run_dir=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()
    config = HypervisorConfig(total_frames=8 * AREA_FRAMES, policy="far-memory:warmup_ticks=1")
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(ConfigError, match="far-memory: needs 'ages'"):
            hypervisor_main.serve(config, tmp_path / "hv")
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_simulator_meets_every_need() -> None:
    assert needs_of(load("far-memory")) | needs_of(load("utility")) == {*NEEDS}


def test_a_need_nobody_knows_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "asks.py"
    file.write_text(POLICY.format(needs='("dreams",)'), encoding="utf-8")
    with pytest.raises(PolicyError, match=r"needs 'dreams' \(unknown\)"):
        load(f"{file}:Asks")
