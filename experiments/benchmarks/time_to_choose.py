"""Time to choose every step of a network from its histograms, per scheme, against one float pass over the images.

    python -m experiments.benchmarks.time_to_choose [--network resnet20] [--quick]

The answer to what a scheme costs beside running the network. The float pass is our own interpreter's, without counting,
over the calibration images in memory; "with counting" is the calibration itself. Compiled programs; the first call,
which compiles, apart.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import jax
from rich.progress import track

from experiments.real_networks import NETWORKS
from experiments.timing import seconds
from ggdjax import network, quantization, report, schemes

RESULT = Path(__file__).resolve().parents[1] / "results" / "time_to_choose.json"


def main() -> None:
    """Measure, print a Markdown table per network, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", action="append", choices=list(NETWORKS), help="only this network (repeatable)")
    parser.add_argument("--quick", action="store_true", help="64 calibration images; writes nothing")
    args = parser.parse_args()
    figures = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {}
    for name in args.network or list(NETWORKS):
        real = NETWORKS[name]
        net = real.load()
        images = real.open_images(net)
        part = real.split(images, 64 if args.quick else None).calibration
        batches = [x for x, _ in images.batches(part, min(real.batch_size, 50))]
        batches = [x for x in batches if len(x) == len(batches[0])]
        folded = network.fold_batch_norm(net)
        passing = seconds(lambda: [folded(x) for x in batches])  # noqa: B023
        calibration = quantization.calibrate(net, batches)
        counting = seconds(lambda: quantization.calibrate(net, batches).images)  # noqa: B023
        histograms = calibration.histograms
        print(f"\n| {name}, {sum(map(len, batches))} images | seconds | / float pass | first call, seconds |")
        print(f"|---|---|---|---|\n| float pass | {passing:.2f} | 1.00 | |")
        print(f"| float pass with counting | {counting:.2f} | {counting / passing:.2f} | |")
        rows = {}
        for scheme in track(schemes.names(), "schemes", transient=True):
            start = time.perf_counter()
            jax.block_until_ready(schemes.choose(scheme, histograms, 8))
            first = time.perf_counter() - start
            taken = seconds(lambda: schemes.choose(scheme, histograms, 8))  # noqa: B023
            rows[scheme] = {"seconds": taken, "first": first}
        for scheme, row in sorted(rows.items(), key=lambda item: item[1]["seconds"]):
            print(f"| {scheme} | {row['seconds']:.4f} | {row['seconds'] / passing:.4f} | {row['first']:.1f} |")
        figures[name] = {"float_pass_seconds": passing, "counting_seconds": counting, "schemes": rows}
        figures[name] |= report.environment()
        # After every network, so that a run that is stopped loses none.
        if not args.quick:
            RESULT.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
