"""What is right; what a wrong input is; and how one is run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

import ggdjax as gd
from ggdjax._lock import exclusive
from ggdjax.cli import main
from ggdjax.datapath import Accelerator
from ggdjax.quantization import QuantizedNetwork, Quantizers, Record
from ggdjax.steps import Quantizer
from tests.small_onnx import CLASSES, write_images, write_network


class World:
    """What is right: a network, images, their quantized forms; and the folders of one case."""

    def __init__(self, folder: Path) -> None:
        self.model = write_network(folder / "net.onnx")
        self.images = write_images(folder / "images")
        self.x = np.random.default_rng(2).normal(size=(6, 3, 8, 8)).astype(np.float32)
        self.labels = np.arange(6) % CLASSES
        self.given = self.place = folder

    @cached_property
    def net(self):
        return gd.load_onnx(self.model)

    @cached_property
    def calibration(self):
        return gd.calibrate(self.net, [self.x])

    @cached_property
    def q(self):
        """The network at 8 bits, by steps that were set by hand: choosing them would compile for seconds."""
        step, fixed = Quantizer(step=jnp.float32(0.02), bits=8), Quantizer.fixed_point(5, 8)
        layers = [node.name for node in self.net.graph.quantizable]
        quantizers = Quantizers(
            activations={fm.tensor: step for fm in self.net.graph.feature_maps()},
            weights=dict.fromkeys(layers, fixed),
            biases=dict.fromkeys(layers, Quantizer.fixed_point(5, 16)),
        )
        return QuantizedNetwork(
            graph=self.net.graph,
            params=self.net.params,
            quantizers=quantizers,
            record=Record(float_network=self.net, config=gd.QuantConfig()),
        )

    @cached_property
    def program(self):
        return gd.datapath.compile(self.q, Accelerator())


@dataclass(frozen=True)
class Case:
    """One wrong input."""

    name: str
    run: str | Callable[[World], Any]
    """A command line, split at blanks after its {names} are filled in, or a function."""
    says: str
    """What was given, and what was expected or is to be done: parts of the line, between bars."""
    given: Callable[[World], Any] | None = None
    """Prepares the wrong input."""


ON = "--data {images} --size 8 --calibration-images 12 --out {place}/run"
Q = "quantize {model} " + ON
OF = "--size 8 --calibration-images 12 --out {place}/run"
TRAIN = "train lenet5 --data {given}/set.npz --preset mnist --batch-size 8 --out {place}/run "


def words(w: World, line: str) -> list[str]:
    return [word.format(model=w.model, images=w.images, given=w.given, place=w.place) for word in line.split()]


def shell(w: World, line: str) -> None:
    main(words(w, line))


def held(w: World, run: Callable[[], Any], name: str = "run") -> Any:
    with exclusive(w.place / name, "--out"):
        return run()


def tune(w: World, *, count: int = 6, images=None, checkpoint: Path | None = None, **changes) -> Any:
    """Tune the small network; a change named `labels` is one of the labels, any other of the config."""
    wanted = changes.pop("labels", w.labels)
    wanted = None if wanted is None else wanted[:count]
    config = gd.tune.TuneConfig(**{"sweeps": 1, **changes})
    return gd.tune.backward_forward(
        w.q, w.x[:count] if images is None else images, wanted, config, checkpoint=checkpoint
    )
