"""The public names of this package and the modules that define them: read at run time, too (`lazy_loader`)."""

from ._solve import (
    closed_form_step as closed_form_step,
    support_step as support_step,
    optimal_step as optimal_step,
    power_of_two_step as power_of_two_step,
    solve as solve,
    predict as predict,
    overload as overload,
    StepResult as StepResult,
    StepCode as StepCode,
    Distortion as Distortion,
    METHODS as METHODS,
)
from ._saturated import saturated_step as saturated_step
from ._source import Source as Source
from ._quantizer import Quantizer as Quantizer
from ._fixed_point import (
    best_fractional_length as best_fractional_length,
    max_fractional_length as max_fractional_length,
    quantize_fixed_point as quantize_fixed_point,
    power_of_two as power_of_two,
    FractionalLength as FractionalLength,
    FixedPointCode as FixedPointCode,
)
