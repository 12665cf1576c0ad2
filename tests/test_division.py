"""The integer nearest to a quotient is that of IEEE division on every backend."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ggdjax as gd
from ggdjax._division import divide, nearest
from ggdjax.quantization._quantizers import short_step

RNG = np.random.default_rng(5)
STEPS = {
    "15 bits": np.asarray(short_step(RNG.uniform(1e-4, 40, 64))),
    "powers of two": np.ldexp(np.float32(1), np.arange(-20, 20)),
    "any": np.exp(RNG.uniform(-12, 6, 64)).astype(np.float32),
}


@pytest.fixture(scope="module")
def by_product():
    """Return the rule for accelerators, given a quotient that is off in its last bits as theirs are."""

    def rule(x: jax.Array, step: jax.Array, off: jax.Array) -> jax.Array:
        return nearest(x, jnp.broadcast_to(step, x.shape), x * ((1 / step) * (1 + off * 2.0**-22)))

    return jax.jit(rule)


@pytest.mark.parametrize("kind", STEPS)
def test_around_every_middle_of_wide_grids(kind, by_product):
    """All float32 within 40 of every middle of 10-bit grids: nothing else is in question."""
    middles = np.arange(-512, 512) + 0.5
    around = np.arange(-40, 41, dtype=np.int32)
    differ = 0
    for step in STEPS[kind]:
        centre = (middles * step).astype(np.float32)
        x = (centre.view(np.int32)[:, None] + around).view(np.float32)
        exact = np.round(x / step)
        assert set(np.unique(exact - np.floor(middles)[:, None])) == {0.0, 1.0}
        for off in (-1.0, 0.0, 1.0):
            differ += int((np.asarray(by_product(x, step, np.float32(off))) != exact).sum())
        np.testing.assert_array_equal(divide(jnp.asarray(x), step)[1], exact)
    assert differ == 0


def test_everywhere_else(by_product):
    bits = RNG.integers(0, 1 << 32, 200_000, dtype=np.uint32)
    x = bits.view(np.float32)
    # Subnormal numbers may be flushed.
    x = np.concatenate([x[np.abs(x) > 1e-35], np.float32([np.inf, -np.inf, np.nan, 0.0, -0.0])])
    for step in (np.float32(0.0371), np.float32(2.0**-9)):
        with np.errstate(over="ignore", invalid="ignore"):
            exact = np.clip(np.round(x / step), -1024, 1023)
        np.testing.assert_array_equal(np.clip(by_product(x, step, np.float32(1)), -1024, 1023), exact)


def test_accelerators_compile_no_division_of_tensors():
    q = gd.Quantizer(step=jnp.float32(0.1), bits=8, signed=True)
    lowered = jax.jit(q.__call__).trace(jnp.ones((4, 4))).lower(lowering_platforms=("cuda",)).as_text()
    assert "stablehlo.floor" in lowered
    on_cpu = jax.jit(q.__call__).trace(jnp.ones((4, 4))).lower(lowering_platforms=("cpu",)).as_text()
    assert "stablehlo.floor" not in on_cpu
    assert "optimization_barrier" in on_cpu


def test_gradients_of_both_rules_are_those_of_the_estimator():
    q = gd.Quantizer(step=jnp.float32(0.25), bits=4, signed=False)
    x = jnp.array([-1.0, 0.3, 1.1, 9.0])
    slope, by_step = jax.grad(lambda x, q: q(x).sum(), argnums=(0, 1))(x, q)
    np.testing.assert_array_equal(slope, [0, 1, 1, 0])
    inside = np.round(np.asarray(x[1:3]) / 0.25) - np.asarray(x[1:3]) / 0.25
    np.testing.assert_allclose(by_step.step, inside.sum() + 15, rtol=1e-6)
