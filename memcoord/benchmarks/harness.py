"""The measurements of a bench: rows of samples, round by round, and ratios between them.

Owns: the arithmetic of every bench and the shape of its JSON. Nothing here measures.
Rules: a sample is nanoseconds per operation, over ``ops_per_sample`` operations timed together. All
rows of a bench are measured once in every round, so that a slow minute of the machine falls on both
sides of a ratio; the order may change from round to round. A ratio is the median over the rounds of
A's round medians, divided by the same median of B. Beside a median stands its interval, out of the
rounds. A quantile is left out (None) where fewer than one sample lies beyond it. Only the bench's
own process imports this module, because it loads numpy, which a measured process must not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcoord.testbed.report.intervals import median_interval

ROUNDS_MIN = 5
ROUNDS_DEFAULT = 11
ROUNDS_MAX = 1000
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
DIGITS = 3
RESAMPLES = 200

Samples = NDArray[np.float64]
#: Nearest rank is not exact in binary: 1000 * (1 - 0.999) is a little less than 1.
RANK_TOLERANCE = 1e-9
#: A ratio that is no quotient of two rows' medians; None when a row it needs was not measured.
Formula = Callable[["Sheet"], float | None]


@dataclass(frozen=True)
class Target:
    """The limit that a ratio must keep, and the one it aims at; lower limits when ``higher``."""

    must: float
    aim: float
    higher: bool = False


@dataclass(frozen=True)
class BenchPlan:
    """The report of a bench besides its samples: ratios with and without targets, notes on rows."""

    bench: str
    targets: Mapping[str, Target] = field(default_factory=dict)
    also: tuple[str, ...] = ()  # formulas need not be named again
    notes: Mapping[str, str] = field(default_factory=dict)
    skippable: tuple[str, ...] = ()  # rivals that may be missing
    formulas: Mapping[str, Formula] = field(default_factory=dict)
    rounds: int = ROUNDS_DEFAULT
    round_s: float = 0.0  # on two quiet cores; 0: not told before
    resampled: bool = False  # formulas of samples alone have intervals, out of resampled rounds


@dataclass
class Row:
    """One row: its samples by round, in nanoseconds per operation."""

    ops_per_sample: int
    note: str
    extra: dict[str, Any] = field(default_factory=dict)
    rounds: list[Samples] = field(default_factory=list)

    def samples(self) -> Samples:
        """Every sample of every round, in the order measured."""
        return np.concatenate(self.rounds)

    def round_medians(self) -> list[float]:
        """The median of each round."""
        return [float(np.median(samples)) for samples in self.rounds]

    def round_means(self) -> list[float]:
        """The mean of each round."""
        return [float(np.mean(samples)) for samples in self.rounds]

    def median_ns(self) -> float:
        """The median over the rounds of the rounds' medians."""
        return float(np.median(self.round_medians()))

    def quantile(self, share: float) -> float:
        """The sample below which ``share`` of all samples lie (nearest rank)."""
        return float(np.quantile(self.samples(), share, method="inverted_cdf"))

    def carries(self, share: float) -> bool:
        """Whether the row has enough samples for a quantile: one of them lies beyond it."""
        count = sum(samples.size for samples in self.rounds)
        return share <= 0.5 or count * (1.0 - share) >= 1.0 - RANK_TOLERANCE

    def _carried(self, share: float) -> float | None:
        return round(self.quantile(share), DIGITS) if self.carries(share) else None

    def summary(self) -> dict[str, Any]:
        """The row as the JSON shows it. A quantile is a sample that was measured (nearest rank)."""
        samples = self.samples()
        low, high = median_interval(self.round_medians())
        return {
            "unit": "ns",
            "count": int(samples.size),
            "min": round(float(samples.min()), DIGITS),
            **{name: self._carried(share) for name, share in QUANTILES.items()},
            "max": round(float(samples.max()), DIGITS),
            "mean": round(float(samples.mean()), DIGITS),
            "median": round(self.median_ns(), DIGITS),  # of the rounds' medians: the bounds are its
            "p50_low": round(low, DIGITS),
            "p50_high": round(high, DIGITS),
            "ops_per_sample": self.ops_per_sample,
            "rounds": len(self.rounds),
            **({"note": self.note} if self.note else {}),
            **self.extra,
        }


