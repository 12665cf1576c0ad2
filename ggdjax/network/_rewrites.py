"""Rewrites of a network that leave what it computes as it is, up to float32 rounding.

The importers end with `simplify`; `fold_batch_norm` is a step of its own, since it changes the weights.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import jax
import numpy as np

from ggdjax._errors import expect
from ggdjax.network._graph import Node
from ggdjax.network._network import Network
from ggdjax.network._ops import QUANTIZABLE, STATISTICS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ggdjax.network._graph import Graph


#: What is added to channels and differs by more masks some of them.
_FAR = 1e4


class _Edit:
    """A network taken apart for editing. Names of tensors stay, so that their shapes stay known."""

    def __init__(self, net: Network) -> None:
        self.graph = net.graph
        self.params = dict(net.params)

    def replace(self, old: Node, new: Node) -> None:
        """Put ``new`` in the place of ``old``."""
        self.graph = replace(self.graph, nodes=tuple(new if node is old else node for node in self.graph.nodes))

    def merge(self, node: Node, after: Node, merged: Node) -> None:
        """Put ``merged`` in the place of ``node``, and drop ``after``."""
        self.graph = replace(self.graph, nodes=tuple(other for other in self.graph.nodes if other is not after))
        self.replace(node, merged)

    def set_param(self, node: Node, role: str, value: np.ndarray) -> str:
        """Store a parameter of ``node`` and return its key."""
        key = f"{node.name}/{role}"
        self.params[key] = jax.device_put(np.asarray(value, np.float32))
        return key

    def value(self, node: Node, role: str) -> np.ndarray | None:
        """Return a parameter in float64; None where the node has none."""
        key = node.param(role)
        return None if key is None else np.asarray(self.params[key], np.float64)

    def finish(self) -> Network:
        """Return the network without nodes, shapes and parameters that nothing needs."""
        graph = self.graph.without_dead_nodes()
        keys = dict.fromkeys(key for node in graph.nodes for _, key in node.params)
        return Network(graph=graph, params={key: self.params[key] for key in keys})


def simplify(net: Network) -> Network:
    """Return the network with dead nodes dropped, activations fused, padding and biases absorbed.

    Nodes that compute the same are one. Padding in front of a convolution or maximum becomes its own, so
    that the feature map that enters it holds no padding; a constant addition behind a convolution or dense node
    without a bias becomes its bias; runs of scalings and shifts per channel become one `affine` node.
    """
    expect("net", net, "Network")
    for rewrite in (_share, _fuse_activations, _merge_affine, _absorb_padding, _absorb_bias):
        net = rewrite(net)
    return net


def fold_batch_norm(net: Network) -> Network:
    """Return the network with scalings and shifts per channel folded into the node before them.

    Batch normalization in inference is y·scale + offset, so kernel' = kernel·scale and bias' = bias·scale +
    offset (Jacob et al. 2018, eq. 14), computed in float64. A normalization that does not follow such a node
    directly, or whose input something else reads too, stays. The statistics of its result, which
    `ggdjax.calibrate_without_data` reads, are dropped.
    """
    expect("net", net, "Network")
    edit = _Edit(net)
    for node in edit.graph.nodes:
        while node.op in QUANTIZABLE and (after := edit.graph.only_reader(node.output)) is not None:
            parts = _as_affine(edit, after)
            if parts is None:
                break
            scale, offset = parts
            bias = edit.value(node, "bias")
            kernel = edit.set_param(node, "kernel", edit.value(node, "kernel") * scale)
            bias = edit.set_param(node, "bias", offset if bias is None else bias * scale + offset)
            folded = replace(node.with_params(kernel=kernel, bias=bias), output=after.output)
            edit.merge(node, after, folded)
            node = folded  # noqa: PLW2901  (the next normalization may follow)
    for node in edit.graph.nodes:
        if node.op == "affine":
            params = tuple((role, key) for role, key in node.params if role not in STATISTICS)
            edit.replace(node, replace(node, params=params))
    return edit.finish()


def _as_affine(edit: _Edit, node: Node) -> tuple[np.ndarray, np.ndarray] | None:
    """Return (scale, offset) over the last axis if the node is a scaling and shift per channel; else None."""
    if node.op == "affine":
        return edit.value(node, "scale"), edit.value(node, "offset")
    constant = edit.value(node, "constant")
    channels = next(iter(edit.graph.shape(node.output)[-1:]), None)
    if node.op not in {"add", "sub", "mul", "div"} or constant is None or channels is None:
        return None
    if constant.size != 1 and constant.shape[-1] != constant.size:
        return None
    if edit.graph.shape(node.inputs[0]) != edit.graph.shape(node.output):
        return None
    # A mask is no bias: nothing else would be left of one with a number so far from the others.
    if node.op in {"add", "sub"} and not constant.max() - constant.min() < _FAR:
        return None
    return scale_and_offset(node, np.broadcast_to(constant.reshape(-1), (channels,)))


def scale_and_offset(node: Node, constant: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return what an addition, subtraction, product or quotient with a constant multiplies by and adds.

    None for a constant divided by the input, which is no such thing.
    """
    one, zero = np.ones(constant.shape), np.zeros(constant.shape)
    backwards = dict(node.attrs).get("reverse", False)
    match node.op:
        case "add":
            return one, constant
        case "sub":
            return (-one, constant) if backwards else (one, -constant)
        case "mul":
            return constant, zero
        case _:
            return None if backwards else (1 / constant, zero)


