"""``memcoord bench chaos``: kill domains and the hypervisor, and tell what was lost.

Owns: the options of the bench, its result and its exit code: 1 when a frame or a persistent page
was lost, a page had wrong bytes, an invariant broke, or what was asked for could not all be done.
``docs/security.md`` says what the run protects from whom.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from hypervisor.public.errors import ConfigError
from memcoord.benchmarks.chaos import leaks, records
from memcoord.benchmarks.chaos.account import PROBLEMS_SHOWN_MAX, Account
from memcoord.benchmarks.chaos.host import ChaosHost, Stuck
from memcoord.benchmarks.chaos.plan import VARIANTS, Plan, configuration, divided
from memcoord.benchmarks.chaos.run import Found, PlanRun
from memcoord.benchmarks.runner import Bench, Result
from memcoord.benchmarks.tables import MISSING, Table
from memcoord.testbed.report.progress import Progress
from memcoord.testbed.runs.rundir import RunDir

KILLS, HYPERVISOR_KILLS, SEED = 300, 15, 1
#: The host that every machine can have; it gets the kills of those that this machine cannot.
EVERYWHERE = next(iter(VARIANTS))
HOUR_S = 3600.0
SOAK_HOURS_MAX = 10_000
#: Of which a sum above 0 is a failure.
FAILURES = ("lost_frames", "lost_pages", "wrong_pages", "broken_invariants")


@dataclass(frozen=True)
class ChaosOptions:
    """What was asked for. ``soak``: go on for so many hours, on one host."""

    kills: int | None = None
    hypervisor_kills: int | None = None
    soak: float = 0.0
    records: int = 0
    seed: int = SEED

    def plans(self) -> list[Plan]:
        """The plans of the run, one per host."""
        if self.soak:
            return [Plan(self.seed, EVERYWHERE, self.kills or 0, self.hypervisor_kills or 0)]
        if self.kills is None and self.hypervisor_kills is None and not self.records:
            return divided(self.seed, KILLS, HYPERVISOR_KILLS)
        return divided(self.seed, self.kills or 0, self.hypervisor_kills or 0)


class ChaosBench(Bench):
    """Kills, a soak, malformed records: whatever the options say, one after the other."""

    name = "chaos"

    def __init__(self, options: ChaosOptions) -> None:
        """ConfigError for numbers that ask for nothing."""
        kills = (options.kills or 0, options.hypervisor_kills or 0)
        asked = (*kills, options.records, options.soak)
        if not 0 <= options.soak <= SOAK_HOURS_MAX:  # nor NaN
            raise ConfigError("--soak", f"must be 0 to {SOAK_HOURS_MAX} hours")
        if min(asked) < 0 or (options.kills == 0 and not any(asked)):
            raise ConfigError("--kills", "nothing is asked for: say how many")
        self._options = options

    def measure(self, where: RunDir | Path, progress: Progress) -> dict[str, Any]:
        """Carry out every plan; the whole result."""
        directory = where if isinstance(where, Path) else where.path
        began_s = time.monotonic()
        sums = _Sums(Found())
        plans = self._options.plans()
        for number, plan in enumerate(plans):  # which may grow by one for each host left out
            where_to = directory / f"{number}-{plan.variant}"
            is_done = self._carry_out(plan, where_to, sums, progress)
            if not is_done and plan.variant != EVERYWHERE:
                plans.append(replace(plan, variant=EVERYWHERE, seed=plan.seed + number))
        if self._options.records:
            self._send_records(directory / "records", sums, progress)
        result = sums.result() | {
            "bench": self.name,
            "seed": self._options.seed,
            "seconds": round(time.monotonic() - began_s, 1),
        }
        if self._options.soak:
            found = leaks.slopes(sums.found.samples)
            result["slopes_per_hour"] = {name: asdict(one) for name, one in found.items()}
        return result

    def _carry_out(self, plan: Plan, directory: Path, sums: _Sums, progress: Progress) -> bool:
        """Whether this machine could have the plan's host."""
        directory.mkdir(mode=0o700)
        began_s, before = time.monotonic(), sums.found.kills
        until_s = began_s + self._options.soak * HOUR_S
        progress.begin(f"bench chaos, host {plan.variant}")

        def done() -> None:
            if self._options.soak:
                hours = (time.monotonic() - began_s) / HOUR_S
                progress.advance(min(hours / self._options.soak, 1.0) * 100, 100, "% of the soak")
            else:
                kills = min(sums.found.kills - before, plan.kills)
                progress.advance(kills, plan.kills, "kills")

        with Account(directory) as account:
            try:
                with ChaosHost(directory, configuration(plan.variant)) as host:
                    PlanRun(plan, host, account, sums.found, done).carry_out(until_s)
            except ConfigError as error:
                sums.skipped[plan.variant] = str(error)
                return False
            except Stuck as error:
                sums.found.broken.append(f"{plan.variant}: {error}")
            sums.add(account)
        return True

    def _send_records(self, directory: Path, sums: _Sums, progress: Progress) -> None:
        directory.mkdir(mode=0o700)
        count = self._options.records
        progress.begin("bench chaos, malformed records", count)
        with Account(directory) as account:
            with ChaosHost(directory, records.asked()) as host:
                run = records.RecordsRun(
                    host, account, self._options.seed, lambda sent: progress.advance(sent, count)
                )
                run.send(count)
            sums.add(account)
        sums.found.broken += run.told.broken
        sums.records = msgspec.to_builtins(run.told)

    def tables(self, result: Result) -> Iterator[Table]:
        """What was done, and what was found."""
        shown = [name for name in result if isinstance(result[name], int | float)]
        yield Table("bench chaos", ["what", "how many"], [[n, f"{result[n]:,}"] for n in shown])
        if "records" in result:
            told = result["records"]
            rows = [[name, f"{told[name]:,}"] for name in ("sent", "answered", "lives", "seconds")]
            rows += [[f"{name}, per second", f"{n:,}"] for name, n in told["per_second"].items()]
            yield Table("malformed records", ["what", "how many"], rows)
        if "slopes_per_hour" in result:
            rows = [
                [name, *(_signed(one[key]) for key in ("per_hour", "low", "high"))]
                for name, one in result["slopes_per_hour"].items()
            ]
            yield Table("growth per hour", ["of", "slope", "low", "high"], rows)

    def lines(self, result: Result) -> list[str]:
        """Every problem, and what was left out."""
        skipped = [f"left out: {name}: {why}" for name, why in result["skipped"].items()]
        return [*result["problems"], *skipped]

    def status(self, result: Result) -> int:
        """1 when anything was lost, wrong or broken."""
        return int(any(result[name] for name in FAILURES))