class Sheet:
    """All rows of one bench, in the order in which they first came."""

    def __init__(self, plan: BenchPlan) -> None:
        self.plan = plan
        self.rows: dict[str, Row] = {}
        self.skipped: dict[str, str] = {}  # rivals that take no part, and why
        self.facts: dict[str, Any] = {}  # about the machine, found out by the bench itself

    def add(self, name: str, sample_ns: bytes, ops_per_sample: int) -> Row:
        """Add one round of a row: native uint64, the nanoseconds of each sample as timed.

        ValueError when there is no sample, or the row was sampled differently before.
        """
        samples = np.frombuffer(sample_ns, np.uint64).astype(np.float64) / ops_per_sample
        if samples.size == 0:
            raise ValueError(f"{name}: a round without a sample")
        row = self.rows.setdefault(name, Row(ops_per_sample, self.plan.notes.get(name, "")))
        if row.ops_per_sample != ops_per_sample:
            before = row.ops_per_sample
            raise ValueError(f"{name}: {ops_per_sample} operations a sample, before {before}")
        row.rounds.append(samples)
        return row

    def skip(self, name: str, error: Exception) -> None:
        """Leave a rival out from now on; the reason shown is the last line of ``error``."""
        last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        self.skipped[name] = f"not available: {last}"

    def rows_of(self, *names: str) -> list[Row] | None:
        """These rows; None when one of them was not measured."""
        return [self.rows[name] for name in names] if set(names) <= set(self.rows) else None

    def ratio(self, key: str) -> float:
        """``"A/B"``: the median of A over that of B; KeyError when a row is missing.

        ValueError when B took no measurable time.
        """
        over, _, under = key.partition("/")
        divisor = self.rows[under].median_ns()
        if divisor <= 0:
            raise ValueError(f"{under}: too short for the clock")
        return self.rows[over].median_ns() / divisor

    def ratios(self) -> dict[str, float]:
        """Every ratio whose two rows were measured."""
        found = {}
        for key in [*self.plan.targets, *self.plan.also, *self.plan.formulas]:
            value = None
            if key in self.plan.formulas:
                value = self.plan.formulas[key](self)
            elif set(key.split("/")) <= set(self.rows):
                value = self.ratio(key)
            if value is not None:
                found[key] = round(value, DIGITS + 1)
        return found

    def ratio_intervals(self) -> dict[str, tuple[float, float]]:
        """For the ratios of two rows: the interval of the rounds' own ratios."""
        found = {}
        for key in [*self.plan.targets, *self.plan.also]:
            over, _, under = key.partition("/")
            rows = self.rows_of(over, under)
            if rows is None or key in self.plan.formulas:
                continue
            pairs = zip(rows[0].round_medians(), rows[1].round_medians(), strict=False)
            low, high = median_interval([a / b for a, b in pairs if b > 0])
            found[key] = round(low, DIGITS + 1), round(high, DIGITS + 1)
        return found | (self._resampled_intervals() if self.plan.resampled else {})

    def _resampled_intervals(self) -> dict[str, tuple[float, float]]:
        """For the formulas: 95 % of what they give when as many rounds are drawn from the rounds,
        with repeats (Efron's bootstrap: rounds, because samples of one round are alike)."""
        count = max((len(row.rounds) for row in self.rows.values()), default=0)
        source, drawn = np.random.default_rng(RESAMPLES), dict[str, list[float]]()
        for _ in range(RESAMPLES if count >= ROUNDS_MIN else 0):
            sheet, picks = Sheet(self.plan), source.integers(0, count, count)
            for name, row in self.rows.items():
                rounds = [row.rounds[pick] for pick in picks if pick < len(row.rounds)]
                if rounds:
                    sheet.rows[name] = Row(row.ops_per_sample, row.note, row.extra, rounds)
            for key, formula in self.plan.formulas.items():
                value = formula(sheet)
                if value is not None:
                    drawn.setdefault(key, []).append(value)
        ends = {key: np.quantile(values, (0.025, 0.975)) for key, values in drawn.items()}
        return {key: (round(low, DIGITS + 1), round(high, DIGITS + 1)) for key, (low, high) in
                ((key, map(float, pair)) for key, pair in ends.items())}  # fmt: skip

    def verdicts(self) -> dict[str, dict[str, Any]]:
        """Each target beside the ratio: reached "aim" or "must", "missed", "unmeasured"."""
        ratios = self.ratios()
        return {
            key: {
                "must": target.must,
                "aim": target.aim,
                **({"higher": True} if target.higher else {}),
                "measured": ratios.get(key),
                "reached": verdict(ratios.get(key), target),
            }
            for key, target in self.plan.targets.items()
        }

    def result(self, machine: Mapping[str, Any]) -> dict[str, Any]:
        """The object ``--json`` prints."""
        return {
            "bench": self.plan.bench,
            "machine": {**machine, **self.facts},
            "rows": {name: row.summary() for name, row in self.rows.items()},
            "ratios": self.ratios(),
            "ratio_intervals": self.ratio_intervals(),
            "targets": self.verdicts(),
            **({"skipped": list(self.skipped)} if self.plan.skippable else {}),
        }

    def save(self, directory: Path) -> None:
        """Write per row ``BENCH-ROW.npy`` with a line of samples per round.

        A round with fewer samples than the longest is filled with NaN.
        """
        for name, row in self.rows.items():
            longest = max(samples.size for samples in row.rounds)
            table = np.full((len(row.rounds), longest), np.nan)
            for line, samples in zip(table, row.rounds, strict=True):
                line[: samples.size] = samples
            np.save(directory / f"{self.plan.bench}-{name}.npy", table)


def rotated(items: Sequence[Any], by: int) -> list[Any]:
    """The items in their order, beginning with number ``by``: another one in every round."""
    by %= len(items)
    return [*items[by:], *items[:by]]


def of_rows(over: str, under: str, figure: Callable[[Row, Row], float | None]) -> Formula:
    """The formula: a figure of two rows."""

    def formula(sheet: Sheet) -> float | None:
        rows = sheet.rows_of(over, under)
        return None if rows is None else figure(rows[0], rows[1])

    return formula


def quantile_ratio(over: str, above: float, under: str, below: float) -> Formula:
    """The formula: a quantile of the row ``over``, divided by a quantile of the row ``under``.

    None when either row has too few samples for its quantile.
    """

    def figure(a: Row, b: Row) -> float | None:
        if not (a.carries(above) and b.carries(below)):
            return None
        return a.quantile(above) / b.quantile(below)

    return of_rows(over, under, figure)


def verdict(ratio: float | None, target: Target) -> str:
    """How far ``ratio`` got: "aim", "must", "missed", or "unmeasured"."""
    if ratio is None:
        return "unmeasured"
    sign = -1 if target.higher else 1
    if sign * ratio <= sign * target.aim:
        return "aim"
    return "must" if sign * ratio <= sign * target.must else "missed"
