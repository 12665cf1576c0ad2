"""ONNX operators of quantized files: a pair that rounds an activation becomes one `round_to_grid` node."""

from __future__ import annotations

import numpy as np

from ggdjax.network._builder import Constant, Grid, View
from ggdjax.network.onnx._convert import Call, handler

_INTEGERS = {f"int{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (4, 8, 16, 32)} | {
    f"uint{bits}": (0, 2**bits - 1) for bits in (4, 8, 16)
}


@handler("QuantizeLinear")
def _quantize(call: Call) -> View | Constant:
    """Round; the result already stands for the real numbers, which the DequantizeLinear behind it gives."""
    value = call.get(0)
    integers = call.constant(2)
    if integers is None:
        # 2: unsigned, 8 bits.
        kind = call.attr("output_dtype", 0) or 2
        from onnx.helper import tensor_dtype_to_np_dtype

        integers = np.zeros((), tensor_dtype_to_np_dtype(kind))
    grid = _grid(call, integers)
    if isinstance(value, Constant):
        scale, zero = _along_axis(call, grid, value.probes[0].ndim)
        code = np.clip(np.rint(value.probes[0] / scale) + zero, grid.low, grid.high)
        return Constant(code.astype(integers.dtype))
    if grid.scale.size != 1:
        raise call.refuse("an activation with one scale per channel")
    zero = int(grid.zero_point.reshape(-1)[0])
    step = float(grid.scale.reshape(-1)[0])
    view = call.same_order("round_to_grid", step=step, low=grid.low - zero, high=grid.high - zero)
    call.builder.quantized[view.tensor] = (step, zero)
    return view


@handler("DequantizeLinear")
def _dequantize(call: Call) -> View | Constant:
    value = call.get(0)
    if isinstance(value, Constant):
        code = value.probes[0]
        grid = _grid(call, code)
        scale, zero = _along_axis(call, grid, code.ndim)
        return Constant((code.astype(np.int32) - zero).astype(np.float32) * scale, grid=grid)
    scale, zero = call.constant(1), call.constant(2)
    pair = (float(np.asarray(scale, np.float32).reshape(-1)[0]), 0 if zero is None else int(zero.reshape(-1)[0]))
    if call.builder.quantized.get(value.tensor) != pair:
        raise call.refuse("dequantization of what was not quantized by the same scale and zero point just before")
    return value


def clip_codes(call: Call, low: float | None, high: float | None) -> View:
    """Return the view with narrower limits of its codes: how other tools write widths that ONNX lacks."""
    view = call.view()
    if view.tensor not in call.builder.quantized:
        raise call.refuse("integer limits of what is not quantized")
    step, zero = call.builder.quantized[view.tensor]
    rounding = call.builder.producer(view.tensor)
    limits = dict(rounding.attrs)
    if low is not None:
        limits["low"] = max(limits["low"], int(low) - zero)
    if high is not None:
        limits["high"] = min(limits["high"], int(high) - zero)
    narrow = call.emit("round_to_grid", rounding.inputs, view.axes, **limits)
    call.builder.quantized[narrow.tensor] = (step, zero)
    return narrow


def _grid(call: Call, integers: np.ndarray) -> Grid:
    """Return the grid of a node whose codes have the type of ``integers``."""
    if call.attr("block_size", 0):
        raise call.refuse("quantization in blocks")
    name = integers.dtype.name
    if name not in _INTEGERS:
        raise call.refuse(f"quantization to {name}; integers of 4, 8, 16 or 32 bits are supported")
    low, high = _INTEGERS[name]
    scale, zero = np.asarray(call.constant(1), np.float32), call.constant(2)
    zero = np.zeros(scale.shape, np.int32) if zero is None else np.asarray(zero).astype(np.int32)
    return Grid(scale=scale, zero_point=zero, low=low, high=high)


def _along_axis(call: Call, grid: Grid, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Return scale and zero point in the shape that broadcasts against the tensor."""
    if grid.scale.size == 1:
        return grid.scale.reshape(()), grid.zero_point.reshape(-1)[0]
    shape, axis = [1] * rank, call.attr("axis", 1)
    if not -rank <= axis < rank:
        raise call.refuse(f"scales along axis {axis} of a tensor of {rank} axes; give the attribute `axis`")
    shape[axis] = -1
    return grid.scale.reshape(shape), np.broadcast_to(grid.zero_point, grid.scale.shape).reshape(shape)
