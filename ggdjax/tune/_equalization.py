"""Cross-layer equalization: rescale channels between two layers so that their weights share one range."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from ggdjax.network import Network, fold_batch_norm
from ggdjax.network._ops import QUANTIZABLE

if TYPE_CHECKING:
    from ggdjax.network import Graph, Node

#: What may lie between two equalized layers: f(s·x) = s·f(x) for every s > 0, channel by channel.
_HOMOGENEOUS = frozenset({"average_pool", "leaky_relu", "max_pool", "prelu", "relu"})
#: Limits per channel, which are scaled along.
_LIMITS = frozenset({"maximum", "minimum"})
#: Sweeps over all pairs; ranges of chains settle in a few (Nagel et al. 2019 iterate until they do).
_SWEEPS, _SETTLED = 20, 1e-4
#: A channel whose weights are below this part of the tensor's largest is dead: not even 16 bits hold them.
_DEAD = 2.0**-16
#: Largest scale: between ranges that 16 bits hold, eq. 11 asks for no more, a common factor of all channels aside.
_LARGEST_SCALE = 2.0**8
#: Range that is assumed of inputs nothing is known of: three standard deviations of normalized ones.
_INPUT_RANGE = (np.float64(-3.0), np.float64(3.0))


def equalize(net: Network) -> Network:
    """Return a network that computes the same, with the ranges of adjoining weights made equal channel by channel.

    M. Nagel, M. van Baalen, T. Blankevoort, M. Welling, "Data-Free Quantization Through Weight Equalization and Bias
    Correction", ICCV 2019. For two convolutions or dense layers joined by nothing but functions that commute with a
    positive scale (ReLU, leaky ReLU, max and average pooling, and limits such as ReLU6's, which become a limit per
    channel and are scaled along: ``min(x, c) / s = min(x / s, c / s)``, exactly), channel i
    of the first is divided by s_i and the second's input channel i multiplied by it, with eq. 11,
    ``s_i = sqrt(r1_i · r2_i) / r2_i``, so that both ranges become ``sqrt(r1_i · r2_i)``. Chains are swept until they
    settle.

    The feature map between them is part of the bargain: its range in channel i, estimated from bias and weights for
    normalized inputs, is divided by s_i too, and no s_i is so small that channel i sets the range of the whole feature
    map. So weak weights beside an ordinary bias are not scaled up for the bias to drown all others. Channels that are
    dead or nearly so on one side (weights below 2^-16 of the largest) keep their scale unless they would dominate a
    range. Scales stay within 2^-8 and 2^8. Of eq. 11, its square root and no
    change, each pair gets what such an estimate finds least noise behind.

    Batch normalization is folded first. Do it before calibration: feature maps between equalized layers change scale.
    """
    folded = fold_batch_norm(net)
    net = _limited_by_channel(folded)
    params = {key: np.asarray(value, np.float64) for key, value in net.params.items()}
    found, ranges = pairs(net.graph), _ranges(net.graph, params)
    limits = [[node for node in _between(net.graph, *pair) if node.op in _LIMITS] for pair in found]
    scales: list[Any] = [1.0] * len(found)
    for _ in range(_SWEEPS):
        largest = 0.0
        for i, (first, second) in enumerate(found):
            between = np.maximum(*np.abs(ranges[second.inputs[0]]))
            change = _equalize_pair(params, first, second, between, scales[i])
            for node in limits[i]:
                params[node.param("constant")] = params[node.param("constant")] / change
            scales[i] = scales[i] * change
            largest = max(largest, float(np.abs(np.log(change)).max()))
        if largest < _SETTLED:
            break
    if all(np.all(np.asarray(scale) == 1.0) for scale in scales):
        return folded
    return Network(graph=net.graph, params={key: jnp.asarray(value, jnp.float32) for key, value in params.items()})


def _limited_by_channel(net: Network) -> Network:
    """Return the network with every limit between two layers of a pair as one per channel: ReLU6 as ReLU and a minimum.

    All limits are the same numbers as before.
    """
    wanted = {node.name for pair in pairs(net.graph) for node in _between(net.graph, *pair) if node.op == "clip"}
    nodes, shapes, params = [], dict(net.graph.shapes), dict(net.params)
    for node in net.graph.nodes:
        if node.name not in wanted:
            nodes.append(node)
            continue
        shape, (source,) = net.graph.shape(node.output), node.inputs
        limits = [(op, limit) for op, limit in (("maximum", node.attr("low")), ("minimum", node.attr("high")))
                  if limit is not None]  # fmt: skip
        for k, (op, limit) in enumerate(limits, start=1):
            last = k == len(limits)
            output = node.output if last else f"{node.output}/{op}"
            if op == "maximum" and limit == 0:
                parts = {"op": "relu", "attrs": (), "params": ()}
            else:
                key = f"{output}/{op}"
                params[key] = jnp.full((*(1,) * (len(shape) - 1), shape[-1]), limit, jnp.float32)
                parts = {"op": op, "attrs": (), "params": (("constant", key),)}
            name = node.name if last else f"{node.name}/{op}"
            nodes.append(replace(node, name=name, inputs=(source,), output=output, **parts))
            shapes[output], source = shape, output
    graph = replace(net.graph, nodes=tuple(nodes), shapes=tuple(shapes.items()))
    return Network(graph=graph, params=params)


def _between(graph: Graph, first: Node, second: Node) -> tuple[Node, ...]:
    """Return the nodes between two layers of a pair, in order."""
    found, node = [], graph.only_reader(first.output)
    while node is not None and node.name != second.name:
        found.append(node)
        node = graph.only_reader(node.output)
    return tuple(found)


def _commutes(graph: Graph, node: Node) -> bool:
    """Whether a scale of each channel goes through a node, its limits scaled along."""
    if node.op == "clip":
        return isinstance(graph.shape(node.output)[-1], int)
    if node.op in _LIMITS:  # those of `_limited_by_channel`
        return node.param("constant") == f"{node.output}/{node.op}"
    return node.op in _HOMOGENEOUS


def pairs(graph: Graph) -> tuple[tuple[Node, Node], ...]:
    """Return the pairs of layers that can be equalized: the second alone reads what becomes of the first's output."""
    uses: dict[str, int] = {}
    for node in graph.nodes:
        for _, key in node.params:
            uses[key] = uses.get(key, 0) + 1
    found = []
    for first in graph.quantizable:
        second = graph.only_reader(first.output)
        while second is not None and _commutes(graph, second):
            second = graph.only_reader(second.output)
        if second is None or second.op not in QUANTIZABLE:
            continue
        nodes = (first, second, *(n for n in _between(graph, first, second) if n.op in _LIMITS))
        if all(uses[key] == 1 for node in nodes for _, key in node.params):
            found.append((first, second))
    return tuple(found)