def _share(net: Network) -> Network:
    """Compute once what nodes without weights compute twice: `jax.nn.softmax` masks its input for each use of it."""
    edit = _Edit(net)
    seen: dict[tuple, list[Node]] = {}
    same: dict[str, str] = {}
    nodes = []
    for node in edit.graph.nodes:
        node = replace(node, inputs=tuple(same.get(tensor, tensor) for tensor in node.inputs))  # noqa: PLW2901
        alike = seen.setdefault((node.op, node.inputs, node.attrs, tuple(role for role, _ in node.params)), [])
        twin = None if node.op in QUANTIZABLE else next((n for n in alike if _same_numbers(net, n, node)), None)
        if twin is None or node.output in edit.graph.outputs:
            alike.append(node)
            nodes.append(node)
        else:
            same[node.output] = twin.output
    edit.graph = replace(edit.graph, nodes=tuple(nodes))
    return edit.finish()


def _same_numbers(net: Network, first: Node, second: Node) -> bool:
    pairs = [(net.params[a], net.params[b]) for (_, a), (_, b) in zip(first.params, second.params, strict=True)]
    return all(a.shape == b.shape and np.array_equal(a, b) for a, b in pairs)


def _merge_affine(net: Network) -> Network:
    edit = _Edit(net)
    for node in edit.graph.nodes:
        if node not in edit.graph.nodes:
            continue
        first = _as_affine(edit, node)
        while first is not None and (after := edit.graph.only_reader(node.output)) is not None:
            second = _as_affine(edit, after)
            if second is None:
                break
            scale, offset = first[0] * second[0], first[1] * second[0] + second[1]
            values = {"scale": scale, "offset": offset}
            if after.param("deviation") is not None:
                values |= {role: edit.value(after, role) for role in ("mean", "deviation")}
            elif node.param("deviation") is not None:
                mean, deviation = (edit.value(node, role) for role in ("mean", "deviation"))
                values |= {"mean": mean * second[0] + second[1], "deviation": deviation * np.abs(second[0])}
            params = tuple((role, edit.set_param(node, role, value)) for role, value in values.items())
            merged = replace(node, op="affine", output=after.output, attrs=(), params=params)
            edit.merge(node, after, merged)
            node, first = merged, (scale, offset)  # noqa: PLW2901  (the next one may follow)
    return edit.finish()


def _absorb_bias(net: Network) -> Network:
    edit = _Edit(net)
    for node in edit.graph.nodes:
        if node.op not in QUANTIZABLE or node.param("bias") is not None:
            continue
        after = edit.graph.only_reader(node.output)
        parts = None if after is None else _as_affine(edit, after)
        if parts is None or (parts[0] != 1).any():
            continue
        key = edit.set_param(node, "bias", parts[1])
        edit.merge(node, after, replace(node.with_params(bias=key), output=after.output))
    return edit.finish()


#: Operation -> whether it pads with a number itself; that of a maximum never wins.
_PADDED: dict[str, Callable[[float], bool]] = {
    "conv": lambda value: value == 0,
    "max_pool": lambda value: value <= float(np.finfo(np.float32).min),
}


def _absorb_padding(net: Network) -> Network:
    edit = _Edit(net)
    for node in edit.graph.nodes:
        before = edit.graph.producer(node.inputs[0])
        if node.op not in _PADDED or before is None or before.op != "pad":
            continue
        amounts = before.attr("padding")
        own = before.attr("mode") == "constant" and _PADDED[node.op](before.attr("value"))
        if not own or any(amounts[0]) or any(amounts[-1]) or min(map(min, amounts)) < 0:
            continue
        padding = tuple(
            (low + more[0], high + more[1])
            for (low, high), more in zip(node.attr("padding"), amounts[1:-1], strict=True)
        )
        # Other tools want a maximum to see more than padding.
        if node.op == "max_pool" and any(
            max(ends) >= size for ends, size in zip(padding, node.attr("window"), strict=True)
        ):
            continue
        edit.replace(node, replace(node.with_attrs(padding=padding), inputs=before.inputs))
    return edit.finish()


