"""The public names of this package and the modules that define them: read at run time, too (`lazy_loader`)."""

from . import (
    cost as cost,
    data as data,
    datapath as datapath,
    export as export,
    ggd as ggd,
    network as network,
    quantization as quantization,
    recipe as recipe,
    report as report,
    schemes as schemes,
    steps as steps,
    tune as tune,
    zoo as zoo,
)
from .ggd import GeneralizedGamma as GeneralizedGamma, Histogram as Histogram, fit as fit
from .steps import closed_form_step as closed_form_step, optimal_step as optimal_step, Quantizer as Quantizer
from .network import Network as Network, load_onnx as load_onnx, trace as trace
from .quantization import (
    QuantConfig as QuantConfig,
    calibrate as calibrate,
    calibrate_without_data as calibrate_without_data,
    distill_images as distill_images,
    quantize as quantize,
    recalibrate as recalibrate,
    evaluate as evaluate,
)
from .recipe import Recipe as Recipe
from ._load import load as load
from ._citation import citation as citation
from ._errors import GgdjaxError as GgdjaxError

__version__: str
