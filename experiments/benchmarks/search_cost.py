"""The cost of a backward-forward search against a loop that runs the whole network for every candidate.

    python -m experiments.benchmarks.search_cost                 ResNet-20 at 4/4, six layers, 1,000 tuning images

On the same layers and images. Results: `experiments/results/backward_forward_cost.json`.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.progress import track

from experiments.bench import Bench
from experiments.experiment import widths_of
from experiments.real_networks import NETWORKS
from ggdjax import report, tune
from ggdjax.tune._candidates import candidates_of
from ggdjax.tune._segments import Unit

RESULTS = Path(__file__).resolve().parents[1] / "results" / "backward_forward_cost.json"


def measure(bench: Bench, widths: str, visits: int) -> dict:
    """Time a search that runs the whole network for every candidate, against ours, on the same layers and images."""
    q, (images, labels) = bench.quantized(widths_of(widths)), bench.decoded("tuning")
    layers = tuple(fm.tensor for fm in q.graph.feature_maps())
    chosen = layers[:: max(1, len(layers) // visits)]
    size = 128
    batches = [images[i : i + size] for i in range(0, len(images) - size + 1, size)]
    config = tune.TuneConfig(layers=chosen, sweeps=1)
    start = time.perf_counter()
    passes = 0
    segments = {fm.tensor: fm for fm in q.graph.feature_maps()}
    for layer in track(chosen, "naive loop"):
        unit = Unit(tensor=layer, readers=segments[layer].readers)
        for candidate in candidates_of(unit, q.quantizers, config):
            other = replace(q, quantizers=candidate.apply(q.quantizers, layer))
            for x in batches:
                np.asarray(other(x))
            passes += 1
    slow = time.perf_counter() - start
    start = time.perf_counter()
    tuned = tune.backward_forward(q, images[: len(batches) * size], labels[: len(batches) * size], config)
    fast = time.perf_counter() - start
    history = tuned.history
    print("\n| search | network passes | seconds, compiling included | ratio |\n|---|---|---|---|")
    print(f"| every candidate, whole network | {passes} | {slow:.1f} | 1 |")
    print(
        f"| backward-forward | {history.float_passes:.1f} ({history.float_passes / passes:.3f}) | {fast:.1f} "
        f"({history.compile_seconds:.1f} compiling) | {slow / fast:.1f} times faster |"
    )
    return {
        "network": "resnet20",
        "widths": widths,
        "layers": len(chosen),
        "images": len(batches) * size,
        "naive_passes": passes,
        "naive_seconds": slow,
        "float_passes": history.float_passes,
        "seconds": fast,
        "compile_seconds": history.compile_seconds,
    } | report.environment()


def main() -> None:
    """Read the command line, run, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", default="4/4", help="weights/feature maps")
    parser.add_argument("--images", type=int, default=1000, help="tuning images")
    parser.add_argument("--visits", type=int, default=6, help="layers")
    args = parser.parse_args()
    bench = Bench(NETWORKS["resnet20"], held_out=128, tuning=args.images)
    RESULTS.write_text(json.dumps(measure(bench, args.widths, args.visits), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