def _fuse_activations(net: Network) -> Network:
    """Name what files and traces spell out: relu, clip (ReLU6), silu, hard swish, softmax."""
    edit = _Edit(net)
    for node in edit.graph.nodes:
        for rule in (_bounded, _self_gated, _softmax):
            fused = rule(edit, node)
            if fused is not None:
                edit.replace(node, fused)
                break
    return edit.finish()


def _bounded(edit: _Edit, node: Node) -> Node | None:
    """Return the clip (or relu) that a maximum or minimum with a number is, joined with one before it."""
    constant = edit.value(node, "constant")
    if node.op in {"maximum", "minimum"} and constant is not None and constant.size == 1:
        bound = float(constant.reshape(()))
        low, high = (bound, None) if node.op == "maximum" else (None, bound)
    elif node.op == "clip":
        low, high = node.attr("low"), node.attr("high")
    else:
        return None
    before = edit.graph.producer(node.inputs[0])
    inputs = node.inputs
    if before is not None and edit.graph.only_reader(before.output) is not None and before.op in {"relu", "clip"}:
        inner = (0.0, None) if before.op == "relu" else (before.attr("low"), before.attr("high"))
        # clip(clip(x, a, ∞), −∞, b) is clip(x, a, b) where a ≤ b.
        if inner[1] is None and low is None and inner[0] is not None and inner[0] <= high:
            low, inputs = inner[0], before.inputs
    if low == 0 and high is None:
        return replace(node, op="relu", inputs=inputs, attrs=(), params=())
    return replace(node, op="clip", inputs=inputs, attrs=(("high", high), ("low", low)), params=())


def _self_gated(edit: _Edit, node: Node) -> Node | None:
    """Return x·sigmoid(x) as silu and x·hard_sigmoid(x; 1/6, 1/2) as hard swish."""
    if node.op != "mul" or len(node.inputs) != 2:
        return None
    for x, gate in (node.inputs, node.inputs[::-1]):
        source = edit.graph.producer(gate)
        if source is None or source.inputs != (x,):
            continue
        if source.op == "sigmoid":
            return replace(node, op="silu", inputs=(x,), attrs=(), params=())
        if source.op == "hard_sigmoid" and _is_hard_swish_gate(source):
            return replace(node, op="hard_swish", inputs=(x,), attrs=(), params=())
    return None


def _softmax(edit: _Edit, node: Node) -> Node | None:
    """Return exp(x − max x) / Σ exp(x − max x) as softmax; with or without the maximum."""
    if node.op != "div" or len(node.inputs) != 2:
        return None
    above, total = edit.graph.producer(node.inputs[0]), _unshaped(edit.graph, node.inputs[1])
    if above is None or above.op != "exp" or total is None or total.op != "sum":
        return None
    if total.inputs != (above.output,) and not _masked_twice(edit, above, total.inputs[0]):
        return None
    axes, shape = total.attr("axes"), edit.graph.shape(node.output)
    if edit.graph.shape(node.inputs[1]) != tuple(1 if k in axes else size for k, size in enumerate(shape)):
        return None
    source, shifted = above.inputs[0], edit.graph.producer(above.inputs[0])
    if shifted is not None and of_largest(edit.graph, shifted):
        source = shifted.inputs[0]
    return replace(node, op="softmax", inputs=(source,), attrs=(("axes", axes),), params=())


def of_largest(graph: Graph, node: Node) -> bool:
    """Return whether a node is x − max x."""
    if node.op != "sub" or len(node.inputs) != 2:
        return False
    largest = _unshaped(graph, node.inputs[1])
    return largest is not None and largest.op == "max" and largest.inputs == node.inputs[:1]


def _masked_twice(edit: _Edit, powers: Node, tensor: str) -> bool:
    """Return whether ``tensor`` is exp(x − max x) times 1, and times 0 where x is −∞ and it is 0 anyway."""
    product, shifted = edit.graph.producer(tensor), edit.graph.producer(powers.inputs[0])
    if product is None or product.op != "mul" or product.inputs != (powers.output,) or shifted is None:
        return False
    masking = edit.graph.producer(shifted.inputs[0]) if of_largest(edit.graph, shifted) else None
    if masking is None or masking.op != "add" or masking.param("constant") is None:
        return False
    kept, mask = edit.value(product, "constant"), edit.value(masking, "constant")
    return kept.shape == mask.shape and bool((kept == np.where(np.isneginf(mask), 0.0, 1.0)).all())


def _unshaped(graph: Graph, tensor: str) -> Node | None:
    """Return what makes ``tensor``, before it was given another shape."""
    node = graph.producer(tensor)
    while node is not None and node.op in {"reshape", "broadcast"}:
        node = graph.producer(node.inputs[0])
    return node


def _is_hard_swish_gate(node: Node) -> bool:
    found: Sequence[float] = (node.attr("alpha"), node.attr("beta"))
    return bool(np.allclose(found, (1 / 6, 1 / 2), rtol=1e-6))
