"""The integer program against the fake-quantized network, code by code, on the real networks.

    python -m experiments.benchmarks.datapath_agreement                  the default accelerator, 1,000 images
    python -m experiments.benchmarks.datapath_agreement --network resnet20 --images 10000 --bits 8 --bits 6 --bits 4
    python -m experiments.benchmarks.datapath_agreement --network resnet20 --variant multiplier-16 --variant carry-24

Weights and feature maps of 8 bits (`--bits`), scheme `ggd`, all defaults (`nearest`: weights rounded to nearest, as
`gd.quantize` alone does; `own-biases`: biases of 16 bits in fixed point;
`power-of-two`: steps rounded to powers of two, where all must be equal). Expected with the default accelerator: never
more than one LSB apart in a layer given equal inputs, and apart in fewer than ten values of a million, the last bit of
a float; ResNet-20 and SqueezeNet: equal codes on at least 99.9 % of all values, the same class for at least 99.8 % of
the images. MobileNets let single codes grow through their 28 layers: 95 % and 98 %. Both networks run by themselves in
`equal`: one changed code changes others in all layers after it, so it says how exact the sums must be;
`given inputs` feeds each layer of the program with the codes of the fake-quantized network.

Each finished row goes into `experiments/results/datapath_agreement.json`. Three minutes for 1,000 images on two cores.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import ggdjax as gd
from experiments.images import some
from experiments.real_networks import NETWORKS
from experiments.rows import merged
from ggdjax import data, datapath, quantization, report, tune

RESULTS = Path(__file__).resolve().parents[1] / "results" / "datapath_agreement.json"
DEFAULT = ("default", "nearest", "own-biases", "power-of-two")
#: Other variants: what each changes in the default accelerator.
WIDTHS = {
    "multiplier-24": {"multiplier_bits": 24},
    "multiplier-16": {"multiplier_bits": 16},
    "multiplier-8": {"multiplier_bits": 8},
    "carry-30": {"residual_bits": 30},
    "carry-28": {"residual_bits": 28},
    "carry-24": {"residual_bits": 24},
    "carry-20": {"residual_bits": 20},
    "carry-16": {"residual_bits": 16},
    "half-away": {"rounding": "half_away"},
    "floor": {"rounding": "floor"},
}


def quantized(name: str, bits: int = 8) -> tuple[quantization.QuantizedNetwork, data.ImageSet, np.ndarray, int]:
    """Return a real network, rounded to nearest, its images, the held-out ones and the batch size."""
    real = NETWORKS[name]
    net = real.load()
    images = real.open_images(net)
    parts = real.split(images)
    calibration = gd.calibrate(net, (x for x, _ in images.batches(parts.calibration, real.batch_size)))
    config = gd.QuantConfig(weight_bits=bits, activation_bits=bits)
    return gd.quantize(net, calibration, config), images, parts.held_out, real.batch_size


def power_of_two(q: quantization.QuantizedNetwork) -> quantization.QuantizedNetwork:
    """Return the network with every step rounded to a power of two."""
    steps = {
        name: replace(quantizer, step=jnp.float32(2.0 ** round(float(np.log2(float(quantizer.step))))))
        for name, quantizer in q.quantizers.activations.items()
    }
    return replace(q, quantizers=replace(q.quantizers, activations=steps))


def run(args: argparse.Namespace) -> None:
    """Compare every variant on every network."""
    for name, bits in itertools.product(args.network or NETWORKS, args.bits or [8]):
        jax.config.update("jax_enable_x64", False)
        nearest, images, part, size = quantized(name, bits)
        seen = [x for x, _ in images.batches(NETWORKS[name].split(images).calibration, size)]
        q = tune.round_weights(nearest, np.concatenate(seen))
        chosen = some(images, part, args.images)
        batches = [x for x, _ in images.batches(chosen, size)]
        own = gd.quantize(nearest.float_network, q.record.calibration, replace(nearest.record.config, bias_bits=16))
        jax.config.update("jax_enable_x64", args.double)
        networks = {"nearest": nearest, "own-biases": own, "power-of-two": datapath.align(power_of_two(q))}
        for variant in args.variant or DEFAULT:
            network, spec = networks.get(variant, q), WIDTHS.get(variant, {})
            start = time.perf_counter()
            found = datapath.agreement(
                datapath.compile(network, datapath.Accelerator(**spec)),
                network,
                [np.asarray(x, np.float64 if args.double else np.float32) for x in batches],
            )
            maps = found.feature_maps
            row = {
                "network": name,
                "bits": bits,
                "variant": variant,
                "reference": "float64" if args.double else "float32",
                "images": found.images,
                "equal": found.equal,
                "largest": max(m.largest for m in maps.values()),
                "equal_given_inputs": found.equal_given_inputs,
                "largest_given_inputs": max(m.largest_given_inputs for m in maps.values()),
                "same_top1": found.same_top1,
                "feature_maps": {k: m.equal / m.values for k, m in maps.items()},
                "seconds": round(time.perf_counter() - start, 1),
            }
            keep(row)
            print(
                f"{name:20} {bits:2} {variant:14} equal {row['equal']:.5%} (up to {row['largest']} LSB), given inputs "
                f"{row['equal_given_inputs']:.5%} (up to {row['largest_given_inputs']} LSB), same class "
                f"{row['same_top1']:.2%} of {found.images}",
                flush=True,
            )


def keep(row: dict) -> None:
    """Put a row into the results file, in place of an older one of the same network, width, variant and reference."""
    rows = merged(RESULTS, [row], "network", "bits", "variant", "reference")
    RESULTS.write_text(json.dumps({**report.environment(), "rows": rows}, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Read the command line, run, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", action="append", choices=list(NETWORKS), help="only this network (repeatable)")
    parser.add_argument("--bits", action="append", type=int, help="width of weights and feature maps (repeatable)")
    parser.add_argument("--images", type=int, default=1000, help="up to N held-out images")
    parser.add_argument(
        "--variant",
        action="append",
        choices=[*DEFAULT, *WIDTHS],
        help="only this variant (repeatable; default: those without another accelerator)",
    )
    parser.add_argument("--double", action="store_true", help="compare with fake quantization in float64")
    args = parser.parse_args()
    run(args)


if __name__ == "__main__":
    main()
