"""The generalized gamma distribution: density, histogram, fit, posterior and goodness of fit.

This is a table of contents. Every name is imported on first use, so that `import ggdjax.ggd` stays light.
"""

from __future__ import annotations

import importlib
from typing import Any

#: Public name -> module of this package that defines it, in the order in which data flow through them.
_PUBLIC = {
    # the distribution
    "GeneralizedGamma": "distribution",
    "SymmetricGeneralizedGamma": "symmetric",
    "Hurdle": "hurdle",
    "TailWeighted": "tail",
    "as_tail": "tail",
    "GeneralizedGammaDistribution": "numpyro_face",
    # the data and the fit
    "Histogram": "histogram",
    "histogram_counts": "histogram",
    "Counter": "counting",
    "Bins": "bins",
    "Saturation": "saturation",
    "split_saturation": "saturation",
    "empirical_distortion": "empirical",
    "fit": "fitting",
    "fit_sides": "fitting",
    "fit_weighted": "fitting",
    "FitResult": "fitting",
    "FitCode": "fitting",
    "choose_order": "order",
    "fit_likelihood": "likelihood",
    # rivals, goodness of fit, posterior
    "Family": "families",
    "FAMILIES": "families",
    "FittedFamily": "families",
    "fit_family": "families",
    "LogNormal": "rivals",
    "Lomax": "rivals",
    "goodness_of_fit": "goodness",
    "GoodnessOfFit": "goodness",
    "compare_families": "goodness",
    "FamilyComparison": "goodness",
    "quantile_pairs": "goodness",
    "QuantilePairs": "goodness",
    "sample_posterior": "posterior",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
