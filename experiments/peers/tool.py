"""What an adapter provides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from experiments.peers.work import Work


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One way to use a tool."""

    scheme: str
    """As the tool calls it."""
    weights_per: str
    """``tensor`` or ``channel``: what shares a weight step."""
    widths: str
    """Weights/feature maps in bits, such as ``8/4``."""

    @property
    def bits(self) -> tuple[int, int]:
        """Return the widths of weights and feature maps."""
        weights, maps = self.widths.split("/")
        return int(weights), int(maps)


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A tool and the settings in which it is measured."""

    name: str
    package: str
    """The distribution whose version is recorded, and that is missing where it cannot be imported."""
    settings: tuple[Setting, ...]
    quantize: Callable[[Work, Setting, Path], Callable[[np.ndarray], np.ndarray]]
    """Calibrate and quantize, and return the forward pass; may write files into the folder. Its time is taken."""
    install: str = "pip install -e '.[peers]'"
    """How to get it."""
    compiles: bool = False
    """Whether the first call compiles: then the second one's time is taken, the first one's stands beside it."""


def grid(schemes: tuple[str, ...], widths: tuple[str, ...]) -> tuple[Setting, ...]:
    """Return every scheme at every pair of widths, with weights per tensor and per channel."""
    return tuple(
        Setting(scheme=scheme, weights_per=per, widths=pair)
        for pair in widths
        for scheme in schemes
        for per in ("tensor", "channel")
    )
