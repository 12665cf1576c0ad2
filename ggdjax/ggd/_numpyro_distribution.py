"""The generalized gamma distribution as a NumPyro `Distribution`, for use in probabilistic models."""

from __future__ import annotations

import copy
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float
from numpyro.distributions import Distribution, constraints, kl_divergence
from numpyro.distributions.batch_util import vmap_over
from numpyro.distributions.util import promote_shapes, validate_sample

from ggdjax._errors import expect
from ggdjax.ggd._arrays import as_real
from ggdjax.ggd._distribution import GeneralizedGamma


class GeneralizedGammaDistribution(Distribution):
    """``f(x) = p / (aᵈ Γ(d/p)) · x^(d−1) · exp(−(x/a)ᵖ)``, x > 0; scale ``a > 0``, shape ``d > 0``, exponent ``p > 0``.

    The numbers come from `GeneralizedGamma`; this class adds NumPyro's conventions: shapes, constraints, validation,
    sampling by implicit reparametrization in all three parameters, and ``numpyro.distributions.kl_divergence``.
    Close to the log-normal boundary, where the scale leaves the range of the type, use `GeneralizedGamma` itself.

    Args:
        a: scale, in the units of x.
        d: shape; the density goes as ``x^(d−1)`` at zero.
        p: exponent of the tail.
        validate_args: as everywhere in NumPyro.

    Example:
        >>> dist = gd.ggd.GeneralizedGammaDistribution(a=1.0, d=2.0, p=0.7)  # numpyro.sample("x", dist, obs=x)
        >>> round(float(dist.cdf(dist.icdf(0.5))), 3)
        0.5
    """

    # pyrefly: ignore[bad-override] (NumPyro declares no class variables, its own distributions have them)
    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "a": constraints.positive,
        "d": constraints.positive,
        "p": constraints.positive,
    }
    support = constraints.positive
    # pyrefly: ignore[bad-override]
    reparametrized_params: ClassVar[list[str]] = ["a", "d", "p"]

    def __init__(self, a: ArrayLike, d: ArrayLike, p: ArrayLike, *, validate_args: bool | None = None) -> None:
        with jax.ensure_compile_time_eval():  # under `jit` too, so that constants are validated as NumPyro's are
            self.a, self.d, self.p = promote_shapes(*as_real(a, d, p))
        batch_shape = jnp.broadcast_shapes(*(jnp.shape(v) for v in (self.a, self.d, self.p)))
        super().__init__(batch_shape=batch_shape, validate_args=validate_args)

    @classmethod
    def of(cls, ggd: GeneralizedGamma, *, validate_args: bool | None = None) -> GeneralizedGammaDistribution:
        """Return the NumPyro form of a `GeneralizedGamma`."""
        expect("ggd", ggd, "GeneralizedGamma")
        return cls(ggd.a, ggd.d, ggd.p, validate_args=validate_args)

    @property
    def ggd(self) -> GeneralizedGamma:
        """The same distribution as a `GeneralizedGamma`; its parameters are not checked, as in all of NumPyro."""
        a, d, p = as_real(self.a, self.d, self.p)
        leaves = jnp.log(a) + jnp.log(d / p) / p, d, p
        shape = jnp.broadcast_shapes(*(leaf.shape for leaf in leaves))
        return GeneralizedGamma.tree_unflatten(None, tuple(jnp.broadcast_to(leaf, shape) for leaf in leaves))

    def sample(self, key: jax.Array | None, sample_shape: tuple[int, ...] = ()) -> Float[Array, "..."]:
        """Return draws of shape ``sample_shape + batch_shape``, differentiable in the parameters."""
        return self.ggd.sample(key, sample_shape)

    @validate_sample
    def log_prob(self, value: ArrayLike) -> Float[Array, "..."]:
        """Return log f(value)."""
        return self.ggd.log_prob(value)

    def cdf(self, value: ArrayLike) -> Float[Array, "..."]:
        """Return P(X ≤ value)."""
        return self.ggd.cdf(value)

    def icdf(self, q: ArrayLike) -> Float[Array, "..."]:
        """Return x with P(X ≤ x) = q."""
        return self.ggd.icdf(q)

    @property
    def mean(self) -> Float[Array, "..."]:
        """E[X]."""
        return self.ggd.mean

    @property
    def variance(self) -> Float[Array, "..."]:
        """E[(X − E[X])²]."""
        return self.ggd.variance

    @property
    def mode(self) -> Float[Array, "..."]:
        """Place of the largest density, 0 for d ≤ 1."""
        return self.ggd.mode

    def entropy(self) -> Float[Array, "..."]:
        """Return ``−E[log f(X)]`` in nats."""
        return self.ggd.entropy


@kl_divergence.register(GeneralizedGammaDistribution, GeneralizedGammaDistribution)
def _kl_divergence(p: GeneralizedGammaDistribution, q: GeneralizedGammaDistribution) -> Float[Array, "..."]:
    return p.ggd.kl_divergence(q.ggd)


@vmap_over.register(GeneralizedGammaDistribution)
def _vmap_over(
    dist: GeneralizedGammaDistribution, a: int | None = None, d: int | None = None, p: int | None = None
) -> GeneralizedGammaDistribution:
    """Return the axes for `jax.vmap`; NumPyro's default takes an argument named `d` for the distribution itself."""
    axes = copy.copy(dist)
    axes.a, axes.d, axes.p = a, d, p
    return axes
