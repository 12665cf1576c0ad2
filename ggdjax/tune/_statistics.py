"""Honest statistics of a change: the paired test of two networks on the same images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import bdtr

from ggdjax._errors import DataError, expect_array

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from ggdjax.quantization import Score


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """McNemar's exact test (1947): only images on which the two disagree tell anything."""

    gained: int
    """Images that only the second classifies correctly."""
    lost: int
    """Images that only the first classifies correctly."""
    p_value: float
    """Probability, were both equally good, of a split at least as uneven as ``gained`` : ``lost``; two-sided."""


def mcnemar(before: ArrayLike, after: ArrayLike) -> PairedTest:
    """Compare two networks by which images each classifies correctly.

    Args:
        before: booleans, one per image.
        after: booleans for the same images in the same order.

    Raises:
        DataError: the two do not have the same shape.

    Example:
        >>> before, after = np.array([True] * 80 + [False] * 20), np.array([True] * 94 + [False] * 6)
        >>> test = gd.tune.mcnemar(before, after)
        >>> test.gained, test.lost, round(test.p_value, 5)
        (14, 0, 0.00012)
    """
    first, second = (
        np.asarray(expect_array(name, value, "an array of booleans", error=DataError), bool)
        for name, value in (("before", before), ("after", after))
    )
    if first.shape != second.shape or first.ndim != 1:
        raise DataError(
            f"`before` has shape {first.shape}, `after` {second.shape}; expected one value per image in both"
        )
    gained, lost = int((second & ~first).sum()), int((first & ~second).sum())
    tail = bdtr(min(gained, lost), gained + lost, 0.5)  # `scipy.stats.binomtest` takes a second to import
    return PairedTest(gained=gained, lost=lost, p_value=min(1.0, 2.0 * float(tail)))


def compare_scores(before: Score, after: Score) -> dict[str, float | list[float]]:
    """Return the paired comparison of two scores on the same images, for JSON: McNemar's test of shares, otherwise the
    difference with its interval and p-value by resampling."""
    if after.metric.share:
        test = mcnemar(before.statistics > 0.5, after.statistics > 0.5)
        return {"gained": test.gained, "lost": test.lost, "mcnemar_p_value": test.p_value}
    interval, p_value = after.compared_to(before)
    return {"difference": after.value - before.value, "difference_interval_95": list(interval), "p_value": p_value}
