"""Parameter recovery: 200 pairs (d, p), a million samples each; and the 8-bit steps that follow.

    python -m experiments run timings --benchmarks parameter-recovery

Estimates are evaluated in units of their own standard errors, steps against the optimum of the true density. How far a
step must be expected to lie beside that optimum, whatever the estimator, follows from the Cramér-Rao bound: it is more
than 1 % for heavy tails even with a million samples, so the error is given in these deviations too.
"""

from __future__ import annotations

import numpy as np
import scipy.special
import scipy.stats
from rich.progress import track

import ggdjax as gd
from ggdjax import ggd


def step_deviations(shapes: list[tuple[float, float]], size: int) -> np.ndarray:
    """Return the least standard deviation that the logarithm of an 8-bit step can have: √(gᵀ I⁻¹ g / size).

    I is the Fisher information of (log a, d, p) at a = 1, g the gradient of log Δ, by differences.
    """
    share = (np.arange(20_000) + 0.5) / 20_000
    covariances = []
    for d, p in shapes:
        k = d / p
        u = np.maximum(scipy.stats.gamma.ppf(share, k), 1e-300)
        log_x, digamma = np.log(u) / p, scipy.special.digamma(k)
        scores = np.stack([p * u - d, log_x - digamma / p, 1 / p + d / p**2 * digamma - u * log_x])
        covariances.append(np.linalg.inv(scores @ scores.T / share.size) / size)
    d, p = np.array(shapes, np.float32).T
    one, h = np.ones_like(d), np.float32(0.01)

    def log_step(d: np.ndarray, p: np.ndarray) -> np.ndarray:
        return np.log(np.asarray(gd.optimal_step(gd.GeneralizedGamma(one, d, p), bits=8), np.float64))

    by_d = (log_step(d * (1 + h), p) - log_step(d * (1 - h), p)) / (2 * h * d)
    by_p = (log_step(d, p * (1 + h)) - log_step(d, p * (1 - h))) / (2 * h * p)
    gradient = np.stack([one, by_d, by_p], axis=-1)
    return np.sqrt(np.einsum("ni,nij,nj->n", gradient, np.array(covariances), gradient))


def measure(quick: bool) -> dict[str, float]:
    """Return the figures; quick: of 20 pairs and 100,000 samples."""
    sides, size = ((4, 5), 100_000) if quick else ((10, 20), 1_000_000)
    shapes = [(d, p) for d in np.geomspace(0.3, 4.0, sides[0]) for p in np.geomspace(0.3, 4.0, sides[1])]
    rng = np.random.default_rng(0)
    deviations, steps = [], []
    block = 10
    for start in track(range(0, len(shapes), block), "fits"):
        d, p = (np.array(v)[:, None] for v in zip(*shapes[start : start + block], strict=True))
        x = np.maximum(rng.gamma(d / p, size=(block, size)) ** (1 / p), 1e-30).astype(np.float32)
        result = ggd.fit(x, order=0)
        g, errors = result.distribution, result.standard_errors
        for estimate, truth, error in ((g.d, d, errors.d), (g.p, p, errors.p), (g.a, np.ones_like(d), errors.a)):
            deviations.append(np.abs(np.asarray(estimate) - truth[:, 0]) / np.asarray(error))
        true = gd.GeneralizedGamma(np.ones(block, np.float32), d[:, 0].astype(np.float32), p[:, 0].astype(np.float32))
        steps.append(np.asarray(gd.optimal_step(g, bits=8)) / np.asarray(gd.optimal_step(true, bits=8)) - 1.0)
    z, relative = np.concatenate(deviations), np.abs(np.concatenate(steps))
    bound = step_deviations(shapes, size)
    return {
        "largest_deviation": float(z.max()),
        "share_beyond_2": float((z > 2).mean()),
        "beyond_4": int((z > 4).sum()),
        "largest_step_error": float(relative.max()),
        "median_step_error": float(np.median(relative)),
        "steps_beyond_1_percent": int((relative > 0.01).sum()),
        "largest_step_deviation": float(bound.max()),
        "largest_step_z": float((relative / bound).max()),
    }
