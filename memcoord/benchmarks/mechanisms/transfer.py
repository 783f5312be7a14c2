"""A host whose memory is all with a donor that does not need it, and a domain that does.

Owns: the setting of every transfer that a bench measures, and its repetition. A guest that can ask
its mechanism for memory asks. For the other mechanisms the bench resizes by hand: it shrinks the
donor the moment the asker wants memory, and grows the asker the moment the host has it.
Used by: the benches ``mechanisms`` and ``interference``.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Cast:
    """The processes that play donor, asker and, perhaps, bystander."""

    donor: Remote
    asker: Remote
    bystander: Remote | None = None


class Full:
    """A context manager. With a bystander, it and the donor hold ``loop_frames`` to work on."""

    def __init__(
        self,
        cast: Cast,
        variant: Variant,
        spec: Callable[[str, int, int], DomainSpec],
        stage: Callable[[int], Stage],
    ) -> None:
        self._variant, self.loop_frames = variant, LOOP_FRAMES
        self._step = variant.step_areas * AREA_FRAMES
        self._base = variant.round_up(BASE_AREAS)
        self._most = self._base + variant.round_up(TRANSFERS)
        loop = variant.round_up(LOOP_FRAMES // AREA_FRAMES) if cast.bystander else 0
        self._donor_areas = self._most + loop
        own = 2 * LOOP_FRAMES // AREA_FRAMES if cast.bystander else 0
        self._stage = stage(self._donor_areas + self._base + SLACK_AREAS + own)
        self._cast, self._spec = cast, spec

    def __enter__(self) -> Self:
        try:
            self._open()
        except BaseException:
            self._stage.__exit__()
            raise
        return self

    def __exit__(self, *raised: object) -> None:
        self._stage.__exit__()

    def _open(self) -> None:
        stage, cast, asks = self._stage, self._cast, self._variant.asks
        self.donor = stage.guest(cast.donor, self._spec("donor", self._donor_areas, self._base))
        self.asker = stage.guest(cast.asker, self._spec("asker", self._most, self._base))
        self._plea = stage.plead(self.asker)
        if cast.bystander is not None:
            frames = 2 * LOOP_FRAMES
            spec = DomainSpec("bystander", frames, frames, frames, credit_areas=0)
            self.bystander = stage.guest(cast.bystander, spec)
            self.bystander.ask("take", limit=LOOP_FRAMES, asks=False)
            stage.resize(self.donor, self._donor_areas * AREA_FRAMES)
            self.donor.ask("take", limit=LOOP_FRAMES, asks=asks)

    def reset(self) -> None:
        """Give all memory back to the donor, which uses it once and leaves it free."""
        self.asker.ask("give", count=self.asker.now().maxmem_frames)
        self._stage.resize(self.asker, self._base * AREA_FRAMES)
        self._stage.resize(self.donor, self._donor_areas * AREA_FRAMES)
        every = self._donor_areas * AREA_FRAMES
        self.donor.ask("refill", limit=every, asks=self._variant.asks)

    def transfers(self, rest_s: float, run_s: float = TRANSFERS_S) -> list[tuple[int, int]]:
        """Beginning and end of each transfer, after a ``reset``; the asker keeps the memory."""
        backend, donor, asker = self._stage.backend, self.donor, self.asker
        targets = [self._donor_areas * AREA_FRAMES, self._base * AREA_FRAMES]

        def answer() -> None:
            targets[0] -= self._step
            targets[1] += self._step
            self._stage.resize(donor, targets[0])
            backend.set_target(asker.domid, targets[1])

        asks = self._variant.asks
        asker.ask("exhaust")
        if asks:
            backend.set_target(asker.domid, self._most * AREA_FRAMES)
        running: Future[list[tuple[int, int]]] = asker.start(
            "transfers",
            frames=AREA_FRAMES,
            count=TRANSFERS * AREA_FRAMES // self._step,
            asks=asks,
            plea_fd=-1 if asks else self._plea,
            rest_s=rest_s,
            run_s=run_s,
        )
        times: list[tuple[int, int]] = self._stage.serve(running, answer)
        return times
