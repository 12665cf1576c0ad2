"""Logarithms of both tails of the gamma distribution, accurate in float32, and their inverse.

With ``U ~ Gamma(k, 1)`` everything is written in ``w = log(U/k)``, whose log-density

    D(k, w) = ½ log(k/2π) − δ(k) − k (eʷ − 1 − w),        δ(k) = log Γ(k) − (k−½) log k + k − ½ log 2π,

loses no digits when k is large and u ≈ k, where ``(k, u)`` would. Each tail is ``exp(D + r)`` with ``r`` of
moderate size, from four expansions, each used where it converges in a fixed small number of terms:

=====================  ==================================  =====================================
``k ≥ K``, ``|η| ≤ 1``  uniform expansion, both tails       Temme, SIAM J. Math. Anal. 10 (1979)
``u ≤ max(k, 3/2)``     power series of P                   DLMF 8.7.1
``u > max(k, 3/2)``     continued fraction of Q             DLMF 8.9.2 (even part)
``k < ½``, ``u ≤ 3/2``  alternating series of Q             Gil, Segura, Temme, SISC 34 (2012), §2.3
=====================  ==================================  =====================================

where ``½η² = eʷ − 1 − w``. Numbers of terms: chosen on a grid so that truncation stays below the rounding of the
type (``tests/ggd/test_special.py`` repeats it). Stated accuracy for k in [1e-3, 1e5] and any u, relative to
``max(1, |log tail|)``: 2e-6 in float32, 1e-12 in float64. Derivatives: in w analytic, in k those of the
expansions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True, kw_only=True)
class _Terms:
    """Numbers of terms for one floating-point type; `cap` bounds ``log u`` so that u stays finite."""

    uniform_from: float  # K: smallest shape of the uniform expansion
    uniform: int
    series: int
    fraction: int
    small: int
    stirling: int  # terms of the Stirling series, used from k = 8
    cap: float


_TERMS = {
    4: _Terms(uniform_from=8.0, uniform=12, series=20, fraction=15, small=13, stirling=4, cap=85.0),
    8: _Terms(uniform_from=12.0, uniform=26, series=36, fraction=46, small=24, stirling=8, cap=700.0),
}


def terms_of(x: Array) -> _Terms:
    """Return how many terms the series need in the floating type of ``x``."""
    return _TERMS[8 if x.dtype.itemsize == 8 else 4]


def _horner(coefficients: list, x: Array) -> Array:
    """Return ``Σ coefficients[n] xⁿ``."""
    total = jnp.full_like(x, coefficients[-1]) if isinstance(coefficients[-1], float) else coefficients[-1]
    for c in reversed(coefficients[:-1]):
        total = c + x * total
    return total


# ---------------------------------------------------------------- Stirling remainder and small functions


def _stirling_coefficients(terms: int) -> list[float]:
    """Return ``B₂ₙ / (2n (2n−1))`` for n = 1 … terms (DLMF 5.11.1)."""
    bernoulli: list[Fraction] = [Fraction(1)]
    for m in range(1, 2 * terms + 1):
        bernoulli.append(-sum(math.comb(m + 1, j) * bernoulli[j] for j in range(m)) / Fraction(m + 1))
    return [float(bernoulli[2 * n] / (2 * n * (2 * n - 1))) for n in range(1, terms + 1)]


_SHIFT = 8  # the Stirling series is used from here; smaller arguments are shifted up by its recurrence


def _shifts_of(k: Array) -> Array:
    """Return 0 … 7 on an axis of its own: the terms of the recurrence as one array compile once, not eight times."""
    return jnp.arange(_SHIFT, dtype=k.dtype).reshape((1,) * k.ndim + (-1,))


def stirling_remainder(k: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return ``δ(k) = log Γ(k) − (k−½) log k + k − ½ log 2π`` for k > 0 (about ``1/(12k)`` for large k).

    Absolute error a few units of rounding; below k = 8 by ``δ(k) − δ(k+1) = (k+½) log(1+1/k) − 1``.
    """
    coefficients = _stirling_coefficients(terms_of(k).stirling)
    large = k >= _SHIFT
    low = jnp.where(large, 1.0, k)
    j = _shifts_of(low)
    shifted = jnp.sum((low[..., None] + (j + 0.5)) * jnp.log1p(1.0 / (low[..., None] + j)) - 1.0, axis=-1)
    inverse = 1.0 / jnp.where(large, k, low + _SHIFT)
    series = inverse * _horner(coefficients, inverse * inverse)
    return jnp.where(large, series, series + shifted)


