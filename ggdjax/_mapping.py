"""How a batch is worked through: bit by bit on a CPU, whose caches then hold what is worked on, at once elsewhere."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from jax import lax

if TYPE_CHECKING:
    from collections.abc import Callable


#: What accelerators work on at once: enough to fill them, and a bound on their memory.
_AT_ONCE = 1024


def for_each(function: Callable[[Any], Any], xs: Any) -> Any:
    """Map ``function`` over the first axis of ``xs``: in turn on a CPU, many at once in few large kernels elsewhere."""
    at_once = partial(lax.map, function, batch_size=_AT_ONCE)
    return lax.platform_dependent(xs, cpu=partial(lax.map, function), default=at_once)
