"""What a user decides about backward-forward tuning."""

from __future__ import annotations

from dataclasses import dataclass

from ggdjax._errors import GgdjaxError
from ggdjax.quantization import Metric

#: 17 factors from 1/2 to 2, eight to the octave.
FACTORS = tuple(2.0 ** (k / 8) for k in range(-8, 9))


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """Settings of `backward_forward`.

    Raises:
        GgdjaxError: a value outside its range.

    Example:
        >>> gd.tune.TuneConfig(objective="kl", sweeps=4).factors[0]
        0.5
    """

    objective: str | Metric = "top1"
    """``top1`` or ``top5`` (the paper's), ``cross_entropy``; or without labels ``agreement``, ``kl``, ``sqnr``; or a
    metric, by name (``pixel-accuracy``, ``mean-iou``, ``psnr``, ``ssim``) or a `Metric`: the mean of the scores of
    single images."""
    factors: tuple[float, ...] = FACTORS
    """What a step is multiplied with, each > 0."""
    frac_bits_offsets: tuple[int, ...] = (-1, 0, 1)
    """What is added to the fractional length of a weight or bias."""
    joint: bool = False
    """Try every factor with every offset of the weights, not only one change at a time: about three times the cost."""
    sweeps: int = 2
    """Most sweeps over the network: backward, forward, backward, … A pair without a change ends the search earlier."""
    layers: tuple[str, ...] = ()
    """Names of feature maps, or of their readers, or patterns (``blocks/3/*``), to tune; all of them if empty."""
    screening: tuple[float, ...] = (0.125, 0.375)
    """Shares of the images that choose after which the worse two thirds of the candidates are dropped (successive
    halving, Jamieson and Talwalkar 2016); the present values stay. Empty: every candidate runs on all images."""
    held_back: float = 1 / 3
    """Share of the tuning images on which no candidate is chosen: what wins on the others is kept only where it is not
    worse on these, so that what a search gains is not its own images'. 0: every image chooses."""
    max_float_passes: float | None = None
    """Budget: passes of the whole network over the tuning images that the search may spend; None: no limit."""
    memory_bytes: int | None = None
    """Bounds the rows that run at once, and, again, the activations that are kept between layers; None: a quarter of
    the memory of the device. The result does not depend on it."""
    rows: int | None = None
    """Rows (candidates times images) that run at once; None: an eighth of the images on a CPU, all of them on other
    devices, where that fits in ``memory_bytes``. The result does not depend on it."""
    allow_few_images: bool = False
    """Tune for top-1, top-5 or cross-entropy on fewer images than classes."""
    seed: int = 0
    """Orders the images; those that come first screen the candidates."""

    def __post_init__(self) -> None:
        if not self.factors or min(self.factors) <= 0:
            raise GgdjaxError(f"`factors` must be positive numbers, got {self.factors!r}")
        if self.sweeps < 1:
            raise GgdjaxError(f"`sweeps` must be at least 1, got {self.sweeps!r}")
        if self.seed < 0:
            raise GgdjaxError(f"`seed` must be at least 0, got {self.seed!r}")
        if list(self.screening) != sorted(self.screening) or not all(0 < s < 1 for s in self.screening):
            raise GgdjaxError(f"`screening` must be rising shares between 0 and 1, got {self.screening!r}")
        if not 0 <= self.held_back < 1:
            raise GgdjaxError(f"`held_back` must be a share from 0 to below 1, got {self.held_back!r}")
        for name in ("rows", "memory_bytes"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise GgdjaxError(f"`{name}` must be at least 1, got {value!r}")
        if self.max_float_passes is not None and self.max_float_passes <= 0:
            raise GgdjaxError(f"`max_float_passes` must be positive, got {self.max_float_passes!r}")
