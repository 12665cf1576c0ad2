"""Parameter recovery: 200 pairs (d, p), a million samples each; and the 8-bit steps that follow.

    python -m experiments.benchmarks.parameter_recovery [--quick]

Estimates are judged in units of their own standard errors, steps against the optimum of the true density.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from rich.progress import track

import ggdjax as gd
from ggdjax import ggd, report

RESULT = Path(__file__).resolve().parents[1] / "results" / "parameter_recovery.json"


def main() -> None:
    """Measure, print a Markdown table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20 pairs, 100,000 samples; writes nothing")
    quick = parser.parse_args().quick
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
    print(
        "| estimates | largest deviation, standard errors | beyond 2 (expected 4.6 %) | beyond 4 |\n|---|---|---|---|"
    )
    print(f"| {z.size} | {z.max():.2f} | {100 * (z > 2).mean():.1f} % | {(z > 4).sum()} |")
    print("\n| 8-bit steps | median error | largest error |\n|---|---|---|")
    print(f"| {relative.size} | {100 * np.median(relative):.3f} % | {100 * relative.max():.3f} % |")
    figures = {"largest_deviation": float(z.max()), "share_beyond_2": float((z > 2).mean())}
    figures |= {"beyond_4": int((z > 4).sum()), "largest_step_error": float(relative.max())}
    if not quick:
        RESULT.write_text(json.dumps(figures | report.environment(), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