def log_minus_digamma(k: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return ``ω(k) = log k − ψ(k) > 0`` for k > 0 (about ``1/(2k)``), without the cancellation of large k."""
    coefficients = _stirling_coefficients(terms_of(k).stirling)
    large = k >= _SHIFT
    low = jnp.where(large, 1.0, k)
    step = 1.0 / (low[..., None] + _shifts_of(low))
    shifted = jnp.sum(step - jnp.log1p(step), axis=-1)
    inverse = 1.0 / jnp.where(large, k, low + _SHIFT)
    square = inverse * inverse
    series = 0.5 * inverse + square * _horner([(2 * n + 1) * c for n, c in enumerate(coefficients)], square)
    return jnp.where(large, series, series + shifted)


def _half_square_ratio(w: Array) -> Array:
    """Return ``h(w) = 2(eʷ − 1 − w)/w²`` for |w| ≤ 1 by its Taylor series."""
    order = 10 if w.dtype.itemsize == 4 else 18
    return _horner([2.0 / math.factorial(n + 2) for n in range(order)], w)


def expm1_remainder(w: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return ``eʷ − 1 − w ≥ 0`` with full relative accuracy around w = 0."""
    near = jnp.abs(w) < 1.0
    inner = jnp.where(near, w, 0.0)
    outer = jnp.where(near, 1.0, w)
    return jnp.where(near, 0.5 * inner * inner * _half_square_ratio(inner), jnp.expm1(outer) - outer)


def _zeta_minus_one(n: int, start: int = 100) -> float:
    """Return ``ζ(n) − 1`` by Euler–Maclaurin summation from `start` (DLMF 25.2.9)."""
    head = math.fsum(float(j) ** -n for j in range(2, start))
    tail = start ** (1 - n) / (n - 1) + 0.5 * start**-n + n * start ** (-n - 1) / 12
    return head + tail - n * (n + 1) * (n + 2) * start ** (-n - 3) / 720


def log_gamma_1p(k: Array) -> Array:
    """Return ``log Γ(1+k)`` for |k| ≤ ½ with relative accuracy at 0 (DLMF 5.7.3)."""
    terms = 12 if k.dtype.itemsize == 4 else 26
    series = [(-1) ** n * _zeta_minus_one(n) / n for n in range(2, terms)]
    return k * (1.0 - np.euler_gamma) - jnp.log1p(k) + k * k * _horner(series, k)


def _erfcx_scaled_reference(x: float) -> float:
    """Return ``(1+2x) exp(x²) erfc(x)``, x ≥ 0, in double precision: directly, then by continued fraction."""
    if x < 2.0:
        return (1 + 2 * x) * math.exp(x * x) * math.erfc(x)
    tail = x
    for n in range(200, 0, -1):
        tail = x + 0.5 * n / tail
    return (1 + 2 * x) / (tail * math.sqrt(math.pi))


def _erfcx_chebyshev(terms: int, nodes: int = 64) -> list[float]:
    """Return Chebyshev coefficients of ``(1+2x) erfcx(x)`` in ``t = (x−4)/(x+4)``.

    The form of Shepherd and Laframboise, Math. Comp. 36 (1981); computed here, not copied.
    """
    angle = (np.arange(nodes) + 0.5) * np.pi / nodes
    t = np.cos(angle)
    values = np.array([_erfcx_scaled_reference(4 * (1 + s) / (1 - s)) for s in t])
    return [float((2 - (n == 0)) / nodes * (values * np.cos(n * angle)).sum()) for n in range(terms)]


_ERFCX = _erfcx_chebyshev(30)


def erfcx(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return ``exp(x²) erfc(x)`` for x ≥ 0 (`jax.scipy.special.erfcx` returns 0 near x = 9.2 in float32)."""
    coefficients = _ERFCX[: 15 if x.dtype.itemsize == 4 else 30]
    t = (x - 4.0) / (x + 4.0)
    b1, b2 = jnp.zeros_like(x), jnp.zeros_like(x)
    for c in reversed(coefficients[1:]):  # Clenshaw
        b1, b2 = c + 2.0 * t * b1 - b2, b1
    return (coefficients[0] + t * b1 - b2) / (1.0 + 2.0 * x)


def log1mexp(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return ``log(1 − eˣ)`` for x < 0 (Mächler 2012); −inf at 0."""
    near = x > -math.log(2.0)
    return jnp.where(near, jnp.log(-jnp.expm1(jnp.where(near, x, -1.0))), jnp.log1p(-jnp.exp(jnp.where(near, -1.0, x))))


# ---------------------------------------------------------------- the four expansions


def _uniform_coefficients(terms: int) -> list[float]:
    """Return the Taylor coefficients of ``f(η) = dw/dη = η/(eʷ − 1)`` with ``½η² = eʷ − 1 − w``.

    With μ = eʷ − 1 = Σ aᵢ ηⁱ, differentiation gives ``μ μ' = η (1 + μ)``, hence the aᵢ, and f = η/μ.
    """
    a = [Fraction(0), Fraction(1)]
    for m in range(2, terms + 1):
        inner = sum(i * a[i] * a[m + 1 - i] for i in range(2, m))
        a.append((a[m - 1] - inner) / (m + 1))
    f = [Fraction(1)]
    for m in range(1, terms):
        f.append(-sum(a[i + 1] * f[m - i] for i in range(1, m + 1)))
    return [float(c) for c in f]


_UNIFORM = _uniform_coefficients(28)


def _uniform_log_ratio(k: Array, eta: Array, terms: int) -> Array:
    """Return r of the upper tail for η ≥ 0, of the lower tail for η < 0.

    ``Q = ½ erfc(η √(k/2)) + e^{−½kη²} S(η)/√(2πk)``, where ``S' − kηS = k (1 − f e^{−δ})`` gives the backward
    recurrence of the coefficients of S (Temme 1979; Gil, Segura, Temme 2012, eq. 3.10).
    """
    inverse = 1.0 / k
    b = [jnp.zeros_like(k)] * (terms + 2)
    for m in range(terms, 0, -1):
        b[m - 1] = _UNIFORM[m] + (m + 1) * inverse * b[m + 1]
    remainder = stirling_remainder(k)
    s = jnp.exp(-remainder) * _horner(b[:terms], eta)
    half = 0.5 * erfcx(jnp.abs(eta) * jnp.sqrt(0.5 * k))
    tail = half + jnp.where(eta >= 0, s, -s) * jax.lax.rsqrt(2 * math.pi * k)
    return jnp.log(tail) - 0.5 * jnp.log(k) + _HALF_LOG_2PI + remainder


def _series_log_ratio(k: Array, u: Array, terms: int) -> Array:
    """Return ``log P − D = log(Σₙ uⁿ/((k+1)…(k+n)) / k)``."""
    total = jnp.ones_like(k + u)
    for n in range(terms, 0, -1):
        total = 1.0 + total * u / (k + n)
    return jnp.log(total / k)


def fraction_log_ratio(k: Array, u: Array, terms: int) -> Array:
    """Return ``log Q − D = −log t₀``, ``tₙ = u + 2n + 1 − k − (n+1)(n+1−k)/tₙ₊₁``.

    Evaluated backward from the fixed point of the recurrence, which replaces the infinite remainder.
    """
    b = u + (2 * terms + 1) - k
    t = 0.5 * (b + jnp.sqrt(jnp.maximum(b * b - 4.0 * (terms + 1) * (terms + 1 - k), 0.25 * b * b)))
    for n in range(terms, 0, -1):
        t = u + (2 * n - 1) - k - n * (n - k) / t
    return -jnp.log(t)


def small_shape_log_bracket(k: Array, log_u: Array, terms: int) -> Array:
    """Return ``log(Γ(k, u)/Γ(1+k)) = log[(1−c)/k − c Σₙ (−u)ⁿ/(n!(k+n))]``, ``c = uᵏ/Γ(1+k)``, |k| ≤ ½, u ≤ 3/2.

    Nothing cancels as k → 0, where the limit is the exponential integral.
    """
    u = jnp.exp(log_u)
    total = jnp.zeros_like(k + u)
    for n in range(terms, 0, -1):
        total = (1.0 / (k + n) + total) * (-u / n)
    exponent = k * log_u - log_gamma_1p(k)
    return jnp.log(-jnp.expm1(exponent) / k - jnp.exp(exponent) * total)


# ---------------------------------------------------------------- both tails


def log_density(k: Float[Array, "..."], w: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return D(k, w), the log-density of ``w = log(U/k)``, U ~ Gamma(k, 1). k and w broadcast (equal ranks)."""
    return 0.5 * jnp.log(k) - _HALF_LOG_2PI - stirling_remainder(k) - k * expm1_remainder(cap_log_ratio(k, w))


def cap_log_ratio(k: Float[Array, "..."], w: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return w, bounded so that ``k eʷ`` and everything made of it stay finite (log-density about −1e36)."""
    cap = terms_of(w).cap
    highest = cap - jnp.maximum(jnp.log(k), 0.0)
    return jnp.where(w > highest, highest, jnp.where(w < -1e30, -1e30, w))


def _density_and_ratios(k: Array, w: Array) -> tuple[Array, Array, Array]:
    """Return ``D``, ``log P − D``, ``log Q − D``."""
    terms = terms_of(w)
    w = cap_log_ratio(k, w)
    log_u = w + jnp.log(k)
    remainder = expm1_remainder(w)
    density = 0.5 * jnp.log(k) - _HALF_LOG_2PI - stirling_remainder(k) - k * remainder

    uniform = (k >= terms.uniform_from) & (remainder <= 0.5)
    lower = (w < 0) | (~uniform & ((w == 0) | (log_u <= math.log(1.5))))
    small = (k < 0.5) & (log_u <= math.log(1.5))
    series = lower & ~uniform
    fraction = ~lower & ~uniform

    # every expansion is evaluated at a point where it is finite, then selected
    k_uniform = jnp.maximum(k, terms.uniform_from)
    w_uniform = jnp.where(uniform, jnp.clip(w, -1.5, 1.0), 0.0)
    eta = _signed_root(w_uniform)
    by_uniform = _uniform_log_ratio(k_uniform, eta, terms.uniform)
    by_series = _series_log_ratio(k, jnp.where(series, jnp.exp(jnp.where(series, log_u, 0.0)), 0.0), terms.series)
    k_fraction = jnp.where(fraction, k, 1.0)
    by_fraction = fraction_log_ratio(
        k_fraction, jnp.where(fraction, jnp.exp(jnp.where(fraction, log_u, 1.0)), 2.0), terms.fraction
    )
    k_small = jnp.minimum(k, 0.5)
    by_small = jnp.log(k_small) + small_shape_log_bracket(k_small, jnp.where(small, log_u, 0.0), terms.small)

    lower_ratio = jnp.where(uniform, by_uniform, by_series)
    upper_ratio = jnp.where(uniform, by_uniform, jnp.where(small, by_small - density, by_fraction))
    log_p, log_q = density + lower_ratio, density + upper_ratio
    p_from_q = ~lower | (small & (log_q < -math.log(2.0)))
    q_from_p = lower & ~small
    p_ratio = jnp.where(p_from_q, log1mexp(jnp.where(p_from_q, log_q, -1.0)) - density, lower_ratio)
    q_ratio = jnp.where(q_from_p, log1mexp(jnp.where(q_from_p, log_p, -1.0)) - density, upper_ratio)
    return density, p_ratio, q_ratio


def _signed_root(w: Array) -> Array:
    """Return η = sign(w) √(2(eʷ − 1 − w)), smooth through w = 0."""
    near = jnp.abs(w) < 1.0
    inner = jnp.where(near, w, 0.0)
    outer = jnp.where(near, 1.0, w)
    return jnp.where(
        near,
        inner * jnp.sqrt(_half_square_ratio(inner)),
        jnp.sign(outer) * jnp.sqrt(2.0 * (jnp.expm1(outer) - outer)),
    )


@jax.custom_jvp
def log_tails(k: Float[Array, "..."], w: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Return ``(log P(k, u), log Q(k, u))`` at ``u = k eʷ``.

    k, w: arrays of equal rank and one floating type, broadcast against each other; k > 0, any w. Accuracy: see the
    module. Differentiable in both, to any order.
    """
    density, p_ratio, q_ratio = _density_and_ratios(k, w)
    return density + p_ratio, density + q_ratio


@partial(log_tails.defjvp, symbolic_zeros=True)
def _log_tails_jvp(primals, tangents):
    k, w = primals
    dk, dw = tangents
    if isinstance(dk, SymbolicZero):
        density, p_ratio, q_ratio = _density_and_ratios(k, w)
        d_log_p = d_log_q = jnp.zeros_like(p_ratio)
    else:
        (density, p_ratio, q_ratio), (d_density, d_p, d_q) = jax.jvp(
            lambda shape: _density_and_ratios(shape, w), (k,), (dk,)
        )
        d_log_p, d_log_q = d_density + d_p, d_density + d_q
    if not isinstance(dw, SymbolicZero):
        d_log_p = d_log_p + jnp.exp(-p_ratio) * dw
        d_log_q = d_log_q - jnp.exp(-q_ratio) * dw
    return (density + p_ratio, density + q_ratio), (d_log_p, d_log_q)


# ---------------------------------------------------------------- the inverse

_NEWTON_STEPS = 6  # rounding level over k in [1e-3, 1e5] and tails to exp(−3000)


def _tail_and_slope(k: Array, w: Array, lower: Array) -> tuple[Array, Array]:
    """Return a nearly linear function of w and its slope: log P, or ``log(−log Q)``."""
    density, p_ratio, q_ratio = _density_and_ratios(k, w)
    minus_log_q = jnp.maximum(-(density + q_ratio), jnp.finfo(w.dtype).tiny)
    value = jnp.where(lower, density + p_ratio, jnp.log(minus_log_q))
    slope = jnp.where(lower, jnp.exp(-jnp.where(lower, p_ratio, 0.0)), jnp.exp(-q_ratio) / minus_log_q)
    return value, slope


@jax.custom_jvp
def log_ratio_quantile(
    k: Float[Array, "..."], log_p: Float[Array, "..."], log_q: Float[Array, "..."]
) -> Float[Array, "..."]:
    """Return w such that ``P(k, k eʷ) = exp(log_p)`` and ``Q(k, k eʷ) = exp(log_q)``.

    The caller gives both logarithms, so that neither tail loses digits; the smaller one is solved. Newton on log P
    (concave in w) or log(−log Q), both nearly linear, from Wilson and Hilferty's normal approximation (1931) or
    the leading term of P, held in a bracket: ``P ≤ uᵏ/Γ(1+k)`` bounds w from below, Chernoff's
    ``Q ≤ exp(−k (eʷ − 1 − w))`` from above. Arguments: equal ranks, broadcast.
    """
    lower = log_p < log_q
    depth = -jnp.where(lower, log_p, log_q)
    t = jnp.sqrt(2.0 * depth)
    # Abramowitz and Stegun 26.2.22: the normal deviate of a tail exp(−t²/2), error below 3e-3
    z = t - (2.30753 + 0.27061 * t) / (1.0 + t * (0.99229 + 0.04481 * t))
    cube_root = 1.0 - 1.0 / (9.0 * k) + jnp.where(lower, -z, z) / (3.0 * jnp.sqrt(k))
    lowest = (log_p + jax.lax.lgamma(k + 1.0)) / k - jnp.log(k)
    highest = jnp.log1p(depth / k + jnp.sqrt(2.0 * depth / k))
    highest = jnp.where(lower, jnp.maximum(lowest, 0.0), jnp.maximum(lowest, highest))
    start = jnp.where(cube_root > 0.2, 3.0 * jnp.log(jnp.maximum(cube_root, 0.2)), lowest)
    target = jnp.where(lower, log_p, jnp.log(jnp.where(lower, 1.0, depth)))

    def newton(_: int, w: Array) -> Array:
        value, slope = _tail_and_slope(k, w, lower)
        return jnp.clip(w - (value - target) / jnp.maximum(slope, jnp.finfo(w.dtype).tiny), lowest, highest)

    return jax.lax.fori_loop(0, _NEWTON_STEPS, newton, jnp.clip(start, lowest, highest))


@log_ratio_quantile.defjvp
def _log_ratio_quantile_jvp(primals, tangents):
    k, log_p, log_q = primals
    dk, d_log_p, d_log_q = tangents
    w = log_ratio_quantile(k, log_p, log_q)
    lower = log_p < log_q
    _, (dp_dk, dq_dk) = jax.jvp(lambda shape: log_tails(shape, w), (k,), (dk,))
    _, p_ratio, q_ratio = _density_and_ratios(k, w)
    by_p = (d_log_p - dp_dk) * jnp.exp(jnp.where(lower, p_ratio, 0.0))
    by_q = (dq_dk - d_log_q) * jnp.exp(jnp.where(lower, 0.0, q_ratio))
    return w, jnp.where(lower, by_p, by_q)
