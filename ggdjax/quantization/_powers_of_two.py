"""Steps of feature maps that are powers of two, for hardware that only shifts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ggdjax._errors import GgdjaxError
from ggdjax.ggd import empirical_distortion
from ggdjax.schemes import PredictionCode

if TYPE_CHECKING:
    from ggdjax.ggd import Histogram
    from ggdjax.schemes import Choice

#: Exponents tried around that of the scheme's own step: its clipping may be far from that of least squared error.
_AROUND = np.arange(-2, 3)


def powers_of_two(choice: Choice, histogram: Histogram) -> Choice:
    """Return the choice with the powers of two of least squared error on the histogram, near the scheme's own steps.

    Where two are equally good, the smaller step. The predicted error of a fit becomes that on the histogram.

    Args:
        choice: NumPy arrays of axes ``*setting tensor``.
        histogram: of axes ``tensor``.

    Raises:
        GgdjaxError: the scheme chose zero points.
    """
    if choice.zero_point is not None:
        raise GgdjaxError(
            "`activation_steps` are powers of two, which hardware without zero points has: take another `scheme`"
        )
    shape, tensors = choice.step.shape, choice.step.shape[-1]
    own = np.asarray(choice.step, np.float64).reshape(-1, tensors).T
    exponents = np.floor(np.log2(own)).astype(np.int64)[..., None] + _AROUND
    steps = np.ldexp(np.float32(1.0), np.clip(exponents, -120, 110)).reshape(tensors, -1)
    top, bottom = (
        np.repeat(np.asarray(v, np.float32).reshape(-1, tensors).T, len(_AROUND), axis=1)
        for v in (choice.qmax, -np.asarray(choice.qmin))
    )
    error = np.asarray(empirical_distortion(histogram, steps, top, bottom)).reshape(exponents.shape)
    best = np.argmin(np.where(np.isfinite(error), error, np.inf), axis=-1)[..., None]
    step, least = (
        np.take_along_axis(values.reshape(exponents.shape), best, -1)[..., 0].T.reshape(shape).astype(np.float32)
        for values in (steps, error)
    )
    if (evidence := choice.evidence) is not None:
        energy = np.asarray(evidence.distortion) * 10 ** (np.asarray(evidence.sqnr_db) / 10)
        with np.errstate(divide="ignore", invalid="ignore"):
            sqnr_db = (10 * np.log10(energy / least)).astype(np.float32)
        code = np.asarray(evidence.prediction)
        counted = np.where(code == PredictionCode.ABSENT, code, PredictionCode.COUNTED).astype(code.dtype)
        absent = code == PredictionCode.ABSENT
        evidence = replace(
            evidence,
            distortion=np.where(absent, np.float32(np.nan), least),
            sqnr_db=np.where(absent, np.float32(np.nan), sqnr_db),
            prediction=counted,
        )
    return replace(choice, step=step, evidence=evidence)
