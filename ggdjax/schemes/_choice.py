"""What a scheme returns: the quantizer of every tensor and width, and the evidence it was chosen on."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ggdjax._errors import GgdjaxError, summary
from ggdjax.ggd._arrays import is_concrete
from ggdjax.steps._quantizer import Quantizer

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int

    from ggdjax.ggd import Saturation, TailWeighted


class ChoiceCode(enum.IntEnum):
    """How a step came about."""

    OK = 0
    CONSTANT = 1
    ALL_ZERO = 2
    EMPTY = 3
    FALLBACK = 4
    HEAVY_TAIL = 5

    @property
    def message(self) -> str:
        """What happened, and what to do about it."""
        return _CHOICE_MESSAGES[self]


_CHOICE_MESSAGES = {
    ChoiceCode.OK: "the scheme's own step",
    ChoiceCode.CONSTANT: "all nonzero values have one magnitude: the top code represents it",
    ChoiceCode.ALL_ZERO: "only zeros were counted: any step is exact, 1 was taken; calibrate on other images",
    ChoiceCode.EMPTY: "nothing was counted: 1 was taken as the step; calibrate on at least one image",
    ChoiceCode.FALLBACK: "the scheme gave no usable step (not finite, not positive, or outside float32): "
    "max-abs was taken; look at the tensor's histogram for extreme values",
    ChoiceCode.HEAVY_TAIL: "no generalized gamma distribution follows the tail: of the fits of order 0 to 6 the one "
    "whose step leaves the least error on the histogram was taken",
}


class PredictionCode(enum.IntEnum):
    """What a predicted error was computed from."""

    FITTED = 0
    DISCRETE = 1
    COUNTED = 2
    ABSENT = 3

    @property
    def message(self) -> str:
        """What was done, and what it means for the figure."""
        return _PREDICTION_MESSAGES[self]


_PREDICTION_MESSAGES = {
    PredictionCode.FITTED: "rounding inside the range by the histogram, clipping beyond it by the fit",
    PredictionCode.DISCRETE: "the values are multiples of one number, as the pixels of an image are: the error is that "
    "of these values",
    PredictionCode.COUNTED: "rounding and clipping by the histogram",
    PredictionCode.ABSENT: "the step is not the scheme's own, or the scheme predicts no error",
}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Searched:
    """The least value of a curve over candidate steps; all leaves have the shape of the `Choice`."""

    minimum: Float[Array, "..."]
    """The curve at its minimum. "mse-search": the squared error on the histogram, "octav": its model of that error,
    both divided by the mean square; "kl": the divergence in nats, infinite where no two clips can be compared."""
    distortion: Float[Array, "..."]
    """Mean squared error of all values, zeros included, in squared units of the tensor; NaN where absent ("kl")."""
    sqnr_db: Float[Array, "..."]
    """SQNR in dB, the histogram's mean square over ``distortion``; NaN where absent, infinite where nothing is lost."""
    prediction: Int[Array, "..."]
    """A :class:`PredictionCode`."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Fitted:
    """The fit that chose the step, and the error it predicts; all leaves have the shape of the `Choice`.

    All values are shared out as ``1 − weight − saturation.weight`` zeros, a point mass ``saturation.weight`` at the
    magnitude ``saturation.limit``, and the density ``weight · exp(tail.log_density(|x|))`` of the other magnitudes,
    both signs together, which is what a plot draws over the counts of ``|x|`` divided by the number of values.
    """

    tail: TailWeighted
    """Density of the nonzero magnitudes below the saturation; its order is that of the weights ``x^m``."""
    fit_code: Int[Array, "..."]
    """A :class:`ggdjax.ggd.FitCode`."""
    weight: Float[Array, "..."]
    """Share of all values, zeros included, that ``tail`` describes."""
    saturation: Saturation
    """Point mass at the largest magnitude that was kept out of the fit; weight 0 where there is none."""
    order_error: Float[Array, "..."]
    """Squared error on the histogram divided by its mean square, by which "ggd-best-order" chose, and "ggd"
    where the tail is too heavy (`ChoiceCode.HEAVY_TAIL`); else NaN."""
    distortion: Float[Array, "..."]
    """Predicted mean squared error of all values, zeros included, in squared units of the tensor; NaN where absent."""
    sqnr_db: Float[Array, "..."]
    """Predicted SQNR in dB, the histogram's mean square over ``distortion``; NaN where absent, infinite where nothing
    is lost."""
    prediction: Int[Array, "..."]
    """A :class:`PredictionCode`."""

    @property
    def order(self) -> Float[Array, "..."]:
        """The order m of the fit."""
        return self.tail.order


#: What a step was chosen on.
Evidence = Searched | Fitted


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Choice:
    """The quantizers of a batch of tensors and widths; all leaves share one shape.

    ``x_hat = step · (clip(round(x / step) + zero_point, qmin, qmax) − zero_point)``: widths are arrays, so that one
    call chooses for many of them. ``choice[i].quantizer`` is the `Quantizer` of tensor i, ``choice.quantizer`` that of
    a batch of one width and signedness, with a step per element.
    """

    step: Float[Array, "..."]
    """Δ, finite and positive, in the tensor's units."""
    bits: Int[Array, "..."]
    """Width b of the codes, 2 to 16."""
    signed: Bool[Array, "..."]
    """Two's complement codes; otherwise unsigned."""
    zero_point: Float[Array, "..."] | None
    """The code of real zero, an integer in float32 from ``qmin`` to ``qmax``; None for schemes without one: 0."""
    code: Int[Array, "..."]
    """A :class:`ChoiceCode`."""
    evidence: Evidence | None
    """What the step was chosen on: `Fitted` for the GGD schemes, `Searched` for "mse-search", "octav" and "kl", None
    for rules that neither fit nor search."""

    def __repr__(self) -> str:
        shape, evidence = np.shape(self.step), type(self.evidence).__name__
        if shape or not is_concrete(self.step):
            return summary(self, shape=shape, evidence=evidence)
        return summary(
            self,
            step=f"{float(self.step):.4g}",
            bits=self.bits,
            signed=self.signed,
            zero_point=self.zero_point,
            evidence=evidence,
            predicted_sqnr_db=f"{float(self.predicted_sqnr_db):.2f}",
        )

    def __getitem__(self, index: Any) -> Choice:
        """Select tensors and widths along the leading axes."""
        return jax.tree.map(lambda leaf: leaf[index], self)

    @property
    def qmin(self) -> Int[Array, "..."]:
        """Smallest code: 0, or ``−2^(b−1)`` where signed."""
        return jnp.where(self.signed, -jnp.left_shift(1, jnp.asarray(self.bits) - 1), 0)

    @property
    def qmax(self) -> Int[Array, "..."]:
        """Largest code: ``2^b − 1``, or ``2^(b−1) − 1`` where signed."""
        return self.qmin + jnp.left_shift(1, jnp.asarray(self.bits)) - 1

    @property
    def lowest(self) -> Float[Array, "..."]:
        """Smallest value that a code stands for."""
        return self.step * self._from_zero(self.qmin)

    @property
    def highest(self) -> Float[Array, "..."]:
        """Largest value that a code stands for."""
        return self.step * self._from_zero(self.qmax)

    @property
    def distortion(self) -> Float[Array, "..."]:
        """Predicted mean squared error, squared units of the tensor; NaN where absent."""
        return self._absent() if self.evidence is None else self.evidence.distortion

    @property
    def predicted_sqnr_db(self) -> Float[Array, "..."]:
        """SQNR in dB that the evidence predicts; NaN where absent."""
        return self._absent() if self.evidence is None else self.evidence.sqnr_db

    @property
    def quantizer(self) -> Quantizer:
        """The quantizer: one step, or one for each element of a batch of one width and signedness.

        Raises:
            GgdjaxError: widths or signedness differ within the batch, or are being traced.
        """
        if not (is_concrete(self.bits) and is_concrete(self.signed)):
            raise GgdjaxError("`quantizer` needs the values of `bits`, which are being traced: read it outside of jit")
        bits, signed = np.unique(np.asarray(self.bits)), np.unique(np.asarray(self.signed))
        if bits.size != 1 or signed.size != 1:
            raise GgdjaxError(
                f"`quantizer` needs one width and one signedness, got `bits` {bits.tolist()} and `signed` "
                f"{signed.tolist()}: index the choice first, as in choice[0].quantizer"
            )
        zero_point = None if self.zero_point is None else jax.device_put(self.zero_point)
        step = jax.device_put(self.step)
        return Quantizer(step=step, bits=int(bits[0]), signed=bool(signed[0]), zero_point=zero_point)

    def _from_zero(self, code: Array) -> Array:
        centred = code.astype(self.step.dtype)
        return centred if self.zero_point is None else centred - self.zero_point

    def _absent(self) -> Array:
        return jnp.full(self.step.shape, jnp.nan, self.step.dtype)


def without_prediction(evidence: Evidence, where: Bool[Array, "..."]) -> Evidence:
    """Return the evidence with the predicted error absent ``where`` the step is not the scheme's own."""
    return replace(
        evidence,
        distortion=jnp.where(where, jnp.nan, evidence.distortion),
        sqnr_db=jnp.where(where, jnp.nan, evidence.sqnr_db),
        prediction=jnp.where(where, PredictionCode.ABSENT, evidence.prediction).astype(jnp.int32),
    )
