"""The programs that an accelerator would run, as functions and the shapes of their arguments, and what may be wrong
with them once they are lowered."""

from __future__ import annotations

import dataclasses
import re
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

import ggdjax as gd
from ggdjax import datapath, schemes, steps, tune, zoo
from ggdjax.ggd import Histogram
from ggdjax.quantization._calibration import VALUES_PER_BATCH
from ggdjax.quantization._evaluation import _run_both
from ggdjax.quantization._observing import observe
from ggdjax.tune._gradient import _joint_step
from ggdjax.tune._rounding_core import round_rows
from ggdjax.tune._trainables import Pace, Start, adam_state

if TYPE_CHECKING:
    from collections.abc import Callable

PLATFORMS = ("cuda", "rocm", "tpu")
#: Values that `counting` counts.
VALUES = 1 << 24
Program = tuple["Callable[..., Any]", tuple[Any, ...]]


def counted(graph: gd.network.Graph, params: Any, x: jax.Array, counters: dict[str, Any]) -> tuple[Any, Any]:
    """Return the counts with a batch added, as `gd.calibrate` counts what has no limits, and other tensors' ranges."""
    values = dict.fromkeys(counters, VALUES_PER_BATCH // len(x))
    found, seen = observe(graph, params, x, counters, numbers=jnp.arange(len(x), dtype=jnp.uint32), values=values)
    return found, seen.ranges


def shapes(tree: Any) -> Any:
    """Return the shapes in place of the arrays."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)), tree)


def programs_of(name: str, *, side: int | None = None, batch: int = 4) -> dict[str, Program]:
    """Return the programs of one network of the zoo, randomly initialized, calibrated on two random images.

    Args:
        name: of the network.
        side: height and width of the images; None: as published.
        batch: images of one run.
    """
    known = zoo.entry(name)
    size = known.input_shape if side is None or known.input_shape[0] < side else (side, side, known.input_shape[-1])
    net = gd.network.fold_batch_norm(gd.trace(zoo.create(name), jnp.zeros((1, *size))))
    images = np.random.default_rng(0).uniform(-1, 1, (2, *size)).astype(np.float32)
    q = gd.quantize(net, gd.calibrate(net, [images]), gd.QuantConfig(scheme="max-abs"))
    accelerator = datapath.Accelerator(overflow=datapath.Overflow.WRAP)
    program = datapath.compile(q, accelerator)
    bare, x = dataclasses.replace(q, record=None), jax.ShapeDtypeStruct((batch, *size), jnp.float32)
    counters = {feature_map.tensor: gd.ggd.Counter.empty() for feature_map in net.graph.feature_maps()}

    graph, config = q.graph.up_to_logits(), tune.GradientConfig(steps=10)
    start = Start.of(q, graph, images)
    trainable = start.trainable(graph)
    step = partial(_joint_step, graph, "kl")
    # Not at the weights' own shapes: the parameters of the start are what the step takes.
    target = jax.eval_shape(lambda x: net(x).reshape(len(x), -1), x)
    tuning = (*shapes((start, Pace.at(1, 10, config), trainable, adam_state(trainable))), x, target)
    return {
        "integers": (partial(datapath._program._outputs, program.graph), (shapes(program.params), x)),
        "float": (lambda net, x: net(x), (shapes(net), x)),
        "calibrating": (partial(counted, net.graph), (shapes(net.params), x, shapes(counters))),
        "fake-quantized": (lambda q, x: q(x), (shapes(bare), x)),
        "evaluating": (_run_both, (*shapes((bare, net)), x, jax.ShapeDtypeStruct((batch,), jnp.bool_))),
        "tuning": (step, tuning),
    }


def statistics(tensors: int = 8) -> dict[str, Program]:
    """Return the programs that count values, fit distributions, choose steps and round weights, by so many tensors."""
    histogram = shapes(jax.vmap(Histogram.from_samples)(jnp.ones((tensors, 4))))
    rows, columns = jax.ShapeDtypeStruct((1, 16, 32), jnp.float32), jax.ShapeDtypeStruct((1, 32, 32), jnp.float32)
    grids = jax.ShapeDtypeStruct((1, 3, 16), jnp.float32)
    density = gd.GeneralizedGamma(*(jnp.ones(tensors) for _ in range(3)))
    values = jax.ShapeDtypeStruct((VALUES,), jnp.float32)
    return {
        "counting": (lambda counter, x: counter.add(x), (shapes(gd.ggd.Counter.empty()), values)),
        "fit": (lambda h: gd.fit(h, order=2), (histogram,)),
        **{
            f"scheme {name}": (lambda h, name=name: schemes.choose(name, h, 8, False), (histogram,))
            for name in ("ggd", "ggd-exact", "mse-search", "kl", "octav")
        },
        "exact step": (lambda d: steps.optimal_step(d, bits=8), (shapes(density),)),
        "closed form": (lambda d: steps.closed_form_step(d, bits=8), (shapes(density),)),
        "rounding": (partial(round_rows, low=-8, high=7), (rows, columns, grids, columns)),
    }


def faults(text: str) -> list[str]:
    """Return what is wrong with a lowered program (StableHLO)."""
    found = []
    for line in text.splitlines():
        product = re.search(r"stablehlo\.(convolution|dot_general)\b", line)
        if product and "xf32>" in line and "HIGHEST" not in line:
            found.append(f"a product below full precision: {line.strip()[:200]}")
        if product and product[1] == "convolution" and not re.search(r"-> tensor<[0-9x]*f32>", line):
            found.append(f"a convolution of integers, which cuDNN refuses: {line.strip()[:200]}")
        if re.search(r"tensor<(?:[0-9?]+x)*f64>", line):
            found.append(f"64 bits: {line.strip()[:200]}")
    return found
