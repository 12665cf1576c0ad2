"""Pieces of random ONNX models: what works over the axes of space, or on each channel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.drawing import Pieces, need

if TYPE_CHECKING:
    from experiments.random_onnx import Draw, Value

piece = Pieces()


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
