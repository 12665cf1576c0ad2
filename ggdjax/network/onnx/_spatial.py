"""ONNX operators over space and channels: convolution, dense, normalization, pooling, padding, resizing."""

from __future__ import annotations

import numpy as np

from ggdjax.network._builder import View, channels_last, stored_constant
from ggdjax.network.onnx._convert import Call, handler

Pads = tuple[tuple[int, int], ...]


@handler("Conv")
def _conv(call: Call) -> View:
    kernel = call.weight(1)
    strides, dilation, padding, _ = _window(call, kernel.shape[2:])
    return call.spatial_op(
        "conv",
        {"kernel": np.moveaxis(kernel, (0, 1), (-1, -2)), "bias": call.weight(2)},
        strides=strides,
        padding=padding,
        dilation=dilation,
        groups=call.attr("group", 1),
    )


@handler("ConvTranspose")
def _conv_transpose(call: Call) -> View:
    """Return the convolution that it is: of the input with zeros between its values, with the kernel reversed."""
    kernel, groups = call.weight(1), call.attr("group", 1)
    cin, per_group, *window = kernel.shape
    rank = len(window)
    strides, dilation = (call.attr(name, (1,) * rank) for name in ("strides", "dilations"))
    more, wanted = call.attr("output_padding", (0,) * rank), call.attr("output_shape", None)
    pads, mode = call.attr("pads", (0,) * (2 * rank)), call.attr("auto_pad", "NOTSET")
    padding = []
    for k, size in enumerate(call.spatial(call.view())):
        reach = (window[k] - 1) * dilation[k]
        whole = (size - 1) * strides[k] + reach + 1 + more[k]
        if wanted is not None or mode in {"SAME_UPPER", "SAME_LOWER"}:
            # What `output_shape` wants beyond the convolution's own output lies at the end and holds zeros. Without it
            # a window narrower than its stride leaves less than the standard's size · stride, as in ONNX Runtime.
            target = min(size * strides[k], whole) if wanted is None else wanted[k - rank]
            cropped = max(whole - target, 0)
            low, high = (cropped // 2, -(-cropped // 2)) if mode == "SAME_UPPER" else (-(-cropped // 2), cropped // 2)
            high -= max(target - whole, 0)
        else:
            low, high = (0, 0) if mode == "VALID" else (pads[k], pads[k + rank])
        padding.append((int(reach - low), int(reach - high + more[k])))
    flipped = np.flip(kernel, range(2, kernel.ndim)).reshape(groups, cin // groups, per_group, *window)
    flipped = np.moveaxis(flipped, (1, 0, 2), (-3, -2, -1)).reshape(*window, cin // groups, groups * per_group)
    view = call.view()
    source, padding = call.builder.uncropped(call.channels_last(view), padding, strides, f"{call.name}.crop")
    return call.emit(
        "conv",
        [source],
        channels_last(len(view.axes)),
        {"kernel": flipped, "bias": call.weight(2)},
        strides=(1,) * rank,
        padding=padding,
        dilation=dilation,
        groups=groups,
        **({"input_dilation": strides} if max(strides) > 1 else {}),
    )


def _window(call: Call, window: tuple[int, ...]) -> tuple[tuple, tuple, Pads, tuple]:
    """Return strides, dilation, padding and the overhang of ceil mode of a convolution or pooling."""
    rank = len(window)
    strides = call.attr("strides", (1,) * rank)
    dilation = call.attr("dilations", (1,) * rank)
    pads = call.attr("pads", (0,) * (2 * rank))
    mode = call.attr("auto_pad", "NOTSET")
    extent = [step * (taps - 1) + 1 for taps, step in zip(window, dilation, strict=True)]
    space = call.spatial(call.view())
    padding, overhang = [], []
    for k in range(rank):
        if mode in {"SAME_UPPER", "SAME_LOWER"}:
            outputs = -(-space[k] // strides[k])
            total = max((outputs - 1) * strides[k] + extent[k] - space[k], 0)
            less, more = total // 2, total - total // 2
            low, high = (less, more) if mode == "SAME_UPPER" else (more, less)
        elif mode == "VALID":
            low, high = 0, 0
        else:
            low, high = pads[k], pads[k + rank]
        padded = space[k] + low + high
        if extent[k] > padded:
            raise call.refuse(f"a window of {extent[k]} on {padded} positions, padding included")
        over = 0
        if call.attr("ceil_mode", 0) and mode in {"NOTSET", "VALID"}:
            outputs = -(-(padded - extent[k]) // strides[k]) + 1
            # The last window must begin inside the input or the padding before it (as in ONNX Runtime).
            if (outputs - 1) * strides[k] >= space[k] + low:
                outputs -= 1
            over = max((outputs - 1) * strides[k] + extent[k] - padded, 0)
        padding.append((int(low), int(high)))
        overhang.append(int(over))
    return tuple(strides), tuple(dilation), tuple(padding), tuple(overhang)


@handler("Gemm")
def _gemm(call: Call) -> View:
    view = call.view(0)
    if call.attr("transA", 0):
        view = view.permute((1, 0))
    kernel = call.weight(1).T if call.attr("transB", 0) else call.weight(1)
    kernel = np.float32(call.attr("alpha", 1.0)) * kernel
    bias = call.weight(2)
    if bias is not None:
        if bias.ndim > 1 and bias.shape[0] != 1:
            raise call.refuse("a bias that differs between the rows of the batch")
        bias = np.float32(call.attr("beta", 1.0)) * np.broadcast_to(bias.reshape(-1), kernel.shape[1:])
    return call.emit("dense", [call.builder.native(view)], (0, 1), {"kernel": kernel, "bias": bias})


@handler("BatchNormalization")
def _batch_normalization(call: Call) -> View:
    # Before operator set 14 it is the outputs beside the result, statistics of the batch, that say so.
    if call.attr("training_mode", 0) or any(call.node.output[1:]):
        raise call.refuse("batch normalization in training mode; export the model for inference")
    if call.version < 9 and not call.attr("spatial", 1):
        raise call.refuse("batch normalization per position")
    gamma, beta, mean, variance = (call.weight(k).astype(np.float64) for k in (1, 2, 3, 4))
    scale = gamma / np.sqrt(variance + call.attr("epsilon", 1e-5))
    statistics = {"mean": beta, "deviation": np.abs(gamma)}
    return call.spatial_op("affine", {"scale": scale, "offset": beta - mean * scale, **statistics})


@handler("LRN")
def _local_response_norm(call: Call) -> View:
    call.refuse_batch(call.view(), [1], "normalization across the batch")
    return call.spatial_op(
        "local_response_norm",
        size=call.attr("size", 1),
        alpha=call.attr("alpha", 1e-4),
        beta=call.attr("beta", 0.75),
        bias=call.attr("bias", 1.0),
    )


@handler("MaxPool")
def _max_pool(call: Call) -> View:
    if len(call.node.output) > 1 and call.node.output[1]:
        raise call.refuse("the indices of a maximum as second output")
    window = call.attr("kernel_shape", ())
    strides, dilation, padding, overhang = _window(call, window)
    padding = tuple((low, high + over) for (low, high), over in zip(padding, overhang, strict=True))
    return call.spatial_op("max_pool", window=window, strides=strides, padding=padding, dilation=dilation)


@handler("AveragePool")
def _average_pool(call: Call) -> View:
    window = call.attr("kernel_shape", ())
    strides, dilation, padding, overhang = _window(call, window)
    return call.spatial_op(
        "average_pool",
        window=window,
        strides=strides,
        padding=padding,
        dilation=dilation,
        overhang=overhang,
        count_padding=bool(call.attr("count_include_pad", 0)),
    )


@handler("GlobalAveragePool", "GlobalMaxPool")
def _global_pool(call: Call) -> View:
    rank = len(call.view().axes)
    op = "mean" if call.node.op_type == "GlobalAveragePool" else "max"
    call.spatial(call.view())
    return call.spatial_op(op, axes=tuple(range(1, rank - 1)), keepdims=True)


@handler("Pad")
def _pad(call: Call) -> View:
    view = call.view()
    rank = len(view.axes)
    pads = [int(n) for n in call.constant(1, "pads")]
    value = call.constant(2, "value")
    axes = call.constant(3)
    axes = range(rank) if axes is None else [int(k) % rank for k in axes]
    by_axis = dict(zip(axes, zip(pads[: len(axes)], pads[len(axes) :], strict=True), strict=True))
    call.refuse_batch(view, [axis for axis, amounts in by_axis.items() if any(amounts)], "padding of the batch")
    padding = [(0, 0)] * rank
    for axis, amounts in by_axis.items():
        padding[view.axes[axis]] = amounts
    value = 0.0 if value is None else float(value.reshape(-1)[0])
    return call.same_order("pad", padding=tuple(padding), mode=call.attr("mode", "constant"), value=value)


@handler("Resize", "Upsample")
def _resize(call: Call) -> View:
    view = call.view()
    rank = len(view.axes)
    method = call.attr("mode", "nearest")
    coordinates = call.attr("coordinate_transformation_mode", "half_pixel")
    if call.version < 11 or call.node.op_type == "Upsample":
        coordinates = "asymmetric"
    rounding = call.attr("nearest_mode", "round_prefer_floor" if call.version >= 11 else "floor")
    if (
        method not in {"nearest", "linear", "cubic"}
        or coordinates in {"tf_crop_and_resize", "tf_half_pixel_for_nn"}
        or call.attr("antialias", 0)
        or call.attr("keep_aspect_ratio_policy", "stretch") != "stretch"
    ):
        raise call.refuse(
            f"resizing other than nearest, linear or cubic, stretched, without antialiasing ({method}, {coordinates})"
        )
    cubic = {}
    if method == "cubic":
        excluded = bool(call.attr("exclude_outside", 0))
        cubic = {"cubic": float(call.attr("cubic_coeff_a", -0.75)), "exclude_outside": excluded}
    first, second = call.shape(view)
    axes = call.attr("axes", tuple(range(rank)))
    scales = call.constant(2 if call.version >= 11 and call.node.op_type == "Resize" else 1, "scales")
    sizes_of, scale_of = [None] * rank, [1.0] * rank
    if scales is not None and scales.size:
        wanted = {axis % rank: float(scale) for axis, scale in zip(axes, scales, strict=True)}
        # The product in float32, as runtimes take it: 9 times float32(5/3) is 15 there, less in float64.
        targets = {axis: (int(np.float32(first[axis]) * np.float32(s)), s) for axis, s in wanted.items()}
    else:
        sizes = call.constants(3)
        own, targets = call.own_shape(view), {}
        for axis, size, other in zip((k % rank for k in axes), *sizes, strict=True):
            whole = (first[axis], second[axis]) if size != other else (own[axis],) * 2
            if (int(size), int(other)) != whole:
                if size != other:
                    raise call.refuse("a size that depends on the batch size")
                call.refuse_batch(view, [axis], "resizing of the batch dimension")
                targets[axis] = int(size), int(size) / first[axis]
    for axis, (size, scale) in targets.items():
        if size != first[axis] or scale != 1.0:
            if first[axis] != second[axis]:
                raise call.refuse("resizing of the batch dimension")
            sizes_of[view.axes[axis]], scale_of[view.axes[axis]] = size, scale
    # Operator sets before 11 do not say how nearest rounds; in ONNX Runtime each axis goes by its own scale.
    by_axis = call.version < 11 and method == "nearest"
    roundings = [("ceil" if scale < 1 else "floor") if by_axis else rounding for scale in scale_of]
    for one in dict.fromkeys(r for r, size in zip(roundings, sizes_of, strict=True) if size is not None):
        mine = [r == one for r in roundings]
        view = call.emit(
            "resize",
            [view.tensor],
            view.axes,
            sizes=tuple(size if own else None for size, own in zip(sizes_of, mine, strict=True)),
            scales=tuple(scale if own else 1.0 for scale, own in zip(scale_of, mine, strict=True)),
            method=method,
            coordinates=coordinates,
            rounding=one,
            **cubic,
        )
    return view


@handler("PRelu")
def _prelu(call: Call) -> View:
    view, slope = call.view(), call.weight(1)
    return call.emit("prelu", [view.tensor], view.axes, {"slope": stored_constant(slope, view)})
