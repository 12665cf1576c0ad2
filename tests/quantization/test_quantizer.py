from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ggdjax._errors import GgdjaxError
from ggdjax.steps import Quantizer


@pytest.mark.parametrize(("signed", "zero_point"), [(False, None), (True, None), (False, 5)])
def test_equals_integer_codes(signed, zero_point):
    x = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    zero = zero_point or 0
    codes = np.clip(np.rint(x / np.float32(0.1)) + zero, *((-8, 7) if signed else (0, 15)))
    expected = (codes - zero) * np.float32(0.1)
    quantizer = Quantizer(
        step=jnp.float32(0.1), bits=4, signed=signed, zero_point=None if zero_point is None else jnp.float32(zero)
    )
    np.testing.assert_allclose(quantizer(jnp.asarray(x)), expected, atol=1e-7)
    for array in (x, jnp.asarray(x)):  # NumPy and JAX
        np.testing.assert_array_equal(quantizer.encode(array), codes)
        np.testing.assert_allclose(quantizer.decode(quantizer.encode(array)), expected, atol=1e-7)


def test_straight_through_gradients():
    x = jnp.asarray([-3.0, 0.26, 0.74, 9.0])

    def rounded(x, step):
        return Quantizer(step=step, bits=3, signed=True)(x).sum()

    np.testing.assert_array_equal(jax.grad(rounded)(x, 0.5), [0, 1, 1, 0])
    # LSQ: the end codes outside, code − x/step inside.
    x = x.at[0].set(-2.5)
    np.testing.assert_allclose(jax.grad(rounded, argnums=1)(x, 0.5), -4 + (1 - 0.52) + (1 - 1.48) + 3, rtol=1e-5)


@pytest.mark.parametrize("bits", [2, 8, 16, 31, 32])
def test_fixed_point_codes_are_twos_complement(bits):
    quantizer = Quantizer.fixed_point(5, bits)
    assert (quantizer.qmin, quantizer.qmax) == (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    assert (float(quantizer.step), quantizer.frac_bits) == (2.0**-5, 5)
    huge = np.float32([-1e30, 1e30])
    for array in (huge, jnp.asarray(huge)):
        np.testing.assert_array_equal(quantizer.encode(array), [quantizer.qmin, quantizer.qmax])


def test_one_format_per_output_channel():
    w = jnp.asarray([[0.3, 0.3], [0.6, 0.6]])
    quantizer = Quantizer.fixed_point([0, 2], 8)
    np.testing.assert_array_equal(quantizer(w), [[0.0, 0.25], [1.0, 0.5]])
    np.testing.assert_array_equal(quantizer.frac_bits, [0, 2])
    assert Quantizer(step=jnp.float32(0.3), bits=8).frac_bits is None


@pytest.mark.parametrize("bits", [1, 33, 8.0, True, "8"])
def test_widths_are_checked(bits):
    with pytest.raises(GgdjaxError, match="`bits` must be an integer from 2 to 32, got"):
        Quantizer(step=jnp.float32(1), bits=bits)
