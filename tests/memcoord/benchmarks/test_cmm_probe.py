"""Goal: what the probe times are transfers. Method: a few in each design, and where memory is."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from hypervisor.public.units import AREA_FRAMES
from memcoord.benchmarks.lab import BenchError, Lab
from memcoord.benchmarks.mechanisms.cmm_probe import DESIGNS, PAUSE_S, WARM_UP_TRANSFERS, Pair
from memcoord.testbed.runs import rundir

pytestmark = pytest.mark.process

TRANSFERS = 6
WAIT_S = 60.0


@pytest.mark.parametrize("design", DESIGNS)
def test_the_donor_loses_what_the_taker_is_timed_getting(tmp_path: Path, design: str) -> None:
    run = rundir.create("test-cmm-probe", path=str(tmp_path / "run"))
    with Lab(run) as lab:
        pair = Pair(lab, design, TRANSFERS)
        assert pair.host.domain("taker")["current_frames"] == WARM_UP_TRANSFERS * AREA_FRAMES
        whole = pair.host.domain("donor")["maxmem_frames"]
        latencies = pair.transfers(TRANSFERS)
        assert latencies.shape == (TRANSFERS,)
        assert latencies.min() > 0
        with pytest.raises(BenchError, match="asked for"):
            pair.transfers(1)
        # Two areas of the host were free at first: one given, one populated for the taker's next.
        gone = (TRANSFERS + WARM_UP_TRANSFERS - 2) * AREA_FRAMES
        until = time.monotonic() + WAIT_S
        while whole - pair.host.domain("donor")["resident_frames"] < gone:
            assert time.monotonic() < until
            time.sleep(PAUSE_S)
    run.finish("finished")
