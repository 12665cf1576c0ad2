"""The likelihood maximized directly, over all three parameters at once.

`ggdjax.ggd.fit` reduces the fit to one dimension and is faster and safer. This is the check of it, and the place for
terms of one's own in the loss: a prior, a penalty, a coupling.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from ggdjax._errors import GgdjaxError
from ggdjax.ggd._distribution import GeneralizedGamma
from ggdjax.ggd._fitting import as_samples
from ggdjax.ggd._histogram import Histogram, Side, checked_side
from ggdjax.ggd._tail import TailWeighted
from ggdjax.ggd._weighted_fit import EULER, WEIBULL_DEVIATION, log_samples

#: Bounds of log p and log k: beyond them the density is one of its limits to float32.
_LOG_P, _LOG_K = (-4.6, 6.9), (-11.0, 13.0)
#: Newton steps after the minimizer, and the largest derivative of the loss that counts as none.
_POLISH, _FLAT = 4, 1e-4
#: The minimizer hands over to Newton's method where no coordinate moves further than this.
_SMALL_STEP = 1e-3


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class LikelihoodFit:
    """A fit per tensor; all leaves share the batch shape of the data.

    ``tail`` is the fit in the form that steps use; ``loss`` the mean negative log-density of the size-biased fit per
    value plus the penalty, at the minimum; ``converged`` says whether the loss is flat there.
    """

    tail: TailWeighted
    loss: Float[Array, "..."]
    converged: Bool[Array, "..."]
    iterations: Int[Array, "..."]

    @property
    def distribution(self) -> GeneralizedGamma:
        """The fit brought back from the size-biased density."""
        return self.tail.as_ggd()


def fit_likelihood(
    data: ArrayLike | Histogram,
    order: float = 0,
    *,
    penalty: Callable[[GeneralizedGamma], Float[Array, ""]] | None = None,
    side: Side = "auto",
    max_steps: int = 256,
) -> LikelihoodFit:
    """Minimize ``−E_w[log f(x)] + penalty(f)`` with weights ``w ∝ x^order`` by L-BFGS (optax) and Newton steps.

    The parameters move freely as (location, log k, log p), k = d/p, from a Weibull distribution of the data's mean and
    deviation of log x. Where the likelihood has no maximum inside (`FitCode` of `fit` says so), the search ends at a
    bound or at ``max_steps``, ``converged`` false.

    Args:
        data: samples, the last axis being the samples of one tensor; or a `Histogram`. Zeros are left out.
        order: the order m ≥ 0 of the weights ``x^m``.
        penalty: added to the loss per value; a function of one (unbatched) distribution, the size-biased one. Its scale
            is that of ``data``. Jittable and differentiable.
        side: as in `fit`.
        max_steps: of the minimizer, per tensor.

    Raises:
        GgdjaxError: a negative order, an unknown side, or no samples.
    """
    if not order >= 0:
        raise GgdjaxError(f"`order` is {order}; expected a number ≥ 0")
    if isinstance(data, Histogram):
        bins = data.compress(side)
        # Empty bins far below would underflow to x = 0, where the density may be anything.
        log_x, weight, log_scale = jnp.where(bins.weight > 0, bins.log_x, 0.0), bins.weight, bins.log_scale
    else:
        magnitude, log_x, log_scale = log_samples(as_samples(data), checked_side(side))
        weight = (magnitude > 0).astype(magnitude.dtype)
    shape = log_scale.shape
    flat = (log_x.reshape(-1, log_x.shape[-1]), weight.reshape(-1, weight.shape[-1]), log_scale.reshape(-1))
    result = _fit(*flat, float(order), penalty=penalty, max_steps=max_steps)
    return jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), result)


@partial(jax.jit, static_argnames=("penalty", "max_steps"))
def _fit(
    log_x: Array,
    weight: Array,
    log_scale: Array,
    order: float,
    *,
    penalty: Callable[[GeneralizedGamma], Array] | None,
    max_steps: int,
) -> LikelihoodFit:
    return jax.vmap(partial(_fit_one, order=order, penalty=penalty, max_steps=max_steps))(log_x, weight, log_scale)


def _fit_one(
    log_x: Array,
    weight: Array,
    log_scale: Array,
    *,
    order: float,
    penalty: Callable[[GeneralizedGamma], Array] | None,
    max_steps: int,
) -> LikelihoodFit:
    import optax

    tilted = weight * jnp.exp(order * log_x)
    total, count = jnp.maximum(tilted.sum(), 1e-30), jnp.maximum(weight.sum(), 1.0)
    share = tilted / total
    mean = (share * log_x).sum()
    deviation = jnp.sqrt((share * jnp.square(log_x - mean)).sum() + 1e-12)
    start_p = jnp.clip(WEIBULL_DEVIATION / deviation, 0.02, 50.0)
    # Location in units of the deviation of log x, so that all three coordinates are of one size.
    start = jnp.stack([mean / deviation + EULER / WEIBULL_DEVIATION, jnp.zeros_like(mean), jnp.log(start_p)])

    def distribution(free: Array, shift: Array) -> GeneralizedGamma:
        location, log_k, log_p = free
        k, p = jnp.exp(jnp.clip(log_k, *_LOG_K)), jnp.exp(jnp.clip(log_p, *_LOG_P))
        return GeneralizedGamma.from_loc(location * deviation + shift, k * p, p)

    def loss(free: Array) -> Array:
        # log f(x) at x = exp(log x), less the −log x that does not depend on the parameters' scale.
        value = -(share * distribution(free, jnp.zeros_like(mean)).log_prob(jnp.exp(log_x))).sum() + log_scale
        return value if penalty is None else value + penalty(distribution(free, log_scale))

    minimizer = optax.lbfgs()
    value_and_gradient = optax.value_and_grad_from_state(loss)

    def unfinished(state: tuple[Array, optax.OptState, Array, Array]) -> Array:
        _, _, count, last = state
        return (count < max_steps) & (last > _SMALL_STEP)

    def iterate(state: tuple[Array, optax.OptState, Array, Array]) -> tuple[Array, optax.OptState, Array, Array]:
        free, memory, count, _ = state
        value, gradient = value_and_gradient(free, state=memory)
        update, memory = minimizer.update(gradient, memory, free, value=value, grad=gradient, value_fn=loss)
        update = jnp.asarray(update)
        return free + update, memory, count + 1, jnp.abs(update).max()

    # Optax multiplies integers with floats on its way, which strict promotion would refuse.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        state = (start, minimizer.init(start), jnp.int32(0), jnp.full_like(mean, jnp.inf))
        free, _, iterations, _ = jax.lax.while_loop(unfinished, iterate, state)

    # In float32 the loss cannot tell parameters apart that differ by less than 1e-3; its gradient can.
    def polish(_: Array, free: Array) -> Array:
        gradient, curvature = jax.grad(loss)(free), jax.hessian(loss)(free)
        step = jnp.linalg.solve(curvature, gradient)
        downhill = jnp.isfinite(step).all() & ((step * gradient).sum() > 0) & (jnp.abs(step).max() < 0.5)
        return jnp.where(downhill, free - step, free)

    free = jax.lax.fori_loop(0, _POLISH, polish, free)
    return LikelihoodFit(
        tail=TailWeighted(
            distribution=distribution(free, log_scale),
            order=jnp.full_like(mean, order),
            log_moment=jnp.log(total / count) + order * log_scale,
        ),
        loss=loss(free),
        converged=jnp.abs(jax.grad(loss)(free)).max() < _FLAT,
        iterations=iterations,
    )
