"""What random ONNX models are drawn from: one function for each kind of operator.

One file, however long: their order is part of what a seed draws.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto

from experiments.drawing import Pieces, need

if TYPE_CHECKING:
    from experiments.random_onnx import Draw, Value

piece = Pieces()

# Elementwise ---------------------------------------------------------------------------------------------------------

_PLAIN = ("Abs", "Erf", "HardSwish", "Mish", "Neg", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Tanh")


@piece(3)
def plain(d: Draw, v: Value) -> str:
    return d.op(d.pick(_PLAIN), [v.name])


@piece(2)
def parametrized(d: Draw, v: Value) -> str:
    kind = d.pick(("Celu", "Elu", "LeakyRelu", "HardSigmoid", "ThresholdedRelu", "Gelu", "Shrink", "Swish", "Selu"))
    names = {"HardSigmoid": ("alpha", "beta"), "Shrink": ("bias", "lambd"), "Gelu": (), "Selu": ("alpha", "gamma")}
    given = {name: float(d.rng.uniform(0.1, 1.5)) for name in names.get(kind, ("alpha",)) if d.chance(0.6)}
    if kind == "Gelu" and d.chance(0.5):
        given = {"approximate": "tanh"}
    return d.op(kind, [v.name], **given)


@piece()
def beyond_zero(d: Draw, v: Value) -> str:
    """Functions of positive numbers."""
    above = d.op("Add", [d.op("Abs", [v.name]), d.const(np.float32(0.2))])
    kind = d.pick(("Log", "Sqrt", "Reciprocal", "Pow"))
    if kind == "Pow":
        return d.op("Pow", [above, d.const(np.float32(d.pick((0.5, -0.5, -1.0, 1.7, 0.0))))])
    return d.op(kind, [above])


@piece()
def power(d: Draw, v: Value) -> str:
    exponent = d.pick((2.0, 3.0, 1.0))
    whole = d.opset >= 12 and d.chance(0.3)
    shape = d.pick(((), (1,)))
    return d.op("Pow", [v.name, d.const(np.full(shape, exponent), np.int64 if whole else np.float32)])


@piece()
def exponential(d: Draw, v: Value) -> str:
    return d.op("Exp", [d.op("Mul", [v.name, d.const(np.float32(-0.3))])])


@piece()
def clip(d: Draw, v: Value) -> str:
    low, high = sorted(d.rng.normal(size=2))
    low, high = (low if d.chance(0.7) else None), (high if d.chance(0.7) else None)
    if d.opset < 11:
        return d.op("Clip", [v.name], min=low, max=high)
    given = ["" if limit is None else d.const(np.float32(limit)) for limit in (low, high)]
    while given and not given[-1]:
        given.pop()
    return d.op("Clip", [v.name, *given])


@piece()
def no_op(d: Draw, v: Value) -> str:
    if d.chance(0.5):
        double = d.op("Cast", [v.name], to=TensorProto.DOUBLE)
        return d.op("Cast", [double], to=TensorProto.FLOAT)
    if d.opset >= 12 and d.chance(0.5):
        return d.op("Dropout", [v.name, d.const(np.float32(0.4)), *([d.const(False, bool)] if d.chance(0.5) else [])])
    return d.op("Dropout", [v.name])


# Of several operands -------------------------------------------------------------------------------------------------


def broadcasting(d: Draw, v: Value) -> np.ndarray:
    """Return a constant that broadcasts against ``v``, or raises its rank."""
    own = [1 if axis == v.batch else size for axis, size in enumerate(v.shape)]
    match d.int(0, 5):
        case 0:
            return d.numbers()
        case 1:
            return d.numbers(1)
        case 2:
            need(v.rank > 1 and v.batch != 1)
            return d.numbers(v.shape[1], *(1,) * (v.rank - 2))
        case 3:
            return d.numbers(own[-1])
        case 4:
            return d.numbers(*own)
        case _:
            shape = [size if d.chance(0.5) else 1 for size in own]
            return d.numbers(*(1,) * d.int(0, 1), *shape)


@piece(3)
def with_constant(d: Draw, v: Value) -> str:
    kind, constant = d.pick(("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum")), broadcasting(d, v)
    if kind == "Div":
        constant = np.sign(constant) + constant
    pair = [v.name, d.const(constant)]
    if d.chance(0.4):
        if kind == "Div":
            pair[0] = d.op("Add", [d.op("Abs", [v.name]), d.const(np.float32(0.3))])
        pair = pair[::-1]
    return d.op(kind, pair)


def partner(d: Draw, v: Value) -> str:
    """Return a tensor that broadcasts against ``v``: another of its shape, or what a reduction leaves."""
    others = [other.name for other in d.values if other.shape == v.shape and other.batch == v.batch]
    if others and d.chance(0.4):
        return d.pick(others)
    if d.chance(0.5):
        axes = d.some_axes(v)
        need(axes)
        return d.with_axes("ReduceMean", v.name, d.signed(axes, v.rank) if d.opset >= 11 else axes, since=18)
    return d.op(d.pick(("Relu", "Tanh", "Abs")), [v.name])


@piece(3)
def of_two(d: Draw, v: Value) -> str:
    kind, other = d.pick(("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum")), partner(d, v)
    if kind == "Div":
        other = d.op("Add", [d.op("Abs", [other]), d.const(np.float32(0.3))])
    pair = [v.name, other] if kind == "Div" or d.chance(0.6) else [other, v.name]
    if kind in {"Max", "Min", "Sum"} and d.chance(0.4):
        pair.append(d.const(broadcasting(d, v)) if d.chance(0.5) else v.name)
    return d.op(kind, pair)


@piece(2)
def concat(d: Draw, v: Value) -> str:
    axes = d.axes(v)
    need(axes)
    axis, parts = d.pick(axes), [v.name]
    for _ in range(d.int(1, 2)):
        if d.chance(0.6):
            parts.append(v.name if d.chance(0.3) else d.op("Tanh", [v.name]))
        elif d.fixed:
            shape = list(v.shape)
            shape[axis] = d.int(1, 3)
            parts.append(d.const(d.numbers(*shape)))
        else:
            parts.append(d.op("ReduceMax", [v.name], axes=[axis]) if d.opset < 18 else d.op("Relu", [v.name]))
    order = [parts[k] for k in d.rng.permutation(len(parts))]
    return d.op("Concat", order, axis=d.signed(axis, v.rank) if d.opset >= 11 else axis)


@piece()
def class_token(d: Draw, v: Value) -> str:
    """A constant repeated for every image, and joined to it."""
    need(v.batch == 0 and not d.fixed and v.rank > 1 and d.opset >= 8)
    axis = d.int(1, v.rank - 1)
    token = d.const(d.numbers(1, *(1 if k == axis else n for k, n in enumerate(v.shape) if k)))
    target = d.vector(v, [-1, *(1 if k == axis else n for k, n in enumerate(v.shape) if k)])
    need("Concat" in {node.op_type for node in d._pending})
    return d.op("Concat", [d.op("Expand", [token, target]), v.name], axis=axis)


@piece(2)
def choice(d: Draw, v: Value) -> str:
    need(d.opset >= 9)
    branches = [d.op("Tanh", [v.name]) if d.chance(0.5) else v.name, d.const(d.numbers())]
    if d.chance(0.3):
        branches[1] = d.op("Abs", [v.name])
    if d.chance(0.2):
        branches[0] = d.op("ReduceMax", [v.name], axes=[v.rank - 1]) if d.opset < 18 else d.op("Exp", [v.name])
    branches = branches[:: d.pick((1, -1))]
    if d.chance(0.3):
        shape = [1 if axis == v.batch else size for axis, size in enumerate(v.shape)]
        mask = d.rng.random(shape[d.int(0, v.rank - 1) :]) < 0.5
        return d.op("Where", [d.const(mask, bool), *branches])
    if d.chance(0.2):  # of a function that is constant over half of its range
        limited = d.op("Relu", [v.name])
        need(d.opset >= 11)
        equal = d.op("Equal", [limited, d.const(np.float32(0))])
        return d.op("Where", [d.op("Not", [equal]) if d.chance(0.3) else equal, *branches])
    kind = d.pick(("Greater", "Less") if d.opset < 12 else ("Greater", "GreaterOrEqual", "Less", "LessOrEqual"))
    pair = [v.name, d.const(np.float32(d.rng.normal()))][:: d.pick((1, -1))]
    condition = d.op(kind, pair)
    return d.op("Where", [d.op("Not", [condition]) if d.chance(0.3) else condition, *branches])


# Products ------------------------------------------------------------------------------------------------------------


@piece(2)
def gemm(d: Draw, v: Value) -> str:
    need(v.rank == 2 and v.batch == 0)
    inner, out, turned = v.shape[1], d.int(1, 6), d.chance(0.5)
    inputs = [v.name, d.const(d.numbers(*((out, inner) if turned else (inner, out))))]
    if d.opset < 11 or d.chance(0.7):
        inputs.append(d.const(d.numbers(*d.pick(((out,), (1, out), (), (1,))))))
    given = {name: float(d.rng.uniform(0.5, 2)) for name in ("alpha", "beta") if d.chance(0.3)}
    return d.op("Gemm", inputs, transB=int(turned), **given)


@piece(2)
def matmul(d: Draw, v: Value) -> str:
    need(v.rank > 1)
    match d.int(0, 4):
        case 0 | 1:
            need(v.batch != v.rank - 1)
            return d.op("MatMul", [v.name, d.const(d.numbers(*(1,) * d.int(0, 1), v.shape[-1], d.int(1, 5)))])
        case 2:
            need(v.batch != v.rank - 2)
            return d.op("MatMul", [d.const(d.numbers(d.int(1, 5), v.shape[-2])), v.name])
        case 3:
            need(v.batch != v.rank - 1)
            return d.op("MatMul", [v.name, d.const(d.numbers(v.shape[-1]))])
        case _:
            need(v.rank > 2 and v.batch == 0)
            order = [*range(v.rank - 2), v.rank - 1, v.rank - 2]
            turned = d.op("Transpose", [d.op("Tanh", [v.name])], perm=order)
            return d.op("MatMul", [v.name, turned] if d.chance(0.5) else [turned, v.name])


@piece()
def einsum(d: Draw, v: Value) -> str:
    need(v.batch == 0 and v.rank > 1)
    last, out = v.shape[-1], d.int(1, 4)
    if v.rank == 4 and d.chance(0.5):
        equation = d.pick(("bchw,bdhw->bcd", "bchw,bchv->bcwv", "bchw,bkhw->bkch", "bchw,bchw->bch"))
        return d.op("Einsum", [v.name, d.op("Tanh", [v.name])], equation=equation)
    if v.rank == 3 and d.chance(0.6):
        equation, shape = d.pick((("bij,jk->bik", (last, out)), ("bij,ik->bkj", (v.shape[1], out)), ("bij,j", (last,))))
        return d.op("Einsum", [v.name, d.const(d.numbers(*shape))], equation=equation)
    return d.op("Einsum", [v.name, d.const(d.numbers(last, out))], equation="...j,jk->...k")


# Over space ----------------------------------------------------------------------------------------------------------


def window_of(d: Draw, v: Value, *, dilated: bool = True) -> dict[str, Any]:
    """Return window, strides, padding and dilation for the spatial axes of ``v``."""
    need(v.rank >= 3 and v.batch == 0)
    space = v.shape[2:]
    window = [d.int(1, min(4, max(size, 1) + 1)) for size in space]
    given: dict[str, Any] = {"kernel_shape": window}
    if d.chance(0.6):
        given["strides"] = [d.int(1, 3) for _ in space]
    if dilated and d.chance(0.25):
        given["dilations"] = [d.int(1, 2) for _ in space]
    if d.chance(0.25):
        given["auto_pad"] = d.pick(("SAME_UPPER", "SAME_LOWER", "VALID"))
    elif d.chance(0.7):
        given["pads"] = [d.int(0, size - 1) for size in window * 2]
    return given


@piece(5)
def conv(d: Draw, v: Value) -> str:
    given = window_of(d, v)
    chan = v.shape[1]
    groups = d.pick([g for g in range(1, chan + 1) if chan % g == 0]) if d.chance(0.4) else 1
    out = groups * d.int(1, 4 if groups < 3 else 2)
    kernel = d.numbers(out, chan // groups, *given["kernel_shape"])
    inputs = [v.name, d.const(kernel), *([d.const(d.numbers(out))] if d.chance(0.6) else [])]
    if d.chance(0.3):
        del given["kernel_shape"]
    return d.op("Conv", inputs, group=groups if groups > 1 or d.chance(0.5) else None, **given)


@piece(2)
def conv_transpose(d: Draw, v: Value) -> str:
    given = window_of(d, v)
    chan, space = v.shape[1], v.shape[2:]
    groups = d.pick([g for g in range(1, chan + 1) if chan % g == 0]) if d.chance(0.3) else 1
    strides = given.get("strides", [1] * len(space))
    if d.chance(0.4):
        given["output_padding"] = [d.int(0, step - 1) for step in strides]
    elif d.chance(0.2) and "pads" not in given:
        given["output_shape"] = [size * step for size, step in zip(space, strides, strict=True)]
    if "pads" not in given and "auto_pad" not in given and d.chance(0.3):
        given["pads"] = [d.int(0, 1) for _ in range(2 * len(space))]
    out = d.int(1, 3)
    kernel = d.numbers(chan, out, *given["kernel_shape"])
    inputs = [v.name, d.const(kernel), *([d.const(d.numbers(out * groups))] if d.chance(0.6) else [])]
    return d.op("ConvTranspose", inputs, group=groups if groups > 1 else None, **given)


@piece(3)
def pool(d: Draw, v: Value) -> str:
    kind = d.pick(("MaxPool", "AveragePool"))
    given = window_of(d, v, dilated=d.opset >= (10 if kind == "MaxPool" else 19))
    # ONNX Runtime leaves the dilation out of automatic padding.
    need("dilations" not in given or given.get("auto_pad", "VALID") == "VALID")
    if d.opset >= 10 and d.chance(0.3):
        given["ceil_mode"] = 1
    if kind == "AveragePool" and d.chance(0.4):
        given["count_include_pad"] = 1
    return d.op(kind, [v.name], **given)


@piece()
def global_pool(d: Draw, v: Value) -> str:
    need(v.rank >= 3 and v.batch == 0)
    return d.op(d.pick(("GlobalAveragePool", "GlobalMaxPool")), [v.name])


_NORMALIZATIONS = (
    "BatchNormalization",
    "GroupNormalization",
    "InstanceNormalization",
    "LRN",
    "LayerNormalization",
    "LpNormalization",
    "MeanVarianceNormalization",
    "RMSNormalization",
)


@piece(2)
def normalization(d: Draw, v: Value) -> str:
    need(v.rank >= 2 and v.batch == 0)
    chan = v.shape[1]
    kind = d.pick(_NORMALIZATIONS)
    epsilon = {"epsilon": float(d.pick((1e-5, 1e-3, 0.1)))} if d.chance(0.6) else {}
    match kind:
        case "BatchNormalization":
            params = [d.numbers(chan), d.numbers(chan), d.numbers(chan), d.rng.uniform(0.3, 2, chan).astype(np.float32)]
            return d.op(kind, [v.name, *map(d.const, params)], **epsilon)
        case "InstanceNormalization":
            need(np.prod(v.shape[2:]) > 1)
            return d.op(kind, [v.name, d.const(d.numbers(chan)), d.const(d.numbers(chan))], **epsilon)
        case "LayerNormalization" | "RMSNormalization":
            axis = d.int(1, v.rank - 1)
            need(np.prod(v.shape[axis:]) > 1)
            count = 2 if kind == "LayerNormalization" and d.chance(0.6) else 1
            params = [d.const(d.numbers(*v.shape[axis:])) for _ in range(count)]
            return d.op(kind, [v.name, *params], axis=d.signed(axis, v.rank), **epsilon)
        case "GroupNormalization":
            need(v.rank >= 3)
            groups = d.pick([g for g in range(1, chan + 1) if chan % g == 0])
            params = [d.const(d.numbers(chan if d.opset >= 21 else groups)) for _ in range(2)]
            return d.op(kind, [v.name, *params], num_groups=groups, **epsilon)
        case "LRN":
            need(v.rank >= 3)
            return d.op(kind, [v.name], size=d.pick((1, 3, 5, 2)), alpha=0.5, beta=0.7, bias=1.2)
        case "MeanVarianceNormalization":
            axes = d.some_axes(v)
            need(axes and np.prod([v.shape[k] for k in axes]) > 1)
            return d.op(kind, [v.name], axes=axes)
        case _:
            axis = d.pick(d.axes(v))
            return d.op(kind, [v.name], axis=d.signed(axis, v.rank), p=d.pick((1, 2)))


@piece(2)
def pad(d: Draw, v: Value) -> str:
    axes = d.axes(v)
    need(axes)
    mode = d.pick(("constant", "constant", "reflect", "edge") + (("wrap",) if d.opset >= 19 else ()))
    amounts = np.zeros((2, v.rank), int)
    for axis in axes:
        if d.chance(0.6):
            most = v.shape[axis] - 1 if mode == "reflect" else min(v.shape[axis], 3)
            amounts[:, axis] = [d.int(-1 if v.shape[axis] > 3 and d.chance(0.3) else 0, most) for _ in range(2)]
    value = float(d.pick((0.0, 0.7, -2.0)))
    if d.opset < 11:
        return d.op("Pad", [v.name], pads=amounts.ravel().tolist(), mode=mode, value=value)
    inputs = [v.name, d.const(amounts.ravel())]
    if d.opset >= 18 and d.chance(0.4):
        chosen = [int(k) for k in d.rng.permutation(v.rank) if k in axes]
        inputs = [v.name, d.const(amounts[:, chosen].ravel()), d.const(np.float32(value)) if d.chance(0.5) else ""]
        inputs.append(d.const(d.signed(chosen, v.rank)))
    elif d.chance(0.6):
        inputs.append(d.const(np.float32(value)))
    return d.op("Pad", inputs, mode=mode)


@piece(2)
def resize(d: Draw, v: Value) -> str:
    need(v.rank in {3, 4, 5} and v.batch == 0)
    method = d.pick(("nearest", "linear", "cubic") if v.rank == 4 and d.opset >= 11 else ("nearest", "linear"))
    scales = [1.0, 1.0, *(float(d.pick((2.0, 3.0, 1.5, 0.5, 0.6, 0.75, 1.0, 5 / 3))) for _ in v.shape[2:])]
    if d.opset < 10:
        if d.opset < 9:
            return d.op("Upsample", [v.name], mode=method, scales=scales)
        return d.op("Upsample", [v.name, d.const(np.float32(scales))], mode=method)
    if d.opset == 10:
        return d.op("Resize", [v.name, d.const(np.float32(scales))], mode=method)
    modes = ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
    modes += ("half_pixel_symmetric",) if d.opset >= 19 else ()
    given: dict[str, Any] = {"mode": method, "coordinate_transformation_mode": d.pick(modes)}
    if method == "nearest":
        given["nearest_mode"] = d.pick(("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"))
    if method == "cubic":
        given |= {"cubic_coeff_a": float(d.pick((-0.75, -0.5))), "exclude_outside": d.int(0, 1)}
    if d.chance(0.5):
        sizes = [max(1, int(size * scale)) for size, scale in zip(v.shape[2:], scales[2:], strict=True)]
        if d.opset >= 18 and d.chance(0.4):
            given["axes"] = d.signed(list(range(2, v.rank)), v.rank)
            return d.op("Resize", [v.name, "", "", d.const(sizes)], **given)
        target = d.vector(v, [-1 if not d.fixed else d.fixed, v.shape[1], *sizes])
        need(d.fixed or "Concat" in {node.op_type for node in d._pending})
        return d.op("Resize", [v.name, "", "", target], **given)
    if d.opset >= 18 and d.chance(0.4):
        given["axes"] = d.signed(list(range(2, v.rank)), v.rank)
        scales = scales[2:]
    return d.op("Resize", [v.name, "", d.const(np.float32(scales))], **given)


@piece()
def prelu(d: Draw, v: Value) -> str:
    need(v.rank >= 2 and v.batch == 0)
    shape = d.pick(((v.shape[1], *(1,) * (v.rank - 2)), (1,), v.shape[1:]))
    return d.op("PRelu", [v.name, d.const(d.numbers(*shape))])


@piece()
def depth_and_space(d: Draw, v: Value) -> str:
    need(v.rank == 4 and v.batch == 0)
    if d.chance(0.5):
        need(v.shape[1] % 4 == 0)
        modes = {"mode": d.pick(("DCR", "CRD"))} if d.opset >= 11 else {}
        return d.op("DepthToSpace", [v.name], blocksize=2, **modes)
    block = d.pick([b for b in (1, 2, 3) if v.shape[2] % b == v.shape[3] % b == 0])
    return d.op("SpaceToDepth", [v.name], blocksize=block)


# Reductions ----------------------------------------------------------------------------------------------------------

_REDUCED = ("Mean", "Sum", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSumExp", "LogSum")


@piece(3)
def reduction(d: Draw, v: Value) -> str:
    kind, axes, tensor = d.pick(_REDUCED), d.some_axes(v), v.name
    need(axes)
    if kind == "LogSum":
        tensor = d.op("Add", [d.op("Abs", [v.name]), d.const(np.float32(0.2))])
    axes = d.signed(axes, v.rank) if d.opset >= 11 else axes
    if d.chance(0.05):
        axes = None
    given = {} if d.chance(0.4) else {"keepdims": d.int(0, 1)}
    since = 13 if kind == "Sum" else 18
    if d.opset >= since and d.chance(0.1):
        given["noop_with_empty_axes"] = d.int(0, 1)
    return d.with_axes(f"Reduce{kind}", tensor, axes, since=since, **given)


@piece()
def softmax(d: Draw, v: Value) -> str:
    axes = d.axes(v)
    need(axes)
    axis = None if d.chance(0.3) else d.signed(d.pick(axes), v.rank) if d.opset >= 11 else d.pick(axes)
    return d.op(d.pick(("Softmax", "LogSoftmax")), [v.name], axis=axis)


@piece()
def arg_max(d: Draw, v: Value) -> str:
    axes = d.axes(v)
    need(axes)
    given = {} if d.chance(0.5) else {"keepdims": d.int(0, 1)}
    if d.opset >= 12 and d.chance(0.4):
        given["select_last_index"] = d.int(0, 1)
    axis = d.pick(axes)
    ordered = np.sort(v.arrays[0], axis)
    # Rounding decides between equals.
    need((np.diff(ordered, axis=axis) > 1e-4 * np.abs(ordered).max()).all())
    axis = d.signed(axis, v.rank) if d.opset >= 11 else axis
    return d.op("Cast", [d.op(d.pick(("ArgMax", "ArgMin")), [v.name], axis=axis, **given)], to=TensorProto.FLOAT)


# Rearrangements ------------------------------------------------------------------------------------------------------


@piece(2)
def transpose(d: Draw, v: Value) -> str:
    need(v.rank)
    order = [int(k) for k in d.rng.permutation(v.rank)]
    if v.batch == 0 and d.chance(0.7):
        order = [0, *(k for k in order if k)]
    return d.op("Transpose", [v.name], perm=None if d.chance(0.1) else order)


@piece()
def flatten(d: Draw, v: Value) -> str:
    return d.op("Flatten", [v.name], axis=d.pick((None, 1, 1, 1 - v.rank if d.opset >= 11 else 1, d.int(0, v.rank))))


@piece(3)
def reshape(d: Draw, v: Value) -> str:
    need(v.batch == 0)
    sizes = d.regrouped(v.shape[1:])
    need(len(sizes) <= 5)
    lead = d.fixed or -1
    if d.chance(0.3):
        target = [0, *sizes]
        if sizes and d.chance(0.6):
            target[d.int(1, len(sizes))] = -1
        return d.op("Reshape", [v.name, d.const(target)])
    if d.fixed and sizes and d.chance(0.5):
        target = [lead, *sizes]
        target[d.int(0, len(sizes))] = -1
        return d.op("Reshape", [v.name, d.const(target)])
    return d.op("Reshape", [v.name, d.vector(v, [lead, *sizes])])


@piece()
def expand(d: Draw, v: Value) -> str:
    need(d.opset >= 8)
    target = [1 if k == v.batch else d.int(1, 3) if n == 1 else d.pick((1, n)) for k, n in enumerate(v.shape)]
    target = [*(d.int(1, 2) for _ in range(d.int(0, 1))), *target]
    return d.op("Expand", [v.name, d.const(target)])


@piece()
def tile(d: Draw, v: Value) -> str:
    copies = [d.int(1, 2) if axis in d.axes(v) else 1 for axis in range(v.rank)]
    return d.op("Tile", [v.name, d.const(copies)])


@piece()
def squeeze(d: Draw, v: Value) -> str:
    units = [axis for axis, size in enumerate(v.shape) if size == 1]
    if d.fixed and d.chance(0.15):  # of any batch it would depend on how many images there are
        return d.with_axes("Squeeze", v.name, None)
    need(units)
    axes = sorted(int(k) for k in d.rng.permutation(units)[: d.int(1, len(units))])
    return d.with_axes("Squeeze", v.name, d.signed(axes, v.rank) if d.opset >= 11 else axes)


@piece()
def unsqueeze(d: Draw, v: Value) -> str:
    count = d.int(1, 2)
    need(v.rank + count <= 5)
    axes = sorted(int(k) for k in d.rng.permutation(v.rank + count)[:count])
    return d.with_axes("Unsqueeze", v.name, d.signed(axes, v.rank + count) if d.opset >= 11 else axes)


@piece(3)
def sliced(d: Draw, v: Value) -> str:
    axes = d.some_axes(v)
    need(axes)
    starts, ends, steps = [], [], []
    for axis in axes:
        size = v.shape[axis]
        start, end = sorted((d.int(0, size - 1), d.int(1, size)))
        step = d.pick((1, 1, 2, -1)) if d.opset >= 10 else 1
        end = max(end, start + 1)
        if step < 0:
            start, end = end - 1, (start - 1 if start else -size - 1)
        elif d.chance(0.3):
            end = d.pick((2**31 - 1, 2**63 - 1, size, size + 5))
        elif d.chance(0.3) and end < size:
            end -= size
        starts.append(start - (size if d.chance(0.3) else 0))
        ends.append(end)
        steps.append(step)
    axes = d.signed(axes, v.rank) if d.opset >= 10 else axes
    return d.slice(v.name, starts, ends, axes, steps if any(s != 1 for s in steps) or d.chance(0.3) else None)


@piece(2)
def split(d: Draw, v: Value) -> Any:
    axes = [axis for axis in d.axes(v) if v.shape[axis] > 1]
    need(axes)
    axis = d.pick(axes)
    size, given = v.shape[axis], {"axis": d.signed(axis, v.rank) if d.opset >= 11 else axis}
    if d.chance(0.6):
        first = d.int(1, size - 1)
        if d.opset < 13:
            return d.op("Split", [v.name], count=2, split=[first, size - first], **given)
        return d.op("Split", [v.name, d.const([first, size - first])], count=2, **given)
    count = d.pick([n for n in range(2, size + 1) if size % n == 0 or d.opset >= 18])
    if d.opset >= 18:
        given["num_outputs"] = count
    return d.op("Split", [v.name], count=count, **given)


@piece(2)
def gather(d: Draw, v: Value) -> str:
    axes = d.axes(v)
    need(axes)
    axis = d.pick(axes)
    low = -v.shape[axis] if d.opset >= 11 else 0
    shape = d.pick(((), (1,), (2,), (3,), (2, 2)))
    indices = d.rng.integers(low, v.shape[axis], shape)
    return d.op("Gather", [v.name, d.const(indices, d.pick((np.int64, np.int32)))], axis=d.signed(axis, v.rank))


# Quantization --------------------------------------------------------------------------------------------------------


@piece(2)
def quantized(d: Draw, v: Value) -> str:
    need(d.opset >= 10)
    scale = d.const(np.float32(d.rng.uniform(0.01, 0.2)))
    kind = d.pick((np.uint8, np.int8))
    zero = [d.const(d.int(0, 200) if kind is np.uint8 else d.int(-50, 50), kind)]
    if d.chance(0.2):
        zero = []
    code = d.op("QuantizeLinear", [v.name, scale, *zero])
    return d.op("DequantizeLinear", [code, scale, *zero])
