"""What a scheme is: from the histograms of tensors, a width and a signedness to one uniform quantizer each.

Every scheme gets the same call, ``scheme(histogram, bits, signed)``, and returns a :class:`Choice`. What all of them
share is done here, once: the layout of the arrays, the checks of the arguments, and the answers for histograms that
leave nothing to choose (nothing counted, only zeros, one value).
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ggdjax._errors import GgdjaxError
from ggdjax.ggd._arrays import is_concrete
from ggdjax.ggd._bins import on_device
from ggdjax.ggd._histogram import Histogram
from ggdjax.schemes._choice import Choice, ChoiceCode, Evidence, without_prediction
from ggdjax.schemes._magnitudes import drop_negative, magnitudes
from ggdjax.steps._source import BITS_MAX, BITS_MIN

if TYPE_CHECKING:
    from jaxtyping import Array, ArrayLike, Bool, Float, Int

#: Smallest and largest step that is handed out: far enough inside float32 that x / step and step · code stay finite.
_SMALLEST_STEP, _LARGEST_STEP = 2.0**-120, 2.0**110


class Solution(NamedTuple):
    """What a solver found, arrays of axes ``setting tensor``."""

    step: Array
    """The step in the tensor's units; what is not usable is replaced."""
    zero_point: Array | None = None
    """The code of real zero, an integer in float32; None where it is 0 by construction."""
    evidence: Evidence | None = None
    """What the step was chosen on; every leaf has axes ``setting tensor``."""
    code: Array | int = ChoiceCode.OK
    """`ChoiceCode` of usable steps: OK, or how else they came about."""


#: What a scheme's file defines. The histogram has one leading axis ``tensor``; ``bits`` (int32) and ``signed`` (bool)
#: have axes ``setting tensor``, and so has the result: the step, or the step and its zero point, or a `Solution`.
Solver = Callable[[Histogram, "Array", "Array"], "Array | tuple[Array, Array] | Solution"]


class SchemeClass(enum.Enum):
    """How much a scheme looks at what its steps do to the calibration data; the value is what tables print."""

    MODEL = "model"
    """A rule, or the optimum of a distribution: no step is tried on the data. Where no distribution of the family
    follows a tensor, `ggd` chooses by error, and the result code says so (`ChoiceCode.HEAVY_TAIL`)."""
    MODEL_WITH_CHOICE = "model, choice by error"
    """Few steps of models, of which the one with the least error on the data is taken."""
    SEARCH = "search"
    """The step of least error on the data, or of another criterion that is evaluated on them, such as a divergence."""


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """A registered scheme: ``scheme(data, bits, signed)`` returns the :class:`Choice` of every tensor and width."""

    name: str
    """Registered name, lower case, words joined by hyphens."""
    solver: Solver
    """The algorithm itself, jittable."""
    paper: str
    """Where it was published."""
    kind: SchemeClass
    """How much of the error on the calibration data it looks at."""
    predictive: bool = False
    """Whether ``gd.quantize`` by default gives it the predictive histogram of few images (`Histogram.predictive`)."""

    def __call__(self, data: Histogram | ArrayLike, bits: ArrayLike, signed: ArrayLike | None = None) -> Choice:
        """Choose the quantizer of every tensor.

        Args:
            data: a histogram, whose leading axes are tensors, or the samples of one tensor (any shape).
            bits: width of the codes, integers from 2 to 16.
            signed: whether codes are two's complement; ``None``: where the tensor has a negative value. A tensor
                that is asked for only unsigned is evaluated by its positive values, the others saturate at zero.

        ``bits``, ``signed`` and the histogram's leading axes broadcast against each other, so that
        ``bits=jnp.array([8, 6, 4])[:, None]`` chooses three steps for each of the tensors in one compiled call.

        Raises:
            GgdjaxError: ``bits`` are out of range or not whole, or the shapes do not broadcast.
        """
        histogram = data if isinstance(data, Histogram) else Histogram.from_samples(data)
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
        raise GgdjaxError(f"`bits` must be integers, got {array.dtype}: say 8, not 8.0")
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
def _choose(solver: Solver, layout: _Layout, histogram: Histogram, bits: Array, signed: Array) -> Choice:
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[len(layout.batch) :]), histogram)
    bits, signed = layout.flatten(bits), layout.flatten(signed)
    flat = drop_negative(flat, ~jnp.any(signed, axis=0))
    found = solver(flat, bits, signed)
    if not isinstance(found, Solution):
        found = Solution(*found) if isinstance(found, tuple) else Solution(found)
    chosen = _settle(flat, bits, signed, found)
    return jax.tree.map(layout.restore, chosen)


def _settle(histogram: Histogram, bits: Array, signed: Array, found: Solution) -> Choice:
    """Replace what cannot be used and say so."""
    size, step = magnitudes(histogram), found.step
    peak = jnp.broadcast_to(size.peak[None, :], step.shape)
    top = top_code(bits, signed)
    usable = jnp.isfinite(step) & (step >= _SMALLEST_STEP) & (step <= _LARGEST_STEP)
    code = jnp.where(usable, found.code, ChoiceCode.FALLBACK)
    code = jnp.where(size.constant[None, :], ChoiceCode.CONSTANT, code)
    code = jnp.where((size.peak == 0)[None, :], ChoiceCode.ALL_ZERO, code)
    code = jnp.where((size.total == 0)[None, :], ChoiceCode.EMPTY, code)
    nothing = (code == ChoiceCode.ALL_ZERO) | (code == ChoiceCode.EMPTY)
    own = (code == ChoiceCode.OK) | (code == ChoiceCode.HEAVY_TAIL)
    max_abs = jnp.clip(peak / top, _SMALLEST_STEP, _LARGEST_STEP)
    return Choice(
        step=jnp.where(own, step, jnp.where(nothing, 1.0, max_abs)),
        bits=bits,
        signed=signed,
        zero_point=None if found.zero_point is None else jnp.where(own, found.zero_point, 0.0),
        code=code.astype(jnp.int32),
        evidence=None if found.evidence is None else without_prediction(found.evidence, ~own),
    )


def levels(bits: Int[Array, "..."], signed: Bool[Array, "..."]) -> Float[Array, "..."]:
    """Return N, the levels on one side of zero, zero included: ``2^b`` unsigned, ``2^(b−1)`` signed; float32."""
    return jnp.left_shift(1, bits - signed.astype(bits.dtype)).astype(jnp.float32)


def top_code(bits: Int[Array, "..."], signed: Bool[Array, "..."]) -> Float[Array, "..."]:
    """Return ``N − 1``, the largest code, float32. The extra negative code of two's complement is left unused."""
    return levels(bits, signed) - 1.0
