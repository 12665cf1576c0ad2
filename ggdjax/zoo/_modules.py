"""The check of what functions of this package take as a module."""

from __future__ import annotations

from ggdjax._errors import refusal


def expect_module(argument: str, module: object) -> None:
    """Raise `GgdjaxError` unless ``module`` is a Flax NNX module."""
    from flax import nnx

    if not isinstance(module, nnx.Module):
        raise refusal(argument, module, "a Flax NNX module", "`gd.zoo.create(name)` returns one")
