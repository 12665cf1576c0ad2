"""Calibration without images: distributions of feature maps from what batch normalization remembers of its training.

Behind batch normalization a channel has mean β and standard deviation |γ| over the training images (Nagel et al. 2019,
"Data-Free Quantization", section 4.2, who take β ± 6γ for the range). Here every channel of every tensor is a quantile
function at fixed levels; activation functions are applied to it value by value, and a feature map is the mixture over
its channels.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.special import log_ndtr, ndtr, ndtri

from ggdjax._errors import GgdjaxError, UnsupportedError, expect
from ggdjax.ggd import Histogram
from ggdjax.network import fold_batch_norm
from ggdjax.network._ops import ELEMENTWISE, OPS
from ggdjax.quantization._calibration import Calibration, limits_of
from ggdjax.quantization._limits import is_input
from ggdjax.quantization._observing import tensors_with_ranges

if TYPE_CHECKING:
    from ggdjax.data import Preprocessing
    from ggdjax.network import Graph, Network, Node

#: Levels of the quantile functions are Φ(z); DFQ's range ends at 6 standard deviations too.
_ENDS, _NODES, _COARSER = 6.0, 961, 8
#: Values of a feature map that the histogram stands for: its last bins hold 1e-9 of them.
_VALUES = 2.0**40
#: Pixels of natural images, as a share of full scale: a Gaussian of this mean and deviation, limited to [0, 1].
PIXEL_MEAN, PIXEL_DEVIATION = 0.45, 0.25

#: Quantile functions, one per channel of a tensor's last axis; one row where all channels share it.
Quantiles = Float[np.ndarray, "_chan _level"]


def _levels(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ``count`` standard normal values of equal distance, and the probability around each."""
    z = np.linspace(-_ENDS, _ENDS, count)
    inner = ndtr((z[1:] + z[:-1]) / 2)
    return z, np.diff(inner, prepend=0.0, append=1.0)


_Z, _WEIGHTS = _levels(_NODES)


def calibrate_without_data(
    net: Network, *, preprocessing: Preprocessing | None = None, per_channel: bool = False
) -> Calibration:
    """Return a calibration from batch normalization alone, for `ggdjax.quantize`; no image is read.

    A channel behind batch normalization is Gaussian, its mean β and its deviation the size of γ. Activation functions
    act on it exactly. Elsewhere independence is assumed: a convolution without batch normalization sums means, and
    variances with squared weights; the summands of an addition and the values of a maximum are independent. An average
    of n values has the variance of √n independent ones: neighbours are alike.

    Args:
        net: a network with its batch normalization, as ``load_onnx`` and ``trace`` return it: not folded.
        preprocessing: says what pixels become as inputs; without it inputs have mean 0 and standard deviation 1.
        per_channel: also give every channel of every feature map by itself.

    Returns:
        A calibration of 0 images. Each histogram stands for 2^40 values; extremes and ranges are at 6 standard
        deviations of the widest channel.

    Raises:
        GgdjaxError: no batch normalization is left in ``net``, or none was recognized.
        UnsupportedError: an operation whose result has no distribution here (named).

    Example:
        >>> net = gd.trace(gd.zoo.digits_net(), jnp.zeros((1, 8, 8, 1)))
        >>> q = gd.quantize(net, gd.calibrate_without_data(net))
        >>> q.record.calibration.images
        0
    """
    expect("net", net, "Network")
    if preprocessing is not None:
        expect("preprocessing", preprocessing, "Preprocessing")
    check_statistics(net)
    found = _Distributions(net, preprocessing).tensors
    folded = fold_batch_norm(net)
    graph = folded.graph
    names = tuple(feature_map.tensor for feature_map in graph.feature_maps())
    by_channel = {name: _histograms(_of_all_channels(graph, name, found[name])) for name in names if per_channel}
    return Calibration(
        names=names,
        histograms=Histogram.stack([_mixture_histogram(found[name]) for name in names]),
        images=0,
        channels=by_channel if per_channel else None,
        limits=limits_of(folded, names, preprocessing),
        inputs=tuple(name for name in names if is_input(graph, name)),
        ranges={name: (found[name].min().item(), found[name].max().item()) for name in tensors_with_ranges(graph)},
    )


