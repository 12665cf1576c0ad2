"""Errors that a user can cause, each one line, and the checks of arguments that every package shares.

The command line prints an error's line and exits with status 2.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np


class GgdjaxError(ValueError):
    """What was given, what was expected, what to do: in one line."""


class UnsupportedError(GgdjaxError):
    """A network holds something outside the supported set; the message names it and the alternatives."""


class ModelError(GgdjaxError):
    """A model file is missing, damaged, or not what its name says."""


class DataError(GgdjaxError):
    """Images or labels are missing, unreadable, or do not fit the network."""


def near_matches(name: object, known: Iterable[str]) -> str:
    """Return `did you mean …? known: …` for an unknown ``name``."""
    known = sorted(known)
    close = get_close_matches(str(name), known, n=3)
    hint = f"did you mean {' or '.join(f'`{c}`' for c in close)}? " if close else ""
    return f"{hint}known: {', '.join(known)}"


#: Kind -> how to come by one.
_SOURCES = {
    "Accelerator": "`gd.datapath.Accelerator()` is the default one",
    "Calibration": "`gd.calibrate(net, batches)` returns one",
    "Evaluation": "`gd.evaluate(q, batches)` returns one",
    "FittedFamily": "`gd.ggd.fit_family(histogram, name)` returns one",
    "GeneralizedGamma": "`gd.fit(values).distribution` is one",
    "Graph": "`net.graph` is one",
    "Histogram": "`gd.Histogram.from_samples(values)` returns one",
    "History": "`q.history` is one after `gd.tune.backward_forward`",
    "Network": "`gd.load_onnx(file)` and `gd.trace(module, example)` return one",
    "Preprocessing": "`gd.data.preset(name)` returns one",
    "Program": "`gd.datapath.compile(q)` returns one",
    "QuantizedNetwork": "`gd.quantize(net, calibration)` returns one",
    "TailWeighted": "`gd.fit(values).tail` is one",
}
#: (Given, wanted) -> what to do.
_REMEDIES = {
    ("Network", "QuantizedNetwork"): "quantize it first: `gd.quantize(net, gd.calibrate(net, batches))`",
    ("Network", "Program"): "quantize it first, `q = gd.quantize(net, calibration)`, then `gd.datapath.compile(q)`",
    ("QuantizedNetwork", "Network"): "`q.network` is its network in float",
    ("QuantizedNetwork", "Program"): "compile it first: `gd.datapath.compile(q)`",
    ("Program", "QuantizedNetwork"): "give the quantized network that it was compiled from",
    ("Program", "Network"): "`program.network` is its network in float",
}


def kinds_of(value: object) -> tuple[str, ...]:
    """Return the names of the classes of this project that ``value`` is an instance of."""
    return tuple(base.__name__ for base in type(value).__mro__ if base.__module__.split(".")[0] == "ggdjax")


def is_image_set(value: object) -> bool:
    """Whether ``value`` keeps the protocol `ggdjax.data.ImageSet`."""
    # Not `labels`: some sets read the whole file to give them.
    return callable(getattr(value, "batches", None)) and hasattr(value, "preprocessing")


def describe(value: object) -> str:
    """Return what ``value`` is, in a few words of one line."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        text = repr(value)
        return text if len(text) <= 60 else f"{text[:57]}…"
    name = type(value).__name__
    if is_image_set(value):
        return "an image set"
    if not kinds_of(value) and isinstance(shape := getattr(value, "shape", None), tuple):
        return f"an array of shape {shape}"
    if isinstance(value, list | tuple | dict | set | frozenset):
        return f"a {name} of {len(value)}"
    if callable(value) and hasattr(value, "__name__"):
        return f"the {'class' if isinstance(value, type) else 'function'} `{value.__name__}`"
    return f"an instance of {name}"


def named(name: object) -> str:
    """Return a name for a message; whatever else was given in its place is described."""
    return f"`{name}`" if isinstance(name, str) else describe(name)


def expect(argument: str, value: Any, *kinds: str, hint: str = "", error: type[GgdjaxError] = GgdjaxError) -> Any:
    """Return ``value``, which must be an instance of one of the project's classes named ``kinds``.

    By name, so that a check imports nothing.

    Args:
        argument: how messages call it.
        value: what was given.
        kinds: class names; of each the first says in a message how to come by it.
        hint: what to do instead of that.
        error: the class of the error.

    Raises:
        GgdjaxError: it is something else.
    """
    given = kinds_of(value)
    if not set(given).isdisjoint(kinds):
        return value
    remedy = next((_REMEDIES[g, k] for g in given for k in kinds if (g, k) in _REMEDIES), "")
    if not remedy and "Network" in kinds and callable(value) and not given:
        remedy = "trace it first: `gd.trace(module, example)`"
    raise refusal(argument, value, f"a {' or '.join(kinds)}", remedy or hint or _SOURCES.get(kinds[0], ""), error)


def refusal(
    argument: str, value: object, wanted: str, hint: str = "", error: type[GgdjaxError] = GgdjaxError
) -> GgdjaxError:
    """Return the error that says what was given for ``argument``, what was expected, and what to do."""
    return error(f"`{argument}` is {describe(value)}; expected {wanted}{': ' if hint else ''}{hint}")


def expect_array(
    argument: str,
    value: Any,
    what: str = "an array of real numbers",
    *,
    least_rank: int = 0,
    error: type[GgdjaxError] = GgdjaxError,
) -> Any:
    """Return ``value``, as a NumPy array where it has no shape and type of its own.

    Raises:
        GgdjaxError: it holds no real numbers, or has fewer axes than ``least_rank``.
    """
    hint = "`images, labels = next(image_set.batches(batch_size=n))` gives arrays" if is_image_set(value) else ""
    if kinds_of(value) or hint or isinstance(value, dict | set | frozenset):
        raise refusal(argument, value, what, hint, error)
    array = value
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        try:
            array = np.asarray(value)
        except Exception:  # an object's own conversion may raise anything
            raise refusal(argument, value, what, error=error) from None
    kind = getattr(array.dtype, "kind", "O")
    if kind in "cMmSU":
        raise error(f"`{argument}` has type {array.dtype}; expected {what}")
    if kind == "O" or len(array.shape) < least_rank:
        raise refusal(argument, value, what, error=error)
    return array


def expect_path(
    argument: str, path: Any, what: str = "the name of a file", error: type[GgdjaxError] = GgdjaxError
) -> Path:
    """Return a path given as text or `os.PathLike`.

    Raises:
        GgdjaxError: it is neither, or no operating system could have a file of that name.
    """
    try:
        text = os.fspath(path)
        if isinstance(text, str) and "\0" not in text:
            os.fsencode(text)
            return Path(text)
    except (TypeError, ValueError):
        pass
    raise refusal(argument, path, what, error=error)


def expect_callable(argument: str, value: Any, what: str = "a function") -> Any:
    """Return ``value``, which must be callable.

    Raises:
        GgdjaxError: it is not.
    """
    if not callable(value):
        raise refusal(argument, value, what)
    return value


def summary(value: object, **fields: Any) -> str:
    """Return a short `repr`: the class and what is said of its fields."""
    return f"{type(value).__name__}({', '.join(f'{name}={text}' for name, text in fields.items())})"


def expect_record(argument: str, record: Any, fields: Iterable[str], hint: str = "") -> None:
    """Raise `GgdjaxError` unless ``record`` is a dict that has ``fields``."""
    missing = [name for name in fields if not isinstance(record, Mapping) or name not in record]
    if missing:
        raise refusal(argument, record, f"a dict with the fields {', '.join(f'`{name}`' for name in fields)}", hint)
