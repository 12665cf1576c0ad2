"""Random JAX functions of the operations that the tracer has, and what must hold of the networks traced from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen
from jax import lax, nn

import ggdjax as gd
from experiments.drawing import Drawing, Pieces, need
from experiments.random_onnx import BATCHES, Outcome, differs, disturbed
from ggdjax import GgdjaxError

if TYPE_CHECKING:
    from jaxtyping import Array

_LARGEST, _MOST_VALUES = 1e3, 4000
#: Functions of draws, a value, and the values before it.
piece = Pieces()


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


# Elementwise ---------------------------------------------------------------------------------------------------------

_ACTIVATIONS: tuple[Callable, ...] = (
    nn.relu,
    nn.relu6,
    nn.silu,
    nn.gelu,
    partial(nn.gelu, approximate=False),
    nn.elu,
    nn.celu,
    nn.selu,
    nn.softplus,
    nn.soft_sign,
    nn.sigmoid,
    nn.log_sigmoid,
    nn.hard_tanh,
    nn.hard_sigmoid,
    nn.hard_swish,
    nn.leaky_relu,
    nn.mish,
    nn.squareplus,
    nn.sparse_plus,
    nn.sparse_sigmoid,
    jnp.tanh,
    jnp.abs,
    jnp.square,
    jnp.negative,
    lambda x: jnp.exp(-jnp.abs(x)),
    lambda x: jnp.log(jnp.abs(x) + 0.3),
    lambda x: jnp.log1p(jnp.abs(x)),
    lambda x: jnp.expm1(-jnp.abs(x)),
    lambda x: jnp.sqrt(jnp.abs(x) + 0.1),
    lambda x: lax.rsqrt(jnp.abs(x) + 0.2),
    lambda x: 1 / (1 + jnp.abs(x)),
    lambda x: jnp.reciprocal(0.5 + x * x),
    lambda x: lax.erf(x) + lax.erfc(0.3 * x),
    lambda x: x**3 - x**2,
    lambda x: (jnp.abs(x) + 0.2) ** 1.7,
    lambda x: jnp.clip(x, -0.7, 0.4),
    lambda x: jnp.maximum(x, 0.2) + jnp.minimum(x, -0.1),
    lambda x: jnp.cosh(0.3 * x),
    lambda x: jnp.logaddexp(x, 0.0),
    jnp.nan_to_num,
    lambda x: jnp.sinh(0.2 * x),
    lambda x: jnp.exp2(-jnp.abs(x)),
    lambda x: jnp.hypot(x, 1.0),
    jnp.arctan,
    lambda x: x * jnp.sign(x - 0.3),
)
#: What the tracer refuses, by name.
_REFUSED: tuple[Callable, ...] = (
    jnp.sin,
    jnp.floor,
    lambda x: jnp.sort(x, axis=-1),
    lambda x: jnp.cumsum(x, axis=-1),
    lambda x: lax.map(jnp.tanh, x),
    lambda x: jnp.linalg.inv(x @ jnp.swapaxes(x, -1, -2) + jnp.eye(x.shape[-2])),
    lambda x: jnp.fft.rfft(x).real,
    lambda x: jnp.roll(x, 1, axis=0),
    lambda x: x - x.mean(0, keepdims=True),
)


@piece(4)
def activation(r: Random, x: Array, _: Sequence) -> Array:
    return r.pick(_ACTIVATIONS)(x)


@piece(0.3)
def refused(r: Random, x: Array, _: Sequence) -> Array:
    return r.pick(_REFUSED)(x)


@piece(3)
def arithmetic(r: Random, x: Array, _: Sequence) -> Array:
    shape = r.pick(((), (1,), x.shape[-1:], (1, *x.shape[1:]), tuple(r.pick((1, n)) for n in x.shape[1:])))
    c = r.numbers(*shape)
    if r.chance(0.15):
        c = jnp.broadcast_to(c, x.shape)
    return r.pick(
        (
            lambda: x + c,
            lambda: c - x,
            lambda: x * c,
            lambda: x / (jnp.abs(c) + 0.3),
            lambda: c / (jnp.abs(x) + 0.3),
            lambda: jnp.maximum(x, c),
            lambda: jnp.minimum(c, x),
            lambda: (x - c) * 2 / 3,
        )
    )()


@piece(2)
def choice(r: Random, x: Array, _: Sequence) -> Array:
    threshold = r.pick((0.0, 0.3, -1.0))
    condition = r.pick((lambda: x > threshold, lambda: x <= threshold, lambda: threshold >= x, lambda: x < threshold))()
    if r.chance(0.3):
        condition = jnp.asarray(r.rng.random(x.shape[1:]) < 0.5)
    elif r.chance(0.3):
        condition = jnp.max(x, axis=r.axes(x), keepdims=True) >= threshold
    branches = [r.pick((x, jnp.tanh(x), 0.3 * x, jnp.float32(0.7), jnp.zeros_like(x))) for _ in range(2)]
    if branches[0] is not x:
        branches[1] = x
    return jnp.where(condition, *branches)


@piece(3)
def of_two(r: Random, x: Array, others: Sequence[Array]) -> Array:
    y = r.pick([y for y in others if y.shape == x.shape] or [jnp.tanh(x)])
    if r.chance(0.4):
        y = jnp.mean(y, axis=r.axes(x), keepdims=True)
    return r.pick(
        (
            lambda: x + y,
            lambda: x - y,
            lambda: y * x,
            lambda: x / (1 + jnp.abs(y)),
            lambda: jnp.maximum(x, y),
            lambda: jnp.minimum(y, x),
        )
    )()


# Products and windows ------------------------------------------------------------------------------------------------


@piece(3)
def product(r: Random, x: Array, _: Sequence) -> Array:
    out = r.int(1, 5)
    need(x.ndim > 1)
    match r.int(0, 6):
        case 0 | 1:
            return jnp.matmul(x, r.numbers(x.shape[-1], out)) + (r.numbers(out) if r.chance(0.5) else 0)
        case 2:
            need(x.ndim > 2)
            return jnp.matmul(r.numbers(out, x.shape[-2]), x)
        case 3:
            axes = sorted(int(k) % x.ndim for k in r.axes(x))
            return jnp.tensordot(x, r.numbers(*(x.shape[k] for k in axes), out), (axes, range(len(axes))))
        case 4:
            need(x.ndim > 2)
            return jnp.matmul(x, jnp.swapaxes(jnp.tanh(x), -1, -2))
        case 5:
            need(x.ndim == 4)
            equation = r.pick(("bhwc,bhwd->bcd", "bhwc,bgwc->bwhg", "bhwc,bhwc->bhc", "bijc,bjkc->bikc"))
            need(equation != "bijc,bjkc->bikc" or x.shape[1] == x.shape[2])
            return jnp.einsum(equation, x, nn.relu(x))
        case _:
            need(x.ndim == 4)
            equation = r.pick(("bhwc,wcd->bhwd", "bhwc,cd->bdhw", "hk,bhwc->bkwc", "bhwc,c->bwh"))
            sizes = dict(zip("bhwc", x.shape, strict=True)) | {"d": out, "k": out}
            weight = r.numbers(*(sizes[k] for k in equation.replace("->", ",").split(",")[equation.startswith("b")]))
            return jnp.einsum(equation, *((x, weight) if equation.startswith("b") else (weight, x)))


@piece(4)
def conv(r: Random, x: Array, _: Sequence) -> Array:
    need(x.ndim in {3, 4, 5})
    letters = "DHW"[-(x.ndim - 2) :]
    layout = r.pick((f"N{letters}C", f"N{letters}C", f"NC{letters}"))
    chan, space = x.shape[layout.index("C")], [x.shape[layout.index(k)] for k in letters]
    groups = r.pick([g for g in range(1, chan + 1) if chan % g == 0]) if r.chance(0.4) else 1
    window = [r.int(1, min(3, size)) for size in space]
    out = groups * r.int(1, 3)
    kernel = r.numbers(*window, chan // groups, out)
    strides = [r.int(1, 2) for _ in space]
    numbers = (layout, f"{letters}IO", r.pick((layout, f"N{letters}C")))
    if r.chance(0.2):
        need(groups == 1)
        same = r.pick(("SAME", "VALID"))
        return lax.conv_transpose(x, kernel, strides, same, dimension_numbers=(layout, f"{letters}IO", layout))
    padding = r.pick(("SAME", "VALID", [(r.int(0, 2), r.int(0, 2)) for _ in space]))
    dilation = [r.int(1, 2) for _ in space] if r.chance(0.2) and padding == "SAME" else None
    spread = [r.int(1, 2) for _ in space] if r.chance(0.1) else None
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding if spread is None or not isinstance(padding, str) else [(1, 1)] * len(space),
        lhs_dilation=spread,
        rhs_dilation=dilation,
        dimension_numbers=numbers,
        feature_group_count=groups,
        precision="highest",
    )


@piece(2)
def pool(r: Random, x: Array, _: Sequence) -> Array:
    need(x.ndim in {3, 4, 5})
    window = tuple(r.int(1, min(3, size)) for size in x.shape[1:-1])
    strides = tuple(r.int(1, 2) for _ in window)
    padding = r.pick(("SAME", "VALID", tuple((r.int(0, w - 1), r.int(0, w - 1)) for w in window)))
    if r.chance(0.3):
        first = r.chance(0.3)
        start, combine = r.pick(((-jnp.inf, lax.max), (0.0, lax.add), (jnp.inf, lax.min)))
        need(combine is not lax.min or r.chance(0.1))
        sizes = (1, 1, *window) if first else (1, *window, 1)
        need(all(n >= w for n, w in zip(x.shape, sizes, strict=True)))
        moves = (1, 1, *strides) if first else (1, *strides, 1)
        return lax.reduce_window(x, start, combine, sizes, moves, padding if isinstance(padding, str) else "SAME")
    if r.chance(0.5):
        return linen.max_pool(x, window, strides, padding)
    return linen.avg_pool(x, window, strides, padding, count_include_pad=r.chance(0.5))


@piece()
def resized(r: Random, x: Array, _: Sequence) -> Array:
    need(x.ndim == 4)
    shape = (x.shape[0], *(max(1, int(n * r.pick((1, 2, 3, 0.5, 1.5)))) for n in x.shape[1:3]), x.shape[3])
    return jax.image.resize(x, shape, r.pick(("nearest", "linear", "cubic", "lanczos3")), antialias=r.chance(0.5))


# Reductions ----------------------------------------------------------------------------------------------------------


@piece(3)
def reduction(r: Random, x: Array, _: Sequence) -> Array:
    function = r.pick((jnp.sum, jnp.mean, jnp.max, jnp.min, jnp.prod, jnp.var, jnp.std, nn.logsumexp, jnp.linalg.norm))
    axes = r.axes(x)
    if function is jnp.linalg.norm:
        axes = axes[0]
        x = x + 3  # its slope at 0 is infinite
    if function is jnp.std:
        x = x * r.numbers(*x.shape[1:])
    return function(x, axis=axes, keepdims=r.chance(0.5))


@piece(2)
def normalized(r: Random, x: Array, _: Sequence) -> Array:
    axis = r.axis(x, 0)
    need(x.ndim > 1)
    groups = r.pick([g for g in range(1, x.shape[-1] + 1) if x.shape[-1] % g == 0])
    chan = x.shape[-1]
    gain, shift, mean, var = r.numbers(chan), r.numbers(chan), r.numbers(chan), jnp.abs(r.numbers(chan)) + 0.2
    return r.pick(
        (
            lambda: nn.softmax(x, axis=axis),
            lambda: nn.log_softmax(x, axis=axis),
            lambda: nn.standardize(x, axis=axis, epsilon=0.1),
            lambda: (x - mean) * lax.rsqrt(var + 1e-3) * gain + shift,
            lambda: (x - mean) / jnp.sqrt(var + 1e-3) * gain + shift,
            lambda: linen.LayerNorm(epsilon=0.1).apply({"params": {"scale": gain, "bias": shift}}, x),
            lambda: linen.RMSNorm(epsilon=0.1).apply({"params": {"scale": gain}}, x),
            lambda: linen.GroupNorm(groups, epsilon=0.1).apply({"params": {"scale": gain, "bias": shift}}, x),
        )
    )()


@piece()
def arg_max(r: Random, x: Array, _: Sequence) -> Array:
    return r.pick((jnp.argmax, jnp.argmin))(x, axis=r.axis(x), keepdims=r.chance(0.3)).astype(jnp.float32)


# Rearrangements ------------------------------------------------------------------------------------------------------


@piece(2)
def transposed(r: Random, x: Array, _: Sequence) -> Array:
    if r.chance(0.1):
        return jnp.transpose(jnp.tanh(jnp.transpose(x)))
    return jnp.transpose(x, (0, *(int(k) for k in r.rng.permutation(np.arange(1, x.ndim)))))


@piece(3)
def reshaped(r: Random, x: Array, _: Sequence) -> Array:
    sizes = r.regrouped(x.shape[1:])
    need(len(sizes) <= 4)
    if r.chance(0.2) and x.ndim > 1:
        return x.reshape(-1, *x.shape[2:]).reshape(x.shape[0], *sizes)
    return x.reshape(x.shape[0] if r.chance(0.6) else -1, *sizes)


@piece(3)
def taken(r: Random, x: Array, _: Sequence) -> Array:
    need(x.ndim > 1)
    axis = r.axis(x)
    size = x.shape[axis]
    start, stop = sorted((r.int(0, size - 1), r.int(1, size)))
    index = (slice(None),) * (axis % x.ndim)
    return r.pick(
        (
            lambda: x[(*index, slice(start, max(stop, start + 1)))],
            lambda: x[(*index, slice(None, None, r.pick((2, -1))))],
            lambda: x[(*index, start)],
            lambda: jnp.flip(x, axis),
            lambda: jnp.roll(x, r.int(-2, 2), axis),
            lambda: jnp.take(x, jnp.asarray(r.rng.integers(0, size, r.pick(((2,), (3,), (2, 2))))), axis=axis),
            lambda: jnp.split(x, [max(start, 1)], axis)[0],
            lambda: lax.dynamic_slice_in_dim(x, start, max(1, size - start), axis),
            lambda: lax.slice_in_dim(x, start, size, axis=axis),
        )
    )()


@piece(3)
def joined(r: Random, x: Array, others: Sequence[Array]) -> Array:
    axis = r.axis(x)
    shape = list(x.shape)
    need(x.ndim > 1 and x.ndim < 5)
    shape[axis] = r.int(1, 2)
    y = r.pick([y for y in others if y.shape == x.shape] or [nn.relu(x)])
    constant = jnp.broadcast_to(r.numbers(*shape[1:]), shape) if axis % x.ndim else jnp.ones(shape)
    return r.pick(
        (
            lambda: jnp.concatenate([x, y], axis),
            lambda: jnp.concatenate([constant, x], axis),
            lambda: jnp.concatenate([x, constant, y], axis),
            lambda: jnp.stack([y, x], axis % x.ndim or 1),
            lambda: jnp.stack([x, jnp.full_like(x, 0.7)], -1),
        )
    )()


@piece(2)
def grown(r: Random, x: Array, _: Sequence) -> Array:
    need(x.ndim > 1 and x.ndim < 5)
    axis = r.axis(x)
    copies = [1] * x.ndim
    copies[axis] = 2
    return r.pick(
        (
            lambda: jnp.repeat(x, 2, axis=axis),
            lambda: jnp.tile(x, copies),
            lambda: jnp.expand_dims(x, axis % x.ndim or 1),
            lambda: jnp.squeeze(x[:, :, None], 2) if x.ndim > 1 else x,
            lambda: jnp.broadcast_to(x[:, None], (x.shape[0], 2, *x.shape[1:])),
            lambda: jnp.broadcast_to(x.mean(axis, keepdims=True), x.shape),
            lambda: x[:, None] + r.numbers(2, *(1,) * (x.ndim - 1)),
        )
    )()


@piece(2)
def padded(r: Random, x: Array, _: Sequence) -> Array:
    need(x.ndim > 1)
    mode = r.pick(("constant", "constant", "edge", "reflect", "symmetric", "wrap", "linear_ramp", "mean", "maximum"))
    amounts = [(0, 0), *((r.int(0, 2), r.int(0, 2)) for _ in x.shape[1:])]
    if r.chance(0.2):
        config = [(0, 0, 0), *((r.int(-1, 2), r.int(0, 2), r.int(0, 1)) for _ in x.shape[1:])]
        return lax.pad(x, jnp.float32(0.4), config)
    return jnp.pad(x, amounts, mode=mode, **({"constant_values": r.pick((0.0, 0.7))} if mode == "constant" else {}))


@piece()
def depth_to_space(r: Random, x: Array, _: Sequence) -> Array:
    need(x.ndim == 4)
    batch, rows, columns, chan = x.shape
    if chan % 4 == 0 and r.chance(0.5):
        parts = x.reshape(batch, rows, columns, 2, 2, chan // 4)
        return parts.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * rows, 2 * columns, chan // 4)
    need(rows % 2 == columns % 2 == 0)
    parts = x.reshape(batch, rows // 2, 2, columns // 2, 2, chan)
    return parts.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows // 2, columns // 2, 4 * chan)


@piece()
def glu(r: Random, x: Array, _: Sequence) -> Array:
    axis = r.axis(x)
    need(x.shape[axis] % 2 == 0)
    return nn.glu(x, axis)


# Functions -----------------------------------------------------------------------------------------------------------

_WRAPPERS: tuple[Callable, ...] = (jax.jit, jax.checkpoint, lambda f: jax.vmap(lambda image: f(image[None])[0]))


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
        kind = piece.draw(r.rng)
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