class _Sums:
    """What all plans together found."""

    def __init__(self, found: Found) -> None:
        self.found = found
        self.counted: dict[str, int] = {}
        self.problems: list[str] = []
        self.skipped: dict[str, str] = {}
        self.records: dict[str, Any] | None = None  # what became of malformed ones

    def add(self, account: Account) -> None:
        for word in COUNTED:
            self.counted[word] = self.counted.get(word, 0) + account.total(word)
        self.problems += account.problems()

    def result(self) -> dict[str, Any]:
        found, counted = self.found, {word: self.counted.get(word, 0) for word in COUNTED}
        lost = sum(counted[word] for word in ("lost_frames", "lost_pages", "wrong_pages"))
        untold = max(len(self.problems) - lost, 0)  # problems that are no loss
        pauses = sorted(found.pauses_ms)
        return {
            "kills": found.kills,
            "hypervisor_kills": found.hypervisor_kills,
            **{word: counted.pop(word) for word in ("lost_frames", "lost_pages", "wrong_pages")},
            "broken_invariants": len(found.broken) + untold,
            "pause_p50_ms": _quantile(pauses, 0.50),
            "pause_p99_ms": _quantile(pauses, 0.99),
            "stops": found.stops,
            "verbs": found.verbs,
            "detaches": found.detaches,
            "validations": found.validations,
            "audits": found.audits,
            **counted,
            **({"records": self.records} if self.records else {}),
            "skipped": self.skipped,
            "problems": (found.broken + self.problems)[:PROBLEMS_SHOWN_MAX],
            "first": [asdict(one) for one in found.samples[:1]],
            "last": [asdict(one) for one in found.samples[-1:]],
        }


COUNTED = (
    "lost_frames", "lost_pages", "wrong_pages", "attaches", "refused", "gone", "no_memory",
    "operations", "frames_verified", "pages_verified", "puts",
)  # fmt: skip


def _signed(value: float | None) -> str:
    return MISSING if value is None else f"{value:+.2f}"


def _quantile(ordered: list[float], share: float) -> float | None:
    if not ordered:
        return None
    return round(ordered[min(int(len(ordered) * share), len(ordered) - 1)], 1)
