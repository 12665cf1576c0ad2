"""How an image becomes a network's input: one frozen dataclass, and the presets of the common conventions."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ggdjax._errors import DataError, named, near_matches, refusal

ColourOrder = Literal["RGB", "BGR", "GRAY"]
Layout = Literal["NCHW", "NHWC"]


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """The input ``x = (scale · u − mean) / std`` per channel, ``u`` the pixel after resize, crop and size.

    Geometry, in this order, each step left out where its field is None: the shorter side is resized to ``resize``
    (bilinear, antialiased, aspect kept), the centred ``crop × crop`` square is cut, and that is resized to
    ``size × size`` (bilinear, antialiased). Files are decoded to three channels (one for ``GRAY``): grey,
    palette and transparent images are converted as every loader does.

    Raises:
        DataError: a field out of its range; the message names the field.
    """

    resize: int | None = None
    """Shorter side in pixels before the crop; None keeps the image as it is."""
    crop: int | None = None
    """Side of the centred square in pixels; None crops nothing."""
    size: int | None = None
    """Side in pixels to which the (cropped) image is resized at last; None keeps the crop's size."""
    colour_order: ColourOrder = "RGB"
    """Order of the channels in the network's input; `GRAY` is one channel. The data themselves are RGB."""
    scale: float = 1 / 255
    """Factor on the raw value: 1/255 maps 8-bit pixels to [0, 1], 1 keeps them in [0, 255]."""
    mean: tuple[float, ...] = (0.0,)
    """Subtracted after scaling; one value per channel in ``colour_order``, or one for all."""
    std: tuple[float, ...] = (1.0,)
    """Divides after the subtraction; one value per channel in ``colour_order``, or one for all."""
    layout: Layout = "NCHW"
    """Axes of the batches, as the network's own input has them."""
    label_offset: int = 0
    """The data's class is the network's argmax − label_offset: 1 where output 0 means `background`, −1 where the data's
    classes are numbered from 1."""

    def __post_init__(self) -> None:
        for name in ("resize", "crop", "size"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and value > 0):
                raise DataError(f"`{name}` is {value!r}, expected a positive number of pixels or None")
        for name, allowed in (("colour_order", get_args(ColourOrder)), ("layout", get_args(Layout))):
            value = getattr(self, name)
            if value not in allowed:
                raise DataError(f"`{name}` is {value!r}, expected one of {', '.join(allowed)}")
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise DataError(f"`scale` is {self.scale!r}, expected a positive number (1/255 maps pixels to [0, 1])")
        for name in ("mean", "std"):
            values = tuple(float(v) for v in getattr(self, name))
            object.__setattr__(self, name, values)
            if len(values) not in {1, self.channels}:
                raise DataError(
                    f"`{name}` has {len(values)} values, expected 1 or {self.channels} ({self.colour_order} channels)"
                )
            if not all(math.isfinite(v) for v in values):
                raise DataError(f"`{name}` is {values}, expected finite numbers")
        if not all(v > 0 for v in self.std):
            raise DataError(f"`std` is {self.std}, expected positive numbers (it divides)")
        if not (isinstance(self.label_offset, int) and self.label_offset >= -1):
            raise DataError(f"`label_offset` is {self.label_offset!r}, expected an integer of at least -1")
        if self.resize is not None and self.crop is not None and self.crop > self.resize:
            raise DataError(
                f"`crop` is {self.crop}, more than the shorter side `resize` = {self.resize}: "
                "lower `crop` or raise `resize`"
            )

    @property
    def channels(self) -> int:
        """Number of channels of the network's input: 3, or 1 for `GRAY`."""
        return 1 if self.colour_order == "GRAY" else 3

    @property
    def pixel_range(self) -> tuple[float, float]:
        """Least and largest input that a pixel from 0 to 255 becomes, in any channel."""
        full = 255 * self.scale
        mean, std = (v * self.channels if len(v) == 1 else v for v in (self.mean, self.std))
        low = min(-m / s for m, s in zip(mean, std, strict=True))
        return low, max((full - m) / s for m, s in zip(mean, std, strict=True))

    @property
    def output_size(self) -> int | None:
        """Height and width of every batch in pixels; None where they are the images' own."""
        return self.size if self.size is not None else self.crop

    def batch_shape(self, count: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Return the shape of ``count`` images of ``height × width`` in this layout."""
        if self.layout == "NCHW":
            return (count, self.channels, height, width)
        return (count, height, width, self.channels)

    def for_input(self, shape: tuple[int | str | None, ...]) -> Preprocessing:
        """Return the preprocessing that yields a network's input ``shape`` (batch first, any name or None for
        it).

        Where no ``size`` was asked for, and the crop differs from what the network reads, the crop is resized
        to it at last: that is how one TF-slim preset serves the MobileNets of every resolution. Sizes that
        the network leaves open stay as they are.

        Raises:
            DataError: a channel count, layout or ``size`` that the network does not read.
        """
        if len(shape) != 4:
            raise DataError(f"the network's input has shape {shape}, expected four axes (a batch of images)")
        chan, height, width = (shape[1], *shape[2:]) if self.layout == "NCHW" else (shape[3], *shape[1:3])
        if isinstance(chan, int) and chan != self.channels:
            raise DataError(
                f"the network's input has shape {shape}, {chan} channels as {self.layout}, but "
                "`colour_order` "
                f"{self.colour_order} gives {self.channels}: change `layout` or `colour_order`"
            )
        if not (isinstance(height, int) and isinstance(width, int)):
            return self
        if height != width:
            raise DataError(f"the network reads {height}×{width} images, expected a square input")
        if self.size is not None and self.size != height:
            raise DataError(f"`size` is {self.size}, but the network reads {height}×{width} images")
        if self.size is None and self.crop is not None and self.crop != height:
            return dataclasses.replace(self, size=height)
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Preprocessing:
        """Return the preprocessing that `to_dict` wrote.

        Raises:
            DataError: an unknown field, or a value out of its range.
        """
        if not isinstance(fields, dict):
            raise refusal("fields", fields, "a dict of fields", error=DataError)
        known = [f.name for f in dataclasses.fields(cls)]
        for name in fields:
            if name not in known:
                raise DataError(f"unknown preprocessing field `{name}`: {near_matches(name, known)}")
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        return cls(**values)


def in_layout_of(rule: Preprocessing, shape: tuple[int | str | None, ...]) -> Preprocessing:
    """Return the rule with the layout of a network's input ``shape``, by its channels; its own where both fit."""
    axes: dict[Layout, int] = {"NCHW": 1, "NHWC": -1}
    fitting = [layout for layout, axis in axes.items() if shape[axis] == rule.channels]
    return rule if not fitting or rule.layout in fitting else dataclasses.replace(rule, layout=fitting[0])


