"""The zoo by name: how each network is built, its input, and its published size with the source."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
from flax import nnx

from ggdjax._errors import GgdjaxError, describe, near_matches
from ggdjax.zoo._densenet import DenseNet
from ggdjax.zoo._digits import DigitsNet
from ggdjax.zoo._efficientnet import EfficientNet
from ggdjax.zoo._googlenet import GoogLeNet
from ggdjax.zoo._lenet import LeNet5
from ggdjax.zoo._mobilenet_v1 import MobileNetV1
from ggdjax.zoo._mobilenet_v2 import MobileNetV2, mobilenet_v2_small
from ggdjax.zoo._modules import expect_module
from ggdjax.zoo._plain import VGG, VGG11, VGG16, AlexNet
from ggdjax.zoo._resnet import BasicBlock, Bottleneck, CifarResNet, ResNet
from ggdjax.zoo._squeezenet import V1_0, V1_1, SqueezeNet
from ggdjax.zoo._tiny_yolo import TinyYoloV2

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


TORCHVISION = "torchvision, `num_params` and `_ops` of its weights"
MOBILENETS = "Howard et al. 2017, Table 6; parameters: Keras, trainable ones"
MOBILENETS_V2 = "Sandler et al. 2018, the authors' table of checkpoints; parameters: timm's table of results"
SOFT = "He et al. 2018, Soft filter pruning, Table 1"
HRANK = "Lin et al. 2020, HRank, Tables 1 and 2"
CAFFE = "Caffe, bvlc_googlenet"
DARKNET = "Darknet: 6.97 billion operations, two per MAC; parameters: the size of `yolov2-tiny-voc.weights`"
OWN = "this package; nothing is published of it"

PHOTO = (224, 224, 3)


def _imagenet(build: Callable[..., nnx.Module], parameters: int, macs: float, unit: float, source: str) -> Entry:
    """Return the entry of a network for 224×224 photographs in 1,000 classes; ``macs`` and ``unit`` in millions."""
    return Entry(
        build=build,
        input_shape=PHOTO,
        num_classes=1000,
        parameters=exact(parameters, source),
        macs=Published(value=macs * 1e6, unit=unit * 1e6, source=source),
    )


def _cifar_resnet(depth: int, parameters: float, macs: Published) -> Entry:
    """Return the entry of a CIFAR ResNet; ``parameters`` in millions, as printed in the paper's Table 6."""
    unit = 1e5 if depth == 110 else 1e4
    return Entry(
        build=partial(CifarResNet, depth),
        input_shape=(32, 32, 3),
        num_classes=10,
        parameters=Published(value=parameters * 1e6, unit=unit, source="He et al. 2016, Table 6"),
        macs=macs,
    )


def _mobilenet_v2(width: float, parameters: float, macs: float) -> Entry:
    """Return the entry of a width multiplier other than 1; figures in millions, as printed."""
    return Entry(
        build=partial(MobileNetV2, width=width),
        input_shape=PHOTO,
        num_classes=1000,
        parameters=Published(value=parameters * 1e6, unit=1e4, source=MOBILENETS_V2),
        macs=Published(value=macs * 1e6, unit=1e6, source=MOBILENETS_V2),
    )


