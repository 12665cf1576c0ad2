"""What every writer of ONNX files shares: collecting nodes and initializers, and the file itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ggdjax._atomic import atomic_write
from ggdjax.network._builder import View

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from ggdjax.network._graph import Node, Shape
    from ggdjax.network._network import Network


def save_model(
    path: str | PathLike[str],
    writer: Writer,
    nodes: list[Any],
    inputs: Sequence[tuple[str, int, Shape]],
    outputs: Sequence[tuple[str, int, Shape]],
    *,
    opset: int,
    domains: Sequence[str] = (),
) -> None:
    """Check and write what ``writer`` collected; an input or output is (name, ONNX element type, shape).

    Raises:
      GgdjaxError: ``path`` cannot be written.
    """
    import onnx

    def value(name: str, kind: int, shape: Shape) -> Any:
        return onnx.helper.make_tensor_value_info(name, kind, ["batch" if size is None else size for size in shape])

    graph = onnx.helper.make_graph(
        nodes, "ggdjax", [value(*v) for v in inputs], [value(*v) for v in outputs], writer.initializers
    )
    standard = onnx.helper.make_opsetid("", opset)
    model = onnx.helper.make_model(
        graph,
        opset_imports=[standard, *(onnx.helper.make_opsetid(domain, 1) for domain in domains)],
        ir_version=onnx.helper.find_min_ir_version_for([standard]),
        producer_name="ggdjax",
    )
    onnx.checker.check_model(model)
    with atomic_write(path, "path") as part:
        part.write_bytes(model.SerializeToString())


def channels_first(rank: int) -> tuple[int, ...]:
    """Return the order that stores a channels-last tensor channels first: axis i at the i-th entry."""
    return (0, *range(2, rank), 1) if rank > 2 else tuple(range(rank))


class Writer:
    """Collects ONNX nodes and initializers; ``views`` says in which order each of the graph's tensors is stored.

    A `View` of a tensor t says which ONNX tensor holds it, and that axis i of t is axis ``axes[i]`` of that. So the
    graph's transposes write nothing, as those of a file read nothing.
    """

    def __init__(self, net: Network, opset: int) -> None:
        self.graph = net.graph
        self.params = net.params
        self.opset = opset
        self.initializers: list[Any] = []
        self.views = {name: View(name, tuple(range(len(net.graph.shape(name))))) for name in net.graph.inputs}
        self._nodes: list[Any] = []
        self._names: set[str] = {*net.graph.inputs, *net.graph.outputs}
        self._stored: dict[tuple[str, tuple[int, ...]], str] = {}
        self._numbers: dict[tuple, str] = {}
        import onnx

        self._onnx = onnx

    def view(self, node: Node, index: int = 0) -> View:
        """Return how input ``index`` of ``node`` is stored."""
        return self.views[node.inputs[index]]

    def rank(self, node: Node, index: int = 0) -> int:
        """Return the number of axes of input ``index`` of ``node``."""
        return len(self.view(node, index).axes)

    def param(self, node: Node, role: str) -> np.ndarray | None:
        """Return a parameter of ``node``; None where it has none."""
        key = node.param(role)
        return None if key is None else np.asarray(self.params[key], np.float32)

    def constant(self, value: np.ndarray, name: str) -> str:
        """Add an initializer and return its name."""
        name = self._unique(name)
        self.initializers.append(self._onnx.numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def number(self, value: float) -> str:
        """Return the name of a float32 scalar; equal ones are held once."""
        return self._held_once("number", np.asarray(value, np.float32))

    def integers(self, values: Sequence[int]) -> str:
        """Return the name of a list of integers; equal ones are held once."""
        return self._held_once("integers", np.asarray(values, np.int64))

    def _held_once(self, kind: str, value: np.ndarray) -> str:
        key = (kind, value.tobytes())
        if key not in self._numbers:
            self._numbers[key] = self.constant(value, f"{kind}_{len(self._numbers)}")
        return self._numbers[key]

    def node(self, operator: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Append a node and return the name of its result."""
        output = self._unique(name)
        made = self._onnx.helper.make_node(operator, list(inputs), [output], name=output, **attributes)
        self._nodes.append(made)
        return output

    def stored(self, view: View, axes: Sequence[int]) -> str:
        """Return an ONNX tensor that stores axis i of ``view`` at ``axes[i]``, transposing if it must."""
        axes = tuple(axes)
        inverse = sorted(range(len(axes)), key=axes.__getitem__)
        order = tuple(view.axes[k] for k in inverse)
        if order == tuple(range(len(order))):
            return view.tensor
        key = (view.tensor, order)
        if key not in self._stored:
            self._stored[key] = self.node("Transpose", [view.tensor], f"{view.tensor}.transposed", perm=order)
        return self._stored[key]

    def native(self, view: View) -> str:
        """Return an ONNX tensor in the graph's own order of axes."""
        return self.stored(view, range(len(view.axes)))

    def packed(self, node: Node) -> str:
        """Return an ONNX tensor whose numbers lie in the order of the node's input; axes of size 1 lie anywhere."""
        view = self.view(node)
        order = [axis for axis, size in zip(view.axes, self.graph.shape(node.inputs[0]), strict=True) if size != 1]
        return view.tensor if order == sorted(order) else self.native(view)

    def finish(self) -> tuple[list[Any], list[tuple[str, Shape]]]:
        """Return the nodes, and the name and shape of each result in the model's own order of axes."""
        outputs: list[tuple[str, Shape]] = []
        for tensor in self.graph.outputs:
            # A network that does nothing gives its own input, or one tensor twice: that name is taken.
            taken = {*self.graph.inputs, *(name for name, _ in outputs)}
            name = self._unique(f"{tensor}.out") if tensor in taken else tensor
            result = self._onnx.helper.make_node("Identity", [self.native(self.views[tensor])], [name], name=name)
            self._nodes.append(result)
            outputs.append((name, self.graph.shape(tensor)))
        return self._nodes, outputs

    def _unique(self, name: str) -> str:
        unique, number = name, 2
        while unique in self._names:
            unique, number = f"{name}_{number}", number + 1
        self._names.add(unique)
        return unique


def stored_attributes(values: Sequence[Any], view: View) -> list[Any]:
    """Return one value per axis of the graph's order in the order in which ``view`` is stored."""
    return [values[axis] for axis in sorted(range(len(values)), key=view.axes.__getitem__)]
