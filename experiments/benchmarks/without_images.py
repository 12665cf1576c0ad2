"""Steps from batch normalization alone against calibration on 1, 4 and 512 images and against DFQ's range, W8A8.

    python -m experiments.benchmarks.without_images                         the networks that have batch normalization
    python -m experiments.benchmarks.without_images --network digits        seconds, needs nothing
    python -m experiments.benchmarks.without_images --table                 what is there, as Markdown

Weights to nearest, 8 bits, a fractional length per layer; scheme `ggd` (with few images or none on the predictive
histogram, the default). DFQ's range β ± 6γ (Nagel et al. 2019) is `max-abs` on the same distributions, whose extremes
lie at 6 standard deviations of the widest channel. 1 and 4 images: the mean of draws by seed 0 and 1. Evaluated on
2,000 held-out images, chosen by their ids; all 500 of digits. The MobileNets and SqueezeNet of
`experiments/real_networks.py` have no batch normalization in their files. Expected: at least 0.99 of the top-1 that 512
images reach. Results: `experiments/results/without_images.json`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from experiments.images import read, some
from experiments.networks import ALL
from experiments.rows import Row, merged
from ggdjax import data, quantization

RESULTS = Path(__file__).resolve().parents[1] / "results" / "without_images.json"
HELD_OUT, BATCH, DRAWS = 2000, 250, (0, 1)


NETS = ("digits", "resnet20-shipped", "resnet20")


def measure(name: str, bits: int) -> list[Row]:
    """Return a row per source of the steps."""
    net = ALL[name].load()
    images = ALL[name].open_images(net)
    parts = data.split(images)
    held_out = list(read(images, some(images, parts.held_out, HELD_OUT), BATCH, f"{name}: held out"))

    def counted(count: int, seed: int) -> quantization.Calibration:
        part = data.split(images, count, seed).calibration
        return quantization.calibrate(net, (x for x, _ in images.batches(part, min(count, 128))))

    none = quantization.calibrate_without_data(net, preprocessing=images.preprocessing)
    sources = [
        ("none", 0, [none], quantization.QuantConfig(activation_bits=bits)),
        ("none, β ± 6γ", 0, [none], quantization.QuantConfig(activation_bits=bits, scheme="max-abs")),
        *(
            (f"{n}", n, [counted(n, seed) for seed in seeds], quantization.QuantConfig(activation_bits=bits))
            for n, seeds in ((1, DRAWS), (4, DRAWS), (512, DRAWS[:1]))
        ),
    ]
    rows = []
    for source, count, calibrations, config in sources:
        found = [quantization.evaluate(quantization.quantize(net, one, config), held_out) for one in calibrations]
        row: Row = {"network": name, "bits": bits, "source": source, "images": count, "draws": len(found)}
        row["float_top1"] = round(found[0].float_accuracy.top1, 4)
        row["top1"] = round(float(np.mean([one.quantized_accuracy.top1 for one in found])), 4)
        row["mean_sqnr_db"] = round(float(np.mean([one.mean_sqnr_db for one in found])), 2)
        row["held_out"] = found[0].quantized_accuracy.images
        print(row, flush=True)
        rows.append(row)
    return rows


def table(rows: list[Row]) -> str:
    """Return the rows as Markdown: top-1 and mean SQNR by the images that calibrated."""
    sources = list(dict.fromkeys(row["source"] for row in rows))
    lines = [f"| network, bits | float | {' | '.join(sources)} |", "|---|---|" + "---|" * len(sources)]
    for name, bits in dict.fromkeys((row["network"], row["bits"]) for row in rows):
        own = {row["source"]: row for row in rows if (row["network"], row["bits"]) == (name, bits)}
        cells = [f"{own[source]['top1']:.2%}, {own[source]['mean_sqnr_db']:.1f} dB" for source in sources]
        lines.append(f"| {name}, {bits} | {own['none']['float_top1']:.2%} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Read the command line, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", action="append", choices=list(NETS), help="only this network (repeatable)")
    parser.add_argument("--bits", type=int, default=8, help="width of feature maps")
    parser.add_argument("--table", action="store_true", help="print what is there, measure nothing")
    args = parser.parse_args()
    for name in () if args.table else args.network or NETS:
        rows = merged(RESULTS, measure(name, args.bits), "network", "bits", "source")
        RESULTS.write_text(json.dumps({"rows": rows}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(table(json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]))


if __name__ == "__main__":
    main()
