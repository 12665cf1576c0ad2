"""What gradient tuning moves: from trainables around a start to the parameters of a quantized network, and the pace."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ggdjax.network import Float, run
from ggdjax.network._ops import QUANTIZABLE
from ggdjax.quantization import Quantizers
from ggdjax.quantization._quantize import changed_bias
from ggdjax.quantization._quantizers import short_step

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Array

    from ggdjax.network import Graph, Node
    from ggdjax.quantization import QuantizedNetwork
    from ggdjax.steps import Quantizer
    from ggdjax.tune._gradient_config import GradientConfig

#: Group (steps, offsets, biases) -> name -> array. Steps are logarithms; offsets codes; biases standard deviations.
Trainable = dict[str, dict[str, "Array"]]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Start:
    """Where tuning starts: everything that a trainable is measured against. Keys of dicts are tensor or node names."""

    q: QuantizedNetwork
    """Without its record: the point of departure."""
    real: dict[str, Array]
    """The float network's parameters: its outputs are the targets."""
    bias_unit: dict[str, Array]
    """Standard deviation of each output channel in the float network, on one batch."""

    @classmethod
    def of(cls, q: QuantizedNetwork, graph: Graph, batch: np.ndarray) -> Start:
        """Return the start that ``q`` is; one float pass over ``batch`` gives the units of biases."""
        real = q.float_network.params
        return cls(q=dataclasses.replace(q, record=None), real=real, bias_unit=_output_deviation(graph, real, batch))

    def trainable(self, graph: Graph) -> Trainable:
        """Return the point of departure: every group maps names to arrays."""
        quantizers = self.q.quantizers
        steps = {f"x|{name}": np.log(np.asarray(x.step)) for name, x in quantizers.activations.items()}
        free = {
            f"w|{name}": np.log(np.asarray(w.step)) for name, w in quantizers.weights.items() if w.frac_bits is None
        }
        # What stays in float stays as it is.
        groups = {"offsets": ("kernel", quantizers.weights), "biases": ("bias", quantizers.biases)}
        return {"steps": steps | free} | {
            group: {
                node.name: np.zeros_like(self.q.params[node.param(role)])
                for node in graph.quantizable
                if node.name in known
            }
            for group, (role, known) in groups.items()
        }

    def moved(self, graph: Graph, trainable: Trainable) -> tuple[Quantizers, dict[str, Array]]:
        """Return the quantizers, biases left real, and the parameters to be rounded by them."""
        steps, params, old = trainable["steps"], dict(self.q.params), self.q.quantizers

        def with_step(kind: str, name: str, quantizer: Quantizer) -> Quantizer:
            key = f"{kind}|{name}"
            return dataclasses.replace(quantizer, step=jnp.exp(steps[key])) if key in steps else quantizer

        for node in graph.quantizable:
            keys = dict(node.params)
            if node.name in trainable["offsets"]:
                unit = jnp.broadcast_to(old.weights[node.name].step, params[keys["kernel"]].shape)
                params[keys["kernel"]] = params[keys["kernel"]] + unit * trainable["offsets"][node.name]
            if node.name in trainable["biases"]:
                params[keys["bias"]] = params[keys["bias"]] + self.bias_unit[node.name] * trainable["biases"][node.name]
        quantizers = Quantizers(
            activations={name: with_step("x", name, x) for name, x in old.activations.items()},
            weights={name: with_step("w", name, w) for name, w in old.weights.items()},
        )
        return quantizers, params

    def finished(self, graph: Graph, trainable: Trainable) -> tuple[Quantizers, dict[str, Array]]:
        """Return what was tuned: kernels on their grids, biases on their accumulators' or in the best fixed point."""
        quantizers, params = _rounded(graph, self, trainable)
        activations = {
            name: dataclasses.replace(x, step=short_step(x.step)) for name, x in quantizers.activations.items()
        }
        biases = {
            node.name: changed_bias(node, params[node.param("bias")], self.q.quantizers)
            for node in graph.quantizable
            if node.name in self.q.quantizers.biases
        }
        return dataclasses.replace(quantizers, activations=activations, biases=biases), params


@partial(jax.jit, static_argnums=0)
def _rounded(graph: Graph, start: Start, trainable: Trainable) -> tuple[Quantizers, dict[str, Array]]:
    """Return `Start.moved` with kernels on their grids."""
    quantizers, params = start.moved(graph, trainable)
    for node in graph.quantizable:
        if (w := quantizers.weights.get(node.name)) is not None:
            key = node.param("kernel")
            params[key] = w(params[key])
    return quantizers, params


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Pace:
    """The learning rates of one step and the bound of offsets: arrays, so that every budget shares one compilation."""

    rates: dict[str, Array]
    bound: Array

    @classmethod
    def at(cls, step: int, steps: int, config: GradientConfig) -> Pace:
        """Return the pace of ``step`` out of 1 to ``steps``: cosine decay."""
        decay = 0.5 * (1 + np.cos(np.pi * (step - 1) / steps))
        rates = {"steps": config.step_rate, "offsets": config.offset_rate, "biases": config.bias_rate}
        rates = {group: np.float32(decay * rate) for group, rate in rates.items()}
        return cls(rates=rates, bound=np.float32(config.offset_bound))

    def descend(self, trainable: Trainable, state: Any, slope: Trainable) -> tuple[Trainable, Any]:
        """Return the trainables and the state of Adam after one step."""
        # Optax's bias correction raises a float to an integer count, which strict promotion would refuse.
        with jax.numpy_dtype_promotion("standard"):
            direction, state = _adam().update(slope, state)
        moved = {
            group: jax.tree.map(lambda value, step: value - self.rates[group] * step, trainable[group], along)  # noqa: B023
            for group, along in direction.items()
        }
        # Held at the bound, so that a weight that turns round leaves it at once.
        offsets = jax.tree.map(lambda offset: jnp.clip(offset, -self.bound, self.bound), moved["offsets"])
        return moved | {"offsets": offsets}, state


def _adam() -> Any:
    """Return Adam without a rate: the pace has it."""
    import optax

    return optax.scale_by_adam()


def adam_state(trainable: Trainable) -> Any:
    """Return the state of Adam at the start: zeros, by NumPy, which compiles nothing."""
    shapes = jax.eval_shape(_adam().init, trainable)
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


class _Deviation(Float):
    """Float arithmetic that notes the standard deviation of each channel that leaves a quantizable node."""

    def __init__(self) -> None:
        self.deviation: dict[str, Array] = {}

    def apply(self, node: Node, params: Mapping[str, Array], *inputs: Array) -> Array:
        y = super().apply(node, params, *inputs)
        if node.op in QUANTIZABLE:
            self.deviation[node.name] = jnp.std(y, axis=tuple(range(y.ndim - 1)))
        return y


@partial(jax.jit, static_argnums=0)
def _output_deviation(graph: Graph, params: dict[str, Array], x: Array) -> dict[str, Array]:
    numerics = _Deviation()
    run(graph, params, x, numerics)
    return numerics.deviation
