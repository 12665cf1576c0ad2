"""An integer program: the graph of integer operations, its arrays, and the simulator that runs it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ggdjax import _files
from ggdjax._errors import DataError, summary
from ggdjax._tables import html_table
from ggdjax.datapath._formats import Format, tensor_of
from ggdjax.datapath._layers import IntegerLayer
from ggdjax.datapath._rounding import Overflow, Rounding
from ggdjax.datapath._simulate import INTEGER_OPS, Counting, Integer, LayerCounts, compiled, simulate
from ggdjax.datapath._spec import Accelerator
from ggdjax.network import Network, run
from ggdjax.network._chunks import run_in_chunks
from ggdjax.network._ops import OPS
from ggdjax.network._serialize import graph_from_record, graph_record

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Mapping

    from jax.typing import ArrayLike
    from jaxtyping import Array, Float, Int

    from ggdjax.network import Graph


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a counted run gives: logits, and per node how often it overflowed or saturated."""

    logits: Any
    """As ``program(x)`` returns them."""
    counts: dict[str, LayerCounts]
    """By the name of the integer graph's node; only those that can overflow or saturate."""
    beyond: dict[str, float]
    """Tensors that saturated though they are no codes (summands, factors, inputs of averages and of tables): tensor of
    the network -> share of its values. They left the range that calibration measured, with the headroom that the
    accelerator gives; empty as a rule. That codes saturate is the scheme's choice."""

    @property
    def overflows(self) -> int:
        """Sums that their accumulator could not hold, over all layers."""
        return sum(int(c.overflows) for c in self.counts.values())

    @property
    def saturations(self) -> int:
        """Values that their width, not an activation function, limited, over all requantizations."""
        return sum(int(c.saturations) for c in self.counts.values())


