"""Every network an experiment can name: the real ones, the digits network that needs no data, and the user's own."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from experiments.generated import GENERATED, Generated
from experiments.real_networks import CIFAR10, NETWORKS, RealNetwork, data_folder
from ggdjax import GgdjaxError, data, network, zoo
from ggdjax._errors import near_matches
from ggdjax.data import Preprocessing
from ggdjax.data._preprocessing import in_layout_of

if TYPE_CHECKING:
    from ggdjax.data import ImageSet, Split
    from ggdjax.network import Network


class Digits:
    """The digits network with its images; both come with the package."""

    name: ClassVar[str] = "digits"
    batch_size: ClassVar[int] = 100

    def load(self) -> Network:
        """Return the network."""
        return network.trace(zoo.digits_net(), np.zeros((1, 8, 8, 1), np.float32))

    def open_images(self, net: Network) -> ImageSet:
        """Return its images."""
        return data.digits()

    def split(self, images: ImageSet, calibration_images: int | None = None, seed: int = 0) -> Split:
        """Return the parts: 512 calibration images, or this many of them, and all 500 test images."""
        return data.split(images, calibration_images or 512, seed)


class ShippedResNet20(Digits):
    """The ResNet-20 that comes with the package, calibrated and evaluated on CIFAR-10."""

    name: ClassVar[str] = "resnet20-shipped"
    batch_size: ClassVar[int] = 128

    def load(self) -> Network:
        """Return the network."""
        return zoo.load("resnet20")

    def open_images(self, net: Network) -> ImageSet:
        """Return the images of CIFAR-10."""
        rule = data.preset("cifar10", layout="NHWC").for_input(net.input_shape)
        return data.open_images(data_folder() / CIFAR10, rule)


@dataclass(frozen=True, kw_only=True)
class OwnNetwork:
    """A network and images of the user's: one table ``[networks.NAME]`` of an experiments file.

    Besides these fields, any of `ggdjax.data.Preprocessing`, such as ``crop = 192``.
    """

    name: str
    model: str
    """ONNX file; what `save` of a network wrote; a network of the zoo; or ``module:function``."""
    data: str | None = None
    """Images: a folder of class folders or with labels.csv, an .npz, a tar archive, or tfds:NAME; none: of no use to
    the experiment."""
    preprocessing: Preprocessing = dataclasses.field(default_factory=Preprocessing)
    """How an image becomes an input."""
    weights: str | None = None
    """Of a network of the zoo."""
    output: str | None = None
    """Tensor of an ONNX file to compute."""
    input_shape: tuple[int, ...] = ()
    """Of an ONNX file that leaves it open."""
    batch_size: int = 50

    def load(self) -> Network:
        """Return the network.

        Raises:
            GgdjaxError: there is none, or it cannot be read.
        """
        from ggdjax.cli._models import load_network

        weights = None if self.weights is None else Path(self.weights)
        return load_network(Path(self.model), self.output, self.input_shape, weights)

    def open_images(self, net: Network) -> ImageSet:
        """Return its images in the layout that the network reads: presets have channels first, the zoo last."""
        return data.open_images(self.data, in_layout_of(self.preprocessing, net.input_shape).for_input(net.input_shape))

    def split(self, images: ImageSet, calibration_images: int | None = None, seed: int = 0) -> Split:
        """Return the parts: 512 calibration images, or this many of them, and all images that may be held out."""
        return data.split(images, calibration_images or 512, seed)

    def check(self, *, images: bool = True) -> None:
        """Refuse files that are not there, weights that do not come with the package, and no images where they count.

        Raises:
            GgdjaxError: names the file.
        """
        if images and not self.data:
            raise GgdjaxError(f"network `{self.name}`: `data` is missing: say where its images are")
        if self.of_zoo and not self.weights and not _come_with_the_package(self.model):
            raise GgdjaxError(f"network `{self.name}`: no weights of it come with the package: give `weights`")
        files = [self.weights] if self.weights else []
        if self.data and not self.data.startswith("tfds:"):
            files.append(self.data)
        if ":" not in self.model and not self.of_zoo:
            files.append(self.model)
        for file in files:
            if not Path(file).exists():
                close = "" if file != self.model or Path(file).suffix else f" ({near_matches(file, zoo.names())})"
                raise GgdjaxError(f"network `{self.name}`: there is no file {file}{close}")

    @property
    def of_zoo(self) -> bool:
        """Whether the model is a network of the zoo."""
        return self.model in zoo.names() and not Path(self.model).exists()

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """What tells two networks of one name apart: contents of the model's files, place and rule of the images."""
        said = dataclasses.asdict(self)
        for field in ("model", "weights"):
            if said[field] and Path(said[field]).is_file():
                said[field] = hashlib.sha256(Path(said[field]).read_bytes()).hexdigest()[:12]
        if self.data and Path(self.data).exists():
            said["data"] = str(Path(self.data).resolve())
        return said


def _come_with_the_package(name: str) -> bool:
    return (resources.files("ggdjax.zoo") / f"_{name}.safetensors").is_file()


AnyNetwork = RealNetwork | Digits | Generated | OwnNetwork
ALL: dict[str, RealNetwork | Digits | Generated] = {
    "digits": Digits(),
    "resnet20-shipped": ShippedResNet20(),
    **NETWORKS,
    **GENERATED,
}


def find(name: str, own: Sequence[OwnNetwork] = ()) -> AnyNetwork:
    """Return a network by its name, the user's own before those of the project.

    Raises:
        GgdjaxError: there is none.
    """
    found = {**ALL, **{one.name: one for one in own}}
    if name not in found and name in zoo.names():
        raise GgdjaxError(f"network `{name}` of the zoo has no images here: give `--data`, `--preset` and `--weights`")
    if name not in found:
        raise GgdjaxError(f"no network is called `{name}`: {near_matches(name, found)}")
    return found[name]


def check(names: Iterable[str], own: Sequence[OwnNetwork] = (), *, images: bool = True) -> None:
    """Refuse a network that is not known, or whose file or images (where they are needed) are not there.

    Raises:
        GgdjaxError: names the first such network, and what to do.
    """
    for name in names:
        real = find(name, own)
        if isinstance(real, OwnNetwork):
            real.check(images=images)
        if not isinstance(real, RealNetwork | ShippedResNet20):
            continue
        try:
            folder = data_folder()
        except SystemExit as error:
            raise GgdjaxError(f"network `{name}`: {error}; `--networks digits` needs no data") from None
        needed = (CIFAR10,) if isinstance(real, ShippedResNet20) else (f"models/{real.file}", real.images)
        files = needed if images else needed[:-1]
        for path in (folder / file for file in files):
            if not path.exists():
                raise GgdjaxError(f"network `{name}`: {path} is not there: set GGDJAX_DATA to the folder that has it")
