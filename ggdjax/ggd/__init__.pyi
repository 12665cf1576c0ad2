"""The public names of this package and the modules that define them: read at run time, too (`lazy_loader`)."""

from .distribution import GeneralizedGamma as GeneralizedGamma
from .symmetric import SymmetricGeneralizedGamma as SymmetricGeneralizedGamma
from .hurdle import Hurdle as Hurdle
from .tail import TailWeighted as TailWeighted, as_tail as as_tail
from .numpyro_face import GeneralizedGammaDistribution as GeneralizedGammaDistribution
from .histogram import Histogram as Histogram, histogram_counts as histogram_counts
from .counting import Counter as Counter
from .bins import Bins as Bins
from .saturation import Saturation as Saturation, split_saturation as split_saturation
from .empirical import empirical_distortion as empirical_distortion
from .fitting import fit as fit, fit_sides as fit_sides
from .weighted_fit import fit_weighted as fit_weighted, FitResult as FitResult, FitCode as FitCode
from .order import choose_order as choose_order
from .likelihood import fit_likelihood as fit_likelihood
from .families import Family as Family, FAMILIES as FAMILIES, FittedFamily as FittedFamily, fit_family as fit_family
from .rivals import LogNormal as LogNormal, Lomax as Lomax
from .goodness import (
    goodness_of_fit as goodness_of_fit,
    GoodnessOfFit as GoodnessOfFit,
    compare_families as compare_families,
    FamilyComparison as FamilyComparison,
    quantile_pairs as quantile_pairs,
    QuantilePairs as QuantilePairs,
)
from .posterior import sample_posterior as sample_posterior
