"""Images distilled from batch normalization: noise that is moved until each normalized channel has its statistics.

Cai et al. 2020, "ZeroQ" (section 3.1), sum over the layers the squared distances of mean and standard deviation. Here
those of a layer are divided by its energy Σ γ², so that layers count alike whatever their scale, and pixels stay in
their range.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ggdjax._errors import GgdjaxError, expect
from ggdjax.network import Float, run
from ggdjax.quantization._without_data import PIXEL_DEVIATION, PIXEL_MEAN, check_statistics

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jaxtyping import Array, Key
    from jaxtyping import Float as Real

    from ggdjax.data import Preprocessing
    from ggdjax.network import Graph, Network, Node

#: Of Adam, per batch: they bring the distance of ResNet-20 from 1 to 0.004.
STEPS = 200
#: Adam's first learning rate, in standard deviations of the noise; it falls to 0 by a cosine.
_RATE = 0.3
#: Below it a channel counts as constant: the slope of a root is infinite at 0.
_LEAST_VARIANCE = 1e-12


def distill_images(
    net: Network,
    *,
    count: int = 32,
    key: Key[Array, ""] | None = None,
    steps: int = STEPS,
    batch_size: int = 32,
    preprocessing: Preprocessing | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> Real[np.ndarray, "image ..."]:
    """Return synthetic images that give each normalized layer the mean and deviation of the training images.

    They start as noise; Adam moves their pixels until, over each batch, every channel behind batch normalization has
    mean β and standard deviation \\|γ\\|. `ggdjax.calibrate` takes them as it takes images.

    Args:
        net: a network with its batch normalization, as ``load_onnx`` and ``trace`` return it: not folded.
        count: number of images.
        key: of the noise; ``jax.random.key(0)`` where None. The same key gives the same images on the same machine,
            and more batches of them the same first ones.
        steps: of Adam, per batch.
        batch_size: images that are distilled, and have the statistics, together: bounds the memory.
        preprocessing: keeps inputs in the range of pixels, and gives the size where the network leaves it open; without
            it the noise has mean 0 and standard deviation 1, and no limits.
        progress: called after every step with the number of steps done and in all, and the loss.

    Returns:
        Images in the layout of the network's input, float32.

    Raises:
        GgdjaxError: no batch normalization is left in ``net``, or none was recognized; an argument out of its range; or
            an input whose size nothing tells.
        DataError: a preprocessing that does not fit the network's input.

    Example:
        >>> net = gd.trace(gd.zoo.digits_net(), jnp.zeros((1, 8, 8, 1)))
        >>> images = gd.distill_images(net, count=8, steps=20)
        >>> q = gd.quantize(net, gd.calibrate(net, images))
        >>> images.shape, q.record.calibration.images
        ((8, 8, 8, 1), 8)
    """
    expect("net", net, "Network")
    if preprocessing is not None:
        preprocessing = expect("preprocessing", preprocessing, "Preprocessing").for_input(net.input_shape)
    check_statistics(net)
    for name, value in (("count", count), ("steps", steps), ("batch_size", batch_size)):
        if value < 1:
            raise GgdjaxError(f"`{name}` must be at least 1, got {value}")
    shape, pixels = _image_shape(net, preprocessing), _Pixels.of(preprocessing)
    sizes = [min(batch_size, count - first) for first in range(0, count, batch_size)]
    for size in (sizes[0], sizes[-1]):
        net.check_input(np.broadcast_to(np.float32(0), (size, *shape)))
    key, found = jax.random.key(0) if key is None else key, []
    for batch, size in enumerate(sizes):
        z = jax.random.normal(jax.random.fold_in(key, batch), (size, *shape))
        z = jnp.clip(z, *pixels.ends)
        state = jax.tree.map(jnp.zeros_like, jax.eval_shape(_adam().init, z))
        for step in range(steps):
            rate = np.float32(_RATE * 0.5 * (1 + math.cos(math.pi * step / steps)))
            z, state, loss = _step(net.graph, net.params, pixels, rate, z, state)
            if progress is not None:
                progress(batch * steps + step + 1, len(sizes) * steps, float(loss))
        found.append(np.asarray(pixels(z)))
    return np.concatenate(found)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class _Pixels:
    """Inputs as ``mean + deviation · z``, z between ``ends``."""

    mean: Any
    deviation: Any
    ends: tuple[Any, Any]

    @classmethod
    def of(cls, preprocessing: Preprocessing | None) -> _Pixels:
        """Return what `calibrate_without_data` assumes of inputs."""
        if preprocessing is None:
            return cls(mean=np.float32(0), deviation=np.float32(1), ends=(np.float32(-np.inf), np.float32(np.inf)))
        shape = (1, -1, 1, 1) if preprocessing.layout == "NCHW" else (1, 1, 1, -1)
        mean, std = (np.reshape(np.float32(value), shape) for value in (preprocessing.mean, preprocessing.std))
        full = np.float32(255 * preprocessing.scale)
        return cls(
            mean=(full * np.float32(PIXEL_MEAN) - mean) / std,
            deviation=full * np.float32(PIXEL_DEVIATION) / std,
            ends=tuple(np.float32((end - PIXEL_MEAN) / PIXEL_DEVIATION) for end in (0, 1)),
        )

    def __call__(self, z: Array) -> Array:
        return self.mean + self.deviation * z


class _Distance(Float):
    """Float arithmetic that notes how far each normalized layer is from its statistics, over its energy."""

    def __init__(self) -> None:
        self.of_layers: list[Array] = []

    def apply(self, node: Node, params: Mapping[str, Array], *inputs: Array) -> Array:
        y = super().apply(node, params, *inputs)
        if "deviation" in params:
            axes, tiny = tuple(range(y.ndim - 1)), jnp.finfo(y.dtype).tiny
            off = jnp.sqrt(jnp.var(y, axis=axes) + _LEAST_VARIANCE) - params["deviation"]
            energy = jnp.sum(jnp.square(params["deviation"]))
            squares = jnp.square(jnp.mean(y, axis=axes) - params["mean"]) + jnp.square(off)
            self.of_layers.append(jnp.sum(squares) / jnp.maximum(energy, tiny))
        return y


@partial(jax.jit, static_argnums=0)
def _step(
    graph: Graph, params: Mapping[str, Array], pixels: _Pixels, rate: Array, z: Array, state: Any
) -> tuple[Array, Any, Array]:
    """Return the images, the state of Adam and the loss after one step."""

    def distance(z: Array) -> Array:
        numerics = _Distance()
        run(graph, params, pixels(z), numerics)
        return jnp.mean(jnp.stack(numerics.of_layers))

    loss, slope = jax.value_and_grad(distance)(z)
    # Optax's bias correction raises a float to an integer count, which strict promotion would refuse.
    with jax.numpy_dtype_promotion("standard"):
        direction, state = _adam().update(slope, state)
    return jnp.clip(z - rate * direction, *pixels.ends), state, loss


def _adam() -> Any:
    """Return Adam without a rate."""
    import optax

    return optax.scale_by_adam()


def _image_shape(net: Network, preprocessing: Preprocessing | None) -> tuple[int, ...]:
    shape = net.input_shape[1:]
    if None in shape and preprocessing is not None and (side := preprocessing.output_size) is not None:
        shape = preprocessing.batch_shape(1, side, side)[1:]
    if None in shape:
        raise GgdjaxError(
            f"the network's input has shape {net.input_shape}, and nothing tells the size of images: give a "
            "`preprocessing` with `size`"
        )
    return shape
