"""Networks in Flax NNX with their weights and the recipes that made them.

`__init__.pyi` is the table of contents; names are imported on first use, so that importing the package costs no Flax.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
