"""Pieces of random functions: products and windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import linen
from jax import lax, nn

from experiments.drawing import Pieces, need

if TYPE_CHECKING:
    from jaxtyping import Array

    from experiments.random_functions import Random

piece = Pieces()


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
