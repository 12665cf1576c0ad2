"""The public names of this package and the modules that define them: read at run time, too (`lazy_loader`)."""

from ._dense_outputs import ESPCN as ESPCN, UNet as UNet
from ._digits import DigitsNet as DigitsNet, digits_net as digits_net
from ._registry import (
    Entry as Entry,
    Published as Published,
    abstract as abstract,
    create as create,
    entry as entry,
    initialize as initialize,
    names as names,
)
from ._recipe import Recipe as Recipe
from ._train import fit as fit, top1 as top1
from ._loading import load as load
from ._state_dicts import load_state_dict as load_state_dict
from ._weights import load_weights as load_weights, save_weights as save_weights
