"""What every file does with its arguments: one floating type, equal ranks, and whether values can be looked at."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ggdjax._errors import GgdjaxError, expect_array

Real = Any  # what converts to a real array: Python number, numpy or jax array


def as_real(*values: Real) -> tuple[Array, ...]:
    """Return the values as arrays of one floating type: that of the typed floating ones, else the default.

    Under `jit` constants stay concrete, so that they can be validated.
    """
    values = tuple(v if isinstance(v, float) else expect_array("value", v) for v in values)
    typed = [jnp.asarray(v).dtype for v in values if hasattr(v, "dtype") and not isinstance(v, float)]
    floating = [t for t in typed if jnp.issubdtype(t, jnp.floating)]
    dtype = jnp.result_type(*floating) if floating else jnp.result_type(float)
    if dtype.itemsize < 4:  # half precision cannot hold these tails
        dtype = jnp.dtype(jnp.float32)
    with jax.ensure_compile_time_eval():
        return tuple(jnp.asarray(v, dtype) for v in values)


def refuse_unreal(name: str, dtype: Any) -> None:
    """Refuse what a conversion to float32 would make into other numbers: complex values, texts, objects.

    Raises:
        GgdjaxError: the type holds no real numbers.
    """
    if not any(jnp.issubdtype(dtype, kind) for kind in (jnp.floating, jnp.integer, np.bool_)):
        raise GgdjaxError(f"`{name}` has type {dtype}; expected real numbers")


def pad_rank(array: Array, rank: int) -> Array:
    """Return the array with leading axes of length 1 up to `rank`: numpy broadcasting made explicit."""
    return array.reshape((1,) * (rank - array.ndim) + array.shape)


def checked_axes(name: str, rank: int, axis: int | tuple[int, ...] | None) -> tuple[int, ...]:
    """Return the axes of the array called ``name`` as sorted numbers from 0 on; None for all.

    Raises:
        GgdjaxError: an axis is out of range or named twice.
    """
    given = tuple(range(rank)) if axis is None else (int(axis),) if np.ndim(axis) == 0 else tuple(axis)
    axes = tuple(sorted(i % rank for i in given if -rank <= i < rank))
    if len(set(axes)) != len(given):
        raise GgdjaxError(f"`axis` is {axis}; expected distinct axes of `{name}`, which has {rank}, or None for all")
    return axes


def is_concrete(x: object) -> bool:
    """Whether ``x`` holds numbers, not a tracer of `jit`, `vmap` or `grad`."""
    return not isinstance(x, jax.core.Tracer)
