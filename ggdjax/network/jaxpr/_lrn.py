"""Recognising local response normalization in a trace: x / (k + c · Σ x² over neighbouring channels)^β is one node."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ggdjax.network._builder import View
    from ggdjax.network.jaxpr._call import Call


def note_channel_sum(call: Call, source: View, total: View) -> None:
    """Remember that ``total`` sums ``source`` over a centred window along one axis, if the equation does that."""
    window = call.param("window_dimensions")
    wide = [axis for axis, size in enumerate(window) if size > 1]
    if len(wide) != 1 or any(step != 1 for name in ("window_strides", "window_dilation") for step in call.param(name)):
        return
    (axis,), size = wide, window[wide[0]]
    before = (size - 1) // 2
    if tuple(call.param("padding")[axis]) == (before, size - 1 - before):
        call.trace.channel_sums[total.tensor] = (source, total, axis, int(size))


def response_norm(call: Call, x: View, divisor: View) -> View | None:
    """Return the normalized ``x`` if ``divisor`` is the norm of its own neighbourhood; else None."""
    builder = call.builder
    power = builder.producer(divisor.tensor)
    if power is None or power.op != "power":
        return None
    total, scale, offset = builder.scalar_affine(power.inputs[0], call.trace.channel_sums)
    if total not in call.trace.channel_sums:
        return None
    squares, summed, axis, size = call.trace.channel_sums[total]
    square = builder.producer(squares.tensor)
    squared = square is not None and (
        (square.op == "mul" and square.inputs == (x.tensor, x.tensor))
        or (square.op == "power" and square.inputs == (x.tensor,) and square.attr("exponent") == 2)
    )
    if not squared or squares.axes != x.axes or summed.axes != divisor.axes:
        return None
    order = np.argsort([*(k for k in range(len(x.axes)) if k != axis), axis])
    axes = tuple(int(k) for k in order)
    return call.emit(
        "local_response_norm",
        [builder.stored(x, axes)],
        axes,
        size=size,
        alpha=scale * size,
        beta=power.attr("exponent"),
        bias=offset,
    )
