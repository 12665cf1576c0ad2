"""Pieces of random functions: reductions and normalizations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax.numpy as jnp
from flax import linen
from jax import lax, nn

from experiments.drawing import Pieces, need

if TYPE_CHECKING:
    from jaxtyping import Array

    from experiments.random_functions import Random

piece = Pieces()


@piece(3)
def reduction(r: Random, x: Array, _: Sequence) -> Array:
    function = r.pick((jnp.sum, jnp.mean, jnp.max, jnp.min, jnp.prod, jnp.var, jnp.std, nn.logsumexp, jnp.linalg.norm))
    axes = r.axes(x)
    if function is jnp.linalg.norm:
        axes = axes[0]
        x = x + 3  # its slope at 0 is infinite
    if function is jnp.std:
        x = x * r.numbers(*x.shape[1:])
    return function(x, axis=axes, keepdims=r.chance(0.5))


@piece(2)
def normalized(r: Random, x: Array, _: Sequence) -> Array:
    axis = r.axis(x, 0)
    need(x.ndim > 1)
    groups = r.pick([g for g in range(1, x.shape[-1] + 1) if x.shape[-1] % g == 0])
    chan = x.shape[-1]
    gain, shift, mean, var = r.numbers(chan), r.numbers(chan), r.numbers(chan), jnp.abs(r.numbers(chan)) + 0.2
    return r.pick(
        (
            lambda: nn.softmax(x, axis=axis),
            lambda: nn.log_softmax(x, axis=axis),
            lambda: nn.standardize(x, axis=axis, epsilon=0.1),
            lambda: (x - mean) * lax.rsqrt(var + 1e-3) * gain + shift,
            lambda: (x - mean) / jnp.sqrt(var + 1e-3) * gain + shift,
            lambda: linen.LayerNorm(epsilon=0.1).apply({"params": {"scale": gain, "bias": shift}}, x),
            lambda: linen.RMSNorm(epsilon=0.1).apply({"params": {"scale": gain}}, x),
            lambda: linen.GroupNorm(groups, epsilon=0.1).apply({"params": {"scale": gain, "bias": shift}}, x),
        )
    )()


@piece()
def arg_max(r: Random, x: Array, _: Sequence) -> Array:
    return r.pick((jnp.argmax, jnp.argmin))(x, axis=r.axis(x), keepdims=r.chance(0.3)).astype(jnp.float32)
