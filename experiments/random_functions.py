"""Random JAX functions of the operations that the tracer has, and what must hold of the networks traced from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

import ggdjax as gd
from experiments.drawing import Drawing, need
from experiments.function_pieces import PIECES
from experiments.random_onnx import BATCHES, Outcome, differs, disturbed
from ggdjax import GgdjaxError

if TYPE_CHECKING:
    from jaxtyping import Array

_LARGEST, _MOST_VALUES = 1e3, 4000
_WRAPPERS: tuple[Callable, ...] = (jax.jit, jax.checkpoint, lambda f: jax.vmap(lambda image: f(image[None])[0]))


class Random(Drawing):
    """Draws that are the same in every call of a function."""

    def __init__(self, *seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def numbers(self, *shape: int) -> Array:
        """Return normal numbers."""
        return jnp.asarray(self.rng.normal(size=shape), jnp.float32)

    def axis(self, x: Array, batch: float = 0.01) -> int:
        """Return an axis that is not the batch, or ``batch`` of the time that."""
        if x.ndim < 2 or self.chance(batch):
            return 0
        return self.int(1, x.ndim - 1) - (x.ndim if self.chance(0.3) else 0)

    def axes(self, x: Array) -> tuple[int, ...]:
        """Return one or more axes beside the batch."""
        need(x.ndim > 1)
        own = self.rng.permutation(np.arange(1, x.ndim))[: self.int(1, x.ndim - 1)]
        return tuple(int(k) - (x.ndim if self.chance(0.2) else 0) for k in own)


@dataclass(frozen=True)
class Step:
    """One piece with its draws, the value that it reads, and what is wrapped around it."""

    piece: Callable
    seed: tuple[int, ...]
    source: int
    wrapper: int | None

    def __call__(self, values: Sequence[Array]) -> Array:
        """Return the value that follows from those before it."""
        x = values[self.source]

        def apply(x: Array) -> Array:
            # Of one image alone there are no others.
            others = values if self.wrapper is None else ()
            return self.piece(Random(*self.seed), x, others)

        return apply(x) if self.wrapper is None else _WRAPPERS[self.wrapper](apply)(x)


@dataclass(frozen=True)
class Drawn:
    """A random function: the steps, one after the other."""

    steps: tuple[Step, ...]
    image: tuple[int, ...]

    def __call__(self, x: Array) -> Array:
        """Return the last value."""
        values = [x]
        for step in self.steps:
            values.append(step(values))
        return values[-1]


def random_function(seed: int) -> Drawn:
    """Return the function of a seed: steps that give finite numbers of moderate size and number."""
    r = Random(seed, 27)
    image = tuple(r.int(1, 7 if k else 8) for k in range(r.pick((1, 2, 3, 3, 3, 3, 4))))
    values, steps = [jnp.asarray(r.rng.normal(size=(3, *image)), jnp.float32)], []
    wanted = r.int(1, 7)
    for number in range(6 * wanted):
        kind = PIECES.draw(r.rng)
        source = len(values) - 1 if r.chance(0.85) else r.int(0, len(values) - 1)
        step = Step(kind, (seed, 28, number), source, r.int(0, 2) if r.chance(0.1) else None)
        try:
            y = step(values)
        except Exception:
            continue
        fits = y.ndim and y.shape[0] == 3 and 0 < y.size <= _MOST_VALUES and y.dtype == jnp.float32
        if not fits or not jnp.isfinite(y).all() or jnp.abs(y).max() > _LARGEST:
            continue
        values.append(y)
        steps.append(step)
        if len(steps) == wanted:
            break
    return Drawn(tuple(steps), image)


def check(seed: int) -> Outcome:
    """Trace the function of a seed and compare the network with it, on batches of three images and of one."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        function = random_function(seed)
        out = Outcome(seed=seed, parts=tuple(step.piece.__name__ for step in function.steps))
        if not function.steps:
            return Outcome(seed=seed, state="skipped", said="nothing drawn")
        try:
            net = gd.trace(function, jnp.zeros((1, *function.image)))
        except GgdjaxError as error:
            return out.refused(error)
        rng, compiled = np.random.default_rng([seed, 29]), jax.jit(function)
        # Networks have log(1 + x) and exp(x) − 1 for these, which round to the digits of 1.
        text = str(jax.make_jaxpr(function)(jnp.zeros((1, *function.image))))
        beside_one = 2.0**-23 if "log1p" in text or "expm1" in text else 0.0
        for batch in BATCHES:
            x = rng.normal(size=(batch, *function.image)).astype(np.float32)
            wanted = np.asarray(compiled(x))
            others = [np.asarray(compiled(disturbed(x, rng))) for _ in range(4)]
            rounding = np.max([np.abs(other - wanted) for other in others], axis=0) + beside_one
            if wrong := differs(wanted, net(x), rounding):
                out.state, out.said = "different", f"batch of {batch}: {wrong}"
                return out
    return out
