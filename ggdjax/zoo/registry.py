"""The zoo by name: how each network is built, its input, and its published size with the source."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
from flax import nnx

from ggdjax._errors import GgdjaxError, near_matches
from ggdjax.zoo.mobilenet_v2 import mobilenet_v2_small
from ggdjax.zoo.resnet import CifarResNet

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published figure; ``unit`` is the place of its last digit, 1 where every digit was printed."""

    value: float
    unit: float
    source: str

    def agrees(self, count: int) -> bool:
        """Say whether ``count``, rounded to ``unit``, is the published figure."""
        return abs(count - self.value) <= self.unit / 2


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One network of the zoo."""

    build: Callable[..., nnx.Module]
    """Makes the module from keywords ``num_classes`` and ``rngs``."""
    input_shape: tuple[int, int, int]
    """Height, width and channels of one image, at which ``macs`` holds."""
    num_classes: int
    """Classes of the published network."""
    parameters: Published
    """Trainable parameters: kernels, biases, scales and shifts of normalizations."""
    macs: Published
    """Multiply-accumulates of the convolutions and dense layers for one image."""


def exact(value: int, source: str) -> Published:
    """Return a figure published to the last digit."""
    return Published(value=value, unit=1, source=source)


HE = "He et al. 2016, Table 6"
IDELBAYEV = "MACs: Y. Idelbayev, pytorch_resnet_cifar10"
OWN = "this package: nothing is published of it"


def _cifar_resnet(depth: int, millions: float, digits: float, macs: Published) -> Entry:
    return Entry(
        build=partial(CifarResNet, depth),
        input_shape=(32, 32, 3),
        num_classes=10,
        parameters=Published(value=millions * 1e6, unit=digits * 1e6, source=HE),
        macs=macs,
    )


ENTRIES: dict[str, Entry] = {
    "resnet20": _cifar_resnet(20, 0.27, 0.01, exact(40_551_040, OWN)),
    "resnet32": _cifar_resnet(32, 0.46, 0.01, exact(68_862_592, OWN)),
    "resnet44": _cifar_resnet(44, 0.66, 0.01, exact(97_174_144, OWN)),
    "resnet56": _cifar_resnet(56, 0.85, 0.01, exact(125_485_696, OWN)),
    "resnet110": _cifar_resnet(110, 1.7, 0.1, exact(252_887_680, OWN)),
    "mobilenet_v2_small": Entry(
        build=mobilenet_v2_small,
        input_shape=(32, 32, 3),
        num_classes=10,
        parameters=exact(403_658, OWN),
        macs=exact(49_036_416, OWN),
    ),
}


def names() -> tuple[str, ...]:
    """Return the names of the zoo's networks."""
    return tuple(sorted(ENTRIES))


def entry(name: str) -> Entry:
    """Return what is known of the network ``name``.

    Raises:
      GgdjaxError: there is none; the message lists near matches.
    """
    if name not in ENTRIES:
        raise GgdjaxError(f"`name` is {name!r}, which is no network of the zoo: {near_matches(name, ENTRIES)}")
    return ENTRIES[name]


def create(name: str, *, seed: int = 0, num_classes: int | None = None) -> nnx.Module:
    """Return the untrained network ``name`` in inference mode; ``module.train()`` makes it learn.

    Kernels are drawn from normals of variance 2 / fan-in for convolutions (He et al. 2015, eq. 10) and 1 / fan-in for
    dense layers; biases are 0 and normalizations the identity. The numbers depend on ``seed`` alone.

    Args:
      name: one of `names`.
      seed: of the kernels.
      num_classes: width of the logits; None for that of the published network.

    Raises:
      GgdjaxError: an unknown name (near matches are listed), or less than one class.
    """
    module = abstract(name, num_classes=num_classes)
    initialize(module, seed)
    return module


def abstract(name: str, *, num_classes: int | None = None) -> nnx.Module:
    """Return the network ``name`` in inference mode with shapes in place of arrays: to count, or to load weights into.

    Raises:
      GgdjaxError: an unknown name (near matches are listed), or less than one class.
    """
    known = entry(name)
    classes = known.num_classes if num_classes is None else num_classes
    if classes < 1:
        raise GgdjaxError(f"`num_classes` is {classes}, expected at least 1")
    module = nnx.eval_shape(lambda: known.build(num_classes=classes, rngs=nnx.Rngs(0)))
    module.eval()
    return module


def initialize(module: nnx.Module, seed: int) -> None:
    """Draw new parameters and batch statistics for ``module`` (abstract or not), in place, as `create` says."""
    # NumPy's generator, since JAX compiles its own anew for each shape: seconds for a small network.
    rng = np.random.default_rng(seed)
    state = nnx.state(module, (nnx.Param, nnx.BatchStat))
    for path, variable in nnx.to_flat_state(state):
        shape = variable.get_value().shape
        if path[-1] == "kernel":
            gain = 2.0 if len(shape) > 2 else 1.0
            value = rng.standard_normal(shape, np.float32) * np.float32((gain / np.prod(shape[:-1])) ** 0.5)
        else:
            value = np.full(shape, path[-1] in {"scale", "var"}, np.float32)
        variable.set_value(jnp.asarray(value))
    nnx.update(module, state)
