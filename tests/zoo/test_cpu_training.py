from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from ggdjax import zoo
from ggdjax.zoo._cpu_training import convolve, with_fast_convolutions

#: Strides, dilation, padding, height and width, kernel's shape; 6 channels.
CASES = {
    "depthwise": ((1, 1), (1, 1), ((1, 1), (1, 1)), (8, 7), (3, 3, 1, 6)),
    "depthwise, stride": ((2, 2), (1, 1), ((1, 1), (1, 1)), (8, 7), (3, 3, 1, 6)),
    "depthwise, wide stride": ((3, 3), (1, 1), ((1, 1), (1, 1)), (8, 8), (3, 3, 1, 6)),
    "depthwise, all different": ((2, 1), (1, 2), ((0, 2), (2, 1)), (9, 8), (3, 5, 1, 6)),
    "depthwise, padding by name": ((2, 2), (1, 1), "SAME", (8, 9), (5, 3, 1, 6)),
    "depthwise, no padding": ((1, 1), (1, 1), ((0, 0), (0, 0)), (6, 6), (3, 3, 1, 6)),
    "pointwise": ((1, 1), (1, 1), ((0, 0), (0, 0)), (5, 4), (1, 1, 6, 8)),
    "pointwise, stride": ((2, 2), (1, 1), "SAME", (5, 4), (1, 1, 6, 8)),
    "groups": ((1, 1), (1, 1), "SAME", (5, 4), (3, 3, 3, 8)),
    "full": ((2, 2), (1, 1), "SAME", (5, 4), (3, 3, 6, 8)),
}


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_value_and_both_gradients_are_those_of_xla(case):
    strides, dilation, padding, size, shape = case
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(3, *size, 6)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=shape), jnp.float32)
    options = {
        "lhs_dilation": (1, 1),
        "rhs_dilation": dilation,
        "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
        "feature_group_count": 6 // shape[2],
        "precision": lax.Precision.HIGHEST,
    }

    def loss(convolve):
        return jax.jit(
            jax.value_and_grad(lambda x, w: jnp.sin(convolve(x, w, strides, padding, **options)).sum(), (0, 1))
        )

    for ours, theirs in zip(
        jax.tree.leaves(loss(convolve)(x, kernel)),
        jax.tree.leaves(loss(lax.conv_general_dilated)(x, kernel)),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_copy_changes_and_the_network_does_not():
    net = zoo.abstract("mobilenet_v2_small")
    fast = with_fast_convolutions(net)
    for module, expected in ((fast, convolve), (net, lax.conv_general_dilated)):
        convolutions = [m for _, m in nnx.iter_graph(module) if isinstance(m, nnx.Conv)]
        assert {m.conv_general_dilated for m in convolutions} == {expected}
