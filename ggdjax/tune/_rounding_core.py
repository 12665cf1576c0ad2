"""Rounding for a layer's output, in closed form: the linear algebra of one layer, on arrays alone.

A layer computes ``y = W x`` over rows x of its input (patches, for a convolution). Rounding W to codes Q on a given
grid so that ``Σ |T x − Q x|²`` is least is an integer least-squares problem with the Gram matrix ``H = Σ x xᵀ``. It is
solved greedily, column after column, each time moving the columns that are not yet rounded so that the output changes
least (optimal brain quantization in the form of GPTQ: Frantar et al. 2022, arXiv 2210.17323, eqs. 2 and 3). With
``UᵀU = H⁻¹``, U upper triangular, the error e of column j moves the later ones by ``−e U_j,later / U_jj``.

The target T is W where x is what the quantized network gives. Where the float network's inputs x_f are at hand, it is
the least-squares fit of their output by x (asymmetric calibration, as in GPTAQ: Li et al. 2025, arXiv 2504.02692):

    ``T = W C (H + λI)⁻¹``,  ``C = Σ x_f xᵀ``,  regularized towards W:  ``T = W + W (C − H)(H + λI)⁻¹``.

The rows are few, and those of one image alike: what they say of directions with little variance is chance. So λ is
large, and the larger the fewer rows there are per column.

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
#: Columns eliminated at once, the largest that is smaller than the matrix.
_SIZES = (64, 16, 1)


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
    damping: float,
) -> Float[Array, "*group row col"]:
    """Return the weights that give the float network's output from the quantized network's inputs: T above.

    Args:
        weights: W.
        gram: ``Σ x xᵀ`` of the quantized network's inputs, centred where a bias carries the means.
        cross: ``Σ x_f xᵀ``, likewise.
        damping: λ over the mean diagonal of ``gram``.
    """
    factor = _damped_factor(gram, damping)
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
    damping: float = 0.1,
    target_damping: float = 0.5,
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
        target_damping: the same, for T.
    """
    target = weights
    if cross is not None:
        target = float_target(weights, gram, cross, target_damping)
        target = jnp.where(jnp.isfinite(target).all(axis=-1, keepdims=True), target, weights)
    width = steps[..., None]
    values = _columns(target, _damped_factor(gram, damping), width, low=low, high=high)
    # A matrix that float32 cannot factor leaves every weight rounded by itself.
    plain = jnp.clip(jnp.round(target[..., None, :, :] / width), low, high) * width
    values = jnp.where(jnp.isfinite(values).all(axis=-1, keepdims=True), values, plain)
    error = target[..., None, :, :] - values
    return Rounded(values, jnp.maximum(jnp.sum(_product(error, gram[..., None, :, :]) * error, axis=-1), 0.0))


@jax.jit
def _damped_factor(gram: Float[Array, "*group col col"], damping: float) -> Float[Array, "*group col col"]:
    """Return the factor of the inverse of H + λI; a program of its own, which is traced once for T and for Q."""
    return _inverse_factor(regularized(gram, damping))


def _inverse_factor(matrix: Float[Array, "*group col col"]) -> Float[Array, "*group col col"]:
    """Return the upper triangular U with ``UᵀU = matrix⁻¹``.

    ``matrix = M Mᵀ`` with M upper triangular (the Cholesky factor of the matrix turned around); ``U = M⁻¹``.
    """
    return _inverse_cholesky(matrix[..., ::-1, ::-1])[..., ::-1, ::-1]


def _inverse_cholesky(matrix: Float[Array, "*group col col"]) -> Float[Array, "*group col col"]:
    """Return the inverse of the lower Cholesky factor L, all groups in step.

    Blocks of columns are eliminated from the matrix and from the unit matrix beside it: what is left of the unit matrix
    is L⁻¹. Products alone: on a CPU `jnp.linalg.cholesky` is LAPACK's, one matrix at a time, whose threads and XLA's
    wait for each other (up to 300 ms for 320 columns on two cores, where this takes 3).
    """
    columns = matrix.shape[-1]
    size = next(size for size in (*_SIZES, columns) if size < columns or columns == 1)
    padded = -(-columns // size) * size
    unit = jnp.broadcast_to(jnp.eye(padded, dtype=matrix.dtype), (*matrix.shape[:-2], padded, padded))
    own = unit.at[..., :columns, :columns].set(matrix)
    row = jnp.arange(padded)

    def eliminate(i: Array, both: Array) -> Array:
        first = i * size
        strip = lax.dynamic_slice_in_dim(both, first, size, axis=-2)
        pivot = lax.dynamic_slice_in_dim(strip, first, size, axis=-1)
        strip = strip / jnp.sqrt(pivot) if size == 1 else _product(_inverse_cholesky(pivot), strip)
        below = jnp.swapaxes(jnp.where(row >= first + size, strip[..., :padded], 0.0), -1, -2)
        both = both - (below * strip if size == 1 else _product(below, strip))
        return lax.dynamic_update_slice_in_dim(both, strip, first, axis=-2)

    both = lax.fori_loop(0, padded // size, eliminate, jnp.concatenate([own, unit], axis=-1))
    return jnp.tril(both[..., :columns, padded : padded + columns])


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def _columns(
    target: Float[Array, "*group row col"],
    factor: Float[Array, "*group col col"],
    steps: Float[Array, "*group cand row 1"],
    *,
    low: int,
    high: int,
) -> Float[Array, "*group cand row col"]:
    """Round the columns in order, in blocks; return codes times step."""
    columns = target.shape[-1]
    size = min(_BLOCK, columns)
    padded = -(-columns // size) * size
    work = jnp.broadcast_to(target[..., None, :, :], (*steps.shape[:-1], columns))
    work = jnp.pad(work, (*((0, 0),) * (work.ndim - 1), (0, padded - columns)))
    unit = jnp.broadcast_to(jnp.eye(padded, dtype=factor.dtype), (*factor.shape[:-2], 1, padded, padded))
    upper = unit.at[..., :columns, :columns].set(factor[..., None, :, :])

    def column(j: Array, state: tuple[Array, Array, Array], inner: Array) -> tuple[Array, Array, Array]:
        block, values, errors = state
        t = lax.dynamic_slice_in_dim(block, j, 1, axis=-1)
        u = lax.dynamic_slice_in_dim(inner, j, 1, axis=-2)
        value = jnp.clip(jnp.round(t / steps), low, high) * steps
        error = (t - value) / lax.dynamic_slice_in_dim(u, j, 1, axis=-1)
        put = partial(lax.dynamic_update_slice_in_dim, start_index=j, axis=-1)
        return block - error * u, put(values, value), put(errors, error)

    def block(i: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        work, values = state
        own = lax.dynamic_slice_in_dim(work, i * size, size, axis=-1)
        strip = lax.dynamic_slice_in_dim(upper, i * size, size, axis=-2)
        inner = lax.dynamic_slice_in_dim(strip, i * size, size, axis=-1)
        start = (own, jnp.zeros_like(own), jnp.zeros_like(own))
        _, found, errors = lax.fori_loop(0, size, lambda j, s: column(j, s, inner), start)
        # U is zero to the left of the block: what is rounded already does not move.
        return work - _product(errors, strip), lax.dynamic_update_slice_in_dim(values, found, i * size, axis=-1)

    _, values = lax.fori_loop(0, padded // size, block, (work, jnp.zeros_like(work)))
    return values[..., :columns]
