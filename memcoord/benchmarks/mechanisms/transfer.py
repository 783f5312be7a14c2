"""A host whose memory is all with a donor that does not need it, and a domain that does.

Owns: the setting of every transfer that a bench measures, and its repetition. A guest that can ask
its mechanism for memory asks. For the other mechanisms the bench resizes by hand, in a compiled
loop: it shrinks the donor the moment the asker wants memory, and grows the asker the moment the
host has it.
Used by: the benches ``mechanisms`` and ``interference``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Self

from hypervisor.public.backend import DomainSpec
from hypervisor.public.units import AREA_FRAMES
from memcoord.benchmarks.mechanisms.stage import Stage, Variant
from memcoord.testbed.runs.remote import Remote

BASE_AREAS = 4
SLACK_AREAS = 2
TRANSFERS = 50
TRANSFERS_S = 10.0
LOOP_FRAMES = 16 * AREA_FRAMES


class Full:
    """A context manager; three processes play donor, asker and, perhaps, bystander.

    With a bystander, it and the donor hold ``loop_frames`` to work on.
    """

    def __init__(
        self, variant: Variant, spec: Callable[[str, int, int], DomainSpec],
        stage: Callable[[int], Stage], donor: Remote, asker: Remote,
        bystander: Remote | None = None,
    ) -> None:  # fmt: skip
        self._variant, self.loop_frames = variant, LOOP_FRAMES
        self._step = variant.step_areas * AREA_FRAMES
        self._base = variant.round_up(BASE_AREAS)
        self._most = self._base + variant.round_up(TRANSFERS)
        loop = variant.round_up(LOOP_FRAMES // AREA_FRAMES) if bystander else 0
        self._donor_areas = self._most + loop
        own = 2 * LOOP_FRAMES // AREA_FRAMES if bystander else 0
        self.stage = stage(self._donor_areas + self._base + SLACK_AREAS + own)
        self._vms, self._spec = (donor, asker, bystander), spec

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.push(self.stage)
            self._open()
            stack.pop_all()
        return self

    def __exit__(self, *raised: object) -> None:
        self.stage.__exit__()

    def _open(self) -> None:
        stage, asks = self.stage, self._variant.asks
        donor, asker, bystander = self._vms
        self.donor = stage.guest(donor, self._spec("donor", self._donor_areas, self._base))
        self.asker = stage.guest(asker, self._spec("asker", self._most, self._base))
        self._plea = self.asker.plead()
        if bystander is not None:
            frames = 2 * LOOP_FRAMES
            spec = DomainSpec("bystander", frames, frames, frames, credit_areas=0)
            self.bystander = stage.guest(bystander, spec)
            self.bystander.ask("take", limit=LOOP_FRAMES, asks=False)
            stage.resize(self.donor, self._donor_areas * AREA_FRAMES)
            self.donor.ask("take", limit=LOOP_FRAMES, asks=asks)

    def reset(self) -> None:
        """Give all memory back to the donor, which uses it once and leaves it free."""
        self.asker.ask("give", count=self.asker.now().maxmem_frames)
        self.stage.resize(self.asker, self._base * AREA_FRAMES)
        self.stage.resize(self.donor, self._donor_areas * AREA_FRAMES)
        every = self._donor_areas * AREA_FRAMES
        self.donor.ask("refill", limit=every, asks=self._variant.asks)

    def transfers(self, rest_s: float, run_s: float = TRANSFERS_S) -> list[tuple[int, int]]:
        """Beginning and end of each transfer, after a ``reset``; the asker keeps the memory."""
        stage, asker, asks = self.stage, self.asker, self._variant.asks
        asker.ask("exhaust")
        parts = stage.orchestra(self.donor, asker, self._step)
        if asks:
            stage.backend.set_target(asker.domid, self._most * AREA_FRAMES)
        count = TRANSFERS * AREA_FRAMES // self._step
        often = {"frames": AREA_FRAMES, "count": count, "rest_s": rest_s, "run_s": run_s}
        plea_fd = -1 if asks else self._plea
        running = asker.start("transfers", **often, asks=asks, plea_fd=plea_fd)
        times: list[tuple[int, int]] = stage.orchestrate(running, parts)
        return times
