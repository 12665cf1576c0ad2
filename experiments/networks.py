"""Every network an experiment can name: the real ones, and the digits network that needs no data.

Your own: one more `RealNetwork` in `experiments/real_networks.py`, or a class like `Digits` here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from experiments.real_networks import NETWORKS, RealNetwork, data_folder
from ggdjax import GgdjaxError, data, network, zoo

if TYPE_CHECKING:
    from collections.abc import Iterable

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


ALL: dict[str, RealNetwork | Digits] = {"digits": Digits(), **NETWORKS}


def check(names: Iterable[str]) -> None:
    """Refuse a network that is not known, or whose file or images are not there.

    Raises:
        GgdjaxError: names the first such network, and what to do.
    """
    for name in names:
        if name not in ALL:
            raise GgdjaxError(f"no network is called `{name}`; known: {', '.join(ALL)}")
        real = ALL[name]
        if not isinstance(real, RealNetwork):
            continue
        try:
            folder = data_folder()
        except SystemExit as error:
            raise GgdjaxError(f"network `{name}`: {error}; `--networks digits` needs no data") from None
        for path in (folder / "models" / real.file, folder / real.images):
            if not path.exists():
                raise GgdjaxError(f"network `{name}`: {path} is not there: set GGDJAX_DATA to the folder that has it")
