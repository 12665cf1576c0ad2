"""Intervals and paired comparisons of scores by resampling images.

By hand, because `scipy.stats.bootstrap` has no expanded percentiles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jaxtyping import Float

    Statistics = Float[np.ndarray, "image statistic"]
    OfMean = Callable[[Float[np.ndarray, "set statistic"]], Float[np.ndarray, " set"]]

#: Resampled sets, and images times sets that are held at once.
_SETS, _HELD = 2000, 2_000_000
_LEVEL = 0.95


def bootstrap_interval(statistics: Statistics, of_mean: OfMean, *, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % interval of ``of_mean(mean of the statistics)`` by resampling images.

    Expanded percentiles (Hesterberg 2015, section 3.3): those of Student's distribution, so that few images cover as
    many do. NaN where there is one image only, or where the statistics hold NaN.

    Args:
        statistics: a row per image; the score itself, or what the score is computed from.
        of_mean: maps mean statistics of sets to their scores.
        seed: of the resampling.
    """
    return _interval(_means(statistics, seed), len(statistics), of_mean)


def paired_bootstrap(
    before: Statistics, after: Statistics, of_mean: OfMean, *, seed: int = 0
) -> tuple[tuple[float, float], float]:
    """Return the 95 % interval of the score of ``after`` less that of ``before``, and a two-sided p-value.

    Both have the same images in the same order. The interval resamples images. The p-value exchanges both networks on
    each image at random, as if they were equally good: the share of exchanges with a difference at least as large.

    Args:
        before: a row per image.
        after: the same of another network.
        of_mean: maps mean statistics of sets to their scores.
        seed: of both.
    """
    width = before.shape[1]

    def difference(both: Float[np.ndarray, "set statistic"]) -> Float[np.ndarray, " set"]:
        return of_mean(both[:, width:]) - of_mean(both[:, :width])

    both = np.concatenate([before, after], axis=1).astype(np.float64)
    interval = _interval(_means(both, seed), len(both), difference)
    (found,) = difference(both.mean(axis=0)[None])
    if np.isnan(found):
        return interval, float("nan")
    change, exchanged = after.astype(np.float64) - before, []
    for rng, sets in _sets(len(both), seed + 1):
        moved = rng.integers(0, 2, (sets, len(both)), dtype=np.int8).astype(np.float64) @ change / len(both)
        start = both.mean(axis=0)
        exchanged.append(difference(np.concatenate([start[:width] + moved, start[width:] - moved], axis=1)))
    # Equal differences count, whatever the last bits of their sums.
    as_large = np.abs(np.concatenate(exchanged)) >= abs(found) * (1 - 1e-6)
    return interval, float((as_large.sum() + 1) / (_SETS + 1))


def _sets(images: int, seed: int) -> Iterator[tuple[np.random.Generator, int]]:
    rng, most = np.random.default_rng(seed), max(1, _HELD // images)
    for first in range(0, _SETS, most):
        yield rng, min(most, _SETS - first)


def _means(statistics: Statistics, seed: int) -> Float[np.ndarray, "set statistic"]:
    """Return the mean statistics of every resampled set."""
    count, rows, means = len(statistics), statistics.astype(np.float64), []
    for rng, sets in _sets(count, seed):
        drawn = [np.bincount(rng.integers(0, count, count, dtype=np.int32), minlength=count) for _ in range(sets)]
        means.append(np.stack(drawn).astype(np.float64) @ rows / count)
    return np.concatenate(means)


def _interval(means: Float[np.ndarray, "set statistic"], images: int, of_mean: OfMean) -> tuple[float, float]:
    from scipy.stats import norm, t

    values = of_mean(means)
    if images < 2 or np.isnan(values).any():
        return float("nan"), float("nan")
    tail = float(norm.cdf(t.ppf((1 - _LEVEL) / 2, images - 1) * np.sqrt(images / (images - 1))))
    # A method that does not interpolate: values may be infinite.
    low, high = np.quantile(values, [tail, 1 - tail], method="inverted_cdf")
    return float(low), float(high)
