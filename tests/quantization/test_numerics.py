from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ggdjax.quantization import FixedPoint, fake_quantize
from ggdjax.schemes import Range


def _range(step, qmin: int, qmax: int, zero_point: int = 0) -> Range:
    qmin, qmax, zero_point, code = (jnp.int32(v) for v in (qmin, qmax, zero_point, 0))
    return Range(step=jnp.asarray(step, jnp.float32), qmin=qmin, qmax=qmax, zero_point=zero_point, code=code)


@pytest.mark.parametrize(("qmin", "qmax", "zero_point"), [(0, 15, 0), (-8, 7, 0), (0, 15, 5)])
def test_equals_integer_codes(qmin, qmax, zero_point):
    x = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    codes = np.clip(np.rint(x / np.float32(0.1)) + zero_point, qmin, qmax)
    expected = (codes - zero_point) * np.float32(0.1)
    result = fake_quantize(jnp.asarray(x), _range(0.1, qmin, qmax, zero_point))
    np.testing.assert_allclose(result, expected, atol=1e-7)


def test_straight_through_gradients():
    x = jnp.asarray([-3.0, 0.26, 0.74, 9.0])
    quantizer = _range(0.5, -2, 3)
    np.testing.assert_array_equal(jax.grad(lambda v: fake_quantize(v, quantizer).sum())(x), [0, 1, 1, 0])

    def total(step):
        return fake_quantize(x, _range(step, -2, 3)).sum()

    # LSQ: the end codes outside, code − x/step inside.
    np.testing.assert_allclose(jax.grad(total)(0.5), -2 + (1 - 0.52) + (1 - 1.48) + 3, rtol=1e-5)


@pytest.mark.parametrize("bits", [2, 8, 16, 31, 32])
def test_fixed_point_codes_are_twos_complement(bits):
    as_range = FixedPoint(frac_bits=jnp.int32(5), bits=jnp.int32(bits)).as_range()
    assert int(as_range.qmin) == -(2 ** (bits - 1))
    assert int(as_range.qmax) == 2 ** (bits - 1) - 1
    assert float(as_range.step) == 2.0**-5


def test_one_format_per_output_channel():
    w = jnp.asarray([[0.3, 0.3], [0.6, 0.6]])
    result = fake_quantize(w, FixedPoint(frac_bits=jnp.asarray([0, 2]), bits=jnp.int32(8)).as_range())
    np.testing.assert_array_equal(result, [[0.0, 0.25], [1.0, 0.5]])
