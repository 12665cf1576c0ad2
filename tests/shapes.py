"""Shapes and kinds of numbers that annotations state, checked at every call of a numerical function while tests run.

Installed by conftest.py through jaxtyping's import hook, which keeps the sizes of named axes for the time of a call:
``Float[Array, "*group row col"]`` beside ``Float[Array, "*group col col"]`` must agree on ``group`` and ``col``. Arrays
of NumPy, of JAX and tracers count alike; numbers and lists, which have no shape, are left to the type checker, and so
are the fields of pytrees, which transformations fill with anything.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, get_args

from jaxtyping import AbstractArray

if TYPE_CHECKING:
    from collections.abc import Callable


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function with its array arguments and its result checked; `jaxtyping` calls it for every function."""
    hints = {name: hint for name, hint in function.__annotations__.items() if _has_shape(hint)}
    if not hints or function.__qualname__.endswith("__init__"):
        return function
    signature, expected = inspect.signature(function), hints.pop("return", None)

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        for name, hint in hints.items():
            if name in bound.arguments and not _fits(bound.arguments[name], hint):
                raise TypeError(f"`{name}` does not fit {hint}")
        result = function(*args, **kwargs)
        if expected is not None and not _fits(result, expected):
            raise TypeError(f"the result does not fit {expected}")
        return result

    return wrapped


def _has_shape(hint: Any) -> bool:
    return _is_shape(hint) or any(map(_has_shape, get_args(hint)))


def _is_shape(hint: Any) -> bool:
    return inspect.isclass(hint) and issubclass(hint, AbstractArray)


def _fits(value: Any, hint: Any) -> bool:
    if _is_shape(hint):
        return not hasattr(value, "shape") or isinstance(value, hint.dtype[Any, hint.dim_str])
    parts = get_args(hint)
    if isinstance(value, tuple) and getattr(hint, "__origin__", None) is tuple:
        same = len(parts) == len(value) and Ellipsis not in parts
        return not same or all(map(_fits, value, parts))
    shapes = [part for part in parts if _is_shape(part)]
    if not shapes or not hasattr(value, "shape"):
        return True
    others = tuple(part for part in parts if inspect.isclass(part) and not _is_shape(part))
    return isinstance(value, others) or any(_fits(value, part) for part in shapes)
