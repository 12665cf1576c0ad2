"""The checker of shapes: what it lets through, and that it is at work."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float, Int, TypeCheckError, jaxtyped

from ggdjax.tune._rounding_core import float_target
from tests.shapes import checked


@jaxtyped(typechecker=checked)
def product(
    a: Float[Array, "row mid"], b: Float[Array, "mid col"], c: Int[Array, " col"] | None = None
) -> Float[Array, "row col"]:
    return a @ b if c is None else a


def test_sizes_of_named_axes_must_agree():
    a, b = np.ones((2, 3), np.float32), jnp.ones((3, 4))
    assert product(a, b).shape == (2, 4)
    assert jax.jit(product)(a, b).shape == (2, 4)
    assert jax.vmap(product, (None, 0))(a, jnp.ones((5, 3, 4))).shape == (5, 2, 4)
    with pytest.raises(TypeCheckError, match="'b'"):
        product(a, a)
    with pytest.raises(TypeCheckError, match="'c'"):
        product(a, b, jnp.ones(4))
    with pytest.raises(TypeCheckError, match="return value"):
        product(a, b, np.ones(4, int))


def test_the_package_is_checked():
    weights, gram = np.ones((2, 3), np.float32), np.eye(4, dtype=np.float32)
    with pytest.raises(TypeCheckError, match="gram"):
        float_target(weights, gram, gram, 0.5)
