"""The public names of this package and the modules that define them: read at run time, too (`lazy_loader`)."""

from ._distribution import GeneralizedGamma as GeneralizedGamma
from ._symmetric import SymmetricGeneralizedGamma as SymmetricGeneralizedGamma
from ._hurdle import Hurdle as Hurdle
from ._tail import TailWeighted as TailWeighted
from ._numpyro_distribution import GeneralizedGammaDistribution as GeneralizedGammaDistribution
from ._histogram import Histogram as Histogram
from ._counting import Counter as Counter
from ._bins import Bins as Bins
from ._saturation import Saturation as Saturation, split_saturation as split_saturation
from ._empirical import empirical_distortion as empirical_distortion
from ._fitting import fit as fit, fit_sides as fit_sides
from ._weighted_fit import FitResult as FitResult, FitCode as FitCode
from ._order import order_for_bits as order_for_bits
from ._likelihood import fit_likelihood as fit_likelihood
from ._families import Family as Family, FAMILIES as FAMILIES, FittedFamily as FittedFamily, fit_family as fit_family
from ._baselines import LogNormal as LogNormal, Lomax as Lomax
from ._goodness import (
    goodness_of_fit as goodness_of_fit,
    GoodnessOfFit as GoodnessOfFit,
    compare_families as compare_families,
    FamilyComparison as FamilyComparison,
    quantile_pairs as quantile_pairs,
    QuantilePairs as QuantilePairs,
)
from ._posterior import sample_posterior as sample_posterior
