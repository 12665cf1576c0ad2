"""From an ONNX graph to ours: constants folded at two batch sizes, one handler per operator for the rest."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from ggdjax._errors import ModelError, UnsupportedError
from ggdjax.network._builder import Comparison, Constant, GraphBuilder, Grid, Probes, View, channels_last
from ggdjax.network._graph import PROBE_BATCHES
from ggdjax.network.onnx._model import as_float32, opset, read_tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ggdjax.network._network import Network

#: Operators whose result is known as soon as shapes are.
_SHAPE_OPERATORS = frozenset({"Shape", "Size"})
#: Operators whose handlers take constants too: the reference evaluator lacks the older versions of these.
_OWN_CONSTANTS = frozenset({"QuantizeLinear", "DequantizeLinear"})
#: ONNX Runtime's own forms of them, for integers that the standard's lack before operator set 21.
_CONTRIBUTED = frozenset({"com.microsoft"})
#: What is refused for a reason of its own.
_CONTROL_FLOW = frozenset({"If", "Loop", "Scan", "SequenceMap"})
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})


class Call:
    """One ONNX node being translated: what a handler may ask and do."""

    def __init__(
        self, node: Any, env: dict[str, View | Constant], builder: GraphBuilder, version: int, batch: int | None
    ) -> None:
        self.node = node
        self.version = version
        #: The batch size that the file declares; None where it is free.
        self.batch = batch
        self.builder = builder
        self.name = node.name or builder_name(node)
        self._env = env
        import onnx

        self._attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}

    def refuse(self, what: str) -> UnsupportedError:
        """Return the error that says what of this node is unsupported."""
        return UnsupportedError(f"unsupported: {what} (operator `{self.node.op_type}`, node `{self.name}`)")

    def attr(self, name: str, default: Any) -> Any:
        """Return an attribute, text decoded, lists as tuples."""
        value = self._attributes.get(name, default)
        if isinstance(value, bytes):
            return value.decode()
        return tuple(value) if isinstance(value, (list, np.ndarray)) else value

    def has(self, index: int) -> bool:
        """Whether input ``index`` is given."""
        return index < len(self.node.input) and bool(self.node.input[index])

    def get(self, index: int) -> View | Constant | Comparison:
        """Return input ``index``."""
        return self._env[self.node.input[index]]

    def view(self, index: int = 0) -> View:
        """Return input ``index``, which must depend on the network's input."""
        value = self.get(index)
        if isinstance(value, Constant):
            raise self.refuse(f"a constant as input {index}")
        if isinstance(value, Comparison):
            raise self.refuse("the result of a comparison as a number; `Where` and `Cast` of it are supported")
        return value

    def comparison(self, index: int) -> Comparison:
        """Return input ``index``, which must compare an activation with a number."""
        value = self.get(index)
        if not isinstance(value, Comparison):
            raise self.refuse("a condition other than the comparison of an activation with a number")
        return value

    def constants(self, index: int, attribute: str | None = None) -> tuple[np.ndarray, np.ndarray] | None:
        """Return input ``index`` (or its older form, an attribute) at both probes; None if not given."""
        if attribute is not None and attribute in self._attributes:
            value = np.asarray(self.attr(attribute, None))
            return value, value
        if not self.has(index):
            return None
        value = self.get(index)
        if not isinstance(value, Constant):
            raise self.refuse(f"`{self.node.input[index]}` computed from the network's input; a constant is needed")
        return value.probes

    def constant(self, index: int, attribute: str | None = None) -> np.ndarray | None:
        """Return input ``index`` (or the attribute), the same for every batch size; None if not given."""
        probes = self.constants(index, attribute)
        if probes is None:
            return None
        if probes[0] is not probes[1]:
            raise self.refuse(f"`{self.node.input[index]}` depends on the batch size")
        return probes[0]

    def weight(self, index: int) -> np.ndarray | None:
        """Return input ``index`` as a float32 parameter; None if not given.

        Raises:
          ModelError: it holds NaN or infinity.
        """
        value = self.constant(index)
        return None if value is None else self._checked(index, value, lambda v: ~np.isfinite(v))

    def one_image(self, index: int) -> np.ndarray:
        """Return input ``index`` as a parameter; where it repeats one value for every image, that of one image.

        Raises:
          ModelError: it holds NaN.
        """
        first, second = self.constants(index)
        self._checked(index, first, np.isnan)  # NaN is not equal to itself, and so would depend on the batch size
        axes = [k for k, (a, b) in enumerate(zip(first.shape, second.shape, strict=False)) if a != b]
        if first.ndim == second.ndim and len(axes) == 1:
            one = first.take([0], axes[0])
            if (first == one).all() and (second == one).all():
                return self._checked(index, one, np.isnan)
        return self._checked(index, self.constant(index), np.isnan)

    def _checked(self, index: int, value: np.ndarray, refused: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        value = np.asarray(value, np.float32)
        if refused(value).any():
            raise ModelError(
                f"tensor `{self.node.input[index]}` (node `{self.name}`) holds NaN or infinity: repair the model"
            )
        return value

    def shape(self, view: View) -> Probes:
        """Return the shape of ``view`` at both probes."""
        return self.builder.shape(view)

    def batch_axis(self, view: View) -> int | None:
        """Return the axis of ``view`` that depends on the batch size; None where none does."""
        first, second = self.shape(view)
        return next((axis for axis, size in enumerate(first) if size != second[axis]), None)

    def own_shape(self, view: View, batch: int | None = None) -> tuple[int, ...]:
        """Return the shape of ``view`` at ``batch`` images: by default those the file declares, 1 where it is free.

        Constants of a file that name the batch size mean this one.
        """
        batch = batch or self.batch or 1
        return tuple(a if a == b else (b - a) * batch for a, b in zip(*self.shape(view), strict=True))

    def refuse_batch(self, view: View, axes: Iterable[int], what: str) -> None:
        """Raise the error that says ``what`` is unsupported if one of the ``axes`` of ``view`` is the batch."""
        first, second = self.shape(view)
        if any(first[axis] != second[axis] for axis in axes):
            raise self.refuse(f"{what}: each image is computed by itself")

    def spatial(self, view: View) -> tuple[int, ...]:
        """Return the spatial sizes of a channels-first ``view``."""
        first, second = self.shape(view)
        if first[2:] != second[2:]:
            raise self.refuse("spatial dimensions that depend on the batch size")
        return first[2:]

    def channels_last(self, view: View) -> str:
        """Return the tensor that holds ``view`` channels last."""
        return self.builder.stored(view, channels_last(len(view.axes)))

    def emit(
        self,
        op: str,
        inputs: Sequence[str],
        order: Sequence[int],
        params: Mapping[str, np.ndarray | None] | None = None,
        **attrs: Any,
    ) -> View:
        """Append the node of this call; its result, in ONNX's order, has axis i stored at ``order[i]``."""
        given = {role: value for role, value in (params or {}).items() if value is not None}
        tensor = self.builder.emit(op, inputs, name=self.name, output=self.node.output[0], attrs=attrs, params=given)
        return View(tensor, tuple(order))

    def spatial_op(self, op: str, params: Mapping[str, np.ndarray | None] | None = None, **attrs: Any) -> View:
        """Append a node that reads its input and leaves its result channels last."""
        view = self.view()
        return self.emit(op, [self.channels_last(view)], channels_last(len(view.axes)), params, **attrs)

    def same_order(self, op: str, **attrs: Any) -> View:
        """Append an elementwise node of one input, which keeps whatever order its input is stored in."""
        view = self.view()
        return self.emit(op, [view.tensor], view.axes, **attrs)

    def reshape(self, view: View, first: Sequence[int], second: Sequence[int]) -> View:
        """Return ``view`` with the shape given at both probes."""
        return self.builder.shaped(view, (tuple(first), tuple(second)), name=self.name, output=self.node.output[0])

    def reshape_to(self, view: View, targets: Sequence[Sequence[int]]) -> View:
        """Return ``view`` with the shape given at both probes, which computes with the batch size.

        Where a file declares its batch size, a shape that would mix images at any other means that of one batch.
        """
        axis, places = self.batch_axis(view), [k for k, (a, b) in enumerate(zip(*targets, strict=True)) if a != b]
        if self.batch is not None and axis is not None and places:
            own = tuple(a + (b - a) * (self.batch - PROBE_BATCHES[0]) for a, b in zip(*targets, strict=True))
            if prod(own[: places[0]]) != prod(self.own_shape(view)[:axis]):
                return self.regroup(view, own)
        return self.reshape(view, *targets)

    def regroup(self, view: View, target: Sequence[int], batch: int | None = None) -> View:
        """Return ``view`` reshaped to ``target``, its shape at ``batch`` images (see `own_shape`), of any batch.

        The axis that holds the images afterwards has as many elements before it as the one that held them, so that no
        two images mix; where that leaves a choice, it is the same axis, or the first.
        """
        axis, target = self.batch_axis(view), tuple(target)
        own, batch = self.own_shape(view, batch), batch or self.batch or 1
        if prod(own) != prod(target):
            raise self.refuse(f"a reshape from {own} to {target}")
        if axis is None:
            return self.reshape(view, target, target)
        before = prod(own[:axis])
        places = [k for k, size in enumerate(target) if prod(target[:k]) == before and size % batch == 0]
        if not places:
            raise self.refuse(f"a reshape from {own} to {target}, which leaves no axis to the images of a batch")
        place = axis if own[: axis + 1] == target[: axis + 1] else places[0]
        return self.reshape(
            view, *((*target[:place], target[place] // batch * n, *target[place + 1 :]) for n in PROBE_BATCHES)
        )


#: ONNX operator -> the function that translates one node of it.
HANDLERS: dict[str, Callable[[Call], View | Constant | tuple[View, ...]]] = {}


def handler(*operators: str) -> Callable[[Any], Any]:
    """Register a function as the translation of ONNX operators."""

    def register(function: Any) -> Any:
        for operator in operators:
            HANDLERS[operator] = function
        return function

    return register


def builder_name(node: Any) -> str:
    """Return a readable name for a node that has none."""
    return f"{node.op_type.lower()}.{node.output[0]}"


def needed_nodes(graph: Any, outputs: Sequence[str]) -> list[Any]:
    """Return the nodes that lead to ``outputs``, in order."""
    wanted, kept = set(outputs), []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(name for name in node.input if name)
            wanted.update(name for branch in _branches(node) for inner in branch.node for name in inner.input if name)
    return kept[::-1]


def _branches(node: Any) -> list[Any]:
    """Return the graphs inside a node: what an `If` chooses from."""
    return [attribute.g for attribute in node.attribute if attribute.HasField("g")]


def check_supported(graph: Any, nodes: Sequence[Any], known: Iterable[str] = ()) -> None:
    """Refuse, before anything is computed, a graph with operators outside the set.

    Nodes that only compute shapes or constants may be anything: they are evaluated away. So is the choice of an `If`
    by a constant. ``known`` are names of constants beside the graph's own.
    """
    constant = {tensor.name for tensor in graph.initializer} | set(known)
    refused = []
    for node in nodes:
        what = f"`{node.op_type}` (node `{node.name or builder_name(node)}`)"
        if node.op_type == "If" and node.input[0] in constant:
            continue
        if node.op_type in _CONTROL_FLOW:
            raise UnsupportedError(
                f"control flow {what} that no constant decides: a network is one fixed sequence of operations; export "
                "the model with its conditions and loops resolved, or choose a tensor before it as the output"
            )
        if node.op_type in _RECURRENT:
            raise UnsupportedError(f"recurrent layer {what}: feed-forward convolutional networks are supported")
        if node.op_type in _SHAPE_OPERATORS or all(name in constant for name in node.input if name):
            constant.update(node.output)
        elif node.op_type in HANDLERS and node.domain in {"", "ai.onnx"}:
            continue
        elif not (node.op_type in _OWN_CONSTANTS and node.domain in _CONTRIBUTED):
            operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            refused.append(f"`{operator}` (node `{node.name or builder_name(node)}`)")
    if refused:
        more = f" and {len(refused) - 3} more" if len(refused) > 3 else ""
        raise UnsupportedError(
            f"unsupported operator {', '.join(refused[:3])}{more}; supported: {', '.join(sorted(HANDLERS))}"
        )


#: Name -> what is known of it.
Env = dict[str, Any]
#: Node name -> role (kernel, bias) -> the grid that a quantized file stores it on.
Grids = dict[str, dict[str, Grid]]


def convert(
    model: Any,
    inputs: Mapping[str, Probes],
    outputs: Sequence[str],
    grids: Grids | None = None,
    batch: int | None = None,
    constants: Mapping[str, Constant] | None = None,
) -> Network:
    """Return the network that computes ``outputs`` from ``inputs``, given their shapes at two batch sizes.

    ``constants`` are values of other inputs.

    ``grids`` is filled with the grids of quantized weights and biases. ``batch`` is the batch size that the file
    declares, which its constants name; None where it is free.

    Raises:
      UnsupportedError: an operator, or a form of one, outside the set.
      ModelError: the graph is damaged.
    """
    graph = model.graph
    nodes = needed_nodes(graph, outputs)
    check_supported(graph, nodes, constants or ())
    builder = GraphBuilder()
    env: Env = {name: builder.add_input(name, probes) for name, probes in inputs.items()} | dict(constants or {})
    _translate(graph, nodes, outputs, env, _Model(model, builder, grids, batch))
    results = []
    for name in outputs:
        value = env.get(name)
        if not isinstance(value, View):
            raise ModelError(f"output `{name}` does not depend on the network's input, or nothing produces it")
        results.append(value)
    return builder.finish(results)


@dataclass(frozen=True)
class _Model:
    """What translating needs beside nodes and values."""

    proto: Any
    builder: GraphBuilder
    grids: Grids | None
    batch: int | None


def _translate(graph: Any, nodes: Sequence[Any], outputs: Sequence[str], env: Env, model: _Model) -> None:
    """Add to ``env`` what the nodes of a graph, or of the branch of an `If`, give."""
    read = {name for node in nodes for name in node.input} | set(outputs)
    read |= {name for node in nodes for branch in _branches(node) for inner in branch.node for name in inner.input}
    env |= {t.name: Constant(read_tensor(t)) for t in graph.initializer if t.name in read}
    version, grids = opset(model.proto), model.grids
    for node in nodes:
        unknown = [name for name in node.input if name and name not in env]
        if unknown:
            raise ModelError(f"node `{node.name or builder_name(node)}` reads `{unknown[0]}`, which nothing produces")
        if node.op_type == "If":
            _choose(node, env, model)
            continue
        folded = None if node.op_type in _OWN_CONSTANTS else _fold(node, env, model.builder, model.proto)
        if folded is not None:
            env.update(folded)
            continue
        result = HANDLERS[node.op_type](Call(node, env, model.builder, version, model.batch))
        if (
            grids is not None
            and isinstance(result, View)
            and node.op_type in {"Conv", "ConvTranspose", "Gemm", "MatMul"}
        ):
            weights = zip(("kernel", "bias"), node.input[1:3], strict=False)
            found = {
                role: env[name].grid
                for role, name in weights
                if name and isinstance(env[name], Constant) and env[name].grid is not None
            }
            grids[model.builder.producer(result.tensor).name] = found
        env.update(zip(node.output, result if isinstance(result, tuple) else (result,), strict=False))


def _choose(node: Any, env: Env, model: _Model) -> None:
    """Translate the branch of an `If` that a constant chooses."""
    condition = env[node.input[0]]
    chosen = {bool(probe) for probe in condition.probes} if isinstance(condition, Constant) else {True, False}
    if len(chosen) > 1:
        raise UnsupportedError(
            f"control flow `If` (node `{node.name or builder_name(node)}`) by what depends on the network's input or "
            "on the number of images: a network is one fixed sequence of operations"
        )
    wanted = "then_branch" if chosen.pop() else "else_branch"
    branch = next(attribute.g for attribute in node.attribute if attribute.name == wanted)
    names = [value.name for value in branch.output]
    nodes, inner = needed_nodes(branch, names), dict(env)
    check_supported(branch, nodes, (name for name, value in env.items() if isinstance(value, Constant)))
    _translate(branch, nodes, names, inner, model)
    env.update({outer: inner[name] for outer, name in zip(node.output, names, strict=True)})


def _fold(
    node: Any, env: Mapping[str, View | Constant], builder: GraphBuilder, model: Any
) -> dict[str, Constant] | None:
    """Return the outputs, at both probes, of a node that depends on no input's values; else None."""
    inputs = {name: env[name] for name in node.input if name}
    if node.op_type in _SHAPE_OPERATORS:
        inputs = {
            name: Constant(*(_of_shape(shape) for shape in builder.shape(value))) if isinstance(value, View) else value
            for name, value in inputs.items()
        }
    if not all(isinstance(value, Constant) for value in inputs.values()):
        return None
    import onnx

    single = onnx.helper.make_model(
        onnx.helper.make_graph(
            [node],
            "fold",
            [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in inputs],
            [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in node.output if name],
        ),
        opset_imports=model.opset_import,
        functions=model.functions,
    )
    results = []
    for probe in (0, 1):
        if probe == 1 and all(value.is_static for value in inputs.values()):
            break
        try:
            from onnx.reference import ReferenceEvaluator

            evaluator = ReferenceEvaluator(single)
            results.append(evaluator.run(None, {name: value.probes[probe] for name, value in inputs.items()}))
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            name = node.name or builder_name(node)
            raise ModelError(f"constant node `{name}` ({node.op_type}) cannot be evaluated: {reason}") from error
    names = [name for name in node.output if name]
    return {
        name: Constant(*(as_float32(np.asarray(value)) for value in values))
        for name, *values in zip(names, *results, strict=True)
    }


def _of_shape(shape: tuple[int, ...]) -> np.ndarray:
    """Return an array of this shape that takes no memory: shape operators look at nothing else."""
    return np.broadcast_to(np.float32(0), shape)