def check_statistics(net: Network) -> None:
    """Raise `GgdjaxError` where no batch normalization tells anything."""
    if all(node.param("deviation") is None for node in net.graph.nodes):
        raise GgdjaxError(
            "`net` holds no batch normalization to take statistics from (its file has it folded into the convolutions, "
            "or never had any): calibrate on images, one is enough to begin with"
        )


# ------------------------------------------------------------------------------------------------- the histograms


def _mixture_histogram(quantiles: Quantiles) -> Histogram:
    each = _histograms(quantiles)
    counts, zeros = (np.rint(leaf.mean(0)).astype(np.int64) for leaf in (each.counts, each.zeros))
    return Histogram(counts=counts, zeros=zeros, minimum=each.minimum.min(), maximum=each.maximum.max())


def _histograms(quantiles: Quantiles) -> Histogram:
    """Return a histogram per channel, on levels 8 times as fine: bins are narrower than the values are apart.

    Their number is even: none is the median, which is exactly 0 where β is.
    """
    z, weights = _levels(8 * (_NODES - 1))
    counts = np.zeros((len(quantiles), 1 << 16), np.int64)
    zeros = np.zeros(len(quantiles), np.int64)
    for chan, row in enumerate(quantiles):
        values = np.interp(z, _Z, row).astype(np.float32)
        zero = values == 0
        bins = values[~zero].view(np.uint32) >> 16
        counts[chan] = np.rint(_VALUES * np.bincount(bins, weights[~zero], 1 << 16))
        zeros[chan] = np.rint(_VALUES * weights[zero].sum())
    extremes = (quantiles.min(1).astype(np.float32), quantiles.max(1).astype(np.float32))
    return Histogram(counts=counts, zeros=zeros, minimum=extremes[0], maximum=extremes[1])


def _of_all_channels(graph: Graph, name: str, quantiles: Quantiles) -> Quantiles:
    return np.broadcast_to(quantiles, (graph.shape(name)[-1] or 1, _NODES))


# ----------------------------------------------------------------------------------------------- the distributions