#: ImageNet's channel statistics on [0, 1], as torchvision's networks (and many CIFAR-10 ones) were trained
#: with.
_TORCH_MEAN = (0.485, 0.456, 0.406)
_TORCH_STD = (0.229, 0.224, 0.225)

#: Named conventions; `preset` adds overrides.
PRESETS: dict[str, Preprocessing] = {
    # 32×32 images as they are; torchvision's statistics, as akamaster/pytorch_resnet_cifar10 trains.
    "cifar10": Preprocessing(mean=_TORCH_MEAN, std=_TORCH_STD),
    # Grey 28×28 digits at the 32×32 that LeNet-5 reads; background −0.1, ink 1.175 (LeCun et al. 1998, §II.B).
    "mnist": Preprocessing(size=32, colour_order="GRAY", mean=(0.1 / 1.275,), std=(1 / 1.275,)),
    # torchvision's evaluation transform: shorter side 256, centre 224.
    "imagenet": Preprocessing(resize=256, crop=224, mean=_TORCH_MEAN, std=_TORCH_STD),
    # Caffe: BGR, raw pixels less the mean pixel; 227 is what AlexNet and SqueezeNet 1.0 read.
    "imagenet-caffe": Preprocessing(resize=256, crop=227, colour_order="BGR", scale=1.0, mean=(104.0, 117.0, 123.0)),
    # TF-slim: the central 87.5 % (224 of 256), resized to the network's input, mapped to [−1, 1]; output 0 is
    # background.
    "imagenet-tf": Preprocessing(resize=256, crop=224, scale=1.0, mean=(127.5,), std=(127.5,), label_offset=1),
}


def preset(name: str, **overrides: Any) -> Preprocessing:
    """Return the preset ``name`` with ``overrides`` of single fields (those that are None change nothing).

    Raises:
        DataError: an unknown preset or field, or a value out of its range.

    Example:
        >>> gd.data.preset("imagenet", crop=192).output_size
        192
    """
    if not isinstance(name, str) or name not in PRESETS:
        raise DataError(f"unknown preprocessing preset {named(name)}: {near_matches(name, PRESETS)}")
    given = {key: value for key, value in overrides.items() if value is not None}
    return Preprocessing.from_dict({**PRESETS[name].to_dict(), **given})