@dataclass(frozen=True, kw_only=True)
class Program:
    """A quantized network in integers: real numbers enter, codes and int32 accumulators flow, logits leave.

    Every tensor of ``graph`` is int32 and stands for ``formats[tensor].scale · integer``. The nodes, in order of
    execution, are ``quantize`` (of the input), ``conv`` and ``dense`` (integer kernel and bias in ``params``),
    ``requantize`` (attributes ``multiplier``, ``shift``, ``low``, ``high``, ``rounding``), and the integer forms of
    what lies between; the operations are in `ggdjax.datapath._ops`. Results do not depend on batch size or backend,
    where no layer stays in float (``in_float``).
    """

    graph: Graph
    params: dict[str, np.ndarray] = field(repr=False)
    """Integer arrays: ``<layer>/kernel`` (int8 or int16), ``<layer>/bias`` (int32), tables (int32); float32 ones of
    layers that stay in float."""
    formats: dict[str, Format] = field(repr=False)
    """What each integer tensor stands for."""
    layers: dict[str, IntegerLayer] = field(repr=False)
    """By the name of each convolution and dense node in integers: these, and the exact range of its accumulators."""
    feature_maps: dict[str, str] = field(repr=False)
    """The network's feature maps, in order -> the integer tensor that holds its codes."""
    code_formats: dict[str, Format] = field(repr=False)
    """The network's feature maps -> their quantizers' whole range of codes, which activation functions may narrow."""
    accelerator: Accelerator
    network: Network = field(repr=False)
    """The real network that was compiled."""
    inexact: dict[str, tuple[float, str]] = field(default_factory=dict)
    """Feature maps (and outputs, as if of 8 bits) whose codes integers between layers are too coarse for -> by how many
    LSB at most, and the tensor whose range makes them so; empty as a rule."""

    def __repr__(self) -> str:
        return summary(
            self,
            network=self.network,
            integer_nodes=len(self.graph.nodes),
            feature_maps=len(self.feature_maps),
            overflow=self.accelerator.overflow.value,
            **({"in_float": ", ".join(self.in_float)} if self.in_float else {}),
        )

    def _repr_html_(self) -> str:
        rows = (
            {
                "layer": name,
                "kernel": f"{layer.kernel.shape} {layer.kernel.dtype}",
                "codes of the input": f"{layer.source.low} … {layer.source.high}",
                "accumulator": f"{layer.accumulator.low} … {layer.accumulator.high}",
                "unit of the accumulator": np.asarray(layer.accumulator.scale),
            }
            for name, layer in self.layers.items()
        )
        return html_table(self, rows, len(self.layers))

    def __call__(self, x: ArrayLike) -> Any:
        """Return the outputs, float32: the program's integers times their scale, through a softmax at the end.

        Args:
            x: a batch in the layout of the network's own input.

        Raises:
            DataError: the shape, type or values of ``x`` do not fit.
        """
        return self._scaled(_outputs(self.graph, self.params, self._checked(x)))

    def integers(self, x: ArrayLike) -> Any:
        """Return the logits as int32, in units of ``output_scale``."""
        return _outputs(self.graph, self.params, self._checked(x))

    def codes(self, x: ArrayLike) -> dict[str, Int[Array, "batch ..."]]:
        """Return the codes of every feature map, int32, channels last; zero points added."""
        found, _ = simulate(self.graph, tuple(self.feature_maps.values()), self.params, self._checked(x))
        return {name: found[tensor] + self.formats[tensor].zero_point for name, tensor in self.feature_maps.items()}

    def run(self, x: ArrayLike) -> RunResult:
        """Return logits and, per node, the counts of overflows and saturations and the accumulator's range."""
        x = self._checked(x)
        outputs, counts = _counted(self.graph, self._width_limits, self.params, x)
        beyond: dict[str, float] = {}
        for node in self.graph.nodes:
            form = self.formats[node.output]
            if node.name in counts and form.role != "code" and (lost := int(counts[node.name].saturations)):
                values = len(x) * math.prod(size or 1 for size in self.graph.shape(node.output)[1:])
                tensor = tensor_of(node.output, form)
                beyond[tensor] = max(beyond.get(tensor, 0.0), lost / values)
        return RunResult(logits=self._scaled(outputs), counts=counts, beyond=beyond)

    def save(self, path: os.PathLike[str] | str) -> None:
        """Write the program and its float network as one file, which ``gd.load`` reads: the same integers.

        Args:
            path: the file, in a folder that exists; an earlier one is replaced as a whole.

        Raises:
            GgdjaxError: the file cannot be written.
        """
        _files.write(path, "program", program_record(self), program_arrays(self))

    @classmethod
    def _from_file(cls, record: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Program:
        return cls(**program_fields(record, arrays))

    def inexact_lines(self) -> list[str]:
        """Return a line per tensor whose integers are too coarse: what it costs, and what helps."""
        worst: dict[str, tuple[float, str]] = {}
        for name, (lsb, tensor) in self.inexact.items():
            worst[tensor] = max(worst.get(tensor, (0.0, "")), (lsb, name))
        bits = self.accelerator.residual_bits
        help_ = "clip it, in the network, to the range that matters"
        help_ = help_ if bits == 30 else f"raise `residual_bits`, or {help_}"
        return [
            f"`{tensor}` has so wide a range that its integers of {bits} bits can put `{name}` off by "
            f"{lsb:.1f} LSB before it is rounded: {help_}."
            for tensor, (lsb, name) in worst.items()
        ]

    @property
    def in_float(self) -> tuple[str, ...]:
        """Layers that stay in float between integers, as `QuantConfig` asked for."""
        return tuple(node.name for node in self.graph.nodes if node.op == "in_float")

    @property
    def output_scale(self) -> tuple[float, ...]:
        """Unit of each output's integers."""
        return tuple(self.formats[tensor].scale[0] for tensor in self.graph.outputs)

    @property
    def _width_limits(self) -> tuple[tuple[str, tuple[bool, bool]], ...]:
        """For each node that limits its output: whether its low and high end are the width's."""
        limited = (node for node in self.graph.nodes if node.op in _LIMITED)
        return tuple(
            (node.name, tuple(not end for end in self.formats[node.output].activation))  # type: ignore[misc]
            for node in limited
        )

    def _scaled(self, outputs: Any) -> Any:
        if not isinstance(outputs, tuple):
            logits = outputs.astype(jnp.float32) * jnp.float32(self.output_scale[0])
            last = self.network.graph.nodes[-1:]
            ends_in_softmax = last and self.network.graph.up_to_logits() is not self.network.graph
            return OPS["softmax"](logits, **dict(last[0].attrs)) if ends_in_softmax else logits
        return tuple(o.astype(jnp.float32) * jnp.float32(s) for o, s in zip(outputs, self.output_scale, strict=True))

    def _checked(self, x: ArrayLike) -> Float[Array, "batch ..."]:
        kind = jnp.result_type(x)
        if not (jnp.issubdtype(kind, jnp.floating) or jnp.issubdtype(kind, jnp.integer)):
            raise DataError(f"`x` has type {kind}; the program expects preprocessed images in real numbers")
        if not isinstance(x, jax.core.Tracer) and not np.isfinite(np.asarray(x, np.float32)).all():
            raise DataError("`x` holds NaN or infinite values, which have no code: check the preprocessing")
        x = jnp.asarray(x, jnp.float32)
        self.network.check_input(x)
        return x


_LIMITED = frozenset({"in_float", "quantize", "requantize", "requantize_by_sign", "saturate", "wide_mul"})


@compiled(static_argnums=0)
def _outputs(graph: Graph, params: Mapping[str, Array], x: Array) -> Any:
    return run_in_chunks(graph, params, x, partial(Integer, graph))


@compiled(static_argnums=(0, 1))
def _counted(
    graph: Graph, limits: tuple[tuple[str, tuple[bool, bool]], ...], params: Mapping[str, Array], x: Array
) -> tuple[Any, dict[str, LayerCounts]]:
    numerics = Counting(graph, dict(limits))
    outputs = run(graph, params, x, numerics)
    return outputs, numerics.counts


def program_record(program: Program, *, omit: Collection[str] = ()) -> dict[str, Any]:
    """Return all of a program but its arrays, and but the attributes ``omit`` of its integer graph."""
    return {
        "graph": graph_record(program.graph, omit=omit),
        "formats": {name: dataclasses.asdict(form) for name, form in program.formats.items()},
        "layers": {
            name: {
                "source": dataclasses.asdict(layer.source),
                "accumulator": dataclasses.asdict(layer.accumulator),
                "magnitude": layer.magnitude,
            }
            for name, layer in program.layers.items()
        },
        "feature_maps": program.feature_maps,
        "code_formats": {name: dataclasses.asdict(form) for name, form in program.code_formats.items()},
        "accelerator": dataclasses.asdict(program.accelerator),
        "network": graph_record(program.network.graph),
        "inexact": program.inexact,
    }


def program_arrays(program: Program) -> dict[str, Any]:
    """Return the integers of a program (``params/…``) and the parameters of its float network (``network/…``)."""
    return {f"params/{key}": value for key, value in program.params.items()} | {
        f"network/{key}": value for key, value in program.network.params.items()
    }


def program_fields(record: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the fields of the program that `program_record` and `program_arrays` were given.

    Raises:
        GgdjaxError, KeyError, TypeError, ValueError, AttributeError: the record is no program's; see
            `ggdjax._files.decoding`.
    """
    params = _files.select(arrays, "params/")
    network = {"params/" + key: value for key, value in _files.select(arrays, "network/").items()}
    return {
        "graph": graph_from_record(
            record["graph"], ops=INTEGER_OPS, enums={"rounding": Rounding, "overflow": Overflow}
        ),
        "params": params,
        "formats": {name: _format(entry) for name, entry in record["formats"].items()},
        "layers": {
            name: IntegerLayer(
                source=_format(entry["source"]),
                kernel=params[f"{name}/kernel"],
                bias=params[f"{name}/bias"],
                accumulator=_format(entry["accumulator"]),
                magnitude=entry["magnitude"],
            )
            for name, entry in record["layers"].items()
        },
        "feature_maps": dict(record["feature_maps"]),
        "code_formats": {name: _format(entry) for name, entry in record["code_formats"].items()},
        "accelerator": Accelerator(**record["accelerator"]),
        "network": Network._from_file({"graph": record["network"]}, network),
        "inexact": {name: (float(lsb), str(tensor)) for name, (lsb, tensor) in record.get("inexact", {}).items()},
    }


def _format(record: Mapping[str, Any]) -> Format:
    return Format(**{**record, "scale": tuple(record["scale"]), "activation": tuple(record["activation"])})
