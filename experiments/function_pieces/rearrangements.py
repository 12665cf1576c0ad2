"""Pieces of random functions: operations that move values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
from jax import lax, nn

from experiments.drawing import Pieces, need

if TYPE_CHECKING:
    from jaxtyping import Array

    from experiments.random_functions import Random

piece = Pieces()


@piece(2)
def transposed(r: Random, x: Array, _: Sequence) -> Array:
    if r.chance(0.1):
        return jnp.transpose(jnp.tanh(jnp.transpose(x)))
    return jnp.transpose(x, (0, *(int(k) for k in r.rng.permutation(np.arange(1, x.ndim)))))


@piece(3)
def reshaped(r: Random, x: Array, _: Sequence) -> Array:
    sizes = r.regrouped(x.shape[1:])
    need(len(sizes) <= 4)
    if r.chance(0.2) and x.ndim > 1:
        return x.reshape(-1, *x.shape[2:]).reshape(x.shape[0], *sizes)
    return x.reshape(x.shape[0] if r.chance(0.6) else -1, *sizes)


@piece(3)
def taken(r: Random, x: Array, _: Sequence) -> Array:
    need(x.ndim > 1)
    axis = r.axis(x)
    size = x.shape[axis]
    start, stop = sorted((r.int(0, size - 1), r.int(1, size)))
    index = (slice(None),) * (axis % x.ndim)
    return r.pick(
        (
            lambda: x[(*index, slice(start, max(stop, start + 1)))],
            lambda: x[(*index, slice(None, None, r.pick((2, -1))))],
            lambda: x[(*index, start)],
            lambda: jnp.flip(x, axis),
            lambda: jnp.roll(x, r.int(-2, 2), axis),
            lambda: jnp.take(x, jnp.asarray(r.rng.integers(0, size, r.pick(((2,), (3,), (2, 2))))), axis=axis),
            lambda: jnp.split(x, [max(start, 1)], axis)[0],
            lambda: lax.dynamic_slice_in_dim(x, start, max(1, size - start), axis),
            lambda: lax.slice_in_dim(x, start, size, axis=axis),
        )
    )()


@piece(3)
def joined(r: Random, x: Array, others: Sequence[Array]) -> Array:
    axis = r.axis(x)
    shape = list(x.shape)
    need(x.ndim > 1 and x.ndim < 5)
    shape[axis] = r.int(1, 2)
    y = r.pick([y for y in others if y.shape == x.shape] or [nn.relu(x)])
    constant = jnp.broadcast_to(r.numbers(*shape[1:]), shape) if axis % x.ndim else jnp.ones(shape)
    return r.pick(
        (
            lambda: jnp.concatenate([x, y], axis),
            lambda: jnp.concatenate([constant, x], axis),
            lambda: jnp.concatenate([x, constant, y], axis),
            lambda: jnp.stack([y, x], axis % x.ndim or 1),
            lambda: jnp.stack([x, jnp.full_like(x, 0.7)], -1),
        )
    )()


@piece(2)
def grown(r: Random, x: Array, _: Sequence) -> Array:
    need(x.ndim > 1 and x.ndim < 5)
    axis = r.axis(x)
    copies = [1] * x.ndim
    copies[axis] = 2
    return r.pick(
        (
            lambda: jnp.repeat(x, 2, axis=axis),
            lambda: jnp.tile(x, copies),
            lambda: jnp.expand_dims(x, axis % x.ndim or 1),
            lambda: jnp.squeeze(x[:, :, None], 2) if x.ndim > 1 else x,
            lambda: jnp.broadcast_to(x[:, None], (x.shape[0], 2, *x.shape[1:])),
            lambda: jnp.broadcast_to(x.mean(axis, keepdims=True), x.shape),
            lambda: x[:, None] + r.numbers(2, *(1,) * (x.ndim - 1)),
        )
    )()


@piece(2)
def padded(r: Random, x: Array, _: Sequence) -> Array:
    need(x.ndim > 1)
    mode = r.pick(("constant", "constant", "edge", "reflect", "symmetric", "wrap", "linear_ramp", "mean", "maximum"))
    amounts = [(0, 0), *((r.int(0, 2), r.int(0, 2)) for _ in x.shape[1:])]
    if r.chance(0.2):
        config = [(0, 0, 0), *((r.int(-1, 2), r.int(0, 2), r.int(0, 1)) for _ in x.shape[1:])]
        return lax.pad(x, jnp.float32(0.4), config)
    return jnp.pad(x, amounts, mode=mode, **({"constant_values": r.pick((0.0, 0.7))} if mode == "constant" else {}))


@piece()
def depth_to_space(r: Random, x: Array, _: Sequence) -> Array:
    need(x.ndim == 4)
    batch, rows, columns, chan = x.shape
    if chan % 4 == 0 and r.chance(0.5):
        parts = x.reshape(batch, rows, columns, 2, 2, chan // 4)
        return parts.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * rows, 2 * columns, chan // 4)
    need(rows % 2 == columns % 2 == 0)
    parts = x.reshape(batch, rows // 2, 2, columns // 2, 2, chan)
    return parts.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows // 2, columns // 2, 4 * chan)


@piece()
def glu(r: Random, x: Array, _: Sequence) -> Array:
    axis = r.axis(x)
    need(x.shape[axis] % 2 == 0)
    return nn.glu(x, axis)
