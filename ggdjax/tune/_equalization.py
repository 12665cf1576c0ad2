"""Cross-layer equalization: rescale channels between two layers so that their weights share one range."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from ggdjax.network import Network, fold_batch_norm
from ggdjax.network._ops import QUANTIZABLE

if TYPE_CHECKING:
    from ggdjax.network import Graph, Node

#: What may lie between two equalized layers: f(s·x) = s·f(x) for every s > 0, channel by channel.
_HOMOGENEOUS = frozenset({"average_pool", "leaky_relu", "max_pool", "prelu", "relu"})
#: Sweeps over all pairs; ranges of chains settle in a few (Nagel et al. 2019 iterate until they do).
_SWEEPS, _SETTLED = 20, 1e-4


def equalize(net: Network) -> Network:
    """Return a network that computes the same, with the ranges of adjoining weights made equal channel by channel.

    M. Nagel, M. van Baalen, T. Blankevoort, M. Welling, "Data-Free Quantization Through Weight Equalization and Bias
    Correction", ICCV 2019. For two convolutions or dense layers joined by nothing but functions that commute with a
    positive scale (ReLU, leaky ReLU, max and average pooling; not ReLU6, whose bound does not scale along), channel i
    of the first is divided by s_i and the second's input channel i multiplied by it, with eq. 11,
    ``s_i = sqrt(r1_i · r2_i) / r2_i``, so that both ranges become ``sqrt(r1_i · r2_i)``. Chains are swept until they
    settle. Channels without weights on one side stay.

    Batch normalization is folded first. Do it before calibration: feature maps between equalized layers change scale.
    """
    net = fold_batch_norm(net)
    params = {key: np.asarray(value, np.float64) for key, value in net.params.items()}
    found = pairs(net.graph)
    for _ in range(_SWEEPS):
        largest = max([_equalize_pair(params, *pair) for pair in found], default=0.0)
        if largest < _SETTLED:
            break
    return Network(graph=net.graph, params={key: jnp.asarray(value, jnp.float32) for key, value in params.items()})


def pairs(graph: Graph) -> tuple[tuple[Node, Node], ...]:
    """Return the pairs of layers that can be equalized: the second alone reads what becomes of the first's output."""
    uses: dict[str, int] = {}
    for node in graph.nodes:
        for _, key in node.params:
            uses[key] = uses.get(key, 0) + 1
    found = []
    for first in graph.quantizable:
        second = graph.only_reader(first.output)
        while second is not None and second.op in _HOMOGENEOUS:
            second = graph.only_reader(second.output)
        if second is None or second.op not in QUANTIZABLE:
            continue
        if all(uses[key] == 1 for node in (first, second) for _, key in node.params):
            found.append((first, second))
    return tuple(found)


def _equalize_pair(params: dict[str, np.ndarray], first: Node, second: Node) -> float:
    """Rescale one pair in place; return the largest change, as a logarithm."""
    kernel, after = params[first.param("kernel")], params[second.param("kernel")]
    groups = dict(second.attrs).get("groups", 1)
    # Input channel g·c + i of a grouped kernel (…, c, out) meets the outputs of group g only.
    grouped = after.reshape(-1, after.shape[-2], groups, after.shape[-1] // groups)
    range1 = np.abs(kernel).reshape(-1, kernel.shape[-1]).max(0)
    range2 = np.abs(grouped).max((0, 3)).T.reshape(-1)
    usable = (range1 > 0) & (range2 > 0)
    # Eq. 11: s = sqrt(r1 r2) / r2.
    scale = np.sqrt(np.divide(range1, range2, out=np.ones_like(range1), where=usable))
    params[first.param("kernel")] = kernel / scale
    if (bias := first.param("bias")) is not None:
        params[bias] = params[bias] / scale
    by_group = scale.reshape(groups, -1).T[None, :, :, None]
    params[second.param("kernel")] = (grouped * by_group).reshape(after.shape)
    return float(np.abs(np.log(scale)).max())
