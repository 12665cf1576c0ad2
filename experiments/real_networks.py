"""The real networks and images that every measured claim rests on, with their fixed conventions.

They are not part of the repository: they lie in the folder that the environment variable GGDJAX_DATA names, or in
`shared/data` beside the checkout. CIFAR-10: calibrate on 512 training images, evaluate on all 10,000 test images.
ImageNet sample: calibrate on the 100 images with index 5, 15, …, 995, evaluate on the other 900.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ggdjax import data, network

if TYPE_CHECKING:
    from ggdjax.data import ImageSet, Preprocessing, Split
    from ggdjax.network import Network

CIFAR10, IMAGENET = "cifar10-imagefolder.tar.gz", "imagenet1k-sample"


@dataclass(frozen=True, kw_only=True)
class RealNetwork:
    """One network file, its preprocessing and its images."""

    name: str
    file: str
    images: str
    preset: str
    batch_size: int

    def load(self) -> Network:
        """Return the network."""
        return network.load_onnx(data_folder() / "models" / self.file)

    def preprocessing(self, net: Network) -> Preprocessing:
        """Return how its images become inputs."""
        return data.preset(self.preset).for_input(net.input_shape)

    def open_images(self, net: Network) -> ImageSet:
        """Return its images."""
        return data.open_images(data_folder() / self.images, self.preprocessing(net))

    def split(self, images: ImageSet, calibration_images: int | None = None, seed: int = 0) -> Split:
        """Return the conventional split, or one with fewer calibration images out of the conventional ones."""
        if self.images == CIFAR10:
            return data.split(images, calibration_images or 512, seed)
        parts = data.split_every(images)
        if calibration_images is None:
            return parts
        ids = [images.ids[i] for i in parts.calibration]
        order = data.hash_order(ids, seed)[:calibration_images]
        return data.split_by_ids(images, [ids[i] for i in order], [images.ids[i] for i in parts.held_out])


NETWORKS = {
    net.name: net
    for net in (
        RealNetwork(name="resnet20", file="resnet20_cifar10.onnx", images=CIFAR10, preset="cifar10", batch_size=128),
        RealNetwork(
            name="squeezenet",
            file="squeezenet1.0_imagenet.onnx",
            images=IMAGENET,
            preset="imagenet-caffe",
            batch_size=50,
        ),
        RealNetwork(
            name="mobilenet-0.75-192",
            file="mobilenet_v1_075_192_imagenet.onnx",
            images=IMAGENET,
            preset="imagenet-tf",
            batch_size=50,
        ),
        RealNetwork(
            name="mobilenet-0.25-128",
            file="mobilenet_v1_025_128_imagenet.onnx",
            images=IMAGENET,
            preset="imagenet-tf",
            batch_size=50,
        ),
    )
}


def data_folder() -> Path:
    """Return the folder of real networks and images.

    Raises:
        SystemExit: it is not there; says how to name it.
    """
    folder = Path(os.environ.get("GGDJAX_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not (folder / "models" / "models.json").is_file():
        raise SystemExit(f"real networks and images not found in {folder}: set GGDJAX_DATA to their folder")
    return folder
