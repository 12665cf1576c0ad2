"""Every quantization scheme under one signature: ``scheme(histogram, bits, signed)`` returns a :class:`Choice`.

A table of contents. The schemes, each in the file of its name:

====================================  ==========================================================================
``max-abs``                           the largest magnitude is the largest code
``affine-min-max``                    codes from minimum to maximum, with a zero point (Jacob et al. 2018)
``dynamic-fixed-point``               the finest power of two without overflow (Ristretto)
``percentile-99.9``, ``-99.99``, …    clip a fixed share of the values
``sqnr-gauss``, ``-laplace``, ``…``   the optimal step of a fixed source times the standard deviation (Lin et al. 2016)
``moments``                           the source by two moments, then its optimal step (after Lee et al. 2018)
``aciq-laplace``, ``aciq-gauss``, …   analytical clipping (Banner et al. 2019), with ``-relu`` and ``-half`` forms
``kl``                                least KL divergence of the histograms (TensorRT)
``octav``                             least squared error by Newton's recursion on the data (Sakr et al. 2022)
``mse-search``                        least squared error by brute force: the oracle
``ggd``, ``ggd-tail``, ``ggd-plain``  the generalized gamma fit: order b/2, order 2, order 0; ``-exact``: exact step
``ggd-best-order``                    the same, the best of six orders by its error
====================================  ==========================================================================
"""

from __future__ import annotations

from ggdjax.schemes import (  # noqa: F401 (they register their schemes)
    _aciq,
    _affine_min_max,
    _dynamic_fixed_point,
    _ggd,
    _kl_divergence,
    _max_abs,
    _moments,
    _mse_search,
    _octav,
    _percentile,
    _sqnr_optimal,
)
from ggdjax.schemes._choice import Choice, ChoiceCode, Evidence, Fitted, PredictionCode, Searched
from ggdjax.schemes._protocol import Scheme, SchemeClass, Solution
from ggdjax.schemes._registry import choose, get, names, register

__all__ = [
    "Choice",
    "ChoiceCode",
    "Evidence",
    "Fitted",
    "PredictionCode",
    "Scheme",
    "SchemeClass",
    "Searched",
    "Solution",
    "choose",
    "get",
    "names",
    "register",
]
