"""The uniform quantizer: the one description of how a real number becomes an integer."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from ggdjax._division import divide
from ggdjax._errors import GgdjaxError
from ggdjax._exported import serializable
from ggdjax.ggd._arrays import is_concrete
from ggdjax.steps._fixed_point import power_of_two

if TYPE_CHECKING:
    from jax.typing import ArrayLike
    from jaxtyping import Array, Float, Int


@serializable()
@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Quantizer:
    """``x_hat = step · (code − zero_point)``, ``code = clip(round(x / step) + zero_point, qmin, qmax)``.

    A pytree: ``step`` and ``zero_point`` are its leaves, float32, so that `jax.grad` and optax work on it; width and
    signedness are static. Feature maps, weights and biases all use this class.

    Args:
        step: Δ (also called scale), positive: a scalar, or one per channel, which is the last axis of what is rounded.
        bits: width b of the codes, 2 to 32, unsigned ones to 31.
        signed: two's complement codes, ``[−2^(b−1), 2^(b−1) − 1]``; otherwise ``[0, 2^b − 1]``.
        zero_point: the code of real zero, an integer in float32, of the shape of ``step``; None: 0.

    Raises:
        GgdjaxError: ``bits`` is not an integer, or out of range.

    Example:
        >>> quantizer = gd.Quantizer(step=jnp.float32(0.5), bits=3, signed=True)
        >>> quantizer.encode(np.float32([0.4, -0.7, 9.0])).tolist(), quantizer(jnp.array([0.4, -0.7, 9.0])).tolist()
        ([1, -1, 3], [0.5, -0.5, 1.5])
        >>> quantizer.frac_bits
        1
    """

    step: Float[Array, "*chan"]
    bits: int = field(metadata={"static": True})
    signed: bool = field(default=True, metadata={"static": True})
    zero_point: Float[Array, "*chan"] | None = None

    def __post_init__(self) -> None:
        bits, most = self.bits, 32 if self.signed else 31
        if isinstance(bits, bool) or not isinstance(bits, int | np.integer) or not 2 <= bits <= most:
            raise GgdjaxError(f"`bits` must be an integer from 2 to {most}, got {bits!r}")
        object.__setattr__(self, "bits", int(bits))
        object.__setattr__(self, "signed", bool(self.signed))

    @classmethod
    def fixed_point(cls, frac_bits: ArrayLike, bits: int, *, signed: bool = True) -> Quantizer:
        """Return the quantizer with step ``2^(−frac_bits)``, exact for fractional lengths from −126 to 126."""
        if is_concrete(frac_bits):  # without a program for each shape
            step = jax.device_put(np.ldexp(np.float32(1), -np.asarray(frac_bits, np.int32)))
        else:
            step = power_of_two(-jnp.asarray(frac_bits, jnp.int32))
        return cls(step=step, bits=bits, signed=signed)

    @property
    def frac_bits(self) -> Any:
        """Fractional length F where every step is ``2^(−F)``: an int, or an array per channel; otherwise None.

        Raises:
            GgdjaxError: the step is being traced, so its value is not known.
        """
        if not is_concrete(self.step):
            raise GgdjaxError("`frac_bits` needs the value of the step, which is being traced: read it outside of jit")
        mantissa, exponent = np.frexp(np.asarray(self.step, np.float64))
        if self.zero_point is not None or np.any(mantissa != 0.5):
            return None
        frac_bits = 1 - exponent
        return frac_bits.astype(np.int32) if frac_bits.ndim else int(frac_bits)

    @property
    def qmin(self) -> int:
        """Smallest code."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def qmax(self) -> int:
        """Largest code."""
        return self.qmin + (1 << self.bits) - 1

    @property
    def lowest(self) -> Float[Array, "*chan"]:
        """Smallest value that a code stands for."""
        return self.step * self._from_zero(self.qmin)

    @property
    def highest(self) -> Float[Array, "*chan"]:
        """Largest value that a code stands for."""
        return self.step * self._from_zero(self.qmax)

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return ``x`` rounded to the levels, as real numbers: fake quantization.

        Rounding is half to even. Gradients use the straight-through estimator (Bengio et al. 2013): with respect to
        ``x`` one inside the range and zero outside; with respect to ``step`` the code minus ``x / step`` inside, the
        end code outside (Esser et al., LSQ, ICLR 2020, eq. 3). ``zero_point`` is a constant.
        """
        return self._aligned(jnp.asarray(x))[0] * self.centred(x)

    def centred(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the codes of ``x`` less the zero point, as real numbers with the gradients of fake quantization."""
        return _straight_through(jnp.asarray(x), *self._aligned(jnp.asarray(x)))

    def encode(self, x: ArrayLike) -> Int[Array, "..."]:
        """Return the codes of ``x``, int32, zero point included. NumPy arrays are computed by NumPy."""
        x = x if isinstance(x, jax.Array) else np.asarray(x)
        xp = jnp if isinstance(x, jax.Array) else np
        step, low, high = self._aligned(x)
        nearest = divide(x, step)[1] if isinstance(x, jax.Array) else np.round(x / step)
        centred = xp.clip(nearest, low, high)
        codes = centred + self._zero(x)
        # Beyond 24 bits float32 rounds the largest code up: the last step down is taken on the integer. (JAX saturates
        # when it converts; NumPy would wrap.)
        codes = codes.astype(jnp.int32 if xp is jnp else np.int64)
        return xp.minimum(codes, codes.dtype.type(self.qmax)).astype(np.int32)

    def decode(self, codes: Int[ArrayLike, "..."]) -> Float[Array, "..."]:
        """Return the values that ``codes`` stand for, float32."""
        xp = jnp if isinstance(codes, jax.Array) else np
        codes = xp.asarray(codes).astype(xp.float32)
        step, _, _ = self._aligned(codes)
        return step * (codes - self._zero(codes))

    def _from_zero(self, code: int) -> Any:
        # float32 above 2^24 keeps the leading bits only, as the codes' own arithmetic does.
        return np.float32(code) - (np.float32(0) if self.zero_point is None else jax.lax.stop_gradient(self.zero_point))

    def _zero(self, x: Any) -> Any:
        return np.float32(0) if self.zero_point is None else _against_last_axis(self.zero_point, x)

    def _aligned(self, x: Any) -> tuple[Any, Any, Any]:
        """Return step, lowest and highest centred code in the type and rank of ``x``."""
        limits = (self.step, self._from_zero(self.qmin), self._from_zero(self.qmax))
        return tuple(_against_last_axis(v, x) for v in limits)  # type: ignore[return-value]


@jax.custom_jvp
def _straight_through(x: Array, step: Array, low: Array, high: Array) -> Array:
    return jnp.clip(divide(x, step)[1], low, high)


@partial(_straight_through.defjvp, symbolic_zeros=True)
def _along(primals: tuple[Array, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    """Inside the range the slopes of ``x / step``, outside none; ``low`` and ``high`` are constants."""
    (x, step, low, high), (dx, dstep, *_) = primals, tangents
    quotient, codes = x / step, _straight_through(*primals)
    inside = (quotient >= low) & (quotient <= high)
    slope = jnp.zeros_like(codes)
    if not isinstance(dx, SymbolicZero):
        slope += jnp.where(inside, dx / step, 0)
    if not isinstance(dstep, SymbolicZero):
        slope -= jnp.where(inside, quotient, 0) * (dstep / step)
    return codes, slope


def _against_last_axis(value: Any, x: Any) -> Any:
    """Return a scalar, or a value per channel with axes of size 1 in front, in the type of ``x``."""
    xp = jnp if isinstance(x, jax.Array) else np
    value = xp.asarray(value).astype(x.dtype)
    return value.reshape((1,) * (x.ndim - value.ndim) + value.shape) if value.ndim else value
