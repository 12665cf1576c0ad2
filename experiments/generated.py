"""Networks of the zoo's architectures with drawn weights, on drawn images: they show that everything runs, and how."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import jax.numpy as jnp
import numpy as np
from flax import nnx

from ggdjax import data, network, zoo

if TYPE_CHECKING:
    from ggdjax.data import ImageSet, Split
    from ggdjax.network import Network

IMAGES, CLASSES = 72, 10


def draw_normalizations(module: nnx.Module, rng: np.random.Generator) -> None:
    """Draw scales, shifts and statistics of all normalizations, and biases, near their usual values."""
    state = nnx.state(module, (nnx.Param, nnx.BatchStat))
    for path, variable in nnx.to_flat_state(state):
        shape = variable.get_value().shape
        if path[-1] in {"scale", "var"}:
            variable.set_value(jnp.asarray(rng.uniform(0.5, 1.5, shape), jnp.float32))
        elif path[-1] in {"mean", "bias"}:
            variable.set_value(jnp.asarray(0.1 * rng.standard_normal(shape), jnp.float32))
    nnx.update(module, state)


@dataclass(frozen=True, kw_only=True)
class Generated:
    """A small network of one of the zoo's architectures; the class of an image is what it says in float."""

    batch_size: ClassVar[int] = 24

    name: str
    architecture: str
    """Name in the zoo."""
    side: int = 32
    """Height and width of the images."""
    options: dict[str, Any] = field(default_factory=dict)
    """Of the architecture."""

    def load(self) -> Network:
        """Return the network."""
        build = zoo.entry(self.architecture).build
        module = nnx.eval_shape(lambda: build(num_classes=CLASSES, rngs=nnx.Rngs(0), **self.options))
        module.eval()
        zoo.initialize(module, 0)
        draw_normalizations(module, np.random.default_rng(0))
        x = next(self._images(np.zeros(IMAGES, int)).batches(batch_size=IMAGES))[0]
        # Without it a drawn network says one class to all images.
        mean = network.trace(module, x[:1])(x).mean(0, keepdims=True)
        return network.trace(lambda x: module(x) - mean, x[:1])

    def open_images(self, net: Network) -> ImageSet:
        """Return its images: noise that is smooth over a few pixels."""
        x = next(self._images(np.zeros(IMAGES, int)).batches(batch_size=IMAGES))[0]
        return self._images(np.asarray(net(x)).argmax(-1))

    def _images(self, labels: np.ndarray) -> ImageSet:
        coarse = np.random.default_rng(1).integers(0, 256, (IMAGES, self.side // 4, self.side // 4, 3))
        image = coarse.repeat(4, 1).repeat(4, 2).astype(np.uint8)
        rule = data.Preprocessing(scale=1 / 64, mean=(2.0, 2.0, 2.0), layout="NHWC")
        return data.from_arrays(image, labels, rule, name=self.name)

    def split(self, images: ImageSet, calibration_images: int | None = None, seed: int = 0) -> Split:
        """Return the parts: 24 calibration images, or this many of them, and all others."""
        return data.split(images, calibration_images or 24, seed)


GENERATED = {
    one.name: one
    for one in (
        Generated(name="drawn-alexnet", architecture="alexnet", side=64, options={"size": 64, "hidden": 64}),
        Generated(name="drawn-vgg16", architecture="vgg16", options={"size": 32, "hidden": 64}),
        Generated(name="drawn-googlenet", architecture="googlenet"),
        Generated(name="drawn-resnet50", architecture="resnet50"),
        Generated(name="drawn-squeezenet", architecture="squeezenet1_0"),
        Generated(name="drawn-mobilenet", architecture="mobilenet_v1", options={"width": 0.25}),
    )
}
