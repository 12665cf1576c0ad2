"""A quantized network: what computes, as one pytree, beside the record of how it came to be."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ggdjax import _files
from ggdjax._errors import summary
from ggdjax._exported import serializable
from ggdjax._tables import html_table
from ggdjax.ggd._arrays import is_concrete
from ggdjax.network import Network
from ggdjax.network._chunks import run_in_chunks
from ggdjax.network._serialize import graph_from_record, graph_record
from ggdjax.quantization._limits import is_input
from ggdjax.quantization._numerics import FakeQuant
from ggdjax.quantization._quantizers import ACCUMULATOR_BITS
from ggdjax.quantization._serialize import (
    quantizers_from_record,
    quantizers_record,
    record_from_record,
    record_record,
    under,
)
from ggdjax.quantization._sqnr import sqnr_db

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from jax.typing import ArrayLike
    from jaxtyping import Array, Int

    from ggdjax.network import Graph
    from ggdjax.quantization._quantizers import Quantizers
    from ggdjax.quantization._record import Record, Stage
    from ggdjax.steps import Quantizer


@dataclass(frozen=True, kw_only=True)
class IntegerWeights:
    """The integers of one layer: ``kernel ≈ codes · step``, ``bias ≈ bias_codes · bias_step``."""

    codes: Int[np.ndarray, "*window cin cout"]
    """int32, output channels last, in ``[−2^(bits−1), 2^(bits−1) − 1]`` (zero point included, where there is one)."""
    step: np.ndarray
    """float32: a scalar, or one per output channel."""
    bits: int
    frac_bits: Any
    """Fractional length F with ``step = 2^(−F)``; None where the step is no power of two."""
    zero_point: np.ndarray | None
    """None for 0."""
    bias_codes: Int[np.ndarray, " cout"] | None
    """int64, on the accumulator's grid ``input step · kernel step``; None without a bias, or where the layer's input
    stays in float or has a step per channel."""
    bias_step: np.ndarray | None
    """float64: that grid, one per output channel."""


@serializable(graph_record, graph_from_record)
@jax.tree_util.register_pytree_with_keys_class
@dataclass(frozen=True, kw_only=True, eq=False)
class QuantizedNetwork:
    """A network whose convolutions and dense layers compute with rounded inputs, weights and biases.

    A pytree: ``params`` and the steps in ``quantizers`` are its leaves, graph and widths are static. So `jax.jit`
    takes a network as an argument and compiles once for all values, `jax.grad` with respect to it gives a network of
    gradients, `jax.vmap` runs over stacked networks, and optax trains it. ``record`` is no part of the pytree:
    transformations drop it.

    ``q(x)`` is the fake-quantized network: float32 arithmetic on rounded values, straight-through gradients.

    Example:
        >>> x = jax.random.normal(jax.random.key(0), (256, 4))
        >>> net = gd.trace(lambda x: jax.nn.relu(x @ jnp.eye(4)) @ jnp.ones((4, 2)), jnp.zeros((1, 4)))
        >>> q = gd.quantize(net, gd.calibrate(net, [x]), gd.QuantConfig(scheme="max-abs"))
        >>> slope = jax.grad(lambda q: jnp.mean(q(x) ** 2))(q)
        >>> sorted(slope.quantizers.activations) == sorted(q.quantizers.activations)
        True
    """

    graph: Graph
    params: dict[str, Array]
    """The real numbers that are rounded: kernels and biases as folding, correction or tuning left them."""
    quantizers: Quantizers
    record: Record | None = None
    """How the network came to be; None after a JAX transformation."""

    def tree_flatten_with_keys(self) -> tuple[Any, Graph]:
        """Return the leaves by name, and the graph."""
        keys = (jax.tree_util.GetAttrKey(name) for name in ("params", "quantizers"))
        return tuple(zip(keys, (self.params, self.quantizers), strict=True)), self.graph

    @classmethod
    def tree_unflatten(cls, graph: Graph, children: Any) -> QuantizedNetwork:
        """Undo `tree_flatten_with_keys`."""
        params, quantizers = children
        return cls(graph=graph, params=params, quantizers=quantizers)

    def __repr__(self) -> str:
        activations, weights, biases = (
            _widths(kind) for kind in (self.quantizers.activations, self.quantizers.weights, self.quantizers.biases)
        )
        stages = () if self.record is None else tuple(stage.name for stage in self.record.stages)
        config = None if self.record is None else self.record.config
        return summary(
            self,
            network=self.network,
            activations=activations,
            weights=weights,
            biases=biases,
            scheme=None if config is None else config.scheme,
            stages="-".join(stages) or None,
        )

    def _repr_html_(self) -> str:
        kinds = {"feature map": self.quantizers.activations, "weights": self.quantizers.weights}
        rows = (
            {
                "tensor": name,
                "kind": kind,
                "bits": quantizer.bits,
                "signed": quantizer.signed,
                "step": np.asarray(quantizer.step),
                "fractional length": "" if quantizer.frac_bits is None else quantizer.frac_bits,
                "largest value": np.asarray(quantizer.highest),
            }
            for kind, quantizers in kinds.items()
            for name, quantizer in quantizers.items()
        )
        concrete = all(is_concrete(leaf) for leaf in jax.tree.leaves(kinds))
        return html_table(self, rows if concrete else (), sum(map(len, kinds.values())) if concrete else 0)

    def __call__(self, x: ArrayLike) -> Any:
        """Return the fake-quantized network's output for a batch, in the layouts of the float network.

        Raises:
            DataError: the shape of ``x`` does not fit the network.
        """
        self.network.check_input(x)
        x = jnp.asarray(x, jnp.float32)
        return _forward(replace(self, record=None), x)

    def save(self, path: os.PathLike[str] | str) -> None:
        """Write the network and its record as one file, which ``gd.load`` reads: the same outputs to the last bit.

        Histograms of single channels are left out (save the `Calibration` for those).

        Args:
            path: the file, in a folder that exists; an earlier one is replaced as a whole.

        Raises:
            GgdjaxError: the file cannot be written.
        """
        quantizers, arrays = quantizers_record(self.quantizers)
        arrays = under("quantizers", arrays) | under("params", self.params)
        record, more = (None, {}) if self.record is None else record_record(self.record, self.network)
        content = {"graph": graph_record(self.graph), "quantizers": quantizers, "record": record}
        _files.write(path, "quantized network", content, arrays | more)

    @classmethod
    def _from_file(cls, record: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> QuantizedNetwork:
        net = Network._from_file(record, arrays)
        return cls(
            graph=net.graph,
            params=net.params,
            quantizers=quantizers_from_record(record["quantizers"], _files.select(arrays, "quantizers/")),
            record=None if record["record"] is None else record_from_record(record["record"], arrays, net),
        )

    @property
    def network(self) -> Network:
        """The network with the present parameters, nothing rounded."""
        return Network(graph=self.graph, params=self.params)

    @property
    def rounded_network(self) -> Network:
        """The network with its weights and biases rounded; its feature maps are not."""
        params = dict(self.params)
        for node in self.graph.quantizable:
            if (quantizer := self.quantizers.weights.get(node.name)) is not None:
                key = node.param("kernel")
                params[key] = quantizer.decode(quantizer.encode(np.asarray(params[key], np.float32)))
            if (key := node.param("bias")) is not None:
                params[key] = self.rounded_bias(node).astype(np.float32)
        return Network(graph=self.graph, params=jax.device_put(params))

    @property
    def float_network(self) -> Network:
        """The network that errors are measured against: the record's; `network` where there is no record."""
        return self.network if self.record is None else self.record.float_network

    @property
    def history(self) -> Any:
        """The last tuner's own history; None where the network was not tuned."""
        stages = () if self.record is None else self.record.stages
        return next((stage.details for stage in reversed(stages) if stage.details is not None), None)

    def changed(
        self, stage: Stage, *, params: dict[str, Array] | None = None, quantizers: Quantizers | None = None
    ) -> QuantizedNetwork:
        """Return a copy with other parameters or quantizers, and ``stage`` appended to its record."""
        return replace(
            self,
            params=self.params if params is None else params,
            quantizers=self.quantizers if quantizers is None else quantizers,
            record=None if self.record is None else self.record.with_stage(stage),
        )

    @property
    def predicted_sqnr_db(self) -> dict[str, float]:
        """SQNR in dB of each feature map that the fit behind its step predicts, by tensor name.

        NaN where nothing predicts it: no record, a scheme without a model, steps per channel, or a step that tuning
        has changed since.
        """
        choices = {} if self.record is None else self.record.choices
        return {
            name: _prediction(quantizer, choices.get(name)) for name, quantizer in self.quantizers.activations.items()
        }

    @property
    def step_error(self) -> dict[str, float]:
        """Relative standard error of each feature map's step, by images (`Calibration.step_error`), by tensor name.

        NaN where nothing tells it, or where `predicted_sqnr_db` is NaN, and for inputs.
        """
        widths = {
            name: self.quantizers.activations[name].bits
            for name, predicted in self.predicted_sqnr_db.items()
            if not (np.isnan(predicted) or is_input(self.graph, name))
        }
        calibration = None if self.record is None else self.record.calibration
        found = {} if calibration is None else calibration.step_error(widths)
        return {name: found.get(name, float("nan")) for name in self.quantizers.activations}

    @property
    def weight_sqnr_db(self) -> dict[str, float]:
        """SQNR in dB of each rounded kernel against that of `float_network`, by node name; infinite without loss."""
        return self._sqnr_of("kernel", self.quantizers.weights, self.float_network.params)

    @property
    def bias_sqnr_db(self) -> dict[str, float]:
        """SQNR in dB of each rounded bias against the one in ``params``, by node name; infinite without loss."""
        layers = (self.graph.node(name) for name in self.quantizers.biases)
        biases = {node.name: b for node in layers if (b := self.quantizers.bias(node)) is not None}
        return self._sqnr_of("bias", biases, self.params)

    def _sqnr_of(self, role: str, quantizers: dict[str, Quantizer], wanted: dict[str, Array]) -> dict[str, float]:
        found = {}
        for name, quantizer in quantizers.items():
            key = dict(self.graph.node(name).params)[role]
            real, rounded = (np.asarray(p[key], np.float32) for p in (wanted, self.params))
            error = np.asarray(real, np.float64) - quantizer.decode(quantizer.encode(rounded))
            found[name] = sqnr_db(float(np.square(real, dtype=np.float64).sum()), float(np.square(error).sum()))
        return found

    def integer_weights(self) -> dict[str, IntegerWeights]:
        """Return the integers of every layer whose weights are rounded, by node name.

        Example:
            >>> x = np.ones((8, 2), np.float32)
            >>> net = gd.trace(lambda x: x @ jnp.array([[0.5], [-0.25]]), jnp.zeros((1, 2)))
            >>> (layer,) = gd.quantize(net, gd.calibrate(net, [x])).integer_weights().values()
            >>> layer.codes.tolist(), layer.frac_bits
            ([[32], [-16]], 6)
        """
        return {
            node.name: self._integers(node) for node in self.graph.quantizable if node.name in self.quantizers.weights
        }

    def _integers(self, node: Any) -> IntegerWeights:
        weights, source = self.quantizers.weights[node.name], self.quantizers.activations.get(node.inputs[0])
        bias, bias_step = node.param("bias"), None
        if bias is not None and source is not None and np.ndim(source.step) == 0:
            bias_step = np.asarray(source.step, np.float64) * np.asarray(weights.step, np.float64)
            bias_step = np.broadcast_to(bias_step, self.params[bias].shape)
        return IntegerWeights(
            codes=weights.encode(np.asarray(self.params[node.param("kernel")], np.float32)),
            step=np.asarray(weights.step),
            bits=weights.bits,
            frac_bits=weights.frac_bits,
            zero_point=None if weights.zero_point is None else np.asarray(weights.zero_point),
            bias_codes=None if bias_step is None else np.rint(self.rounded_bias(node) / bias_step).astype(np.int64),
            bias_step=bias_step,
        )

    def rounded_bias(self, node: Any) -> np.ndarray:
        """Return the bias of a node, which must have one, as fake quantization adds it; float64."""
        bias = np.asarray(self.params[node.param("bias")], np.float32)
        quantizer = self.quantizers.bias(node)
        return np.asarray(bias if quantizer is None else quantizer.decode(quantizer.encode(bias)), np.float64)


@jax.jit
def _forward(q: QuantizedNetwork, x: Array) -> Any:
    return run_in_chunks(q.graph, q.params, x, lambda: FakeQuant(q.quantizers))


def _widths(quantizers: Mapping[str, Quantizer | None]) -> str:
    """Return how many there are of which widths: `7 of 8 bits`."""
    widths = sorted({ACCUMULATOR_BITS if quantizer is None else quantizer.bits for quantizer in quantizers.values()})
    return f"{len(quantizers)} of {', '.join(map(str, widths))} bits" if widths else "none"


def _prediction(quantizer: Quantizer, choice: Any) -> float:
    # `short_step` changes a step by less than 2^-8, which no prediction notices.
    if choice is None or np.ndim(quantizer.step) or not np.isclose(quantizer.step, choice.step, rtol=2.0**-8, atol=0):
        return float("nan")
    return float(choice.predicted_sqnr_db)
