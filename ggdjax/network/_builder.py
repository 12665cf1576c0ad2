"""Building a graph node by node: names, shapes at two batch sizes, and lazy transposes.

Both importers speak of tensors in the model's own order of axes. The builder keeps each tensor in one
stored order and hands out views: a tensor and the permutation that leads from its own order to the model's. A
transpose in the model only changes a view; a node that needs a certain order (channels last for everything
spatial) asks for it, and only then, and only once, a transpose enters the graph. So no pair of cancelling
transposes is ever built.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from ggdjax._errors import GgdjaxError, ModelError, UnsupportedError
from ggdjax.network._graph import Graph, Node, infer_shape, merge_probes
from ggdjax.network._network import Network, device_params

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

Probes = tuple[tuple[int, ...], tuple[int, ...]]

#: Operations whose constants may be infinite: −∞ stands for "never" before a softmax or a maximum.
_MASKING = frozenset({"add", "sub", "select", "maximum", "minimum"})


@dataclass(frozen=True)
class View:
    """A stored tensor in the model's order of axes: axis i of the model is axis ``axes[i]`` of the tensor."""

    tensor: str
    axes: tuple[int, ...]

    def permute(self, order: Sequence[int]) -> View:
        """Return the view whose axis i is axis ``order[i]`` of this one."""
        return View(self.tensor, tuple(self.axes[k] for k in order))


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Values of a quantized tensor: ``scale · (q − zero_point)`` with integers q in [low, high].

    ``scale`` and ``zero_point`` are scalars, or hold one value per output channel.
    """

    scale: np.ndarray
    zero_point: np.ndarray
    low: int
    high: int


class Constant:
    """A value that depends at most on the batch size; held at both probed batch sizes.

    ``label`` names where it comes from (the path of a module's parameter), for the names of nodes; ``grid`` the
    integers that it was dequantized from; ``positional`` says that it was computed from positions in the batch.
    ``spread`` is (power, gain) of a value that is gain · σ^power, σ a standard deviation and power 1 or −1: the factor
    and the divisor of batch normalization.
    """

    def __init__(
        self,
        first: np.ndarray,
        second: np.ndarray | None = None,
        label: str | None = None,
        grid: Grid | None = None,
        positional: bool = False,
        spread: tuple[int, np.ndarray] | None = None,
    ) -> None:
        same = second is None or (first.shape == second.shape and np.array_equal(first, second))
        self.probes = (first, first if same else second)
        self.label = label
        self.grid = grid
        self.positional = positional
        self.spread = spread

    @property
    def is_static(self) -> bool:
        """Whether the value is the same for every batch size."""
        return self.probes[0] is self.probes[1]


class Comparison:
    """A view compared with a number, for `where`: x > threshold or, where not ``strict``, x ≥ threshold.

    ``equal``: x = threshold instead. ``positive``: whether it is this that is asked, not its contrary.
    """

    def __init__(
        self, view: View, *, threshold: float, strict: bool = False, positive: bool = True, equal: bool = False
    ) -> None:
        self.view = view
        self.threshold, self.strict, self.positive, self.equal = threshold, strict, positive, equal

    def of(self, view: View) -> Comparison:
        """Return the same comparison of another view."""
        return self._with(view, positive=self.positive)

    def contrary(self) -> Comparison:
        """Return what holds where this does not."""
        return self._with(self.view, positive=not self.positive)

    def _with(self, view: View, *, positive: bool) -> Comparison:
        return Comparison(view, threshold=self.threshold, strict=self.strict, positive=positive, equal=self.equal)


def channels_last(rank: int) -> tuple[int, ...]:
    """Return the order that stores a channels-first tensor channels last: axis i at the i-th entry."""
    return (0, rank - 1, *range(1, rank - 1)) if rank > 1 else tuple(range(rank))


def common_order(views: Sequence[View]) -> tuple[int, ...]:
    """Return the order in which to store operands of one rank: the first that is not the model's own."""
    own = tuple(range(len(views[0].axes)))
    return next((view.axes for view in views if view.axes != own), own)


def stored_constant(value: np.ndarray, view: View) -> np.ndarray:
    """Return a constant in the model's order of axes (or of its last axes) in the order that ``view`` is stored in."""
    rank = len(view.axes)
    value = value.reshape((1,) * (rank - value.ndim) + value.shape)
    return value.transpose(sorted(range(rank), key=view.axes.__getitem__))


def without_repeats(value: np.ndarray, kept: Sequence[int] = ()) -> np.ndarray:
    """Return a constant with size 1 along the axes on which it only repeats a value, except those ``kept``."""
    for axis, size in enumerate(value.shape):
        first = value.take([0], axis)
        if size > 1 and axis not in kept and (value == first).all():
            value = first
    return value


class GraphBuilder:
    """Collects nodes, parameters and shapes; `finish` makes the network of them."""

    def __init__(self) -> None:
        #: By the tensor that each produces, in order.
        self._nodes: dict[str, Node] = {}
        self._params: dict[str, np.ndarray] = {}
        self._inputs: list[str] = []
        self._shapes: dict[str, Probes] = {}
        self._names: set[str] = set()
        self._stored: dict[tuple[str, tuple[int, ...]], str] = {}
        #: Scale and zero point of the tensors that stand for integers.
        self.quantized: dict[str, tuple[float, int]] = {}

    def add_input(self, name: str, probes: Probes) -> View:
        """Declare an input of the network with its shape at each probed batch size."""
        self._inputs.append(name)
        self._shapes[name] = probes
        return View(name, tuple(range(len(probes[0]))))

    def emit(
        self,
        op: str,
        inputs: Sequence[str],
        *,
        name: str,
        output: str | None = None,
        attrs: dict[str, Any] | None = None,
        params: dict[str, np.ndarray] | None = None,
    ) -> str:
        """Append a node and return the name of its output tensor; names that are taken get a number."""
        name = self._unique(name, self._names)
        output = self._unique(output or name, self._shapes)
        keys = {}
        for role, value in (params or {}).items():
            keys[role] = f"{name}/{role}"
            self._params[keys[role]] = np.asarray(value, np.float32)
            array = self._params[keys[role]]
            if np.isnan(array).any() or (op not in _MASKING and np.isinf(array).any()):
                raise ModelError(f"`{keys[role]}` holds NaN or infinity: repair the model")
        node = Node(
            name=name,
            op=op,
            inputs=tuple(inputs),
            output=output,
            attrs=tuple(sorted((attrs or {}).items())),
            params=tuple(keys.items()),
        )
        self._shapes[output] = self._infer(node)
        if merge_probes(*self._shapes[output]).count(None) > 1:
            raise UnsupportedError(
                f"unsupported: node `{node.name}` ({op}) mixes the images of a batch with each other"
            )
        self._names.add(name)
        self._nodes[output] = node
        return output

    def _infer(self, node: Node) -> Probes:
        param_shapes = {key: self._params[key].shape for _, key in node.params}
        shapes = []
        for probe in (0, 1):
            inputs = [self._shapes[tensor][probe] for tensor in node.inputs]
            if shapes and inputs == [self._shapes[tensor][0] for tensor in node.inputs]:
                return (shapes[0], shapes[0])
            try:
                shapes.append(infer_shape(node, param_shapes, *inputs))
            except GgdjaxError:
                raise
            except Exception as error:
                reason = str(error).splitlines()[0]
                raise ModelError(
                    f"node `{node.name}` ({node.op}) does not accept inputs of shape {inputs}: {reason}"
                ) from error
        return (shapes[0], shapes[1])

    def stored(self, view: View, axes: Sequence[int]) -> str:
        """Return a tensor that stores axis i of ``view`` at ``axes[i]``, transposing if it must."""
        axes = tuple(axes)
        # stored axis s of the result is axis inverse[s] of the view, which is axis view.axes[inverse[s]] of
        # the tensor.
        inverse = sorted(range(len(axes)), key=axes.__getitem__)
        order = tuple(view.axes[k] for k in inverse)
        if order == tuple(range(len(order))):
            return view.tensor
        key = (view.tensor, order)
        if key not in self._stored:
            shapes = self._shapes[view.tensor]
            moved = [k for k in order if shapes[0][k] != 1 or shapes[1][k] != 1]
            suffix = "channels_last" if axes == channels_last(len(axes)) else "transposed"
            name = f"{view.tensor}.{suffix}"
            if moved == sorted(moved):
                # Only axes of size 1 move: the same numbers in the same order.
                target = reshape_target(*(tuple(shape[k] for k in order) for shape in shapes))
                self._stored[key] = self.emit("reshape", [view.tensor], name=name, attrs={"shape": target})
            else:
                self._stored[key] = self.emit("transpose", [view.tensor], name=name, attrs={"axes": order})
        return self._stored[key]

    def uncropped(
        self, tensor: str, padding: Sequence[Sequence[int]], spreading: Sequence[int], name: str
    ) -> tuple[str, tuple[tuple[int, int], ...]]:
        """Return the input and padding, never negative, of a convolution; what it would crop is sliced off before it.

        ``tensor`` is stored channels last; ``spreading`` is the convolution's input dilation, ``name`` of the slice.
        """
        if min(map(min, padding), default=0) >= 0:
            return tensor, tuple((low, high) for low, high in padding)
        # Of s − 1 zeros behind each value, a crop can leave some.
        gone = [[-(-max(-end, 0) // step) for end in ends] for ends, step in zip(padding, spreading, strict=True)]
        sizes = self.stored_shape(tensor)[1:-1]
        ends = [(first, size - last, 1) for size, (first, last) in zip(sizes, gone, strict=True)]
        whole = (None, None, 1)
        sliced = self.emit("slice", [tensor], name=name, attrs={"slices": (whole, *ends, whole)})
        left = [
            tuple(end + step * away for end, away in zip(ends, aways, strict=True))
            for ends, aways, step in zip(padding, gone, spreading, strict=True)
        ]
        return sliced, tuple(left)  # type: ignore[return-value]

    def native(self, view: View) -> str:
        """Return a tensor that holds ``view`` in the model's own order."""
        return self.stored(view, range(len(view.axes)))

    def shape(self, view: View) -> Probes:
        """Return the shape of ``view`` in the model's order at each probed batch size."""
        first, second = self._shapes[view.tensor]
        return tuple(first[k] for k in view.axes), tuple(second[k] for k in view.axes)

    def stored_shape(self, tensor: str) -> tuple[int, ...]:
        """Return the shape of ``tensor`` as stored, at the first probe."""
        return self._shapes[tensor][0]

    def shaped(self, view: View, probes: Probes, *, name: str, output: str | None = None) -> View:
        """Return ``view`` reshaped (in the model's order) to the shape given at each probed batch size."""
        identity = tuple(range(len(probes[0])))
        if self.shape(view) == probes:
            return view
        source = self._packed(view)
        tensor = self.emit("reshape", [source], name=name, output=output, attrs={"shape": reshape_target(*probes)})
        return View(tensor, identity)

    def _packed(self, view: View) -> str:
        """Return a tensor whose numbers lie in the order of ``view``; axes of size 1 may lie anywhere."""
        first, second = self.shape(view)
        order = [axis for axis, a, b in zip(view.axes, first, second, strict=True) if a != 1 or b != 1]
        return view.tensor if order == sorted(order) else self.native(view)

    def producer(self, tensor: str) -> Node | None:
        """Return the node whose output is ``tensor``; None for an input."""
        return self._nodes.get(tensor)

    def params_of(self, node: Node) -> dict[str, np.ndarray]:
        """Return the parameters of a node by their roles."""
        return {role: self._params[key] for role, key in node.params}

    def constant_factor(self, tensor: str, source: str) -> np.ndarray | None:
        """Return c if ``tensor`` is ``source`` times a constant c; else None."""
        node = self.producer(tensor)
        if node is None or node.op != "mul" or node.inputs != (source,):
            return None
        return self._params[node.params[0][1]]

    def scalar_affine(self, tensor: str, stop: Container[str]) -> tuple[str, float, float]:
        """Return (source, scale, offset) such that ``tensor`` is source · scale + offset; no further than ``stop``."""
        scale, offset = 1.0, 0.0
        while tensor not in stop and (node := self.producer(tensor)) is not None and node.op in {"add", "mul"}:
            constant = self._params[node.params[0][1]] if node.params else np.zeros(2)
            if constant.size != 1:
                break
            number = float(constant.reshape(()))
            scale, offset = (scale, offset + scale * number) if node.op == "add" else (scale * number, offset)
            tensor = node.inputs[0]
        return tensor, scale, offset

    def finish(self, outputs: Sequence[View]) -> Network:
        """Return the network that computes ``outputs`` in the model's own order, without dead nodes."""
        free = any(first != second for first, second in map(self._shapes.get, self._inputs))
        for view in outputs:
            if free and len(set(self._shapes[view.tensor])) == 1:
                raise UnsupportedError(f"unsupported: `{view.tensor}` is one result for all images of a batch")
        tensors = tuple(self.native(view) for view in outputs)
        graph = Graph(
            nodes=tuple(self._nodes.values()),
            inputs=tuple(self._inputs),
            outputs=tensors,
            shapes=tuple((tensor, merge_probes(*probes)) for tensor, probes in self._shapes.items()),
        ).without_dead_nodes()
        keys = [key for node in graph.nodes for _, key in node.params]
        return Network(graph=graph, params=device_params({key: self._params[key] for key in keys}))

    @staticmethod
    def _unique(name: str, taken: Any) -> str:
        if name not in taken:
            return name
        number = 2
        while f"{name}_{number}" in taken:
            number += 1
        return f"{name}_{number}"


def reshape_target(first: Sequence[int], second: Sequence[int]) -> tuple[int, ...]:
    """Return the target of a reshape to these shapes at the two probed batch sizes: −1 for the batch.

    Raises:
      ModelError: more than one dimension depends on the batch size.
    """
    target = tuple(-1 if size is None else size for size in merge_probes(first, second))
    if target.count(-1) > 1:
        raise ModelError(f"a reshape to {tuple(first)}: only one dimension can depend on the batch size")
    return target


def picked(call: Any, view: View, axis: int, indices: Sequence[int]) -> View:
    """Append the choice of elements along an axis of a view: a slice, where their distances are equal."""
    steps = {b - a for a, b in pairwise(indices)} or {1}
    if len(steps) == 1 and 0 not in steps and indices:
        step = steps.pop()
        stop = indices[-1] + (1 if step > 0 else -1)
        slices: list[tuple[int | None, int | None, int]] = [(None, None, 1)] * len(view.axes)
        slices[view.axes[axis]] = (indices[0], None if stop < 0 else stop, step)
        return call.emit("slice", [view.tensor], view.axes, slices=tuple(slices))
    return call.emit("gather", [view.tensor], view.axes, axis=view.axes[axis], indices=tuple(map(int, indices)))
