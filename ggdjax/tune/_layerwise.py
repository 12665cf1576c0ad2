"""Gradient tuning layer by layer: each reproduces the float network's output on the inputs it really gets.

AdaRound (Nagel et al., ICML 2020, section 3.3): the target is the layer's output in the float network on float inputs,
the input the one that the quantized layers before, already tuned, give.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ggdjax.network import Float, run
from ggdjax.quantization import FakeQuant
from ggdjax.tune._trainables import Pace, Start, Trainable, adam_state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jaxtyping import Array

    from ggdjax.network import Graph, Node
    from ggdjax.quantization._rows import Rows
    from ggdjax.tune._gradient_config import GradientConfig


def tune_layers(
    graph: Graph,
    start: Start,
    images: np.ndarray,
    order: Iterator[np.ndarray],
    config: GradientConfig,
    progress: Callable[[int, float], None],
    rows: Rows,
) -> tuple[Trainable, list[float]]:
    """Return the trainables after ``config.steps`` steps, divided among the layers, and the loss of each step.

    ``order`` yields the indices of the images of each step. The losses are relative to the energy of the target.
    """
    whole, losses = rows.everywhere(start.trainable(graph)), []
    layers = graph.quantizable
    share, more = divmod(config.steps, len(layers))
    done: set[str] = set()
    for number, node in enumerate(layers):
        steps = share + (number < more)
        # A feature map that several layers read has one step: it belongs to the first of them.
        fresh = {f"w|{node.name}"} | ({f"x|{node.inputs[0]}"} - done)
        done |= fresh
        own = {
            "steps": {key: value for key, value in whole["steps"].items() if key in fresh},
            **{group: {k: v for k, v in whole[group].items() if k == node.name} for group in ("offsets", "biases")},
        }
        if not steps:
            continue
        state = rows.everywhere(adam_state(own))
        end = _end_of_layer(graph, node)
        for step in range(1, steps + 1):
            pace, x = Pace.at(step, steps, config), rows.split(images[next(order)])
            own, state, loss = _layer_step(graph, (node.name, end), start, pace, whole, own, state, x)
            losses.append(float(loss))
            progress(len(losses), losses[-1])
        whole = {group: values | own[group] for group, values in whole.items()}
    return whole, losses


def _end_of_layer(graph: Graph, node: Node) -> str:
    """Return the tensor that the layer is evaluated on: its output, or that of the ReLU or clip that alone reads it."""
    reader = graph.only_reader(node.output)
    return reader.output if reader is not None and reader.op in {"relu", "clip"} else node.output


@partial(jax.jit, static_argnums=(0, 1))
def _layer_step(
    graph: Graph,
    layer: tuple[str, str],
    start: Start,
    pace: Pace,
    whole: Trainable,
    own: Trainable,
    state: Any,
    x: Array,
) -> tuple[Trainable, Any, Array]:
    name, end = layer
    index = graph.index(name)
    stop = max(k for k, node in enumerate(graph.nodes) if node.output == end) + 1
    part = dataclasses.replace(graph, outputs=(end,), nodes=graph.nodes[:stop])
    real = run(part, start.real, x, Float())
    quantizers, params = start.moved(graph, whole)
    entering = run(part, params, x, FakeQuant(quantizers), stop=index)

    def loss_of(own: Trainable) -> Array:
        quantizers, params = start.moved(graph, {k: whole[k] | own[k] for k in whole})
        return jnp.mean(jnp.square(run(part, params, entering, FakeQuant(quantizers), start=index) - real))

    loss, slope = jax.value_and_grad(loss_of)(own)
    return (*pace.descend(own, state, slope), loss / jnp.maximum(jnp.mean(jnp.square(real)), 1e-30))
