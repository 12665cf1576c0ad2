"""What `ggd` loses to a search under heavy tails: eleven sources and a Pareto distribution, the loss in-sample.

    python -m experiments run timings --benchmarks heavy-tails

A million values of each source, eight draws, 8, 6 and 4 bits unsigned: the SQNR on the values' own histogram that
`mse-search` has beyond the scheme's. Per source and width the worst of the draws, and how many of the choices of `ggd`
say that no generalized gamma distribution follows the tail. On fresh values of a source without variance no step holds.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from rich.progress import track

from ggdjax import schemes
from ggdjax.ggd import Histogram
from ggdjax.ggd._empirical import empirical_sqnr_db

WIDTHS = (8, 6, 4)
SCHEMES = ("ggd", "ggd-best-order", "ggd-tail", "octav")


def sources(rng: np.random.Generator, size: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the sources by name with values of each, none negative."""
    yield "half-normal", np.abs(rng.normal(size=size))
    yield "exponential", rng.exponential(size=size)
    yield "gamma 0.3", rng.gamma(0.3, size=size)
    yield "Weibull 0.5", rng.weibull(0.5, size=size)
    for sigma in (1.0, 1.5, 2.0):
        yield f"log-normal {sigma:g}", np.exp(sigma * rng.normal(size=size))
    for index in (2, 3):
        yield f"Lomax {index}", rng.pareto(index, size=size)
        yield f"Student {index}", np.abs(rng.standard_t(index, size=size))
    yield "Pareto 2 from 1", 1.0 + rng.pareto(2, size=size)


def measure(quick: bool) -> dict[str, dict[str, float] | float]:
    """Return worst losses in dB, by scheme, source and width; quick: two draws of 100,000 values."""
    draws, size = (2, 100_000) if quick else (8, 1_000_000)
    losses: dict[str, list[np.ndarray]] = {scheme: [] for scheme in SCHEMES}
    said, names = [], []
    for seed in track(range(draws), "draws"):
        drawn = dict(sources(np.random.default_rng(seed), size))
        names = list(drawn)
        histogram = Histogram.stack([Histogram.from_samples(x.astype(np.float32)) for x in drawn.values()])
        best = _sqnr_db("mse-search", histogram)[0]
        for scheme in SCHEMES:
            found, code = _sqnr_db(scheme, histogram)
            losses[scheme].append(best - found)
            if scheme == "ggd":
                said.append(code == schemes.ChoiceCode.HEAVY_TAIL)
    worst = {scheme: np.max(found, axis=0) for scheme, found in losses.items()}
    return (
        {
            scheme: {
                f"{name}, {bits} bits": round(float(found[i, j]), 3)
                for i, name in enumerate(names)
                for j, bits in enumerate(WIDTHS)
            }
            for scheme, found in worst.items()
        }
        | {f"worst of {scheme}, without Pareto": round(float(found[:-1].max()), 3) for scheme, found in worst.items()}
        | {"share said as heavy": round(float(np.mean(said)), 3)}
    )


def _sqnr_db(scheme: str, histogram: Histogram) -> tuple[np.ndarray, np.ndarray]:
    """Return SQNR in dB and result code, tensor by width."""
    chosen = schemes.choose(scheme, histogram, np.array(WIDTHS)[:, None])
    steps, largest = np.asarray(chosen.step).T, np.asarray(chosen.qmax, np.float32).T
    return empirical_sqnr_db(histogram, steps, largest, np.zeros_like(largest)), np.asarray(chosen.code).T
