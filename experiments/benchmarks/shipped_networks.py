"""The networks that come with the package, quantized: accuracy on held-out images and SQNR of the feature maps.

    python -m experiments.benchmarks.shipped_networks                        both; ResNet-20 needs the CIFAR-10 images
    python -m experiments.benchmarks.shipped_networks --network digits       seconds, needs nothing

Weights and feature maps of the same width, biases 16 bits, one step per tensor. `digits`: 512 calibration images, 500
test images, both of the package. `resnet20-shipped`: the package's weights, calibrated on 512 training images and
evaluated on all 10,000 images of `experiments/real_networks.py`. Schemes: the default and max-abs. Finished cells are
skipped. Expected: no loss beyond the interval at 8 bits. Results: `experiments/results/shipped_networks.json`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
from rich.progress import track

from experiments.real_networks import CIFAR10, data_folder
from ggdjax import data, network, quantization, report, zoo

RESULTS = Path(__file__).resolve().parents[1] / "results" / "shipped_networks.json"
BITS, SCHEMES = (8, 6, 5, 4), ("ggd", "max-abs")


def digits() -> tuple[network.Network, data.ImageSet]:
    """Return the embedded network and its images."""
    return network.trace(zoo.digits_net(), jnp.zeros((1, 8, 8, 1))), data.digits()


def resnet20() -> tuple[network.Network, data.ImageSet]:
    """Return the shipped ResNet-20 and CIFAR-10."""
    net = zoo.load("resnet20")
    return net, data.open_images(
        data_folder() / CIFAR10, data.preset("cifar10", layout="NHWC").for_input(net.input_shape)
    )


#: Name -> its network and images, and what they are.
OPENERS: dict[str, tuple[Callable, dict[str, str]]] = {
    "digits": (digits, {"architecture": "digits", "data": "digits"}),
    "resnet20-shipped": (resnet20, {"architecture": "resnet20", "data": "CIFAR-10"}),
}


def read_results() -> list[dict]:
    """Return the finished cells."""
    return json.loads(RESULTS.read_text(encoding="utf-8"))["rows"] if RESULTS.is_file() else []


def run(name: str) -> None:
    """Compute the missing cells of one network."""
    done = {(row["network"], row["bits"], row["scheme"]) for row in read_results()}
    todo = [(bits, scheme) for bits in BITS for scheme in SCHEMES if (name, bits, scheme) not in done]
    if not todo:
        return
    opener, about = OPENERS[name]
    net, images = opener()
    parts = data.split(images)
    calibration = quantization.calibrate(net, (x for x, _ in images.batches(parts.calibration, 128)))
    net = network.fold_batch_norm(net)
    held_out = list(images.batches(parts.held_out, 128))
    head = about | {"network": name, "parameters": network.count_parameters(net), "macs": network.count_macs(net)}
    for bits, scheme in track(todo, f"{name}: cells"):
        config = quantization.QuantConfig(weight_bits=bits, activation_bits=bits, scheme=scheme)
        found = quantization.evaluate(quantization.quantize(net, calibration, config), held_out)
        row = head | {"bits": bits, "scheme": scheme, "mean_sqnr_db": round(found.mean_sqnr_db, 4)}
        row |= {"top1": found.quantized_accuracy.top1, "top5": found.quantized_accuracy.top5}
        row |= {"float_top1": found.float_accuracy.top1, "float_top5": found.float_accuracy.top5}
        row |= {"held_out_images": found.quantized_accuracy.images, "calibration_images": calibration.images}
        record = {"rows": [*read_results(), row | report.environment()]}
        RESULTS.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Read the command line, run, print what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", action="append", choices=list(OPENERS), help="only this network (repeatable)")
    for name in parser.parse_args().network or list(OPENERS):
        run(name)
    print("| network | bits | scheme | top-1, % | float, % | mean SQNR, dB |\n|---|---|---|---|---|---|")
    for row in read_results():
        accuracies = f"{100 * row['top1']:.2f} | {100 * row['float_top1']:.2f}"
        print(f"| {row['network']} | {row['bits']} | {row['scheme']} | {accuracies} | {row['mean_sqnr_db']:.2f} |")


if __name__ == "__main__":
    main()
