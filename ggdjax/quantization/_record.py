"""How a quantized network came to be."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Shaped

    from ggdjax.network import Network
    from ggdjax.quantization._calibration import Calibration
    from ggdjax.quantization._config import QuantConfig
    from ggdjax.schemes import Choice


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step of the history of a quantized network."""

    name: str
    """``quantize``, ``recalibrate``, ``align``, ``bias_correction``, ``backward_forward``, ``gradient``, …"""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What was asked for, as JSON holds it."""
    images: int = 0
    """Number of images that the stage read."""
    image_hash: str = ""
    """SHA-256 of those images (`image_hash`); empty without images."""
    figures: Mapping[str, Any] = field(default_factory=dict)
    """What was measured, before and after, as JSON holds it."""
    details: Any = None
    """A tuner's own history (`ggdjax.tune.History`, `ggdjax.tune.GradientHistory`): one of `DETAILS`."""


#: Name -> class of what `Stage.details` holds, with ``to_dict`` and ``from_dict``: tuners add theirs.
DETAILS: dict[str, type] = {}


@dataclass(frozen=True, kw_only=True)
class Record:
    """How a `QuantizedNetwork` came to be. It computes nothing, and JAX transformations drop it.

    Functions of this project hand it on and append to ``stages``.
    """

    float_network: Network
    """What errors are measured against: batch normalization folded, nothing rounded or tuned."""
    config: QuantConfig | None = None
    """None where a file brought the quantizers (see `load_qdq`)."""
    calibration: Calibration | None = None
    """What the steps were chosen from; None where a file brought them."""
    choices: Mapping[str, Choice] = field(default_factory=dict)
    """By feature map: the step that a scheme chose and the evidence for it (one entry per channel, where the steps
    are)."""
    stages: tuple[Stage, ...] = ()
    """In the order in which they ran."""

    def with_stage(self, stage: Stage) -> Record:
        """Return the record with one more stage."""
        return replace(self, stages=(*self.stages, stage))


def image_hash(images: Shaped[np.ndarray, "image ..."]) -> str:
    """Return the SHA-256 of the images' shape and values, which tells one set of images from another."""
    digest = hashlib.sha256(repr((np.shape(images), str(images.dtype))).encode())
    for first in range(0, len(images), 256):
        digest.update(np.ascontiguousarray(images[first : first + 256]).tobytes())
    return digest.hexdigest()
