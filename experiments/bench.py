"""What the cells of one network and seed share: the network, calibrated once, and its images, decoded once."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments import accuracy
from experiments.images import calibrate, read, some
from ggdjax import data, network, quantization

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from experiments.networks import AnyNetwork
    from ggdjax.data import ImageSet
    from ggdjax.ggd import Histogram


def choose_parts(
    real: AnyNetwork, images: ImageSet, calibration_images: int | None, held_out: int | None, tuning: int, seed: int
) -> dict[str, np.ndarray]:
    """Return the images of each part, ``tuning`` where any are asked for; ``accuracy`` are some of those held out."""
    parts = real.split(images, calibration_images, seed if not tuning else 0)
    chosen = {}
    if tuning:
        parts, chosen["tuning"] = data.split_tuning(images, parts, tuning, seed)
    held = {"held_out": parts.held_out, "accuracy": some(images, parts.held_out, held_out)}
    return {"calibration": parts.calibration, **chosen, **held}


class Bench:
    """One network and its images.

    Args:
        real: the network.
        calibration_images: None: as many as its conventions say.
        held_out: up to N held-out images are evaluated on; None: all.
        tuning: images that tune, of none of the other parts.
        seed: chooses the images that calibrate and tune.
        per_channel: count feature maps channel by channel, too.
        folded: calibrate with normalizations folded, as `ggdjax.recipe` does after equalizing.
    """

    def __init__(
        self,
        real: AnyNetwork,
        calibration_images: int | None = None,
        held_out: int | None = None,
        *,
        tuning: int = 0,
        seed: int = 0,
        per_channel: bool = False,
        folded: bool = False,
    ) -> None:
        self.name, self.size = real.name, real.batch_size
        net = real.load()
        self.net = network.fold_batch_norm(net)
        self.images = real.open_images(net)
        self.parts = choose_parts(real, self.images, calibration_images, held_out, tuning, seed)
        source, what = self.net if folded else net, f"{self.name}: calibrate"
        part = self.parts["calibration"]
        self.calibration = calibrate(source, self.images, part, self.size, what, per_channel=per_channel)
        self.unfolded = net

    @property
    def ids(self) -> dict[str, list[str]]:
        """Ids of the images of every part."""
        return {name: [self.images.ids[i] for i in part] for name, part in self.parts.items()}

    def decoded(self, part: str) -> tuple[np.ndarray, np.ndarray]:
        """Return all images of a part and their labels."""
        pairs = read(self.images, self.parts[part], self.size, f"{self.name}: {part}")
        x, labels = zip(*pairs, strict=True)
        return np.concatenate(x), np.concatenate(labels)

    @cached_property
    def calibration_inputs(self) -> np.ndarray:
        """The calibration images."""
        return self.decoded("calibration")[0]

    def calibration_batches(self) -> Iterator[np.ndarray]:
        """Yield the calibration images, a batch at a time."""
        x = self.calibration_inputs
        return (x[i : i + self.size] for i in range(0, len(x), self.size))

    def calibrated(self, net: network.Network) -> quantization.Calibration:
        """Return the calibration of another network on the same images."""
        return quantization.calibrate(net, self.calibration_batches(), preprocessing=self.images.preprocessing)

    @cached_property
    def batches(self) -> list[tuple[Any, Any]]:
        """The images that are evaluated on, with their labels."""
        return list(read(self.images, self.parts["accuracy"], self.size, f"{self.name}: load"))

    @cached_property
    def held_out(self) -> Histogram:
        """The feature maps of all held-out images, counted."""
        part, what = self.parts["held_out"], f"{self.name}: observe held-out images"
        return calibrate(self.unfolded, self.images, part, self.size, what).histograms

    def quantized(self, widths: tuple[int, int], **settings: Any) -> quantization.QuantizedNetwork:
        """Return the network with weights and feature maps of these widths."""
        config = quantization.QuantConfig(weight_bits=widths[0], activation_bits=widths[1], **settings)
        return quantization.quantize(self.net, self.calibration, config)

    def ranks(self, forward: Callable[[Any], Any]) -> np.ndarray:
        """Return of every image that is evaluated on how many classes stand before its own."""
        return accuracy.ranks(forward, self.batches)