ENTRIES: dict[str, Entry] = {
    "digits": Entry(
        build=DigitsNet,
        input_shape=(8, 8, 1),
        num_classes=10,
        parameters=exact(16_126, OWN),
        macs=exact(380_400, OWN),
    ),
    "lenet5": Entry(
        build=LeNet5,
        input_shape=(32, 32, 1),
        num_classes=10,
        parameters=exact(61_706, "LeCun et al. 1998, §II.B: C1 156, C5 48,120, F6 10,164; C3 whole 2,416, output 850"),
        macs=exact(416_520, "LeCun et al. 1998, §II.B: the products of C1, C3 whole, C5, F6 and the output"),
    ),
    "alexnet": _imagenet(AlexNet, 61_100_840, 714, 1, TORCHVISION),
    "vgg11": _imagenet(partial(VGG, VGG11), 132_863_336, 7_609, 1, TORCHVISION),
    "vgg16": _imagenet(partial(VGG, VGG16), 138_357_544, 15_470, 1, TORCHVISION),
    "googlenet": _imagenet(GoogLeNet, 6_998_552, 1_600, 100, CAFFE),
    "resnet18": _imagenet(partial(ResNet, BasicBlock, (2, 2, 2, 2)), 11_689_512, 1_814, 1, TORCHVISION),
    "resnet34": _imagenet(partial(ResNet, BasicBlock, (3, 4, 6, 3)), 21_797_672, 3_664, 1, TORCHVISION),
    "resnet50": _imagenet(partial(ResNet, Bottleneck, (3, 4, 6, 3)), 25_557_032, 4_089, 1, TORCHVISION),
    "resnet20": _cifar_resnet(20, 0.27, Published(value=4.06e7, unit=1e5, source=SOFT)),
    "resnet32": _cifar_resnet(32, 0.46, Published(value=6.89e7, unit=1e5, source=SOFT)),
    # Equal blocks: 44 layers lie halfway between 32 and 56, whose figures are printed.
    "resnet44": _cifar_resnet(44, 0.66, Published(value=9.72e7, unit=1e5, source=f"mean of ResNet-32 and -56, {SOFT}")),
    "resnet56": _cifar_resnet(56, 0.85, Published(value=125.49e6, unit=1e4, source=HRANK)),
    "resnet110": _cifar_resnet(110, 1.7, Published(value=252.89e6, unit=1e4, source=HRANK)),
    "squeezenet1_0": _imagenet(partial(SqueezeNet, V1_0, chan=96, kernel=7), 1_248_424, 819, 1, TORCHVISION),
    "squeezenet1_1": _imagenet(partial(SqueezeNet, V1_1, chan=64, kernel=3), 1_235_496, 349, 1, TORCHVISION),
    "mobilenet_v1": _imagenet(MobileNetV1, 4_231_976, 569, 1, MOBILENETS),
    "mobilenet_v1_075": _imagenet(partial(MobileNetV1, width=0.75), 2_585_560, 325, 1, MOBILENETS),
    "mobilenet_v1_050": _imagenet(partial(MobileNetV1, width=0.5), 1_331_592, 149, 1, MOBILENETS),
    "mobilenet_v1_025": _imagenet(partial(MobileNetV1, width=0.25), 470_072, 41, 1, MOBILENETS),
    "mobilenet_v2": _imagenet(MobileNetV2, 3_504_872, 301, 1, TORCHVISION),
    "mobilenet_v2_140": _mobilenet_v2(1.4, 6.11, 582),
    "mobilenet_v2_050": _mobilenet_v2(0.5, 1.97, 97),
    "mobilenet_v2_small": Entry(
        build=mobilenet_v2_small,
        input_shape=(32, 32, 3),
        num_classes=10,
        parameters=exact(403_658, OWN),
        macs=exact(49_036_416, OWN),
    ),
    "densenet121": _imagenet(partial(DenseNet, (6, 12, 24, 16)), 7_978_856, 2_834, 1, TORCHVISION),
    "efficientnet_b0": _imagenet(EfficientNet, 5_288_548, 386, 1, TORCHVISION),
    "tiny_yolo_v2": Entry(
        build=TinyYoloV2,
        input_shape=(416, 416, 3),
        num_classes=20,
        parameters=exact(15_861_773, DARKNET),
        macs=Published(value=6.97e9 / 2, unit=0.01e9 / 2, source=DARKNET),
    ),
}


def names() -> tuple[str, ...]:
    """Return the names of the zoo's networks.

    Example:
        >>> [name for name in gd.zoo.names() if name.startswith("squeeze")]
        ['squeezenet1_0', 'squeezenet1_1']
    """
    return tuple(sorted(ENTRIES))


def entry(name: str) -> Entry:
    """Return what is known of the network ``name``.

    Raises:
      GgdjaxError: there is none; the message lists near matches.
    """
    if not isinstance(name, str) or name not in ENTRIES:
        raise GgdjaxError(f"`name` is {describe(name)}, which is no network of the zoo: {near_matches(name, ENTRIES)}")
    return ENTRIES[name]


def create(name: str, *, seed: int = 0, num_classes: int | None = None) -> nnx.Module:
    """Return the untrained network ``name`` in inference mode; ``module.train()`` returns it to training.

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
    expect_module("module", module)
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
