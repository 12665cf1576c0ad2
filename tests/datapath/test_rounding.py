from __future__ import annotations

import itertools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ggdjax.datapath import Rounding, rounding_shift
from ggdjax.datapath._rounding import exact_round, requantize, rounding_product, saturate, wrap

#: The truth table of the module, column by column.
HALVED = (-7, -6, -5, -3, -2, -1, 1, 2, 3, 5, 6, 7)
TABLE = {
    Rounding.HALF_AWAY: (-4, -3, -3, -2, -1, -1, 1, 1, 2, 3, 3, 4),
    Rounding.HALF_EVEN: (-4, -3, -2, -2, -1, 0, 0, 1, 2, 2, 3, 4),
    Rounding.HALF_UP: (-3, -3, -2, -1, -1, 0, 1, 1, 2, 3, 3, 4),
    Rounding.FLOOR: (-4, -3, -3, -2, -1, -1, 0, 1, 1, 2, 3, 3),
    Rounding.TOWARD_ZERO: (-3, -3, -2, -1, -1, 0, 0, 1, 1, 2, 3, 3),
}
EDGES = (0, 1, -1, 2**31 - 1, -(2**31), 2**30, -(2**30), 3, -3, 65535, 65536, -65536, -65537, 98304)
MULTIPLIERS = (1, 2, 3, 32768, 40000, 65535, 65536, 12345678, 2**30, 2**31 - 1)
SHIFTS = (0, 1, 15, 16, 17, 18, 31, 32, 33, 34, 47, 48, 61, 62)


def exact(acc: int, multiplier: int, shift: int, rule: Rounding) -> int:
    """Requantize in Python's integers, saturated to int32."""
    return min(max(exact_round(Fraction(acc * multiplier, 1 << shift), rule), -(2**31)), 2**31 - 1)


@pytest.fixture(scope="module")
def accumulators() -> np.ndarray:
    rng = np.random.default_rng(0)
    parts = (EDGES, rng.integers(-(2**31), 2**31, 100), rng.integers(-300, 300, 50), rng.integers(-999, 999, 16) << 16)
    return np.concatenate(parts).astype(np.int32)


@pytest.mark.parametrize("rule", Rounding)
def test_truth_table(rule):
    assert tuple(exact(x, 1, 1, rule) for x in HALVED) == TABLE[rule]
    np.testing.assert_array_equal(rounding_shift(jnp.asarray(HALVED, jnp.int32), 1, rule), TABLE[rule])


@pytest.mark.parametrize("rule", Rounding)
def test_shift_is_exact(rule, accumulators):
    shifted = jax.jit(lambda x, shift: rounding_shift(x, shift, rule))
    for shift in SHIFTS:
        expected = [exact(int(a), 1, shift, rule) for a in accumulators]
        np.testing.assert_array_equal(shifted(jnp.asarray(accumulators), shift), expected, err_msg=f"shift {shift}")


@pytest.mark.parametrize("rule", Rounding)
def test_requantization_is_exact(rule, accumulators):
    """Over every pair of multiplier and shift: all six ways to compute it against Python's integers."""
    cases = list(itertools.product(MULTIPLIERS, SHIFTS))
    # By the length of the ratio: at most 1/4, and between 1/2 and 2^28, for which a narrow result is asked.
    exponents = [r - m.bit_length() for m, r in cases]
    groups = {
        "all": cases,
        "short": [(m, r) for m, r in cases if m < 2**16 and 16 < r < 48],
        "ones": [(m, r) for m, r in cases if m == 1],
        "upper word": [case for case, e in zip(cases, exponents, strict=True) if 2 <= e <= 32],
        "narrow": [case for case, e in zip(cases, exponents, strict=True) if -28 <= e <= 2],
    }
    column = jnp.asarray(accumulators)[:, None]
    for name, group in groups.items():
        multiplier, shift = (np.asarray(v, np.int32)[None] for v in zip(*group, strict=True))
        want = np.asarray([[exact(int(a), m, r, rule) for m, r in group] for a in accumulators])
        got = requantize(column, multiplier, shift, rule)
        np.testing.assert_array_equal(got, want, err_msg=name)
        for bits in (30, 8):
            low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
            limited = requantize(column, multiplier, shift, rule, low, high)
            np.testing.assert_array_equal(limited, want.clip(low, high), err_msg=f"{name}, {bits} bits")


@pytest.mark.parametrize("rule", Rounding)
def test_product_is_exact(rule, accumulators):
    """Of two numbers of up to 31 bits and signs, each pair, by both ways to shift it."""
    x = accumulators[accumulators > -(2**31)]
    for shift in SHIFTS:
        want = np.asarray([[exact(int(a), int(b), shift, rule) for b in x[::3]] for a in x])
        for bits in (32, 30):
            low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
            got = rounding_product(jnp.asarray(x)[:, None], jnp.asarray(x)[None, ::3], shift, rule, low, high)
            np.testing.assert_array_equal(got, want.clip(low, high), err_msg=f"shift {shift}, {bits} bits")


@pytest.mark.parametrize(("policy", "expected"), [(wrap, (-1, 7, -8, 7, -8, 0)), (saturate, (-8, -8, -8, 7, 7, 7))])
def test_four_bit_accumulator(policy, expected):
    np.testing.assert_array_equal(policy(jnp.asarray((-17, -9, -8, 7, 8, 16), jnp.int32), 4), expected)
