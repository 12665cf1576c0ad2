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
    from ggdjax.data import ImageSet, Split
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

    def open_images(self, net: Network) -> ImageSet:
        """Return its images."""
        return data.open_images(data_folder() / self.images, data.preset(self.preset).for_input(net.input_shape))

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
    name: RealNetwork(name=name, file=file, images=images, preset=preset, batch_size=size)
    for name, file, images, preset, size in (
        ("resnet20", "resnet20_cifar10.onnx", CIFAR10, "cifar10", 128),
        ("squeezenet", "squeezenet1.0_imagenet.onnx", IMAGENET, "imagenet-caffe", 50),
        ("mobilenet-0.75-192", "mobilenet_v1_075_192_imagenet.onnx", IMAGENET, "imagenet-tf", 50),
        ("mobilenet-0.25-128", "mobilenet_v1_025_128_imagenet.onnx", IMAGENET, "imagenet-tf", 50),
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
