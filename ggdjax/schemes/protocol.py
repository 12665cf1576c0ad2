"""What a scheme is: from the histograms of tensors, a width and a signedness to one uniform quantizer each.

Every scheme gets the same call, ``scheme(histogram, bits, signed)``, and returns a :class:`Range`. What all of them
share is done here, once: the layout of the arrays, the checks of the arguments, and the answers for histograms that
leave nothing to choose (nothing counted, only zeros, one value).
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from ggdjax._errors import GgdjaxError
from ggdjax.ggd.arrays import is_concrete
from ggdjax.ggd.bins import on_device
from ggdjax.ggd.histogram import Histogram
from ggdjax.schemes._magnitudes import drop_negative, magnitudes
from ggdjax.steps.source import BITS_MAX, BITS_MIN

if TYPE_CHECKING:
    from jaxtyping import Array, ArrayLike, Bool, Float, Int

#: Smallest and largest step that is handed out: far enough inside float32 that x / step and step · code stay finite.
_SMALLEST_STEP, _LARGEST_STEP = 2.0**-120, 2.0**110


class RangeCode(enum.IntEnum):
    """How a step came about."""

    OK = 0
    CONSTANT = 1
    ALL_ZERO = 2
    EMPTY = 3
    FALLBACK = 4

    @property
    def message(self) -> str:
        """What happened, and what to do about it."""
        return _MESSAGES[self]


_MESSAGES = {
    RangeCode.OK: "the scheme's own step",
    RangeCode.CONSTANT: "all nonzero values have one magnitude: the top code represents it",
    RangeCode.ALL_ZERO: "only zeros were counted: any step is exact, 1 was taken; calibrate on other images",
    RangeCode.EMPTY: "nothing was counted: 1 was taken as the step; calibrate on at least one image",
    RangeCode.FALLBACK: "the scheme gave no usable step (not finite, not positive, or outside float32): "
    "max-abs was taken; look at the tensor's histogram for extreme values",
}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Range:
    """``x_hat = step · (clip(round(x / step) + zero_point, qmin, qmax) − zero_point)``.

    All fields share one shape. ``step`` is finite and positive, in the tensor's units. Unsigned b bits: ``qmin = 0``,
    ``qmax = 2^b − 1``; signed: ``qmin = −2^(b−1)``, ``qmax = 2^(b−1) − 1``. ``zero_point`` lies in ``[qmin, qmax]``
    and is 0 for every scheme but the affine one. ``code`` is a :class:`RangeCode`.
    """

    step: Float[Array, "..."]
    qmin: Int[Array, "..."]
    qmax: Int[Array, "..."]
    zero_point: Int[Array, "..."]
    code: Int[Array, "..."]

    @property
    def lowest(self) -> Float[Array, "..."]:
        """Smallest value that a code stands for."""
        return self.step * (self.qmin - self.zero_point).astype(self.step.dtype)

    @property
    def highest(self) -> Float[Array, "..."]:
        """Largest value that a code stands for."""
        return self.step * (self.qmax - self.zero_point).astype(self.step.dtype)


#: What a scheme's file defines. The histogram has one leading axis ``tensor``; ``bits`` (int32) and ``signed`` (bool)
#: have axes ``setting tensor``, and so has the result: the step, or the step and its zero point.
Solver = Callable[[Histogram, "Array", "Array"], "Array | tuple[Array, Array]"]


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """A registered scheme: ``scheme(data, bits, signed)`` returns the :class:`Range` of every tensor and width."""

    name: str
    """Registered name, lower case, words joined by hyphens."""
    solver: Solver
    """The algorithm itself, jittable."""
    paper: str
    """Where it was published."""
    searches_data: bool
    """Whether it minimizes the squared error over the calibration data themselves (an oracle, not a model)."""

    def __call__(self, data: Histogram | ArrayLike, bits: ArrayLike, signed: ArrayLike | None = None) -> Range:
        """Choose the quantizer of every tensor.

        Args:
            data: a histogram, whose leading axes are tensors, or the samples of one tensor (any shape).
            bits: width of the codes, whole numbers from 2 to 16.
            signed: whether codes are two's complement; ``None``: where the tensor has a negative value. A tensor
                that is asked for only unsigned is judged by its positive values, the others saturate at zero.

        ``bits``, ``signed`` and the histogram's leading axes broadcast against each other, so that
        ``bits=jnp.array([8, 6, 4])[:, None]`` chooses three steps for each of the tensors in one compiled call.

        Raises:
            GgdjaxError: ``bits`` are out of range or not whole, or the shapes do not broadcast.
        """
        histogram = data if isinstance(data, Histogram) else Histogram.from_samples(jnp.asarray(data))
        bits = _checked_bits(bits)
        signed = histogram.is_signed if signed is None else jnp.asarray(signed)
        if signed.dtype != jnp.bool_:
            raise GgdjaxError(f"`signed` must be boolean, got {signed.dtype}: say True or False for each tensor")
        layout = _Layout.of(histogram.batch_shape, bits.shape, signed.shape)
        return _choose(self.solver, layout, jax.tree.map(on_device, histogram), bits, signed)


def _checked_bits(bits: ArrayLike) -> Int[Array, "..."]:
    """Return ``bits`` as int32; values are checked where they are known (not under an outer ``jit``)."""
    array = bits if isinstance(bits, jax.Array) else np.asarray(bits)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise GgdjaxError(f"`bits` must be whole numbers, got {array.dtype}: say 8, not 8.0")
    if is_concrete(array):
        concrete = np.asarray(array)
        wrong = concrete[(concrete < BITS_MIN) | (concrete > BITS_MAX)]
        if wrong.size:
            raise GgdjaxError(f"`bits` must be from {BITS_MIN} to {BITS_MAX}, got {wrong.flat[0]}")
    return jnp.asarray(array).astype(jnp.int32)


@dataclass(frozen=True)
class _Layout:
    """How arrays of any broadcast shape become ``setting tensor`` and back; static."""

    batch: tuple[int, ...]
    shape: tuple[int, ...]

    @classmethod
    def of(cls, batch: tuple[int, ...], bits: tuple[int, ...], signed: tuple[int, ...]) -> _Layout:
        try:
            return cls(batch, np.broadcast_shapes(batch, bits, signed))
        except ValueError:
            raise GgdjaxError(
                f"`bits` {bits} and `signed` {signed} must broadcast against the tensors {batch}: "
                "add an axis in front, as in bits[:, None]"
            ) from None

    @property
    def order(self) -> tuple[int, ...]:
        """Axes of ``shape``: first those along which one histogram is used again, then the tensors'."""
        padded = (1,) * (len(self.shape) - len(self.batch)) + self.batch
        repeated = [axis for axis, size in enumerate(padded) if size == 1]
        return (*repeated, *(axis for axis in range(len(padded)) if axis not in repeated))

    def flatten(self, array: Array) -> Array:
        """Return ``array`` as ``setting tensor``."""
        padded = array.reshape((1,) * (len(self.shape) - array.ndim) + array.shape)
        tensors = int(np.prod(self.batch, dtype=int))
        return jnp.broadcast_to(padded, self.shape).transpose(self.order).reshape(self.settings, tensors)

    @property
    def settings(self) -> int:
        """How often each histogram is used."""
        padded = (1,) * (len(self.shape) - len(self.batch)) + self.batch
        return int(np.prod([size for size, own in zip(self.shape, padded, strict=True) if own == 1], dtype=int))

    def restore(self, array: Array) -> Array:
        """Undo :meth:`flatten`."""
        permuted = array.reshape([self.shape[axis] for axis in self.order])
        return permuted.transpose([int(axis) for axis in np.argsort(self.order, kind="stable")])


