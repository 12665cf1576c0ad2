"""Quantization-aware training of ResNet-20 on CIFAR-10 with optax, as the guide `train_quantized` does it.

    python -m experiments.benchmarks.quantization_aware_training
    python -m experiments.benchmarks.quantization_aware_training --bits 3/3 --steps 1000

Three disjoint sets of images: calibrate on the conventional 512 training images, train on others of the training
images with their labels, each at most once (500 steps of 64 images), evaluate on the 10,000 test images. Every run adds
a row to `experiments/results/quantization_aware_training.json`. Seconds are wall time of the training, decoding and
compilation included, on whatever else the machine was doing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from rich.progress import track

import ggdjax as gd
from experiments.real_networks import NETWORKS
from ggdjax import data, report
from ggdjax.quantization import QuantizedNetwork, Quantizers, Stage

RESULTS = Path(__file__).resolve().parents[1] / "results" / "quantization_aware_training.json"
BATCH = 64


def train(q: QuantizedNetwork, batches: Any, learning_rate: float, steps: int) -> tuple[QuantizedNetwork, np.ndarray]:
    """Return the trained network, and the cross-entropy of every batch.

    The steps of weights and biases stay: they are powers of two.
    """
    kinds = dataclasses.replace(
        q, params="trained", quantizers=Quantizers(activations="trained", weights="fixed", biases="fixed"), record=None
    )
    adam = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))
    # As a function: optax would call the network, since it is callable.
    optimizer = optax.partition({"trained": adam, "fixed": optax.set_to_zero()}, lambda _: kinds)

    def loss(q: QuantizedNetwork, x: Any, labels: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(q(x), labels).mean()

    @jax.jit
    def update(q: QuantizedNetwork, state: Any, x: Any, labels: Any) -> tuple[QuantizedNetwork, Any, Any]:
        value, slope = jax.value_and_grad(loss)(q, x, labels)
        updates, state = optimizer.update(slope, state)
        return optax.apply_updates(q, updates), state, value

    trained, state, losses = dataclasses.replace(q, record=None), optimizer.init(q), []
    for x, labels in batches:
        trained, state, value = update(trained, state, x, labels)
        losses.append(float(value))
    stage = Stage(
        name="quantization-aware training",
        settings={"learning_rate": learning_rate, "steps": steps, "batch_size": BATCH},
        images=steps * BATCH,
    )
    return q.changed(stage, params=trained.params, quantizers=trained.quantizers), np.asarray(losses)


def run(bits: str, steps: int, learning_rate: float, seed: int) -> dict[str, Any]:
    """Return the row of one run."""
    real = NETWORKS["resnet20"]
    net = real.load()
    images = real.open_images(net)
    parts = real.split(images)
    weight_bits, activation_bits = map(int, bits.split("/"))
    config = gd.QuantConfig(weight_bits=weight_bits, activation_bits=activation_bits)
    q = gd.quantize(net, gd.calibrate(net, (x for x, _ in images.batches(parts.calibration, 128))), config)

    def evaluate(q: QuantizedNetwork, name: str) -> dict[str, Any]:
        accuracy = gd.quantization.accuracy(q, track(list(images.batches(parts.held_out, 250)), name))
        return {"top1": accuracy.top1, "top1_interval": accuracy.interval(), "images": accuracy.images}

    before = evaluate(q, "before")
    others = np.setdiff1d(images.parts["train"], parts.calibration)
    chosen = others[data.hash_order([images.ids[i] for i in others], seed)[: steps * BATCH]]
    began = time.perf_counter()
    stream = track(images.batches(chosen, BATCH), "train", steps)
    q, losses = train(q, stream, learning_rate, steps)
    seconds = time.perf_counter() - began
    tenth = max(1, steps // 10)
    return {
        "network": real.name,
        "bits": bits,
        "steps": steps,
        "batch_size": BATCH,
        "learning_rate": learning_rate,
        "seed": seed,
        "before": before,
        "after": evaluate(q, "after"),
        "loss": [float(losses[:tenth].mean()), float(losses[-tenth:].mean())],
        "smallest_activation_step": min(float(a.step) for a in q.quantizers.activations.values()),
        "training_seconds": seconds,
    } | report.environment()


def main() -> None:
    """Read the command line, run and keep the row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", default="4/4", help="bits of weights and of feature maps (default: 4/4)")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0, help="which images, in which order (default: 0)")
    args = parser.parse_args()
    row = run(args.bits, args.steps, args.learning_rate, args.seed)
    rows = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else []
    RESULTS.write_text(json.dumps([*rows, row], indent=1) + "\n", encoding="utf-8")
    for name in ("before", "after"):
        low, high = row[name]["top1_interval"]
        print(f"{name:6} top-1 {row[name]['top1']:.2%} (95 %: {low:.2%} to {high:.2%})")


if __name__ == "__main__":
    main()
