"""Every way to sum up a convolution gives the same integers, compiled too."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ggdjax.datapath._ops import METHODS


@pytest.mark.parametrize(("low", "high"), [(-128, 127), (0, 255)])
@pytest.mark.parametrize(("side", "channels"), [(1, 32), (2, 512), (5, 32)])
def test_compiled_sums_are_exact(side, channels, low, high):
    rng = np.random.default_rng(0)
    x = rng.integers(low, high + 1, (2, side, side, channels), np.int32)
    kernel = rng.integers(-128, 128, (3, 3, channels, 64), np.int8)
    around = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))).astype(np.int64)
    wanted = sum(
        around[:, i : i + side, j : j + side] @ kernel[i, j].astype(np.int64) for i in range(3) for j in range(3)
    )
    for method in ("int8", "int32", "shifts"):
        arguments = {"strides": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}
        conv = jax.jit(partial(METHODS[method], **arguments, low=low, high=high))
        np.testing.assert_array_equal(conv(jnp.asarray(x), jnp.asarray(kernel)), wanted, err_msg=method)
