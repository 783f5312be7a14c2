"""How sure a figure is: bootstrap intervals, paired differences, rank correlation.

Owns: the statistics of figures over seeds. Pure, and seeded: the same values give the same
interval. To compare two policies, pair their runs on the same seed: an influence of the seed on
both runs then cancels.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

LEVEL = 0.95
RESAMPLES = 2000
SEED = 20190520
#: Student's t at 97.5 % for 1, 2, ... degrees of freedom: NIST/SEMATECH e-Handbook of Statistical
#: Methods, section 1.3.6.7.2, column 0.975. Beyond the table t = z + 2.46 / degrees, the first term
#: of the expansion z + (z**3 + z) / (4 degrees) with its factor 2.37 raised to meet the table.
#: scipy would know it too, but is 143 MB installed.
T_975: tuple[float, ...] = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
T_975 += (2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086)
NORMAL_975 = 1.960


@dataclass(frozen=True)
class Interval:
    """A mean and the interval that holds it with probability LEVEL; of ``count`` values."""

    mean: float
    low: float
    high: float
    count: int


def interval(values: ArrayLike, seed: int = SEED) -> Interval:
    """Mean of ``values`` with a percentile bootstrap (Efron, 1979); NaN values are left out.

    With few values a bootstrap gives too narrow an interval; its distances from the mean are
    widened by sqrt(n / (n - 1)) * t / z (after Hesterberg, The American Statistician, 2015). One
    value has no width to estimate: its bounds are NaN. None at all: everything is NaN.
    """
    known = np.asarray(values, dtype=np.float64).ravel()
    known = known[~np.isnan(known)]
    if known.size == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = float(known.mean())
    if known.size == 1:
        return Interval(mean, math.nan, math.nan, 1)
    if not np.isfinite(known).all():
        return Interval(mean, math.nan, math.nan, int(known.size))
    picked = np.random.default_rng(seed).integers(known.size, size=(RESAMPLES, known.size))
    tail = (1.0 - LEVEL) / 2.0
    low, high = np.quantile(known[picked].mean(axis=1), [tail, 1.0 - tail])
    wider = _widening(int(known.size))
    low, high = mean - (mean - low) * wider, mean + (high - mean) * wider
    return Interval(mean, float(low), float(high), int(known.size))


def median_interval(values: ArrayLike) -> tuple[float, float]:
    """Bounds that hold the median with probability LEVEL, whatever the distribution.

    They are two of the values (order statistics, by the binomial distribution). With fewer than
    six values no two are far enough apart: then the least and the greatest. NaN without a value.
    """
    row = np.sort(np.asarray(values, dtype=np.float64).ravel())
    if row.size == 0:
        return math.nan, math.nan
    count, cut, below = int(row.size), 0, 0.5**row.size
    while below <= (1.0 - LEVEL) / 2.0 and cut < count // 2:
        cut += 1
        below += math.comb(count, cut) * 0.5**count
    cut = max(cut - 1, 0)
    return float(row[cut]), float(row[count - 1 - cut])


def _widening(count: int) -> float:
    return math.sqrt(count / (count - 1)) * student_t(count - 1) / NORMAL_975


def student_t(degrees: int) -> float:
    """Student's t at 97.5 % for ``degrees`` of freedom, 1 and more."""
    return T_975[degrees - 1] if degrees <= len(T_975) else NORMAL_975 + 2.46 / degrees


def t_interval(values: ArrayLike) -> Interval:
    """Mean of ``values`` with Student's interval; NaN values are left out.

    For few values of one kind, such as repeats of a run. Bounds of one value are NaN, as of none.
    """
    known = np.asarray(values, dtype=np.float64).ravel()
    known = known[~np.isnan(known)]
    if known.size < 2:
        mean = float(known[0]) if known.size else math.nan
        return Interval(mean, math.nan, math.nan, int(known.size))
    mean = float(known.mean())
    reach = student_t(int(known.size) - 1) * float(known.std(ddof=1)) / math.sqrt(known.size)
    return Interval(mean, mean - reach, mean + reach, int(known.size))


def paired(ours: ArrayLike, theirs: ArrayLike, seed: int = SEED) -> Interval:
    """The mean of ours - theirs, entry by entry of the same seeds; ValueError: lengths differ."""
    first, second = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if first.shape != second.shape:
        raise ValueError(f"pairs need equally many: {first.shape} and {second.shape}")
    return interval(first - second, seed)


def ranks(values: ArrayLike) -> Floats:
    """Ranks from 1, the smallest first; equal values share the mean of their ranks."""
    row = np.asarray(values, dtype=np.float64)
    _, inverse, counts = np.unique(row, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    means = last - (counts - 1) / 2.0
    shared: Floats = means[inverse]
    return shared


def spearman(first: ArrayLike, second: ArrayLike) -> float:
    """Rank correlation (Spearman, 1904), ties by mean ranks; pairs with a NaN are left out.

    NaN for fewer than two pairs, or when one side is all equal. ValueError when the lengths differ.
    """
    one, other = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if one.shape != other.shape:
        raise ValueError(f"pairs need equally many: {one.shape} and {other.shape}")
    there = ~(np.isnan(one) | np.isnan(other))
    if there.sum() < 2:
        return math.nan
    left, right = ranks(one[there]), ranks(other[there])
    left, right = left - left.mean(), right - right.mean()
    spread = math.sqrt(float((left**2).sum() * (right**2).sum()))
    return float((left * right).sum() / spread) if spread > 0 else math.nan
