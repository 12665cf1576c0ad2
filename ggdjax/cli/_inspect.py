"""`ggdjax inspect`: what is in a model or a run."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from ggdjax._errors import DataError, GgdjaxError
from ggdjax._fields import field_docs
from ggdjax.data import Preprocessing

if TYPE_CHECKING:
    from rich.console import Console

    from ggdjax.data import ImageSet
    from ggdjax.network import Network
    from ggdjax.quantization import QuantizedNetwork

#: Ways to prepare the images that are shown.
_MOST_READINGS = 5
#: Difference in top-1 that so few images do not tell.
_HARDLY_WORSE = 0.02


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Show the layers of a model or run: shapes, widths, steps, what stays in float and why, and its history.

    For example:
        ggdjax inspect resnet20.onnx
        ggdjax inspect runs/r20
        ggdjax inspect net.onnx --data images/
    """

    what: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL|RUN")] = None
    """ONNX file, a file that `save` wrote, a run folder, a network of the zoo, or module:function, as for
    `ggdjax quantize`; none: the embedded digits network."""

    data: str | None = None
    """Labelled images: show with which colour order, scale, mean and label offset a float MODEL is right on most."""
    preset: str | None = None
    """Resize and crop for ``--data``; none: those of every preset are tried."""
    label_offset: Annotated[int | None, tyro.conf.arg(help=field_docs(Preprocessing)["label_offset"])] = None
    weights: Path | None = None
    """Weights of a network of the zoo."""
    output: str | None = None
    """Tensor of the ONNX file to compute, of a model with several outputs or up to a layer inside."""
    input_shape: Annotated[tuple[int, ...], tyro.conf.arg(metavar="[INT ...]")] = ()
    """Full shape of the input, batch first (1 3 224 224), of an ONNX file that leaves its image size open."""
    constant: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[NAME=NUMBER ...]")] = ()
    """Values of the inputs of an ONNX file that take no images: rate=16000 state=0."""

    def run(self) -> None:
        """Do the job.

        Raises:
            GgdjaxError: there is no model or run, or ``--data`` is given for one that is no float network.
        """
        import ggdjax as gd
        from ggdjax import data, report
        from ggdjax.cli._console import console
        from ggdjax.cli._models import load_network
        from ggdjax.cli._options import naming_options
        from ggdjax.cli._runs import opened
        from ggdjax.data._preprocessing import in_layout_of
        from ggdjax.recipe import Recipe

        screen = console()
        if self.what is not None and self.what.is_dir():
            value = report.load_run(self.what).network
        elif (
            self.what is not None
            and self.what.suffix == ".safetensors"
            and not (self.output or self.input_shape or self.constant)
        ):
            value = gd.load(self.what)
        else:
            value = load_network(self.what, self.output, self.input_shape, self.weights, self.constant)
        images = None
        if self.data is None and (given := [n for n in ("preset", "label_offset") if getattr(self, n) is not None]):
            raise GgdjaxError(
                f"`--{given[0].replace('_', '-')}` says how images are read: give `--data`, or leave it out"
            )
        if self.data is not None:
            if not isinstance(value, gd.Network):
                raise GgdjaxError(
                    "`--data` is for a float MODEL: `ggdjax evaluate RUN --data` evaluates a run on images"
                )
            names = [self.preset] if self.preset is not None else _fitting_presets(value)
            with naming_options(("label_offset",)):
                rule = in_layout_of(data.preset(names[0], label_offset=self.label_offset), value.input_shape)
            images = opened(self.data, value, Recipe(preprocessing=rule), screen)
        if isinstance(value, gd.quantization.QuantizedNetwork):
            _show_quantized(value, screen)
        elif isinstance(value, gd.Network):
            _show_float(value, screen)
            if images is not None:
                _show_readings(value, images, self.preset, screen)
        else:
            screen.print(f"{self.what} holds a {type(value).__name__}: {value!r}"[:2000], markup=False)


def _show_float(net: Network, screen: Console) -> None:
    from ggdjax.network import fold_batch_norm
    from ggdjax.report._tables import network_table

    folded = fold_batch_norm(net)
    screen.print(network_table(folded, width=screen.width))
    absent = len(net.graph.nodes) - len(folded.graph.nodes)
    if absent:
        screen.print(f"{absent} batch normalizations are folded into the layers before them.")


def _fitting_presets(net: Network) -> list[str]:
    """Return the presets of as many channels as the network reads; all of them where none has."""
    from ggdjax.data import PRESETS
    from ggdjax.data._preprocessing import in_layout_of

    fitting = []
    for name in ("imagenet", *PRESETS):
        with suppress(DataError):
            in_layout_of(PRESETS[name], net.input_shape).for_input(net.input_shape)
            fitting.append(name)
    return fitting or ["imagenet"]


def _show_readings(net: Network, images: ImageSet, preset: str | None, screen: Console) -> None:
    from ggdjax.cli._suspicions import readings_of
    from ggdjax.recipe._readings import in_geometries_of_presets

    found, refusals = [], []
    for way in [images] if preset is not None else in_geometries_of_presets(images, net):
        try:
            found += readings_of(net, way, screen)
        except DataError as error:
            refusals.append(error)
    if not found:
        raise refusals[0]
    # Of those that are hardly worse than the best, the simplest comes first.
    least = max(reading.value for reading in found) - _HARDLY_WORSE
    found.sort(key=lambda r: (r.value < least, len(r.options().split()) if r.value >= least else 0, -r.value))
    by = "" if preset is None else f", --preset {preset} and"
    screen.print(f"Top-1 of the float network on {found[0].score.images} images{by}", markup=False)
    for reading in [r for i, r in enumerate(found) if i < _MOST_READINGS or (by and not r.differs)]:
        how = reading.describe() if by else reading.options()
        screen.print(f"  {100 * reading.value:6.2f} %  {how}", markup=False, soft_wrap=True)


def _show_quantized(q: QuantizedNetwork, screen: Console) -> None:
    from ggdjax import report

    screen.print(report.layer_table(q, width=screen.width))
    for stage in () if q.record is None else q.record.stages:
        figures = {k: v for k, v in stage.figures.items() if not isinstance(v, dict)}
        shown = ", ".join(f"{name} {_short(value)}" for name, value in figures.items())
        on = f" on {stage.images} images" if stage.images else ""
        screen.print(f"{stage.name}{on}{': ' if shown else ''}{shown}", markup=False)


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return " to ".join(_short(v) for v in value) if isinstance(value, list | tuple) else str(value)