def _equalize_pair(
    params: dict[str, np.ndarray], first: Node, second: Node, between: np.ndarray, so_far: Any
) -> np.ndarray:
    """Rescale one pair, scaled ``so_far`` already, in place; return what ``so_far`` is multiplied by."""
    kernel, after = params[first.param("kernel")], params[second.param("kernel")]
    groups = dict(second.attrs).get("groups", 1)
    # Input channel g·c + i of a grouped kernel (…, c, out) meets the outputs of group g only.
    grouped = after.reshape(-1, after.shape[-2], groups, after.shape[-1] // groups)
    range1 = np.abs(kernel).reshape(-1, kernel.shape[-1]).max(0)
    range2 = np.abs(grouped).max((0, 3)).T.reshape(-1)
    ranges = range1 * so_far, range2 / so_far, np.broadcast_to(between, range1.shape)
    full, inputs = _scale(*ranges), kernel.size // kernel.shape[-1]
    scale = min((full, np.sqrt(full), np.ones_like(full)), key=lambda s: _noise(s, *ranges, inputs)) / so_far
    params[first.param("kernel")] = kernel / scale
    if (bias := first.param("bias")) is not None:
        params[bias] = params[bias] / scale
    by_group = scale.reshape(groups, -1).T[None, :, :, None]
    params[second.param("kernel")] = (grouped * by_group).reshape(after.shape)
    return scale


def _noise(scale: np.ndarray, range1: np.ndarray, range2: np.ndarray, between: np.ndarray, inputs: int) -> float:
    """Return, up to a factor, the noise behind the pair from one step per tensor for weights and feature map."""
    step1, step2, step = (r.max() for r in (range1 / scale, range2 * scale, between / scale))
    behind = np.square(scale * range2).sum()
    return float((inputs * step1**2 + step**2) * behind + step2**2 * np.square(between / scale).sum())


def _scale(range1: np.ndarray, range2: np.ndarray, between: np.ndarray) -> np.ndarray:
    """Return what to divide each channel by, given the unscaled ranges of weights and of the feature map between."""
    live = (range1 > _DEAD * range1.max()) & (range2 > _DEAD * range2.max())
    if not live.any():
        return np.ones_like(range1)
    # Eq. 11: s = sqrt(r1 r2) / r2.
    scale = np.sqrt(np.divide(range1, range2, out=np.ones_like(range1), where=live))
    typical = np.exp(np.log(scale[live]).mean())
    tiny = np.finfo(np.float64).tiny
    scale = np.maximum(scale, between * typical / max(between.max(), tiny))
    scale = np.clip(scale, 1 / _LARGEST_SCALE, _LARGEST_SCALE)
    # A dead channel that kept its scale where all others change would set a range.
    least = np.maximum(*(r / max((r / scale)[live].max(), tiny) for r in (range1, between)))
    most = (range2 * scale)[live].max() / np.maximum(range2, tiny)
    kept = np.where(least <= most, np.clip(1.0, least, np.maximum(least, most)), typical)
    return np.where(live, scale, np.clip(kept, 1 / _LARGEST_SCALE, _LARGEST_SCALE))


def _ranges(graph: Graph, params: dict[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return an estimate of every tensor's lowest and highest value, one for all or per channel.

    A sum of weighted inputs reaches its bias ± the root of the summed squares, as independent normal ones do.
    """
    ranges: dict[str, Any] = {}
    for node in graph.nodes:
        low, high = ranges.get(node.inputs[0], _INPUT_RANGE)
        if node.op in QUANTIZABLE:
            kernel = params[node.param("kernel")]
            groups = dict(node.attrs).get("groups", 1)
            largest = np.broadcast_to(np.maximum(np.abs(low), np.abs(high)), (groups * kernel.shape[-2],))
            by_output = np.repeat(largest.reshape(groups, -1).T, kernel.shape[-1] // groups, axis=1)
            spread = np.sqrt(np.square(kernel * by_output).reshape(-1, kernel.shape[-1]).sum(0))
            bias = 0.0 if node.param("bias") is None else params[node.param("bias")]
            ranges[node.output] = bias - spread, bias + spread
        elif node.op == "relu":
            ranges[node.output] = np.maximum(low, 0.0), np.maximum(high, 0.0)
        elif node.param("constant") == f"{node.output}/{node.op}":
            limit = params[node.param("constant")].reshape(-1)
            function = np.maximum if node.op == "maximum" else np.minimum
            ranges[node.output] = function(low, limit), function(high, limit)
        elif node.op in _HOMOGENEOUS:
            ranges[node.output] = low, high
        else:
            ranges[node.output] = _INPUT_RANGE
    return ranges
