"""The schemes by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ggdjax._errors import GgdjaxError, named, near_matches, refusal
from ggdjax.schemes._choice import Choice
from ggdjax.schemes._protocol import Scheme, SchemeClass, Solver

if TYPE_CHECKING:
    from jaxtyping import ArrayLike

    from ggdjax.ggd._histogram import Histogram

_SCHEMES: dict[str, Scheme] = {}


def register(
    name: str, *, paper: str, kind: SchemeClass = SchemeClass.MODEL, predictive: bool = False
) -> Callable[[Solver], Solver]:
    """Return a decorator that files a solver under ``name``; the solver itself stays a plain function."""
    if not isinstance(name, str):
        raise refusal("name", name, "the name of a scheme")
    if name in _SCHEMES:
        raise GgdjaxError(f"a scheme named `{name}` is registered already: choose another name")

    def file(solver: Solver) -> Solver:
        _SCHEMES[name] = Scheme(name=name, solver=solver, paper=paper, kind=kind, predictive=predictive)
        return solver

    return file


def names() -> tuple[str, ...]:
    """Return the names of all schemes, in alphabetical order.

    Example:
        >>> [name for name in gd.schemes.names() if name.startswith("ggd-best")]
        ['ggd-best-order', 'ggd-best-order-exact']
    """
    return tuple(sorted(_SCHEMES))


def get(name: str) -> Scheme:
    """Return the scheme of that name; ``_`` and ``-`` are the same, capitals do not matter.

    Raises:
        GgdjaxError: there is no such scheme; the message lists the near matches.
    """
    try:
        return _SCHEMES[name.lower().replace("_", "-")]
    except (AttributeError, KeyError, TypeError):
        raise GgdjaxError(f"no scheme is called {named(name)}: {near_matches(name, _SCHEMES)}") from None


def choose(name: str, histogram: Histogram | ArrayLike, bits: ArrayLike, signed: ArrayLike | None = None) -> Choice:
    """Choose the quantizer of every tensor by the scheme ``name``: ``get(name)(histogram, bits, signed)``.

    Example:
        >>> x = jax.random.exponential(jax.random.key(0), (10_000,))
        >>> chosen = gd.schemes.choose("max-abs", x, bits=8)
        >>> bool(chosen.highest == x.max()), int(chosen.qmin), int(chosen.qmax)
        (True, 0, 255)
    """
    return get(name)(histogram, bits, signed)
