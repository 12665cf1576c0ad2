"""Post-training quantization of convolutional networks with the generalized gamma distribution."""

import lazy_loader

__version__ = "0.1.0"

# `__init__.pyi` lists the public names; what defines them is imported on first use, so that importing stays light.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
