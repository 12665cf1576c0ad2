"""Rounding for a layer's output, in closed form: the linear algebra of one layer, on arrays alone.

A layer computes ``y = W x`` over rows x of its input (patches, for a convolution). Rounding W to codes Q on a given
grid so that ``Σ |T x − Q x|²`` is least is an integer least-squares problem with the Gram matrix ``H = Σ x xᵀ``. It is
solved greedily, column after column, each time moving the columns that are not yet rounded so that the output changes
least (optimal brain quantization in the form of GPTQ: Frantar et al. 2022, arXiv 2210.17323, eqs. 2 and 3). With
``UᵀU = H⁻¹``, U upper triangular, the error e of column j moves the later ones by ``−e U_j,later / U_jj``.

The target T is W where x is what the quantized network gives. Where the float network's inputs x_f are at hand, it is
the least-squares fit of their output by x (asymmetric calibration, as in GPTAQ: Li et al. 2025, arXiv 2504.02692):

    ``T = W C (H + λI)⁻¹``,  ``C = Σ x_f xᵀ``,  regularized towards W:  ``T = W + W (C − H)(H + λI)⁻¹``.

All functions take any batch shape in front (the groups of a convolution) and work in float32.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

#: Columns rounded before the rest of the matrix is updated by one product.
_BLOCK = 128
#: Columns up to which matrices are factored all at once, by loops over columns: kernels of depthwise convolutions.
_SMALL = 32


class Rounded(NamedTuple):
    """What `round_rows` found for every candidate grid."""

    values: Float[Array, "*group cand row col"]
    """Codes times step."""
    error: Float[Array, "*group cand row"]
    """``(T − Q) H (T − Q)ᵀ`` of each row: the squared output error that is left."""


def regularized(gram: Float[Array, "*group col col"], damping: float) -> Float[Array, "*group col col"]:
    """Return ``H + λI`` with ``λ = damping · mean diagonal`` of the live columns; dead ones get a diagonal of 1.

    A column is dead where its input never varies: it then rounds by itself.
    """
    diagonal = jnp.diagonal(gram, axis1=-2, axis2=-1)
    live = diagonal > 1e-7 * jnp.max(diagonal, axis=-1, keepdims=True)
    mean = jnp.sum(jnp.where(live, diagonal, 0.0), axis=-1) / jnp.maximum(
        jnp.sum(live, axis=-1).astype(gram.dtype), 1.0
    )
    ridge = damping * jnp.where(mean > 0, mean, 1.0)
    both = live[..., :, None] & live[..., None, :]
    own = jnp.where(live, ridge[..., None], 1.0)
    return jnp.where(both, gram, 0.0) + own[..., None] * jnp.broadcast_to(
        jnp.eye(gram.shape[-1], dtype=gram.dtype), gram.shape
    )


def float_target(
    weights: Float[Array, "*group row col"],
    gram: Float[Array, "*group col col"],
    cross: Float[Array, "*group col col"],
    damping: float = 0.05,
) -> Float[Array, "*group row col"]:
    """Return the weights that give the float network's output from the quantized network's inputs: T above.

    Args:
        weights: W.
        gram: ``Σ x xᵀ`` of the quantized network's inputs, centred where a bias carries the means.
        cross: ``Σ x_f xᵀ``, likewise.
        damping: λ over the mean diagonal of ``gram``.
    """
    factor = _inverse_factor(regularized(gram, damping))
    shift = _product(weights, cross - gram)
    return weights + _product(_product(shift, jnp.swapaxes(factor, -1, -2)), factor)


@partial(jax.jit, static_argnames=("low", "high"))
def round_rows(
    weights: Float[Array, "*group row col"],
    gram: Float[Array, "*group col col"],
    steps: Float[Array, "*group cand row"],
    cross: Float[Array, "*group col col"] | None = None,
    *,
    low: int,
    high: int,
    damping: float = 0.03,
) -> Rounded:
    """Round every row on every candidate grid for the least output error; see the head of the module.

    Args:
        weights: W.
        gram: H.
        steps: the step of every row, by candidate.
        cross: C, to aim at the float network's output; None: T = W.
        low: smallest code.
        high: largest code.
        damping: added to the diagonal of H, over its mean.
    """
    target = weights
    if cross is not None:
        target = float_target(weights, gram, cross)
        target = jnp.where(jnp.isfinite(target).all(axis=-1, keepdims=True), target, weights)
    group, factor = target.shape[:-2], _inverse_factor(regularized(gram, damping))
    flat = [a.reshape(-1, *a.shape[len(group) :]) for a in (target, gram, factor, steps)]
    rounded = jax.vmap(partial(_round_group, low=low, high=high))(*flat)
    return Rounded(*(a.reshape(*group, *a.shape[1:]) for a in rounded))


def _round_group(target: Array, gram: Array, factor: Array, steps: Array, *, low: int, high: int) -> Rounded:
    width = steps[..., None]
    plain = jnp.clip(jnp.round(target[None] / width), low, high) * width
    values = jax.vmap(partial(_columns, target, factor, low=low, high=high))(steps)
    # A matrix that float32 cannot factor leaves every weight rounded by itself.
    values = jnp.where(jnp.isfinite(values).all(axis=-1, keepdims=True), values, plain)
    error = target[None] - values
    return Rounded(values, jnp.maximum(jnp.sum(_product(error, gram) * error, axis=-1), 0.0))


def _inverse_factor(matrix: Float[Array, "*group col col"]) -> Float[Array, "*group col col"]:
    """Return the upper triangular U with ``UᵀU = matrix⁻¹``.

    ``matrix = M Mᵀ`` with M upper triangular (the Cholesky factor of the matrix turned around); ``U = M⁻¹``.

    LAPACK takes one matrix at a time, never a batch: jaxlib 0.10's kernels for a CPU spread a batch over its threads
    and wait for them, and two of them at once in a program wait for ever on a machine of two cores.
    """
    turned, columns = matrix[..., ::-1, ::-1], matrix.shape[-1]
    if columns <= _SMALL:
        inverse = _small_inverse(turned)
    else:
        unit = jnp.eye(columns, dtype=matrix.dtype)
        inverse = lax.map(
            lambda one: jax.scipy.linalg.solve_triangular(jnp.linalg.cholesky(one), unit, lower=True),
            turned.reshape(-1, columns, columns),
        ).reshape(matrix.shape)
    return inverse[..., ::-1, ::-1]


def _small_inverse(matrix: Float[Array, "*group col col"]) -> Float[Array, "*group col col"]:
    """Return the inverse of the lower Cholesky factor, all groups in step."""
    columns = matrix.shape[-1]
    axis = jnp.arange(columns).reshape((1,) * (matrix.ndim - 2) + (columns,))

    def factor(j: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        left, lower = state
        column = lax.dynamic_index_in_dim(left, j, axis=-1, keepdims=False)
        pivot = lax.dynamic_index_in_dim(column, j, axis=-1)
        column = jnp.where(axis >= j, column / jnp.sqrt(pivot), 0.0)
        left = left - column[..., :, None] * column[..., None, :]
        return left, lax.dynamic_update_index_in_dim(lower, column, j, axis=matrix.ndim - 1)

    def invert(i: Array, inverse: Array) -> Array:
        row = lax.dynamic_index_in_dim(lower, i, axis=-2, keepdims=False)
        pivot = lax.dynamic_index_in_dim(row, i, axis=-1)
        # Rows of the inverse from i on are still zero.
        unit = (axis == i).astype(matrix.dtype)
        row = (unit - jnp.sum(row[..., :, None] * inverse, axis=-2)) / pivot
        return lax.dynamic_update_index_in_dim(inverse, row, i, axis=matrix.ndim - 2)

    _, lower = lax.fori_loop(0, columns, factor, (matrix, jnp.zeros_like(matrix)))
    return lax.fori_loop(0, columns, invert, jnp.zeros_like(matrix))


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def _columns(target: Array, factor: Array, step: Array, *, low: int, high: int) -> Array:
    """Round the columns in order, in blocks; return codes times step."""
    rows, columns = target.shape
    size = min(_BLOCK, columns)
    padded = -(-columns // size) * size
    work = jnp.pad(target, ((0, 0), (0, padded - columns)))
    upper = jnp.pad(factor, ((0, padded - columns), (0, padded - columns)))
    upper = upper + jnp.diag((jnp.arange(padded) >= columns).astype(target.dtype))

    def column(j: Array, state: tuple[Array, Array, Array], inner: Array) -> tuple[Array, Array, Array]:
        block, values, errors = state
        t = lax.dynamic_index_in_dim(block, j, axis=1, keepdims=False)
        u = lax.dynamic_index_in_dim(inner, j, axis=0, keepdims=False)
        value = jnp.clip(jnp.round(t / step), low, high) * step
        error = (t - value) / lax.dynamic_index_in_dim(u, j, keepdims=False)
        block = block - error[:, None] * u[None, :]
        put = partial(lax.dynamic_update_index_in_dim, index=j, axis=1)
        return block, put(values, value), put(errors, error)

    def block(i: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        work, values = state
        own = lax.dynamic_slice(work, (0, i * size), (rows, size))
        strip = lax.dynamic_slice(upper, (i * size, 0), (size, padded))
        inner = lax.dynamic_slice(strip, (0, i * size), (size, size))
        start = (own, jnp.zeros_like(own), jnp.zeros_like(own))
        _, found, errors = lax.fori_loop(0, size, lambda j, s: column(j, s, inner), start)
        # U is zero to the left of the block: what is rounded already does not move.
        work = work - _product(errors, strip)
        return work, lax.dynamic_update_slice(values, found, (0, i * size))

    _, values = lax.fori_loop(0, padded // size, block, (work, jnp.zeros_like(work)))
    return values[:, :columns]
