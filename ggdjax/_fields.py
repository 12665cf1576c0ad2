"""Frozen dataclasses from the fields of a file, their types checked; and what each field says about itself.

By hand, so that a message is one line that names the field; those of pydantic and cattrs are their own.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ggdjax._errors import GgdjaxError, near_matches

if TYPE_CHECKING:
    from pathlib import Path

T = TypeVar("T")


def from_fields(cls: type[T], fields: dict[str, Any], path: Path | str, *, typed: bool = False) -> T:
    """Return ``cls(**fields)``; lists become tuples. ``typed``: each must be of the type that its annotation says.

    Raises:
        GgdjaxError: a field is unknown, of another type or refused by ``cls``; the line begins with ``path``.
    """
    known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for name in fields:
        if name not in known:
            raise GgdjaxError(f"{path}: unknown field `{name}`; {near_matches(name, known)}")
    values = {name: _tuples(value) for name, value in fields.items()}
    try:
        if typed:
            _check(cls, values)
        return cls(**values)
    except GgdjaxError as error:
        raise GgdjaxError(f"{path}: {error}") from None


def settings_of(value: Any) -> Any:
    """Return the fields of a dataclass as a dict, those inside likewise; a metric is its name."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if type(value).__name__ == "Metric":
            return value.name  # type: ignore[attr-defined]
        return {field.name: settings_of(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: settings_of(one) for key, one in value.items()}
    return tuple(map(settings_of, value)) if isinstance(value, tuple) else value


def check_types(value: Any) -> None:
    """Refuse a dataclass one of whose fields holds another type than its annotation says.

    Raises:
        GgdjaxError: the field is named.
    """
    _check(type(value), {field.name: getattr(value, field.name) for field in dataclasses.fields(value)})


@cache
def field_docs(cls: type) -> dict[str, str]:
    """Return the docstring below each field of a dataclass, as one paragraph without markup."""
    (tree,) = ast.parse(inspect.getsource(cls)).body
    docs = {}
    for field, after in zip(tree.body, tree.body[1:], strict=False):  # type: ignore[attr-defined]
        if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            docs[field.target.id] = " ".join(str(after.value.value).replace("``", "").split())  # type: ignore[union-attr]
    return docs


def _check(cls: type, values: dict[str, Any]) -> None:
    hints = typing.get_type_hints(cls)
    for name, value in values.items():
        if not _fits(value, hints[name]):
            raise GgdjaxError(f"`{name}` must be {_named(hints[name])}, got {value!r}")


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value in arguments
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in arguments)
    if origin is tuple:
        return isinstance(value, tuple | list) and all(_fits(v, arguments[0]) for v in value)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(_fits(v, arguments[1]) for v in value.values())
    if hint in (int, float):
        number = (int, float) if hint is float else int
        return isinstance(value, number) and not isinstance(value, bool)
    return isinstance(value, hint)


def _named(hint: Any) -> str:
    """Return a type as a person calls it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_named(one) for one in arguments)
    if origin is tuple:
        return f"a list, each {_named(arguments[0])}"
    if origin is Mapping:
        return f"a table, each value {_named(arguments[1])}"
    words = {int: "an integer", float: "a number", str: "a text", bool: "true or false", type(None): "nothing"}
    return words.get(hint, f"a table of the fields of {getattr(hint, '__name__', hint)}")
