"""The log-space incomplete gamma functions against mpmath and SciPy, in both precisions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.special as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from ggdjax.ggd import _special as special
from ggdjax.ggd._upper_gamma import log_upper_gamma

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])
TOLERANCE = {np.float32: 2e-6, np.float64: 1e-12}


def relative(value, reference):
    return np.abs(np.asarray(value, float) - reference) / np.maximum(1.0, np.abs(reference))


def mp(function, *arrays):
    """Evaluate with 40 digits, elementwise."""
    with mpmath.workdps(40):
        flat = [float(function(*(mpmath.mpf(float(v)) for v in row))) for row in zip(*arrays, strict=True)]
    return np.array(flat)


def x64(dtype):
    return jax.enable_x64(dtype is np.float64)


def exact_stirling_remainder(k):
    return mpmath.loggamma(k) - (k - 0.5) * mpmath.log(k) + k - 0.5 * mpmath.log(2 * mpmath.pi)


@DTYPES
def test_stirling_remainder_and_digamma(dtype):
    k = np.geomspace(1e-3, 1e6, 101).astype(dtype)
    with x64(dtype):
        remainder = np.asarray(special.stirling_remainder(jnp.asarray(k)), float)
        omega = np.asarray(special.log_minus_digamma(jnp.asarray(k)), float)
        slope = np.asarray(jax.vmap(jax.grad(special.stirling_remainder))(jnp.asarray(k)), float)
    exact = mp(exact_stirling_remainder, k)
    assert relative(remainder, exact).max() < TOLERANCE[dtype]
    assert (np.abs(remainder / exact - 1))[k >= 8].max() < TOLERANCE[dtype]
    exact_omega = mp(lambda v: mpmath.log(v) - mpmath.digamma(v), k)
    np.testing.assert_allclose(omega, exact_omega, rtol=TOLERANCE[dtype])
    np.testing.assert_allclose(
        slope, mp(lambda v: 0.5 / v - mpmath.log(v) + mpmath.digamma(v), k), rtol=5e-5 if dtype is np.float32 else 1e-10
    )


@DTYPES
def test_erfcx(dtype):
    x = np.concatenate([np.linspace(0, 12, 3001), np.geomspace(12, 1e15, 200)]).astype(dtype)
    with x64(dtype):
        value = np.asarray(special.erfcx(jnp.asarray(x)), float)
    np.testing.assert_allclose(value, sp.erfcx(x.astype(float)), rtol=1e-6 if dtype is np.float32 else 1e-14)


@DTYPES
def test_log_gamma_near_one(dtype):
    k = np.linspace(-0.5, 0.5, 50).astype(dtype)  # 0 is not among them
    with x64(dtype):
        value = np.asarray(special.log_gamma_1p(jnp.asarray(k)), float)
    np.testing.assert_allclose(
        value, mp(lambda v: mpmath.loggamma(1 + v), k), rtol=1e-6 if dtype is np.float32 else 1e-13
    )


def test_derived_constants():
    # Temme 1979: f(η) = 1 − η/3 + η²/12 − 2η³/135 + η⁴/864 + …
    np.testing.assert_allclose(special._uniform_coefficients(5), [1, -1 / 3, 1 / 12, -2 / 135, 1 / 864], rtol=1e-15)
    # DLMF 5.11.3
    np.testing.assert_allclose(special._stirling_coefficients(4), [1 / 12, -1 / 360, 1 / 1260, -1 / 1680], rtol=1e-15)
    with mpmath.workdps(30):
        zeta = [float(mpmath.zeta(n) - 1) for n in range(2, 27)]
    np.testing.assert_allclose([special._zeta_minus_one(n) for n in range(2, 27)], zeta, rtol=1e-12)


def grid(dtype):
    """Shapes 1e-3 to 1e5, w within ±10 standard deviations of log U and far out to ±17."""
    k = np.geomspace(1e-3, 1e5, 81)[:, None]
    near = np.linspace(-10, 10, 101) * np.minimum(k**-0.5, 1.0)
    far = np.broadcast_to(np.concatenate([np.linspace(-17, -1, 33), np.linspace(1, 17, 33)]), (81, 66))
    w = np.concatenate([near, far], axis=1)
    return k.astype(dtype), w.astype(dtype)


@DTYPES
def test_both_tails_against_scipy(dtype):
    k, w = grid(dtype)
    with x64(dtype):
        log_p, log_q = (np.asarray(t, float) for t in special.log_tails(jnp.asarray(k), jnp.asarray(w)))
    assert np.isfinite(log_p).all()
    assert np.isfinite(log_q).all()
    u = k.astype(float) * np.exp(w.astype(float))
    with np.errstate(divide="ignore", under="ignore"):
        for value, exact in ((log_p, sp.gammainc(k.astype(float), u)), (log_q, sp.gammaincc(k.astype(float), u))):
            inside = (exact > 1e-280) & (exact < 1)  # beyond, SciPy underflows
            error = relative(value, np.log(np.where(inside, exact, 1.0)))
            assert error[inside].max() < TOLERANCE[dtype]


@DTYPES
def test_far_tails_against_mpmath(dtype):
    """Probabilities down to exp(−1e5), where both float64 and SciPy underflow."""
    k = np.array([1e-3, 0.3, 1.0, 7.0, 11.0, 300.0, 1e4, 1e5], dtype)
    upper = np.log1p(np.array([1e8, 3e5, 1e5, 1e4, 40.0, 20.0, 4.0, 0.3])).astype(dtype)
    lower = -np.array([1e5, 1e4, 300.0, 100.0, 5.0, 3.0, 1.0, 0.5], dtype)
    with x64(dtype):
        _, log_q = special.log_tails(jnp.asarray(k), jnp.asarray(upper))
        log_p, _ = special.log_tails(jnp.asarray(k), jnp.asarray(lower))

    def exact(k, w, a, b):
        bounds = {"a": k * mpmath.exp(w)} if b else {"a": 0, "b": k * mpmath.exp(w)}
        return mpmath.log(mpmath.gammainc(k, **bounds)) - mpmath.loggamma(k)

    small = slice(0, 6)  # mpmath itself needs too long beyond
    assert np.isfinite(log_q).all()
    assert np.isfinite(log_p).all()
    exact_q = mp(lambda s, w: exact(s, w, 0, 1), k[small], upper[small])
    exact_p = mp(lambda s, w: exact(s, w, 0, 0), k[small], lower[small])
    assert relative(log_q[small], exact_q).max() < TOLERANCE[dtype]
    assert relative(log_p[small], exact_p).max() < TOLERANCE[dtype]


def test_gradients_against_differences():
    k, w = grid(np.float64)
    k, w = (v[::4, ::3] for v in np.broadcast_arrays(k, w))
    with jax.enable_x64(True):
        k, w = jnp.asarray(k), jnp.asarray(w)
        for tangent in ((jnp.ones_like(k), jnp.zeros_like(w)), (jnp.zeros_like(k), jnp.ones_like(w))):
            analytic = jax.jvp(special.log_tails, (k, w), tangent)[1]
            step = 1e-6 * (k if tangent[0][0, 0] == 1 else jnp.minimum(k**-0.5, 1.0))
            ahead = special.log_tails(k + step * tangent[0], w + step * tangent[1])
            behind = special.log_tails(k - step * tangent[0], w - step * tangent[1])
            for d, a, b in zip(analytic, ahead, behind, strict=True):
                scale = jnp.maximum(1.0, jnp.abs(a)) * 1e-12 / step  # rounding of the difference
                assert (jnp.abs(d - (a - b) / (2 * step)) <= 1e-5 * jnp.abs(d) + 3 * scale).all()


def test_float32_gradients_agree_with_float64():
    k, w = (np.ascontiguousarray(v[::3, ::2]) for v in np.broadcast_arrays(*grid(np.float32)))
    keep = np.abs(w) * np.maximum(np.sqrt(k), 1.0) < 8  # beyond, tails below e^−32 and their slopes in k have no use
    slopes = {}
    for dtype in (np.float32, np.float64):
        with x64(dtype):
            primal = jnp.asarray(k.astype(dtype)), jnp.asarray(w.astype(dtype))
            tangents = jnp.ones_like(primal[0]), jnp.zeros_like(primal[0])
            slopes[dtype] = [np.asarray(t, float) * k for t in jax.jvp(special.log_tails, primal, tangents)[1]]
    for single, double in zip(slopes[np.float32], slopes[np.float64], strict=True):
        assert np.isfinite(single).all()
        assert relative(single, double)[keep].max() < 2e-4


def test_second_derivatives_are_finite_at_the_mean():
    value = jax.hessian(lambda v: special.log_tails(v[0], v[1])[1])(jnp.array([20.0, 0.0]))
    assert jnp.isfinite(value).all()


@DTYPES
def test_quantile_inverts(dtype):
    k = np.geomspace(1e-3, 1e5, 41)[:, None]
    log_tail = -np.geomspace(np.log(2.0), 3000, 60)[None]
    other = np.log1p(-np.exp(log_tail))
    for pair in ((log_tail, other), (other, log_tail)):
        with x64(dtype):
            shape, log_p, log_q = (jnp.asarray(np.broadcast_to(v, (41, 60)).astype(dtype)) for v in (k, *pair))
            w = special.log_ratio_quantile(shape, log_p, log_q)
            back = special.log_tails(shape, w)
        solved = 0 if pair[0] is log_tail else 1
        # w itself is rounded: up to k (or u) times its rounding
        slack = np.finfo(dtype).eps * np.abs(w) * np.exp(np.clip(w, 0, None)) * k
        error = np.abs(np.asarray(back[solved] - (log_p, log_q)[solved], float))
        assert (error <= 10 * TOLERANCE[dtype] * np.maximum(1, -log_tail) + 4 * slack).all()


def test_quantile_gradients():
    with jax.enable_x64(True):
        k, q = jnp.array([0.02, 0.7, 3.0, 50.0, 2e3]), jnp.array([0.3, 0.01, 0.9, 0.999, 0.4])

        @jax.jit
        def w(k, q):
            return special.log_ratio_quantile(k, jnp.log(q), jnp.log1p(-q))

        slope = jax.jit(lambda *tangent: jax.jvp(w, (k, q), tangent)[1])
        h, one, zero = 1e-6, jnp.ones_like(k), jnp.zeros_like(k)
        by_k = slope(one, zero)
        np.testing.assert_allclose(by_k, (w(k * (1 + h), q) - w(k * (1 - h), q)) / (2 * h * k), rtol=1e-5)
        by_q = slope(zero, one)
        np.testing.assert_allclose(by_q, (w(k, q * (1 + h)) - w(k, q * (1 - h))) / (2 * h * q), rtol=1e-5)


@DTYPES
def test_upper_gamma_of_negative_order(dtype):
    s = np.concatenate([np.linspace(-18.0, 0.5, 38), [-1e-4, -1e-7, -0.501, -40.0]]).astype(dtype)
    log_u = np.linspace(-20, 6, 14).astype(dtype)
    with x64(dtype):
        value = log_upper_gamma(jnp.asarray(s)[:, None], jnp.asarray(log_u)[None])
        slope = jax.jacfwd(log_upper_gamma, 1)(jnp.asarray(s), jnp.asarray(log_u[3]).reshape(1).repeat(len(s)))
    assert np.isfinite(slope).all()

    def exact(s, log_u):
        """Carry a positive order down; mpmath's own continuation takes minutes."""
        u = mpmath.exp(log_u)
        if s == int(s):
            order, total = mpmath.mpf(0), mpmath.e1(u)
        else:
            order = s + int(mpmath.ceil(0.5 - s))
            total = mpmath.gammainc(order, u)
        while order > s + 0.5:
            order -= 1
            total = (total - u**order * mpmath.exp(-u)) / order
        return mpmath.log(total)

    with mpmath.workdps(60):
        reference = np.array([[float(exact(mpmath.mpf(float(a)), mpmath.mpf(float(b)))) for b in log_u] for a in s])
    assert relative(value, reference).max() < (2e-6 if dtype is np.float32 else 2e-8)


def test_jit_and_vmap_agree_with_loop():
    k, w = (np.ascontiguousarray(v[::8, ::10]) for v in np.broadcast_arrays(*grid(np.float32)))
    eager = special.log_tails(jnp.asarray(k), jnp.asarray(w))
    jitted = jax.jit(special.log_tails)(jnp.asarray(k), jnp.asarray(w))
    mapped = jax.vmap(special.log_tails)(jnp.asarray(k), jnp.asarray(w))
    for a, b, c in zip(eager, jitted, mapped, strict=True):
        assert relative(b, np.asarray(a, float)).max() < 2e-6
        assert relative(c, np.asarray(a, float)).max() < 2e-6


_compiled = jax.jit(jax.value_and_grad(lambda v: sum(t.sum() for t in special.log_tails(v[0], v[1]))))


@settings(max_examples=300, deadline=None)
@given(
    st.floats(2.0**-20, 1e8, width=32, allow_subnormal=False),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
)
def test_never_nan(k, w):
    value, gradient = _compiled(jnp.array([k, w], jnp.float32))
    assert not jnp.isnan(value)
    assert not jnp.isnan(gradient).any()
