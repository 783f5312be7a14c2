"""What a transfer between two domains of ``cmm`` costs, in either of its designs.

Owns: a host with an idle donor and a taker, each a process of its own, and the samples of the
taker. The host has given everything but its slack away, so that each further area of 2 MiB has to
come from the donor. For benches; ``transfer_latencies`` is for whoever wants the numbers alone.
One sample is what ``grant_transfer_2m`` of ``memcoord bench grant`` is: ask for an area, allocate
it, touch its 512 frames.
"""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from hypervisor.config import DomainConfig, HypervisorConfig
from hypervisor.public.units import AREA_FRAMES
from memcoord.benchmarks.lab import BenchError, Lab
from memcoord.testbed.runs import rundir

#: Of option ``design`` of the mechanism, see hypervisor/public/abi/cmm.h.
DESIGNS = MappingProxyType({"dom0": 0, "hypervisor": 1})
SLACK_AREAS = 2
WARM_UP_TRANSFERS = 3
SPARE_AREAS = 8
PAUSE_S = 0.02  # in which the host punches what the donor gave and populates its replacement
TRANSFER = 3  # enum mc_path
UNTRANSFERRED_MAX = 0.1  # of the samples: the worker was late, and what it punched was free still


class Pair:
    """A donor and a taker under ``design``, good for ``transfers`` areas of 2 MiB in all.

    ``host.pid`` (its thread dom0 is named so), ``donor.pid`` and ``taker.pid`` are there to be
    placed and weighed. ``lab`` ends all three.
    """

    def __init__(self, lab: Lab, design: str, transfers: int) -> None:
        areas = transfers + WARM_UP_TRANSFERS + SPARE_AREAS
        self._left = transfers + WARM_UP_TRANSFERS
        self.host = lab.host(f"cmm_{design}", _config(design, areas))
        self.donor = lab.remote(f"donor_{design}")
        self.taker = lab.remote(f"taker_{design}")
        run_dir = str(self.host.run_dir)
        self.donor.call("attach", run_dir=run_dir, name="donor")
        self.donor.call("touch_and_free", key="donor", areas=areas)
        self.taker.call("attach", run_dir=run_dir, name="taker")
        #: Samples so far that did not need the donor.
        self.untransferred = 0
        self.transfers(WARM_UP_TRANSFERS)
        self.untransferred = 0

    def transfers(self, samples: int, pause_s: float = PAUSE_S) -> NDArray[np.uint64]:
        """Nanoseconds of ``samples`` transfers, ``pause_s`` before each; BenchError if too many."""
        if samples > self._left:
            raise BenchError(f"{samples} transfers asked for, {self._left} left")
        self._left -= samples
        raw, paths = self.taker.call("grant_area", key="taker", count=samples, pause_s=pause_s)
        self.untransferred += sum(path != TRANSFER for path in paths)
        return np.frombuffer(raw, dtype=np.uint64)


def transfer_latencies(design: str, samples: int) -> NDArray[np.uint64]:
    """Nanoseconds of ``samples`` transfers of 2 MiB from an idle donor: one array of uint64.

    ``design`` is "dom0" or "hypervisor". Starts and ends three processes; leaves a run directory
    as a bench does. BenchError when a tenth of the samples was served without the donor.
    """
    run = rundir.create(f"cmm-{design}")
    state = "failed"
    try:
        with Lab(run) as lab:
            pair = Pair(lab, design, samples)
            latencies = pair.transfers(samples)
            if pair.untransferred > UNTRANSFERRED_MAX * samples:
                raise BenchError(f"{pair.untransferred} of {samples} did not need the donor")
        state = "finished"
    finally:
        run.finish(state)
    return latencies


def _config(design: str, areas: int) -> HypervisorConfig:
    # Two areas more than the donor's and the slack: the taker's first, and the one populated ahead
    # of its next need. From then on the host is full.
    frames, options = areas * AREA_FRAMES, {"design": DESIGNS[design]}
    donor = DomainConfig("donor", frames, frames, frames, 0, mechanism="cmm", options=options)
    taker = DomainConfig("taker", frames, 0, frames, 0, mechanism="cmm", options=options)
    return HypervisorConfig(
        total_frames=(areas + SLACK_AREAS + 2) * AREA_FRAMES,
        slack_frames=SLACK_AREAS * AREA_FRAMES,
        domains=(donor, taker),
    )
