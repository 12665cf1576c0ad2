"""Step solvers: closed form, support equation, exact minimiser, powers of two; fixed point for weights.

`__init__.pyi` is the table of contents; names are imported on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
