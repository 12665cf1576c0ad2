"""MODEL of the commands: a file, a network of the zoo, or a function of the user's own."""

from __future__ import annotations

import re
import sys
import traceback
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ggdjax._errors import GgdjaxError, kinds_of, near_matches
from ggdjax.cli._options import naming_options

if TYPE_CHECKING:
    from collections.abc import Generator

#: `package.module:function`.
_ENTRY_POINT = re.compile(r"(?P<module>[A-Za-z_][\w.]*):(?P<function>[A-Za-z_][\w.]*)")


def load_network(
    model: Path | None,
    output: str | None = None,
    input_shape: tuple[int, ...] = (),
    weights: Path | None = None,
    constants: tuple[str, ...] = (),
) -> Any:
    """Return the network that MODEL names; None: the embedded one.

    Args:
        model: an ONNX file; what `save` of a network wrote; the name of a network of the zoo; or ``module:function``.
        output: which tensor of an ONNX file.
        input_shape: of an ONNX file that leaves it open.
        weights: of a network of the zoo; None: those that come with the package.
        constants: ``name=number`` for the inputs of an ONNX file that take no images.

    Raises:
        GgdjaxError: there is none, or an option does not go with it.
    """
    import ggdjax as gd

    entry = None if model is None or model.exists() else _ENTRY_POINT.fullmatch(str(model))
    named = model is not None and not model.exists() and str(model) in gd.zoo.names()
    if weights is not None and not named:
        raise GgdjaxError(f"`--weights` goes with a network of the zoo as MODEL: {', '.join(gd.zoo.names())}")
    onnx_file = model is not None and not named and entry is None and model.suffix != ".safetensors"
    if (output is not None or input_shape or constants) and not onnx_file:
        raise GgdjaxError(
            "`--output`, `--input-shape` and `--constant` choose what of an ONNX file is computed: give one as MODEL"
        )
    if model is None:
        return gd.trace(gd.zoo.digits_net(), np.zeros((1, 8, 8, 1), np.float32))
    if entry is not None:
        return _called(entry["module"], entry["function"])
    if named:
        with naming_options(("weights",)):
            return gd.zoo.load(str(model), None if weights is None else str(weights))
    if onnx_file:
        return _from_onnx(model, output, input_shape, constants)
    net = gd.load(model)
    if not isinstance(net, gd.Network):
        raise GgdjaxError(f"{model} holds no float network: give an ONNX file, or what `save` of a `Network` wrote")
    return net


def _from_onnx(model: Path, output: str | None, input_shape: tuple[int, ...], constants: tuple[str, ...]) -> Any:
    """Read a file; messages name the options of the command."""
    import ggdjax as gd

    if len(model.parts) == 1 and not model.suffix and not model.exists():
        close = near_matches(str(model), gd.zoo.names())
        raise GgdjaxError(f"there is no file {model}, and no network of the zoo of this name; {close}")
    try:
        return gd.load_onnx(model, output, input_shape=input_shape or None, constants=_numbers(constants))
    except GgdjaxError as error:
        text = str(error).replace(", or some by `outputs`", "").replace("`input_shape` to `load_onnx`", "`input_shape`")
        text = text.replace("`constants` of `load_onnx`", "`constants`")
        text = text.replace("`constants`", "`--constant NAME=NUMBER`")
        for name in ("output", "input_shape"):
            text = text.replace(f"`{name}`", f"`--{name.replace('_', '-')}`")
        raise type(error)(text) from None


def _numbers(constants: tuple[str, ...]) -> dict[str, float]:
    """Return what ``name=number`` says.

    Raises:
        GgdjaxError: one of them is not that.
    """
    found = {}
    for text in constants:
        name, _, number = text.rpartition("=")
        try:
            found[name] = float(number)
        except ValueError:
            found = {"": 0.0}
        if "" in found:
            raise GgdjaxError(f"`--constant` is {text!r}; expected the name of an input and a number: rate=16000")
    return found


def _called(module: str, function: str) -> Any:
    """Return the network that a function of the user's gives; modules of the present folder are found."""
    import ggdjax as gd

    if "" not in sys.path:
        sys.path.insert(0, "")
    with _one_line(f"MODEL {module}:{function} cannot be imported"):
        value: Any = import_module(module)
    for part in function.split("."):
        if not hasattr(value, part):
            raise GgdjaxError(f"MODEL {module}:{function}: {module} has no `{function}`")
        value = getattr(value, part)
    with _one_line(f"MODEL {module}:{function} cannot be called"):
        made = value() if callable(value) and "Network" not in kinds_of(value) else value
        if isinstance(made, tuple) and len(made) == 2 and callable(made[0]):
            made = gd.trace(*made)
    if not isinstance(made, gd.Network):
        raise GgdjaxError(
            f"MODEL {module}:{function} gave {type(made).__name__}: return what `gd.trace` or `gd.load_onnx` "
            "returns, or a pair (function or module, example batch)"
        )
    return made


@contextmanager
def _one_line(what: str) -> Generator[None]:
    """Name what the user's own code raises, and the line of it that did, in one line."""
    try:
        yield
    except GgdjaxError:
        raise
    except (Exception, SystemExit) as error:
        frames = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
        own = [(f, n) for f, n in frames if f.is_file() and f.parent != Path(__file__).parent and not _installed(f)]
        where = f" at {own[-1][0].name}:{own[-1][1]}" if own else ""
        text = " ".join(str(error).split())
        raise GgdjaxError(f"{what}: {type(error).__name__}{where}: {text}") from None


def _installed(file: Path) -> bool:
    return "site-packages" in file.parts or file.is_relative_to(Path(traceback.__file__).parent)