@partial(jax.jit, static_argnums=(0, 1))
def _choose(solver: Solver, layout: _Layout, histogram: Histogram, bits: Array, signed: Array) -> Range:
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[len(layout.batch) :]), histogram)
    bits, signed = layout.flatten(bits), layout.flatten(signed)
    flat = drop_negative(flat, ~jnp.any(signed, axis=0))
    result = solver(flat, bits, signed)
    step, zero_point = result if isinstance(result, tuple) else (result, jnp.zeros_like(bits))
    chosen = _settle(flat, bits, signed, step, zero_point)
    return jax.tree.map(layout.restore, chosen)


def _settle(histogram: Histogram, bits: Array, signed: Array, step: Array, zero_point: Array) -> Range:
    """Replace what cannot be used and say so."""
    size = magnitudes(histogram)
    peak = jnp.broadcast_to(size.peak[None, :], step.shape)
    top = top_code(bits, signed)
    usable = jnp.isfinite(step) & (step >= _SMALLEST_STEP) & (step <= _LARGEST_STEP)
    code = jnp.where(usable, RangeCode.OK, RangeCode.FALLBACK)
    code = jnp.where(size.constant[None, :], RangeCode.CONSTANT, code)
    code = jnp.where((size.peak == 0)[None, :], RangeCode.ALL_ZERO, code)
    code = jnp.where((size.total == 0)[None, :], RangeCode.EMPTY, code)
    nothing = (code == RangeCode.ALL_ZERO) | (code == RangeCode.EMPTY)
    own = code == RangeCode.OK
    max_abs = jnp.clip(peak / top, _SMALLEST_STEP, _LARGEST_STEP)
    qmin = jnp.where(signed, -jnp.left_shift(1, bits - 1), 0)
    return Range(
        step=jnp.where(own, step, jnp.where(nothing, 1.0, max_abs)),
        qmin=qmin,
        qmax=qmin + jnp.left_shift(1, bits) - 1,
        zero_point=jnp.where(own, zero_point, 0),
        code=code.astype(jnp.int32),
    )


def levels(bits: Int[Array, "..."], signed: Bool[Array, "..."]) -> Float[Array, "..."]:
    """Return N, the levels on one side of zero, zero included: ``2^b`` unsigned, ``2^(b−1)`` signed; float32."""
    return jnp.left_shift(1, bits - signed.astype(bits.dtype)).astype(jnp.float32)


def top_code(bits: Int[Array, "..."], signed: Bool[Array, "..."]) -> Float[Array, "..."]:
    """Return ``N − 1``, the largest code, float32. The extra negative code of two's complement is left unused."""
    return levels(bits, signed) - 1.0
