"""Figures of a run: fairness, speed, control and truthfulness as plain functions of arrays.

Owns: the formula of every figure of ``bench policies`` and of a sweep, each with its source, and
the scenarios that a figure compares with (``alone``, ``without``). Pure; numpy and msgspec only.
Times are seconds, memory is pages of 4 KiB, arrays of a run over time are (ticks, domains) with NaN
where a domain is not there. A figure that cannot be computed is NaN, never an exception.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from hypervisor.public.units import AREA_BYTES
from memcoord.testbed.scenarios.sizes import Size

if TYPE_CHECKING:
    from memcoord.testbed.scenarios.schema import Domain, Scenario
from memcoord.testbed.scenarios.workloads import REAL

Floats = NDArray[np.float64]

SETTLED_WITHIN = 0.05
SECONDS_PER_MINUTE = 60.0


@dataclass(frozen=True, eq=False)
class TimeSeries:
    """A run over time, a row per tick and a column per domain of ``names``.

    ``target`` above capacity, or unlimited, is given as capacity. ``demand`` is ``View.demand``.
    """

    names: tuple[str, ...]
    capacity: float  # tmem pages there were to share
    time_s: Floats  # (ticks,), ascending
    used: Floats  # tmem pages, (ticks, domains)
    target: Floats
    ram: Floats  # frames held
    ram_target: Floats
    demand: Floats  # tmem pages each domain could use


# Speed and its fairness. SD_i = T_shared_i / T_alone_i is the slowdown of domain i.


def slowdowns(shared_s: ArrayLike, alone_s: ArrayLike) -> Floats:
    """SD_i = T_shared_i / T_alone_i; NaN where either time is not above 0."""
    shared, alone_times = _floats(shared_s), _floats(alone_s)
    good = (shared > 0) & (alone_times > 0)
    return np.where(good, shared / np.where(good, alone_times, 1.0), np.nan)


def unfairness(slowdown: ArrayLike) -> float:
    """Max SD / min SD, 1 at best (Gabor, Weiss, Mendelson, MICRO 2006; Mutlu, MICRO 2007)."""
    known = _known(slowdown)
    return float(known.max() / known.min()) if known.size else math.nan


def antt(slowdown: ArrayLike) -> float:
    """Average normalised turn-around time, the mean SD (Eyerman, Eeckhout, IEEE Micro 2008)."""
    known = _known(slowdown)
    return float(known.mean()) if known.size else math.nan


def worst(slowdown: ArrayLike) -> float:
    """The slowdown of the domain that fared worst."""
    known = _known(slowdown)
    return float(known.max()) if known.size else math.nan


def weighted_speedup(slowdown: ArrayLike) -> float:
    """Sum of T_alone_i / T_shared_i, system throughput (Snavely, Tullsen, ASPLOS 2000)."""
    known = _known(slowdown)
    return float((1.0 / known).sum()) if known.size else math.nan


def harmonic_speedup(slowdown: ArrayLike) -> float:
    """n / sum SD_i, both fast and fair (Luo, Gummaraju, Franklin, ISPASS 2001)."""
    known = _known(slowdown)
    return float(known.size / known.sum()) if known.size else math.nan


def jain(shares: ArrayLike) -> float:
    """(sum x)^2 / (n sum x^2), 1/n to 1 (Jain, Chiu, Hawe, DEC TR-301, 1984); 1 for all zero."""
    known = _known(shares)
    if not known.size:
        return math.nan
    top = float(np.abs(known).max())
    if top == 0:
        return 1.0
    scaled = known / top  # squares of tiny or huge shares would leave the range of a float
    return float(scaled.sum() ** 2 / (scaled.size * (scaled**2).sum()))


# Memory against demand, after Karma (Vuppalapati et al., OSDI 2023).


def welfare(held: ArrayLike, demand: ArrayLike) -> Floats:
    """Per domain, w_i = sum_t min(x_it, d_it) / sum_t d_it; 1 for one that wanted nothing."""
    useful, wanted = _useful(held, demand)
    total = np.nansum(wanted, axis=0)
    some = total > 0
    return np.where(some, np.nansum(useful, axis=0) / np.where(some, total, 1.0), 1.0)


def welfare_fairness(shares: ArrayLike) -> float:
    """Min w / max w of ``welfare``: 1 when all had the same part of their demand."""
    known = _known(shares)
    return _ratio(known.min(), known.max()) if known.size else math.nan


def disparity(shares: ArrayLike) -> float:
    """Median w / min w of ``welfare``, 1 at best."""
    known = _known(shares)
    return _ratio(float(np.median(known)), known.min()) if known.size else math.nan


def pareto_gap(held: ArrayLike, demand: ArrayLike, capacity: float) -> float:
    """Mean over ticks of (min(C, sum d) - sum min(x, d)) / C: memory wanted and not given."""
    useful, wanted = _useful(held, demand)
    if not useful.size or capacity <= 0:
        return math.nan
    could = np.minimum(capacity, np.nansum(wanted, axis=1))
    return float(np.mean(could - np.nansum(useful, axis=1)) / capacity)


def utilisation(held: ArrayLike, demand: ArrayLike, capacity: float) -> float:
    """Sum of min(x, d) over all ticks and domains / (C * ticks)."""
    useful, _ = _useful(held, demand)
    if not useful.size or capacity <= 0:
        return math.nan
    return float(np.nansum(useful) / (capacity * len(useful)))


def failed_put_ratio(failed_puts: float, puts: float) -> float:
    """Puts that tmem refused / puts; 0 when there was none (SmarTmem's signal)."""
    return failed_puts / puts if puts > 0 else 0.0


# Control quality, of targets over time.


def settling_s(time_s: ArrayLike, values: ArrayLike, goal: float | None = None) -> float:
    """Time after the first tick until ``values`` stays within 5 % of ``goal``.

    ``goal`` is the last value unless given. NaN when the last value itself is outside.
    """
    times, row = _floats(time_s)[~np.isnan(_floats(values))], _known(values)
    if not row.size:
        return math.nan
    aim = float(row[-1]) if goal is None else goal
    outside = np.flatnonzero(np.abs(row - aim) > SETTLED_WITHIN * abs(aim))
    if not outside.size:
        return 0.0
    settled = int(outside[-1]) + 1
    return float(times[settled] - times[0]) if settled < row.size else math.nan


def overshoot(values: ArrayLike, goal: float | None = None) -> float:
    """How far the values went past the goal, as a fraction of the step from first to goal.

    ``goal`` is the last value unless given; 0 where there was no step.
    """
    row = _known(values)
    if not row.size:
        return math.nan
    aim = float(row[-1]) if goal is None else goal
    step = aim - float(row[0])
    if step == 0:
        return 0.0
    beyond = float(row.max()) - aim if step > 0 else aim - float(row.min())
    return max(0.0, beyond / abs(step))


def churn(targets: ArrayLike, capacity: float) -> float:
    """Sum of |target_t - target_(t-1)| over domains and ticks / (C * ticks), 0 when at rest."""
    table = _floats(targets)
    if len(table) < 2 or capacity <= 0:
        return 0.0
    return float(np.nansum(np.abs(np.diff(table, axis=0))) / (capacity * len(table)))


def sign_flips_per_minute(time_s: ArrayLike, targets: ArrayLike) -> float:
    """How often a target turned from growing to shrinking or back, per domain and minute."""
    times, table = _floats(time_s), _floats(targets)
    if len(table) < 3 or table.shape[1] == 0 or times[-1] <= times[0]:
        return 0.0
    flips = 0
    for column in table.T:  # per domain: steps without a change do not end a direction
        steps = np.sign(np.diff(column[~np.isnan(column)]))
        moving = steps[steps != 0]
        flips += int(np.count_nonzero(moving[1:] != moving[:-1]))
    minutes = float(times[-1] - times[0]) / SECONDS_PER_MINUTE
    return float(flips / table.shape[1] / minutes)


# Distance from the best split, and the gain from lying.


def regret(cost: float, optimal_cost: float, references: float) -> float:
    """(cost - cost of the best static split) / references: avoidable disk reads per reference.

    Below 0 when a policy that moves memory beats every split that does not.
    """
    return (cost - optimal_cost) / references if references > 0 else math.nan


def gain_from_lying(truth_s: float, lies_s: ArrayLike) -> float:
    """The most a domain gains over a set of misreports: max T_truth / T_lie - 1; 0: truth is best.

    After the definition of strategy-proofness, u_i(lie) - u_i(truth), with u = 1 / time.
    """
    lies = _known(lies_s)
    lies = lies[lies > 0]
    if not lies.size or not truth_s > 0:
        return math.nan
    return max(0.0, float(truth_s / lies.min() - 1.0))


def isolation(with_s: float, without_s: float) -> float:
    """A victim's time with an aggressor over its time without: T_with / T_without, 1 at best."""
    return with_s / without_s if with_s > 0 and without_s > 0 else math.nan


# Figures of a whole run.


def speed_figures(slowdown: ArrayLike) -> dict[str, float]:
    """Every figure of the slowdowns of one run, by name."""
    known = _known(slowdown)
    return {
        "mean_slowdown": antt(known),
        "worst_slowdown": worst(known),
        "unfairness": unfairness(known),
        "weighted_speedup": weighted_speedup(known),
        "harmonic_speedup": harmonic_speedup(known),
        "jain_speed": jain(1.0 / known) if known.size else math.nan,
    }


def control_figures(series: TimeSeries) -> dict[str, float]:
    """Every figure of memory over time of one run, by name; of tmem, where domains compete."""
    shares = welfare(series.used, series.demand)
    count = len(series.names)
    settled = [settling_s(series.time_s, series.target[:, i]) for i in range(count)]
    over = [overshoot(series.target[:, i]) for i in range(count)]
    return {
        "jain_used": jain(_column_means(series.used)),
        "welfare_fairness": welfare_fairness(shares),
        "disparity": disparity(shares),
        "pareto_gap": pareto_gap(series.used, series.demand, series.capacity),
        "utilisation": utilisation(series.used, series.demand, series.capacity),
        "settling_s": worst(settled),
        "overshoot": worst(over),
        "churn": churn(series.target, series.capacity),
        "ram_churn": churn(series.ram_target, series.capacity),
        "sign_flips_per_minute": sign_flips_per_minute(series.time_s, series.target),
    }


# The scenarios a figure compares with.


def alone(scenario: Scenario, name: str) -> Scenario:
    """The scenario in which only domain ``name`` exists, from the start, and nothing is denied it.

    Same host, same work. It boots with all the RAM that its own limits and the host allow, and has
    tmem under greedy beyond that, so that no policy can do better: a slowdown is at least 1, but
    for noise. KeyError when there is no such domain.
    """
    kept = [_at_once(domain) for domain in scenario.domain if domain.name == name]
    if not kept:
        raise KeyError(name)
    (domain,) = kept
    # Whole areas beside the slack.
    host_ram = (scenario.memory - scenario.slack) // AREA_BYTES * AREA_BYTES
    ram = Size(min(domain.ram_max or domain.maxmem, domain.maxmem, host_ram))
    if ram > domain.ram and not domain.opt_out:
        workload = domain.workload
        if not isinstance(workload, REAL):
            resident = Size(workload.resident + ram - domain.ram)
            workload = msgspec.structs.replace(workload, resident=resident)
        domain = msgspec.structs.replace(domain, ram=ram, workload=workload)
    return msgspec.structs.replace(scenario, domain=(domain,), policies=("greedy",), claim=())


def without(scenario: Scenario, name: str) -> Scenario:
    """The scenario without domain ``name``; a domain that waits for it starts at once.

    KeyError when there is no such domain, or no other.
    """
    rest = tuple(
        _at_once(domain) if domain.start_when and domain.start_when.domain == name else domain
        for domain in scenario.domain
        if domain.name != name
    )
    if not rest or len(rest) == len(scenario.domain):
        raise KeyError(name)
    return msgspec.structs.replace(scenario, domain=rest, claim=())


def _at_once(domain: Domain) -> Domain:
    return msgspec.structs.replace(domain, start_after_s=0.0, start_when=None)


def by_domain(values: Mapping[str, float], names: Sequence[str]) -> Floats:
    """The values of ``names`` in that order, NaN for those that are missing."""
    return np.array([values.get(name, math.nan) for name in names], dtype=np.float64)


def _floats(values: ArrayLike) -> Floats:
    return np.asarray(values, dtype=np.float64)


def _known(values: ArrayLike) -> Floats:
    row = _floats(values).ravel()
    return row[~np.isnan(row)]


def _useful(held: ArrayLike, demand: ArrayLike) -> tuple[Floats, Floats]:
    wanted = np.maximum(_floats(demand), 0.0)
    return np.minimum(_floats(held), wanted), wanted


def _ratio(over: float, under: float) -> float:
    if under > 0:
        return float(over / under)
    return 1.0 if over == under else math.inf


def _column_means(table: Floats) -> Floats:
    counts = (~np.isnan(table)).sum(axis=0)
    sums = np.nansum(table, axis=0)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