class _Distributions:
    """Walks a network once; ``tensors`` has the quantile functions of every tensor."""

    def __init__(self, net: Network, preprocessing: Preprocessing | None) -> None:
        self.net, self.graph = net, net.graph
        self.pixels = _pixels(preprocessing)
        first = preprocessing is not None and preprocessing.layout == "NCHW"
        self.input = _mixture(self.pixels) if first else self.pixels
        self.tensors: dict[str, Quantiles] = dict.fromkeys(self.graph.inputs, self.input)
        self._together: set[Node] = set()
        for node in self.graph.nodes:
            params = {role: np.asarray(net.params[key], np.float64) for role, key in node.params}
            inputs = [self.tensors[name] for name in node.inputs]
            self.tensors[node.output] = np.asarray(self._result(node, params, inputs), np.float64)

    def _result(self, node: Node, params: dict[str, np.ndarray], inputs: list[Quantiles]) -> Quantiles:
        x = inputs[0]
        match node.op:
            case "affine" if "deviation" in params:
                return params["mean"][:, None] + params["deviation"][:, None] * _Z
            case "conv" | "dense":
                return self._layer(node, params, x)
            case op if op in ELEMENTWISE or op == "round_to_grid":
                return self._elementwise(node, params, inputs)
            case "max_pool":
                return _largest(x, math.prod(node.attr("window")))
            case "average_pool":
                return _averaged(x, math.prod(node.attr("window")))
            case "mean" | "sum" | "max":
                return self._reduced(node, x)
            case "softmax":
                return self._softmax(node, x)
            case "concat":
                return self._joined(node, inputs)
            case "reshape" | "transpose" | "slice" | "gather" | "pad" | "broadcast" | "resize":
                return self._moved(node, x)
        raise UnsupportedError(
            f"no distribution without images behind `{node.op}` (node `{node.name}`): calibrate on images, or on "
            "those of `gd.distill_images`"
        )

    def _layer(self, node: Node, params: dict[str, np.ndarray], x: Quantiles) -> Quantiles:
        """Return Gaussians with the summed means and variances: many summands, taken as independent."""
        kernel = params["kernel"]
        *_, chan_in, chan_out = kernel.shape
        groups = node.attr("groups") if node.op == "conv" else 1
        # Of a transposed convolution's window, one value in so many is no zero.
        share = 1 / math.prod(dict(node.attrs).get("input_dilation", (1,)))
        moments = []
        for factors, moment in ((kernel, x @ _WEIGHTS), (kernel**2, _variance(x))):
            summed = factors.reshape(-1, chan_in, groups, chan_out // groups).sum(0)
            by_group = np.broadcast_to(moment, (chan_in * groups,)).reshape(groups, chan_in)
            moments.append(share * np.einsum("gi,igo->go", by_group, summed).reshape(-1))
        mean = moments[0] + params.get("bias", 0.0)
        return mean[:, None] + np.sqrt(moments[1])[:, None] * _Z

    def _elementwise(self, node: Node, params: dict[str, np.ndarray], inputs: list[Quantiles]) -> Quantiles:
        # A constant that differs between positions counts with its average.
        params = {role: value.reshape(-1, np.shape(value)[-1]).mean(0) for role, value in params.items() if value.ndim}

        def function(*values: np.ndarray) -> np.ndarray:
            given = [jnp.asarray(np.moveaxis(value, 0, -1), jnp.float32) for value in values]
            roles = {role: jnp.asarray(value, jnp.float32) for role, value in params.items()}
            return np.moveaxis(np.asarray(OPS[node.op](*given, **roles, **dict(node.attrs)), np.float64), -1, 0)

        def keeps_levels(one: Node) -> bool:
            alone = len(one.inputs) == 1 and one.op in ELEMENTWISE and one.param("deviation") is None
            return alone or one in self._together

        if len(inputs) == 1 or self.graph.common_root(node, keeps_levels) is not None:
            self._together.add(node)
            return function(*inputs)
        if len(inputs) > 2:
            raise UnsupportedError(
                f"no distribution without images behind `{node.op}` of {len(inputs)} tensors (node `{node.name}`): "
                "calibrate on images, or on those of `gd.distill_images`"
            )
        return _of_two(function, *inputs)

    def _reduced(self, node: Node, x: Quantiles) -> Quantiles:
        shape = self.graph.shape(node.inputs[0])
        axes = [axis % len(shape) for axis in node.attr("axes")]
        count = math.prod(shape[axis] or 1 for axis in axes)
        x = _mixture(x) if len(shape) - 1 in axes else x
        if node.op == "max":
            return _largest(x, count)
        return _averaged(x, count) * (count if node.op == "sum" else 1)

    def _softmax(self, node: Node, x: Quantiles) -> Quantiles:
        """Return exp(x) over the expected sum, at most 1."""
        shape = self.graph.shape(node.inputs[0])
        size = math.prod(shape[axis] or 1 for axis in node.attr("axes"))
        powers = np.exp(x - x.max())
        return np.minimum(powers / (size * np.mean(powers @ _WEIGHTS)), 1.0)

    def _joined(self, node: Node, inputs: list[Quantiles]) -> Quantiles:
        rank = len(self.graph.shape(node.output))
        whole = [_of_all_channels(self.graph, name, x) for name, x in zip(node.inputs, inputs, strict=True)]
        if node.attr("axis") % rank == rank - 1:
            return np.concatenate(whole)
        return _sorted(np.concatenate(whole, axis=1), np.tile(_WEIGHTS, len(whole)) / len(whole))

    def _moved(self, node: Node, x: Quantiles) -> Quantiles:
        before, after = (self.graph.shape(name) for name in (node.inputs[0], node.output))
        last = len(before) - 1
        match node.op:
            case "transpose" if node.attr("axes")[-1] != last:
                # Channels first is how files have their input.
                if node.inputs[0] in self.graph.inputs and node.attr("axes")[-1] == 1:
                    return self.pixels
                return _mixture(x)
            case "gather" if len(x) > 1 and node.attr("axis") == last:
                return x[list(node.attr("indices"))]
            case "slice" if len(x) > 1:
                return x[slice(*node.attr("slices")[-1])]
            case "pad" if any(node.attr("padding")[-1]):
                low, high = node.attr("padding")[-1]
                x = _of_all_channels(self.graph, node.inputs[0], x)[max(-low, 0) : (before[-1] or 1) - max(-high, 0)]
                fill = node.attr("value") if node.attr("mode") == "constant" else 0.0
                return np.pad(x, ((max(low, 0), max(high, 0)), (0, 0)), constant_values=fill)
            case "reshape" if len(x) > 1 and before[-1] != after[-1]:
                joins = after[-1] is not None and after[-1] % len(x) == 0
                return np.tile(x, (after[-1] // len(x), 1)) if joins else _mixture(x)
        return x


def _pixels(preprocessing: Preprocessing | None) -> Quantiles:
    """Return the input's channels: pixels as the preprocessing leaves them, or standard normal values."""
    if preprocessing is None:
        return _Z[None]
    pixel = np.clip(PIXEL_MEAN + PIXEL_DEVIATION * _Z, 0.0, 1.0) * 255 * preprocessing.scale
    mean, std = (np.asarray(value)[:, None] for value in (preprocessing.mean, preprocessing.std))
    return (pixel - mean) / std


def _variance(x: Quantiles) -> np.ndarray:
    mean = x @ _WEIGHTS
    return np.maximum((x - mean[:, None]) ** 2 @ _WEIGHTS, 0.0)


def _averaged(x: Quantiles, count: int) -> Quantiles:
    """Return averages of ``count`` values, of which √count are independent: same shape, narrower."""
    mean = (x @ _WEIGHTS)[:, None]
    return mean + (x - mean) / count**0.25


def _largest(x: Quantiles, count: int) -> Quantiles:
    """Return maxima of ``count`` independent values: P(max ≤ x) = P(x)^count."""
    x = _sorted(x, _WEIGHTS)
    upper = -np.expm1(log_ndtr(_Z) / count)
    return np.stack([np.interp(-ndtri(upper), _Z, row) for row in x])


def _mixture(x: Quantiles) -> Quantiles:
    """Return one distribution: that of all channels."""
    return x if len(x) == 1 else _sorted(x.reshape(1, -1), np.tile(_WEIGHTS, len(x)) / len(x))


def _of_two(function: Any, x: Quantiles, y: Quantiles) -> Quantiles:
    """Return a function of two independent values, channel by channel, from all pairs on coarser levels."""
    _, weights = _levels((_NODES - 1) // _COARSER + 1)
    x, y = np.broadcast_arrays(x[:, ::_COARSER], y[:, ::_COARSER])
    count = x.shape[1]
    values = function(np.repeat(x, count, axis=1), np.tile(y, count))
    return _sorted(values, np.outer(weights, weights).reshape(-1))


def _sorted(values: Float[np.ndarray, "chan atom"], weights: Float[np.ndarray, " atom"]) -> Quantiles:
    """Return the quantile functions of weighted values."""
    rows = []
    for row in values:
        order = np.argsort(row, kind="stable")
        above = np.cumsum(weights[order][::-1])[::-1] - weights[order] / 2
        below = np.cumsum(weights[order]) - weights[order] / 2
        # Both tails keep their digits: near 1 a probability has none left.
        z = np.where(below < 0.5, ndtri(np.maximum(below, 0)), -ndtri(np.clip(above, 0, 1)))
        rows.append(np.interp(_Z, z, row[order]))
    return np.stack(rows)
