"""The ONNX importer: `load_onnx` reads a file into the project's own graph.

By hand, because jaxonnxruntime gives a function, and what is quantized and compiled here is a graph with names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ggdjax._errors import ModelError, UnsupportedError, describe, near_matches
from ggdjax.network._builder import Constant
from ggdjax.network._graph import PROBE_BATCHES
from ggdjax.network.onnx._model import as_float32

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from os import PathLike

    from jax.typing import ArrayLike

    from ggdjax.network._network import Network
    from ggdjax.network.onnx._convert import Grids


def load_onnx(
    path: str | PathLike[str],
    output: str | None = None,
    *,
    outputs: Sequence[str] | None = None,
    input_shape: Sequence[int | None] | None = None,
    constants: Mapping[str, ArrayLike] | None = None,
) -> Network:
    """Read an ONNX file (operator sets from 7 on) into a `Network` whose batch size is free.

    Where a file declares a batch size, constants in its shapes that name that size mean any batch. If its operations
    work on the images of a batch together (a reduction or concatenation along it), the network keeps the declared size.

    Inside, everything is channels last; ``net(x)`` takes and returns the model's own layout (channels first,
    as a rule). Weights become float32. Batch normalization is kept as `affine` nodes;
    `ggdjax.network.fold_batch_norm` folds it. A quantized file (pairs of QuantizeLinear and DequantizeLinear) computes
    what it says: its weights are on their grids, and what it rounds stands as `round_to_grid` nodes;
    `ggdjax.quantization.load_qdq` makes a quantized network of it.

    Args:
      path: the file; external data is read from beside it.
      output: name of the tensor to compute, any tensor of the model; None: its only output.
      outputs: instead of one output, the names of several: ``net(x)`` returns a tuple of them.
      input_shape: for a model that leaves its image size open: the full shape, batch first (None or any
        number).
      constants: for a model of several inputs: the values of all but the one that takes the images, by name: numbers,
        or arrays of their declared shapes; of an open axis (images, as a rule) an array may have one element, which is
        repeated for every image. An axis that is named as one of the images' in the file is of its size.

    Raises:
      ModelError: the file is missing, damaged, no ONNX, or holds NaN or infinity; several outputs and no
        choice.
      UnsupportedError: an operator outside the set; all are named before anything is computed.

    Example:
        >>> gd.network.export_onnx(gd.trace(jax.nn.relu, jnp.zeros((1, 3))), "net.onnx")
        >>> gd.load_onnx("net.onnx")(jnp.array([[-1.0, 0.5, 2.0]])).tolist()
        [[0.0, 0.5, 2.0]]
    """
    return load_with_grids(path, output, outputs=outputs, input_shape=input_shape, constants=constants)[0]


def load_with_grids(
    path: str | PathLike[str],
    output: str | None = None,
    *,
    outputs: Sequence[str] | None = None,
    input_shape: Sequence[int | None] | None = None,
    constants: Mapping[str, ArrayLike] | None = None,
) -> tuple[Network, Grids]:
    """Do as `load_onnx`, and also return the grids that a quantized file stores its weights and biases on."""
    from ggdjax.network._rewrites import simplify
    from ggdjax.network.onnx import _composed, _multiplying, _quantized, _shaping, _spatial  # noqa: F401  (they register the operators)
    from ggdjax.network.onnx._convert import convert
    from ggdjax.network.onnx._model import read_model

    model = read_model(path)
    image, others = _only_input(model.graph, dict(constants or {}))
    shape = _shape(image)
    batch = shape[0] if shape else None
    if input_shape is not None:
        _check_shape(tuple(input_shape), image, shape)
        shape = (None, *input_shape[1:])
    if shape is None or len(shape) < 2 or None in shape[1:]:
        raise ModelError(
            f"input `{image.name}` of `{path}` has open dimensions {shape}: give `input_shape` to `load_onnx`, or "
            "export the model with fixed sizes"
        )
    chosen = _choose_outputs(model.graph, output, outputs)
    values = _values(others, image, shape, dict(constants or {}))

    def converted(first: int, second: int) -> tuple[Network, Grids]:
        grids: Grids = {}
        probes = ((first, *shape[1:]), (second, *shape[1:]))
        return simplify(convert(model, {image.name: probes}, chosen, grids, batch, values(first, second))), grids

    try:
        return converted(*PROBE_BATCHES)
    except (ModelError, UnsupportedError):
        if batch is None:
            raise
        # What works on the images of a batch together has a meaning at the declared size alone.
        return converted(batch, batch)


def _only_input(graph: Any, constants: Mapping[str, ArrayLike]) -> tuple[Any, dict[str, Any]]:
    """Return the input without a constant, and the others.

    Raises:
      ModelError: there is not one such input, or a constant that is none of the inputs.
    """
    weights = {tensor.name for tensor in graph.initializer}
    inputs = {value.name: value for value in graph.input if value.name not in weights}
    for name in constants:
        if name not in inputs:
            near = near_matches(name, inputs)
            raise ModelError(f"`constants` holds `{name}`, which is no input of the model; {near}")
    images = [value for name, value in inputs.items() if name not in constants]
    if len(images) != 1:
        names = ", ".join(f"`{value.name}`" for value in images) or "none"
        raise ModelError(
            f"a network has one input, a batch of images; this model's inputs: {names}: give the values of all "
            "others by `constants` of `load_onnx`, or load the part behind them as a file of its own"
        )
    return images[0], {name: inputs[name] for name in constants}


def _values(
    others: Mapping[str, Any], image: Any, shape: Sequence[int | None], constants: Mapping[str, ArrayLike]
) -> Callable[[int, int], dict[str, Constant]]:
    """Return what gives the values of all other inputs at two batch sizes; ``shape`` is that of the images.

    Raises:
      ModelError: a value is no array of the declared shape.
    """
    names = [dim.dim_param for dim in image.type.tensor_type.shape.dim]
    sizes = {name: size for name, size in zip(names, (None, *shape[1:]), strict=False) if name}
    found = {name: _constant(others[name], value, sizes) for name, value in constants.items()}

    def at(first: int, second: int) -> dict[str, Constant]:
        return {
            name: Constant(value, label=name)
            if axis is None
            else Constant(*(np.repeat(value, batch, axis) for batch in (first, second)), label=name)
            for name, (value, axis) in found.items()
        }

    return at


def _constant(declared: Any, given: ArrayLike, sizes: Mapping[str, int | None]) -> tuple[np.ndarray, int | None]:
    """Return the value of an input, and the axis along which it repeats for every image; None where none does.

    Dimensions that have the name of one of the images' are of its size; ``sizes`` holds those, None for the batch.

    Raises:
      ModelError: it is no array of the declared shape.
    """
    from onnx.helper import tensor_dtype_to_np_dtype

    shape, dims = _shape(declared), declared.type.tensor_type.shape.dim
    if shape is not None:
        shape = tuple(sizes.get(dim.dim_param, size) for dim, size in zip(dims, shape, strict=True))
    try:
        value = as_float32(np.asarray(given, tensor_dtype_to_np_dtype(declared.type.tensor_type.elem_type)))
    except (TypeError, ValueError):
        raise ModelError(f"`constants` holds no numbers for input `{declared.name}`: {given!r}") from None
    if shape is not None and value.size == 1:
        value = np.full([size or 1 for size in shape], value.reshape(()))
    elif shape is not None:
        value = value.reshape((1,) * (len(shape) - value.ndim) + value.shape)
    fits = shape is None or len(shape) == value.ndim
    if not fits or any(want not in {None, size} for want, size in zip(shape or value.shape, value.shape, strict=True)):
        raise ModelError(
            f"`constants` holds an array of shape {np.shape(given)} for input `{declared.name}`, which declares {shape}"
        )
    open_axes = [axis for axis, size in enumerate(shape or ()) if size is None and value.shape[axis] == 1]
    batch = [axis for axis in open_axes if dims[axis].dim_param in sizes]
    return value, next(iter([*batch, *open_axes]), None)


def _shape(value: Any) -> tuple[int | None, ...] | None:
    """Return the declared shape; open dimensions are None; None where no shape is declared."""
    if not value.type.tensor_type.HasField("shape"):
        return None
    # Some exporters write −1 for a dimension that is open.
    return tuple(dim.dim_value if dim.dim_value > 0 else None for dim in value.type.tensor_type.shape.dim)


def _check_shape(given: tuple[Any, ...], image: Any, declared: tuple[int | None, ...] | None) -> None:
    """Refuse a shape that contradicts what the model declares; the batch (first) is free in both."""
    whole = all(isinstance(size, int) and size > 0 for size in given[1:])
    fits = declared is None or (
        len(given) == len(declared)
        and all(want in {None, size} for size, want in zip(given[1:], declared[1:], strict=True))
    )
    if not (whole and fits):
        dims = image.type.tensor_type.shape.dim
        wanted = ", ".join(str(dim.dim_value) if dim.dim_value > 0 else dim.dim_param or "?" for dim in dims)
        raise ModelError(
            f"`input_shape` is {given}; input `{image.name}` declares ({wanted}): give the full shape, batch first"
        )


def _choose_outputs(graph: Any, output: str | None, outputs: Sequence[str] | None) -> list[str]:
    names = [value.name for value in graph.output]
    if outputs is not None:
        if isinstance(outputs, str) or output is not None or not outputs or len(set(outputs)) < len(outputs):
            raise ModelError(
                f"`outputs` is {outputs!r}: give names of tensors, each once, without `output`; those of the model are "
                f"{', '.join(names)}"
            )
    elif output is None and len(names) > 1:
        raise ModelError(
            f"the model has several outputs: choose one of {', '.join(names)} by `output`, or some by `outputs`"
        )
    chosen = list(outputs or [names[0] if output is None else output])
    known = [*names, *(name for node in graph.node for name in node.output)]
    for name in chosen:
        if name not in known:
            if not isinstance(name, str):
                raise ModelError(
                    f"`output` is {describe(name)}, expected the name of a tensor; `outputs` takes several"
                )
            given = "`output`" if outputs is None else "`outputs`:"
            raise ModelError(f"{given} {name!r} is no tensor of the model; {near_matches(name, names)}")
    return chosen
