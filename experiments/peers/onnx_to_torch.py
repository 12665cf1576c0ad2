"""An ONNX file as a graph of PyTorch modules, for tools that quantize those: the operations of the networks here.

Each node becomes the module or function that computes it, weights as they are in the file; nothing is folded or merged.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

from ggdjax import GgdjaxError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from torch import nn

    Attributes = Mapping[str, Any]
    Constants = Mapping[str, np.ndarray]


def to_torch(model: Any) -> Any:
    """Return the `torch.fx.GraphModule` of an ONNX model with one input and one output, in evaluation mode.

    Raises:
        GgdjaxError: a node of another operation, or one that is padded unequally.
    """
    import onnx
    import torch
    from torch import fx, nn

    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    graph, modules, values = fx.Graph(), nn.Module(), {}
    (given,) = [one.name for one in model.graph.input if one.name not in constants]
    values[given] = graph.placeholder("input")
    for node in model.graph.node:
        attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        if node.op_type == "Constant":
            constants[node.output[0]] = onnx.numpy_helper.to_array(attributes["value"])
            continue
        inputs = [values[name] for name in node.input if name in values]
        fixed = [constants.get(name) for name in node.input if name and name not in values]
        if (make := _MODULES.get(node.op_type)) is not None:
            name = f"{node.op_type.lower()}_{len(values)}"
            modules.add_module(name, make(fixed, attributes))
            values[node.output[0]] = graph.call_module(name, (inputs[0],))
        elif node.op_type in _FUNCTIONS:
            function, arguments = _FUNCTIONS[node.op_type](inputs, fixed, attributes)
            values[node.output[0]] = graph.call_function(function, arguments)
        else:
            known = ", ".join(sorted({*_MODULES, *_FUNCTIONS}))
            raise GgdjaxError(f"node `{node.name}` is a {node.op_type}: only {known} become PyTorch modules")
    graph.output(values[model.graph.output[0].name])
    with torch.no_grad():
        return fx.GraphModule(modules, graph).eval()


def _filled(module: nn.Module, **values: np.ndarray | None) -> nn.Module:
    import torch

    module.load_state_dict({k: torch.tensor(v) for k, v in values.items() if v is not None}, strict=False)
    return module


def _even(pads: list[int] | None) -> list[int]:
    """Return the padding of each axis, the same at both ends."""
    first, last = (pads or [0] * 4)[: len(pads or [0] * 4) // 2], (pads or [0] * 4)[len(pads or [0] * 4) // 2 :]
    if first != last:
        raise GgdjaxError(f"`pads` {pads} differ between the ends of an axis: PyTorch's modules pad both alike")
    return list(first)


def _conv(fixed: list[Any], given: Attributes) -> nn.Module:
    from torch import nn

    kernel, bias = fixed[0], fixed[1] if len(fixed) > 1 else None
    groups = given.get("group", 1)
    made = nn.Conv2d(
        kernel.shape[1] * groups,
        kernel.shape[0],
        kernel.shape[2:],
        stride=given.get("strides", 1),
        padding=_even(given.get("pads")),
        dilation=given.get("dilations", 1),
        groups=groups,
        bias=bias is not None,
    )
    return _filled(made, weight=kernel, bias=bias)


def _dense(fixed: list[Any], given: Attributes) -> nn.Module:
    from torch import nn

    kernel = fixed[0] if given.get("transB", 0) else fixed[0].T
    bias = fixed[1] if len(fixed) > 1 else None
    made = nn.Linear(kernel.shape[1], kernel.shape[0], bias=bias is not None)
    return _filled(made, weight=kernel, bias=bias)


def _batch_norm(fixed: list[Any], given: Attributes) -> nn.Module:
    from torch import nn

    scale, bias, mean, variance = fixed
    made = nn.BatchNorm2d(len(scale), eps=given.get("epsilon", 1e-5))
    return _filled(made, weight=scale, bias=bias, running_mean=mean, running_var=variance)


def _max_pool(_: list[Any], given: Attributes) -> nn.Module:
    from torch import nn

    return nn.MaxPool2d(
        given["kernel_shape"],
        stride=given.get("strides", 1),
        padding=_even(given.get("pads")),
        ceil_mode=bool(given.get("ceil_mode", 0)),
    )


def _global_pool(_: list[Any], __: Attributes) -> nn.Module:
    from torch import nn

    return nn.AdaptiveAvgPool2d(1)


def _flatten(_: list[Any], given: Attributes) -> nn.Module:
    from torch import nn

    return nn.Flatten(given.get("axis", 1))


def _relu(_: list[Any], __: Attributes) -> nn.Module:
    from torch import nn

    return nn.ReLU()


_MODULES: dict[str, Callable[[list[Any], Attributes], nn.Module]] = {
    "Conv": _conv,
    "Gemm": _dense,
    "BatchNormalization": _batch_norm,
    "MaxPool": _max_pool,
    "GlobalAveragePool": _global_pool,
    "Flatten": _flatten,
    "Relu": _relu,
}


def _add(inputs: list[Any], _: list[Any], __: Attributes) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    return operator.add, tuple(inputs)


def _concat(inputs: list[Any], _: list[Any], given: Attributes) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    import torch

    return torch.cat, (inputs, given["axis"])


def _slice(inputs: list[Any], fixed: list[Any], _: Attributes) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    starts, ends, axes, steps = (part.tolist() for part in fixed)
    parts = [slice(None)] * 4
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        parts[axis] = slice(start, end, step)
    return operator.getitem, (inputs[0], tuple(parts))


def _pad(inputs: list[Any], fixed: list[Any], _: Attributes) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    from torch.nn import functional

    pads = fixed[0].tolist()
    rank = len(pads) // 2
    return functional.pad, (inputs[0], [pads[i + end * rank] for i in reversed(range(rank)) for end in (0, 1)])


def _transpose(inputs: list[Any], _: list[Any], given: Attributes) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    import torch

    return torch.permute, (inputs[0], tuple(given["perm"]))


def _mean(inputs: list[Any], _: list[Any], given: Attributes) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    import torch

    return torch.mean, (inputs[0], tuple(given["axes"]), bool(given.get("keepdims", 1)))


def _identity(inputs: list[Any], _: list[Any], __: Attributes) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    return operator.pos, (inputs[0],)


_FUNCTIONS: dict[str, Callable[..., tuple[Callable[..., Any], tuple[Any, ...]]]] = {
    "Add": _add,
    "Concat": _concat,
    "Slice": _slice,
    "Pad": _pad,
    "Transpose": _transpose,
    "ReduceMean": _mean,
    "Identity": _identity,
}
