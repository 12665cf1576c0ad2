"""Pieces of random functions: functions of each value, and what the tracer refuses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import jax.numpy as jnp
from jax import lax, nn

from experiments.drawing import Pieces

if TYPE_CHECKING:
    from jaxtyping import Array

    from experiments.random_functions import Random

piece = Pieces()

_ACTIVATIONS: tuple[Callable, ...] = (
    nn.relu,
    nn.relu6,
    nn.silu,
    nn.gelu,
    partial(nn.gelu, approximate=False),
    nn.elu,
    nn.celu,
    nn.selu,
    nn.softplus,
    nn.soft_sign,
    nn.sigmoid,
    nn.log_sigmoid,
    nn.hard_tanh,
    nn.hard_sigmoid,
    nn.hard_swish,
    nn.leaky_relu,
    nn.mish,
    nn.squareplus,
    nn.sparse_plus,
    nn.sparse_sigmoid,
    jnp.tanh,
    jnp.abs,
    jnp.square,
    jnp.negative,
    lambda x: jnp.exp(-jnp.abs(x)),
    lambda x: jnp.log(jnp.abs(x) + 0.3),
    lambda x: jnp.log1p(jnp.abs(x)),
    lambda x: jnp.expm1(-jnp.abs(x)),
    lambda x: jnp.sqrt(jnp.abs(x) + 0.1),
    lambda x: lax.rsqrt(jnp.abs(x) + 0.2),
    lambda x: 1 / (1 + jnp.abs(x)),
    lambda x: jnp.reciprocal(0.5 + x * x),
    lambda x: lax.erf(x) + lax.erfc(0.3 * x),
    lambda x: x**3 - x**2,
    lambda x: (jnp.abs(x) + 0.2) ** 1.7,
    lambda x: jnp.clip(x, -0.7, 0.4),
    lambda x: jnp.maximum(x, 0.2) + jnp.minimum(x, -0.1),
    lambda x: jnp.cosh(0.3 * x),
    lambda x: jnp.logaddexp(x, 0.0),
    jnp.nan_to_num,
    lambda x: jnp.sinh(0.2 * x),
    lambda x: jnp.exp2(-jnp.abs(x)),
    lambda x: jnp.hypot(x, 1.0),
    jnp.arctan,
    lambda x: x * jnp.sign(x - 0.3),
)
#: What the tracer refuses, by name.
_REFUSED: tuple[Callable, ...] = (
    jnp.sin,
    jnp.floor,
    lambda x: jnp.sort(x, axis=-1),
    lambda x: jnp.cumsum(x, axis=-1),
    lambda x: lax.map(jnp.tanh, x),
    lambda x: jnp.linalg.inv(x @ jnp.swapaxes(x, -1, -2) + jnp.eye(x.shape[-2])),
    lambda x: jnp.fft.rfft(x).real,
    lambda x: jnp.roll(x, 1, axis=0),
    lambda x: x - x.mean(0, keepdims=True),
)


@piece(4)
def activation(r: Random, x: Array, _: Sequence) -> Array:
    return r.pick(_ACTIVATIONS)(x)


@piece(0.3)
def refused(r: Random, x: Array, _: Sequence) -> Array:
    return r.pick(_REFUSED)(x)


@piece(3)
def arithmetic(r: Random, x: Array, _: Sequence) -> Array:
    shape = r.pick(((), (1,), x.shape[-1:], (1, *x.shape[1:]), tuple(r.pick((1, n)) for n in x.shape[1:])))
    c = r.numbers(*shape)
    if r.chance(0.15):
        c = jnp.broadcast_to(c, x.shape)
    return r.pick(
        (
            lambda: x + c,
            lambda: c - x,
            lambda: x * c,
            lambda: x / (jnp.abs(c) + 0.3),
            lambda: c / (jnp.abs(x) + 0.3),
            lambda: jnp.maximum(x, c),
            lambda: jnp.minimum(c, x),
            lambda: (x - c) * 2 / 3,
        )
    )()


@piece(2)
def choice(r: Random, x: Array, _: Sequence) -> Array:
    threshold = r.pick((0.0, 0.3, -1.0))
    condition = r.pick((lambda: x > threshold, lambda: x <= threshold, lambda: threshold >= x, lambda: x < threshold))()
    if r.chance(0.3):
        condition = jnp.asarray(r.rng.random(x.shape[1:]) < 0.5)
    elif r.chance(0.3):
        condition = jnp.max(x, axis=r.axes(x), keepdims=True) >= threshold
    branches = [r.pick((x, jnp.tanh(x), 0.3 * x, jnp.float32(0.7), jnp.zeros_like(x))) for _ in range(2)]
    if branches[0] is not x:
        branches[1] = x
    return jnp.where(condition, *branches)


@piece(3)
def of_two(r: Random, x: Array, others: Sequence[Array]) -> Array:
    y = r.pick([y for y in others if y.shape == x.shape] or [jnp.tanh(x)])
    if r.chance(0.4):
        y = jnp.mean(y, axis=r.axes(x), keepdims=True)
    return r.pick(
        (
            lambda: x + y,
            lambda: x - y,
            lambda: y * x,
            lambda: x / (1 + jnp.abs(y)),
            lambda: jnp.maximum(x, y),
            lambda: jnp.minimum(y, x),
        )
    )()
