"""One domain of a live run, and the verdict on it once its process has ended.

Owns: ``RunningDomain``, the verdict on how a domain's process ended, and the notices taken from a
hypervisor's event log. Called by ``memcoord.testbed.live.session``.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from hypervisor.public.documents import UNREADABLE
from hypervisor.public.units import AREA_FRAMES, areas_of
from memcoord.testbed.guests.gates import answer_of
from memcoord.testbed.guests.replay import GuestResult
from memcoord.testbed.report.results import CRASHED, DomainResult
from memcoord.testbed.runs.launcher import OUTPUT_BYTES_MAX, Child
from memcoord.testbed.scenarios.schema import Domain
from memcoord.testbed.scenarios.workloads import REAL, title_of

NOTICES_MAX = 3
#: Events of the hypervisor (``hypervisor.loop``) that belong into the report.
NOTABLE = ("policy-fault", "restarted", "violation")


@dataclass
class RunningDomain:
    """One domain of the run: its part of the scenario, its process, its latest statistics."""

    spec: Domain
    number: int
    length: int  # references its workload makes; 0: a program that does not say how many
    child: Child | None = None
    statistics: dict[str, Any] = field(default_factory=dict)
    result: DomainResult | None = None
    told_to_crash: bool = False  # it was killed because the scenario says so
    is_going: bool = False  # it was let through the gates of its start
    is_let_in: bool = False  # it was let through the first of them, and attaches
    holds: list[int] = field(default_factory=list)  # references after which it is yet to be held
    seen: list[tuple[float, int]] = field(default_factory=list)  # when, and references by then
    ram_moved: bool = False  # it had another target of RAM than it booted with
    begin_s: float | None = None  # of its first reference, as time.monotonic; once it is done
    end_s: float | None = None  # of its last

    @property
    def is_program(self) -> bool:
        """It runs a real program."""
        return isinstance(self.spec.workload, REAL)

    @property
    def references(self) -> int:
        """References done so far, as far as is known."""
        if self.result is not None:
            return self.result.references
        done = max(int(self.statistics.get("guest_references", 0)), 0)  # -1: not reported yet
        return done

    @property
    def done(self) -> float:
        """The part of its references it has done, 0 to 1."""
        if not self.length:
            return float(self.result is not None)
        return self.references / self.length

    @property
    def runs(self) -> bool:
        """It was started and no verdict on it was given yet."""
        return self.child is not None and self.result is None

    def note(self, row: dict[str, Any], time_s: float) -> None:
        """Take the latest statistics, read at ``time_s``."""
        self.statistics = row
        self.seen.append((time_s, min(self.references, self.length)))
        booted = self.spec.ram.frames
        unmoved = (booted, areas_of(booted) * AREA_FRAMES)
        self.ram_moved |= row.get("target_frames", booted) not in unmoved

    def crash_if_due(self) -> None:
        """Kill its process when the scenario's ``crash_at`` has come: between two instructions."""
        at = self.spec.crash_at
        if at is None or self.told_to_crash or not self.runs or not self.statistics:
            return
        if self.done >= at:
            assert self.child is not None
            self.told_to_crash = True
            self.child.process.kill()

    def judge(self, *, stopped: bool = False) -> DomainResult:
        """The verdict on its process, which has ended; ``stopped``: the run ended it."""
        assert self.child is not None
        how, code = self.child.how_it_ended(), self.child.returncode
        if stopped:
            return self.last_seen("stopped", "the run ended before it")
        if code == 0:
            return self._answer(self.child.output())
        if self.told_to_crash and code == -signal.SIGKILL:
            return self.last_seen(CRASHED, "")
        return self.last_seen("killed" if code is not None and code < 0 else "failed", how)

    def _answer(self, output: bytes) -> DomainResult:
        if len(output) > OUTPUT_BYTES_MAX:
            return self.last_seen("failed", f"no result: more than {OUTPUT_BYTES_MAX} bytes")
        try:
            answer = msgspec.json.decode(answer_of(output), type=GuestResult)
        except UNREADABLE as error:
            return self.last_seen("failed", f"no result: {error}")
        told = msgspec.structs.asdict(answer)
        self.begin_s = told.pop("begin_s")
        self.end_s = answer.begin_s + answer.run_s + told.pop("held_s")
        title = title_of(self.spec.workload)
        return DomainResult(domain=self.spec.name, workload=title, **told)

    def last_seen(self, state: str, reason: str) -> DomainResult:
        """A result made of the counts the hypervisor published last."""
        # A figure that was never reported, -1, did not happen as far as anybody knows.
        seen = {
            name: max(value, 0) for name, value in self.statistics.items() if type(value) is int
        }
        return DomainResult(
            domain=self.spec.name,
            workload=title_of(self.spec.workload),
            state=state,
            reason=reason,
            references=seen.get("guest_references", 0),
            faults=seen.get("guest_faults", 0),
            tmem_hits=seen.get("gets_hit", 0),
            swap_ins=seen.get("guest_swap_ins", 0),
            swap_outs=seen.get("guest_swap_outs", 0),
            failed_puts=seen.get("puts_failed", 0),
            run_s=self._seen_s,
        )

    @property
    def _seen_s(self) -> float:
        """From its first reference to its last as far as ticks show; 0 if they show none."""
        first = next((at_s for at_s, done in self.seen if done or self.is_program), None)
        return 0.0 if first is None else self.seen[-1][0] - first


def notices(events: Path) -> list[str]:
    """Events in the file ``events`` that the user must see, each text once."""
    texts: dict[str, None] = {}
    for line in events.read_text(encoding="utf-8").splitlines() if events.exists() else ():
        try:
            event = msgspec.json.decode(line, type=dict[str, Any])
        except UNREADABLE:
            continue  # the last line of a hypervisor that was killed
        if event.get("event") in NOTABLE:
            fields = {k: v for k, v in event.items() if k not in ("time_ns", "source", "event")}
            text = str(fields.get("why") or f"{event['event']}: {fields}")
            texts[" ".join(text.split())] = None
    more = len(texts) - NOTICES_MAX
    rest = [f"and {more} more in {events}"] if more > 0 else []
    return [*texts][:NOTICES_MAX] + rest
