"""95 % intervals for a mean, or for a ratio of means, over replications.

Every function takes ``effects``, one number per replication in canonical order, and ``controls``, the
control's value per replication if the effect is a share of the control's mean, else None. The estimate is
``mean(effects)``, or ``mean(effects) / |mean(controls)|``.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import special

RESAMPLES = 2000
_CONFIDENCE = 0.95
_CHUNK = 1 << 18

Interval = tuple[float, float]


def estimate(effects: np.ndarray, controls: np.ndarray | None) -> float:
    """The point estimate. The mean of ``controls`` must not be 0."""
    return float(effects.mean() if controls is None else effects.mean() / abs(controls.mean()))


def t_interval(effects: np.ndarray, controls: np.ndarray | None) -> Interval:
    """Student's interval over at least two replications; exact for normal effects.

    A ratio is linearised: its residuals are ``(effect - ratio * |control|) / |mean control|``, to first
    order.
    """
    centre = estimate(effects, controls)
    residuals = effects
    if controls is not None:
        mean = controls.mean()
        residuals = (effects - centre * np.sign(mean) * controls) / abs(mean)
    n = len(effects)
    half = special.stdtrit(n - 1, 0.5 + _CONFIDENCE / 2) * residuals.std(ddof=1) / math.sqrt(n)
    return float(centre - half), float(centre + half)


def bootstrap_interval(effects: np.ndarray, controls: np.ndarray | None, rng: np.random.Generator) -> Interval:
    """Percentile interval over replications drawn with replacement, each with everything nested in it.

    Nested values stay together: a replication's mean already varies with what is drawn within it, and
    resampling the inner level as well would count that variance twice (Davison & Hinkley 1997, section 3.8).
    Percentiles are widened by ``sqrt(n / (n - 1))`` and Student's quantile (Hesterberg 2015), so that they
    are not too narrow at n = 20; for large n they are the usual ones.
    """
    n = len(effects)
    series = effects[None, :] if controls is None else np.stack([effects, controls])
    means = np.empty((len(series), RESAMPLES))
    step = max(1, _CHUNK // n)
    for begin in range(0, RESAMPLES, step):
        end = min(RESAMPLES, begin + step)
        drawn = rng.integers(n, size=(end - begin, n))
        for place, values in enumerate(series):
            means[place, begin:end] = values[drawn].mean(axis=1)
    return _percentiles(means, n)


def block_interval(
    effects: np.ndarray, controls: np.ndarray | None, rng: np.random.Generator, block: int | None = None
) -> Interval:
    """Moving-block bootstrap of consecutive effects, in its circular form (Politis & Romano 1992).

    Blocks of ``block`` consecutive values, wrapped around the end so that every value counts equally, are
    drawn with replacement until they are as long as the series. Percentiles are widened as in
    :func:`bootstrap_interval`, with the number of blocks in place of n.
    """
    n = len(effects)
    block = block_length(effects) if block is None else block
    count = math.ceil(n / block)
    series = effects[None, :] if controls is None else np.stack([effects, controls])
    starts = rng.integers(n, size=(RESAMPLES, count))
    means = np.empty((len(series), RESAMPLES))
    for place, values in enumerate(series):
        total = np.concatenate([[0.0], np.cumsum(np.concatenate([values, values[:block]]))])
        sums = total[block : block + n] - total[:n]
        means[place] = sums[starts].sum(axis=1) / (count * block)
    return _percentiles(means, max(2, count))


def block_length(series: np.ndarray) -> int:
    """The automatic block length for a mean's circular block bootstrap.

    Politis & White (2004), as corrected by Patton, Politis & White (2009):
    ``(2 G^2 / D)^(1/3) n^(1/3)`` with ``G = sum lambda(k/M) |k| R(k)`` and ``D = 4/3 g(0)^2``, where R is the
    autocovariance, lambda the flat-top window and M twice the lag after which autocorrelations are
    negligible; between 1 and ``min(3 sqrt(n), n / 3)``.
    """
    n = len(series)
    longest = max(1, math.ceil(min(3 * math.sqrt(n), n / 3)))
    centred = series - series.mean()
    variance = float(centred @ centred) / n
    if variance == 0.0:
        return 1
    run = max(5, math.ceil(math.sqrt(math.log10(n))))
    most = min(n - 1, math.ceil(math.sqrt(n)) + run)
    covariance = np.array([centred[: n - k] @ centred[k:] / n for k in range(most + 1)])
    small = np.abs(covariance[1:] / variance) < 2 * math.sqrt(math.log10(n) / n)
    lag = most
    for first in range(len(small)):
        if small[first : first + run].all():
            lag = first
            break
    window = min(2 * max(lag, 1), most)
    k = np.arange(-window, window + 1)
    weight = np.clip(2 * (1 - np.abs(k) / window), 0.0, 1.0)
    r = covariance[np.abs(k)]
    g = float((weight * np.abs(k) * r).sum())
    d = 4 / 3 * float((weight * r).sum()) ** 2
    if d == 0.0:
        return longest
    return int(np.clip(math.ceil((2 * g * g / d) ** (1 / 3) * n ** (1 / 3)), 1, longest))


def _percentiles(means: np.ndarray, n: int) -> Interval:
    """The interval from resampled means (one row), or from resampled numerators and denominators (two)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = means[0] if len(means) == 1 else means[0] / np.abs(means[1])
    tail = special.ndtr(-math.sqrt(n / (n - 1)) * special.stdtrit(n - 1, 0.5 + _CONFIDENCE / 2))
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return float(low), float(high)
