"""Codes are the same on every backend: division by a step, and rounding of its result, as IEEE 754 has them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax


def divide(x: jax.Array, step: jax.Array | float) -> tuple[jax.Array, jax.Array]:
    """Return ``x / step``, and the integer nearest to its correctly rounded value, half to even, of the type of ``x``.

    The integer is what NumPy and ONNX Runtime get, on all backends: exactly, for integers below 2^11 and float32.
    The quotient is correctly rounded on a CPU only; it is there for gradients. ``step`` broadcasts against ``x``.
    """
    step = jnp.broadcast_to(jnp.asarray(step, x.dtype), x.shape)
    if x.dtype != jnp.float32:
        return _divided(x, step)
    return lax.platform_dependent(x, step, cpu=_divided, default=_by_reciprocal)


def _divided(x: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
    # XLA turns a division by a scalar, or by one number per channel, into a product with the reciprocal, which is off
    # in the last bit for a third of all numbers: halves between two codes, common behind averages, then go either way.
    # It does not where the divisor is a tensor of its own.
    quotient = x / lax.optimization_barrier(step)
    return quotient, jnp.round(quotient)


def _by_reciprocal(x: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
    quotient = x * (1 / step)
    return quotient, nearest(x, step, quotient)


def nearest(x: jax.Array, step: jax.Array, quotient: jax.Array) -> jax.Array:
    """Return ``round(x / step)`` of IEEE division, half to even, from a quotient that may be off in its last bits.

    Only the side of x from the nearest middle h between two integers is in question. The correctly rounded quotient is
    h itself where ``|x − h · step| ≤ step · ulp(h) / 2``: h is a half, so its last bit is even. With the step in two
    parts of 12 bits, products with an h of 12 bits are exact; so is their difference from x, which is close to them.
    """
    # Beyond ±2^22 there are no halves, and infinity has no remainder.
    down = jnp.floor(jnp.clip(quotient, -(2.0**22), 2.0**22))
    middle = down + 0.5
    leading = lax.bitcast_convert_type(lax.bitcast_convert_type(step, jnp.int32) & ~0xFFF, jnp.float32)
    distance = (x - middle * leading) - middle * (step - leading)
    power = lax.bitcast_convert_type(lax.bitcast_convert_type(middle, jnp.int32) & 0x7F800000, jnp.float32)
    tie = jnp.abs(distance) <= step * power * 2.0**-24
    up = jnp.where(tie, down % 2 == 1, distance > 0)
    return jnp.where(jnp.isnan(quotient), quotient, jnp.where(up, down + 1, down))
