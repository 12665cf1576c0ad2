"""Quantization-aware training with optax, with labels, as the guide `train_quantized` does it.

    python -m experiments run quantization-aware-training
    python -m experiments run quantization-aware-training --widths 3/3 --steps 1000

Three disjoint sets of images: the conventional ones calibrate, others of the training images train with their labels,
each at most once (500 steps of 64 images), the held-out ones evaluate. Seconds are wall time of the training, decoding
and compilation included, on whatever else the machine was doing.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np
import optax
from rich.progress import track

from experiments import accuracy
from experiments.bench import Bench
from experiments.experiment import Cell, Experiment, check_numbers, widths_of
from ggdjax import GgdjaxError, data
from ggdjax.quantization import QuantizedNetwork, Quantizers, Stage


@dataclass(frozen=True, kw_only=True)
class QuantizationAwareTraining(Experiment):
    """Top-1 and top-5 before and after training with labels, of networks × widths × seeds."""

    NAME: ClassVar[str] = "quantization-aware-training"
    AXES: ClassVar[tuple[str, ...]] = ("widths",)

    widths: tuple[str, ...] = ("4/4",)
    """Bits of weights/feature maps."""
    steps: int = 500
    """Steps of training."""
    batch_size: int = 64
    """Images per step."""
    learning_rate: float = 1e-4
    """Of Adam, at the first step; cosine decay."""
    held_out_images: int | None = None
    """Evaluate on up to N held-out images; none: on all of them."""

    def check(self) -> None:
        """Refuse unknown names, missing data and numbers out of range."""
        check_numbers(self, "steps", "batch_size")
        super().check()

    def passes(self, cell: Cell | None) -> dict[str, float]:
        """Return one pass to calibrate; each cell is evaluated twice, and trains."""
        return {"calibration": 1} if cell is None else {"accuracy": 2, "": 3 * self.steps * self.batch_size}

    def prepare(self, network: str, seed: int) -> Bench:
        """Return the network calibrated."""
        bench = Bench(self.network(network), held_out=self.held_out_images, seed=seed)
        others = np.setdiff1d(bench.images.parts.get("train", np.arange(0)), bench.parts["calibration"])
        chosen = others[data.hash_order([bench.images.ids[i] for i in others], seed)[: self.steps * self.batch_size]]
        if len(chosen) < self.steps * self.batch_size:
            raise GgdjaxError(f"{len(chosen)} training images are left, `steps` × `batch_size` are more: ask for fewer")
        bench.parts["training"] = chosen
        return bench

    def measure(self, prepared: Bench, cell: Cell, folder: Path) -> dict[str, Any]:
        """Return the accuracies, the loss at the start and at the end, and seconds."""
        q = prepared.quantized(widths_of(cell["widths"]))
        before, began = prepared.ranks(q), time.perf_counter()
        batches = track(prepared.images.batches(prepared.parts["training"], self.batch_size), "train", self.steps)
        q, losses = train(q, batches, self.learning_rate, self.steps, self.batch_size)
        seconds, tenth = time.perf_counter() - began, max(1, self.steps // 10)
        stages = {"before": before, "after": prepared.ranks(q)}
        return {
            "stages": {name: accuracy.figures(ranks) for name, ranks in stages.items()},
            "loss": [float(losses[:tenth].mean()), float(losses[-tenth:].mean())],
            "smallest_activation_step": min(float(a.step) for a in q.quantizers.activations.values()),
            "training_seconds": round(seconds, 1),
        }

    def shown(self, row: dict[str, Any]) -> dict[str, str]:
        """Return top-1 before and after."""
        return {f"top-1 {name}, %": f"{100 * stage['top1']:.2f}" for name, stage in row["stages"].items()}


def train(
    q: QuantizedNetwork, batches: Any, learning_rate: float, steps: int, batch_size: int
) -> tuple[QuantizedNetwork, np.ndarray]:
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
    with jax.numpy_dtype_promotion("standard"):  # on which optax relies
        for x, labels in batches:
            trained, state, value = update(trained, state, x, labels)
            losses.append(float(value))
    stage = Stage(
        name="quantization-aware training",
        settings={"learning_rate": learning_rate, "steps": steps, "batch_size": batch_size},
        images=steps * batch_size,
    )
    return q.changed(stage, params=trained.params, quantizers=trained.quantizers), np.asarray(losses)


CONFIGS = {
    "quantization-aware-training": QuantizationAwareTraining(networks=("resnet20",)),
    "quantization-aware-training-tiny": QuantizationAwareTraining(steps=2, batch_size=32, held_out_images=100),
}
