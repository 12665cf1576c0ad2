"""The generalized gamma distribution: density, histogram, fit, posterior and goodness of fit.

`__init__.pyi` is the table of contents, in the order in which data flow; names are imported on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
